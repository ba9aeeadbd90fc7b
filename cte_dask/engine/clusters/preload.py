"""What worker processes of Dask are forked with; otherwise as `cte_dask.inference.preload`."""

# ruff: noqa: F401 - imported for their own sake

import gc

gc.disable()
try:
    import distributed.nanny

    from cte_dask.engine.clusters import connection
    from cte_dask.inference import predictor, trial
    from cte_dask.inference.graph.winograd import steps_or_none
    from cte_dask.scoring import score_block

    steps_or_none()
finally:
    gc.freeze()
    gc.enable()
