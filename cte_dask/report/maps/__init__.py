"""Maps over the target, for viewers."""
