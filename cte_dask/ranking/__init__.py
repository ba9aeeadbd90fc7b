"""From the numbers of tiles to the order of the models."""
