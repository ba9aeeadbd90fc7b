"""The golden numeric cases: arrays in, scores out, with how each family is to be read.

They lie outside the repository; ``CTE_GOLDEN`` names the file. Without it the tests are skipped, in
CI they fail.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PATH = Path(os.environ.get("CTE_GOLDEN", ROOT.parent / "shared" / "golden" / "cases.json"))


def cases(*families: str) -> list[Any]:
    """Return the cases of some families as test parameters."""
    if PATH.is_file():
        params = [pytest.param(c, id=c["id"]) for c in _load() if c["family"] in families]
        if not params:
            raise LookupError(f"{PATH} holds no case of {families}")
        return params
    if os.environ.get("CI") == "true":
        raise FileNotFoundError(f"golden cases {PATH} are absent; set CTE_GOLDEN")
    absent = pytest.mark.skip(reason=f"golden cases {PATH} are absent; set CTE_GOLDEN")
    return [pytest.param(None, id="absent", marks=absent)]


def array(spec: dict[str, Any]) -> np.ndarray:
    """Rebuild one array of a case and check it against its hash."""
    values = eval(spec["expr"], {"np": np}) if "expr" in spec else spec["data"]
    result = np.array(values, dtype=spec["dtype"]).reshape(spec["shape"])
    if "sha256_16" in spec:
        text = str(result.dtype) + str(result.shape)
        digest = hashlib.sha256(text.encode() + np.ascontiguousarray(result).tobytes())
        assert digest.hexdigest()[:16] == spec["sha256_16"], "the case's array was not rebuilt"
    return result


def number(value: Any) -> Any:
    """Return a case's value with null as NaN."""
    return np.array(value, dtype=np.float64)


@cache
def _load() -> list[dict[str, Any]]:
    return json.loads(PATH.read_text())["cases"]
