"""The command line ``cte``."""

from cte_dask.cli.app import app

__all__ = ["app"]
