"""What PyTorch does not promise stands in two files: of tracing, of the check of models."""

from __future__ import annotations

import ast
from pathlib import Path

import cte_dask

PACKAGE = Path(cte_dask.__file__).parent
ALLOWED = [PACKAGE / room / "private_torch.py" for room in ("inference/graph", "models/formats")]
UNDOCUMENTED = {"torch.utils.flop_counter", "torch.utils.weak"}


def private(name: str) -> bool:
    """Whether a dotted name is one of PyTorch's that it does not promise to keep."""
    first, *rest = name.split(".")
    hidden = any(p.startswith("_") and not p.endswith("__") for p in rest)
    return first == "torch" and (name in UNDOCUMENTED or hidden)


def modules_of(source: str) -> set[str]:
    """Return the modules, and their attributes, that a source imports or names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{a.name}" for a in node.names)})
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return found


def test_private_names_of_pytorch_are_seen() -> None:
    seen = modules_of("from torch.utils import _pytree\nimport torch.utils.weak\ntorch._C.f()")
    assert {n for n in seen if private(n)} >= {
        "torch.utils._pytree",
        "torch.utils.weak",
        "torch._C",
    }
    for path in ALLOWED:
        assert any(private(n) for n in modules_of(path.read_text()))


def test_private_names_of_pytorch_stand_in_their_files() -> None:
    others = (path for path in PACKAGE.rglob("*.py") if path not in ALLOWED)
    used = {path.name: [n for n in modules_of(path.read_text()) if private(n)] for path in others}
    assert {name: names for name, names in used.items() if names} == {}
