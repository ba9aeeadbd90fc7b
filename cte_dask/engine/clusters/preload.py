"""What worker processes of Dask are forked with; otherwise as `cte_dask.inference.preload`."""

# ruff: noqa: F401 - imported for their own sake

import gc

gc.disable()
try:
    import distributed.nanny

    from cte_dask.engine.clusters import connection
    from cte_dask.inference import predictor, trial
    from cte_dask.inference.graph.winograd_code import steps
    from cte_dask.scoring import score_block

    steps()
finally:
    gc.freeze()
    gc.enable()
