"""What processes are forked with that try networks; imported where they are forked from.

Nothing of it is garbage: none is searched for while it is imported, nor in the processes later.
"""

# ruff: noqa: F401 - imported for their own sake

import gc

gc.disable()
try:
    from cte_dask.inference import predictor, trial
    from cte_dask.inference.graph.winograd import steps_or_none

    steps_or_none()
finally:
    gc.freeze()
    gc.enable()
