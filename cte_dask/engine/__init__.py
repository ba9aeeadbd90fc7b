"""All blocks: what they cost, in which order, on which workers; the one room that knows Dask."""
