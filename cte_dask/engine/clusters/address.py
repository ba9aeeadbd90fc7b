"""A scheduler that is already there, by its address or by the file it wrote."""

from __future__ import annotations

import gc
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cte_dask.engine.clusters import ClusterKind
from cte_dask.engine.clusters.connection import check_workers
from cte_dask.errors import reason

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["FILE", "TCP", "TLS", "open_address"]

TIMEOUT = "10s"
PATIENCE = 60
"""Seconds to wait for the first worker."""


@contextmanager
def open_address(name: str, *, workers: int, threads: int) -> Iterator[Client]:
    """Connect to a scheduler; TLS files are taken from Dask's configuration.

    Parameters
    ----------
    name
        ``tcp://HOST:PORT``, ``tls://HOST:PORT`` or the path of a scheduler file (JSON).

    Raises
    ------
    ValueError
        If nothing answers there, it and we do not trust each other's certificates, it has no
        workers, or they have other versions than this process.
    """
    where = {"address": name} if "://" in name else {"scheduler_file": name}
    if "scheduler_file" in where and not os.path.isfile(name):
        raise ValueError(f"no scheduler file {name}: is its scheduler running?")
    with _connected(name, where) as client:
        try:  # workers that are being started beside it are a moment late
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise ValueError(f"the scheduler at {name} has no workers: start some first") from None
        except OSError as error:  # it has gone in the meantime
            raise ValueError(f"no scheduler answers at {name} any more: {reason(error)}") from error
        check_workers(client, name)
        yield client


TCP = ClusterKind(open_address, form="tcp://HOST:PORT", pattern="tcp://.+")
TLS = ClusterKind(open_address, form="tls://HOST:PORT", pattern="tls://.+")
FILE = ClusterKind(open_address, form="FILE.json", pattern=r".+\.json")
"""A scheduler that is there already: by its address, or by the file that it wrote."""


def _connected(name: str, where: dict[str, str]) -> Client:
    from distributed import Client

    try:
        return Client(**where, timeout=TIMEOUT)
    except (OSError, TimeoutError, TypeError, ValueError, KeyError) as error:
        why = _why(name, error)
    # A half-made client closes itself when it is collected. Were that while another one starts,
    # both would wait for the same lock of Dask's, for ever.
    gc.collect()
    raise ValueError(f"no scheduler answers at {name}: {why}")


def _why(name: str, error: BaseException) -> str:
    """Return the first cause that tells: a refused certificate ends as a plain time-out."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            refusal = cause.reason or reason(cause)
            return (
                f"its certificate is not the one of this process ({refusal}): "
                "set DASK_DISTRIBUTED__COMM__TLS__* to the files it was started with"
            )
        cause = cause.__cause__ or cause.__context__
    if name.startswith("tls://") and isinstance(error, TypeError):
        return (
            "tls:// needs a certificate: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "…__CLIENT__CERT and …__CLIENT__KEY"
        )
    return reason(error)
