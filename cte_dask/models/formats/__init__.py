"""One file or folder a model format."""
