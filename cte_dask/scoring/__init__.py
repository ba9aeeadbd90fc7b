"""The method in one process: an experiment, and one block of it scored."""
