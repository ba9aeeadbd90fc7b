"""Certificates that only the processes of one run hold, for TLS between hosts.

``python -m cte_dask.engine.clusters.certificate FOLDER`` writes a pair for a scheduler started by
hand and prints the environment variables that make Dask's scheduler, workers and clients use it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["environment", "write_certificate"]

ROLES = ("client", "scheduler", "worker")


def write_certificate(folder: Path) -> Security:
    """Write a new self-signed certificate and its key, and return the security that uses them.

    Parameters
    ----------
    folder
        Made if need be, readable by its owner alone. Whoever can read it can join the run.

    Returns
    -------
    distributed.Security
        With paths, not contents: nothing of it is secret.

    Raises
    ------
    ValueError
        If the package cryptography is not installed.
    """
    from distributed import Security

    try:
        temporary = Security.temporary()
    except ImportError as error:
        raise ValueError(f"TLS needs the package cryptography: {error}") from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = {}
    for name, text in (("cert", temporary.tls_ca_file), ("key", temporary.tls_client_key)):
        paths[name] = folder / f"{name}.pem"
        paths[name].unlink(missing_ok=True)
        with os.fdopen(os.open(paths[name], os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(text)
    fields = {f"tls_{role}_{name}": str(paths[name]) for role in ROLES for name in paths}
    return Security(require_encryption=True, tls_ca_file=str(paths["cert"]), **fields)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment variables that name the certificate of a folder to Dask.

    Examples
    --------
    >>> environment(Path("/run"))["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"]
    '/run/cert.pem'
    """
    prefix = "DASK_DISTRIBUTED__COMM"
    variables = {
        f"{prefix}__REQUIRE_ENCRYPTION": "true",
        f"{prefix}__TLS__CA_FILE": str(folder / "cert.pem"),
    }
    for role in ROLES:
        for name in ("cert", "key"):
            variables[f"{prefix}__TLS__{role}__{name}".upper()] = str(folder / f"{name}.pem")
    return variables


if __name__ == "__main__":
    chosen = Path(sys.argv[1]).resolve()
    write_certificate(chosen)
    for variable, value in environment(chosen).items():
        sys.stdout.write(f"export {variable}='{value}'\n")
