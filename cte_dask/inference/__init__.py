"""From tiles to predictions: the network, its passes, its memory."""
