"""Folders of pytorch-3dunet and PlantSeg."""
