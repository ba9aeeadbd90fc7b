"""BioImage.IO packages."""
