"""The traced network: where its bottleneck is, and what passes share."""
