"""What the check of models takes from PyTorch that PyTorch does not promise to keep.

| Name | What for | There since | It may go when |
|---|---|---|---|
| `PyTorchFileReader` | reads an archive's entries as `torch.jit.load` will; another zip reader may see others | 1.3 | there is a public reader |
| `_jit_get_schemas_for_operator` | whether a name is an operator, and whether it takes text, such as a file's name | 1.4 | `torch.ops` lists schemas publicly |

A PyTorch that moves one of them fails when a TorchScript archive or an exported program is opened: no model is
taken for harmless without them.
"""  # noqa: E501 - a row of a table cannot be broken

from __future__ import annotations

from typing import Any

import torch

__all__ = ["archive_reader", "schemas_of"]


def archive_reader(file: Any) -> Any:
    """Return torch's own reader of an archive.

    Raises
    ------
    RuntimeError
        If the file is none.
    """
    return torch._C.PyTorchFileReader(file)


def schemas_of(operator: str) -> list[Any]:
    """Return the schemas of an operator such as ``aten::add``; none if there is no such."""
    schemas: list[Any] = torch._C._jit_get_schemas_for_operator(operator)
    return schemas
