"""``python -m cte_dask.cli`` is ``cte``."""

from cte_dask.cli.app import app

app()
