"""Rank pre-trained segmentation models on an unlabelled microscopy volume (CTE)."""

__version__ = "0.1.0"
