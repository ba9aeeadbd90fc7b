"""Models of nnU-Net v2."""
