"""Commands of ``cte`` that live outside `cte_dask.cli`, one a file."""
