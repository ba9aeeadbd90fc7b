"""The parts of the recipe that trains the example banks."""
