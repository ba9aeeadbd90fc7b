"""Checks that loading a ``.pt2`` archive cannot run code.

``torch.export.load`` is not safe: it unpickles some entries, evaluates symbolic expressions with
sympy, executes guards as Python source and resolves operators by attribute. An ordinary network
needs only harmless forms of these. This check accepts an archive if it knows every string in it to
be harmless; anything unknown is refused and needs ``trust: true``.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader

from cte_dask.models.formats.private_torch import schemas_of
from cte_dask.models.formats.script_operators import computes

__all__ = ["refuse_code"]

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/(version|serialization_id)|models/model\.json"
    r"|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+|torch\.sym_\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
# Of aten, only what takes a text can name a file, as from_file and save do; these name an error.
_ASSERTIONS = re.compile(r"_(functional_)?assert_(async|scalar)|_assert_tensor_metadata")
_NAME = re.compile(r"[\w.@+-]*", re.ASCII)
_GUARD = re.compile(r"[\w\s\[\]'().,+*/%<>=!&|~-]*", re.ASCII)
_FREE_TEXT = frozenset({"as_string", "as_strings"})
_FUNCTIONS = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv"
    r"|ModularIndexing|Where|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|TruncToInt|TruncToFloat"
    r"|RoundToInt|CeilToInt|FloorToInt|ToFloat|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|And|Or|Not"
    r"|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan"
)
_SYMBOLS = re.compile(r"[suz]+f?\d+|oo|int_oo")
_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop,
    ast.boolop, ast.cmpop, ast.Load,
)  # fmt: skip
_TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def refuse_code(content: bytes) -> None:
    """Raise if loading this ``.pt2`` archive could run code.

    Parameters
    ----------
    content
        The whole archive.

    Raises
    ------
    ValueError
        If it could, naming the first cause; or if it is no such archive.
    """
    _refuse_older_layout(content)
    try:
        # torch's own reader: another zip reader might see other entries than torch will.
        reader = PT2ArchiveReader(io.BytesIO(content))
        records = set(reader.get_file_names())
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"not a .pt2 archive of torch.export.save: {error}") from error
    with reader:
        for record in sorted(records):
            if not _RECORDS.fullmatch(record):
                _refuse(f"the entry {record}")
        if "models/model.json" not in records:
            raise ValueError("not a .pt2 archive of torch.export.save: no models/model.json")
        for kind in ("weights", "constants"):
            _check_payloads(_json(reader, f"data/{kind}/model_{kind}_config.json"))
        _check_inputs(reader.read_bytes("data/sample_inputs/model.pt"))
        _check(_json(reader, "models/model.json"), key="")


def _refuse_older_layout(content: bytes) -> None:
    """Refuse the layout that torch.export.load reads through Python's zip reader and pickle."""
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"not a .pt2 archive of torch.export.save: {error}") from error
    if "version" in names:
        _refuse("the layout of torch 2.7 and older")


def _refuse(entry: str) -> None:
    raise ValueError(f"{entry} in the .pt2 archive could run code: it needs trust: true")


def _json(reader: PT2ArchiveReader, record: str) -> Any:
    try:
        return json.loads(reader.read_bytes(record))
    except (ValueError, RecursionError, RuntimeError) as error:
        raise ValueError(f"{record} of the .pt2 archive cannot be read: {error}") from error


def _check_payloads(config: Any) -> None:
    for name, payload in config["config"].items():
        if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
            _refuse(f"the pickled {name}")
        _check(payload, key=name)


def _check_inputs(content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    # After any failure here torch.export.load would try again with pickle.
    except Exception:
        _refuse("the pickled sample input")


def _check(value: Any, *, key: str) -> None:
    """Check every string under `value`; `key` is the nearest mapping key above it."""
    if isinstance(value, dict):
        for name, child in value.items():
            # the keys of range_constraints are symbolic expressions, those of other mappings names
            if not _harmless(name, "expr_str" if key == "range_constraints" else "name"):
                _refuse(f"the name {name!r}")
            # metadata holds stack traces and module names as text, which is never evaluated
            if name != "metadata":
                _check(child, key=name)
    elif isinstance(value, list):
        for child in value:
            _check(child, key=key)
    elif isinstance(value, str) and not _harmless(value, key):
        _refuse(f"{key} {value[:60]!r}")


def _harmless(text: str, key: str) -> bool:
    if key in _FREE_TEXT:
        return True
    if key in ("target", "as_operator"):
        return bool(_OPERATOR.fullmatch(text)) and _names_no_file(text)
    if key == "expr_str":
        return _parses(text, _is_symbolic)
    if key == "guards_code":
        return bool(_GUARD.fullmatch(text)) and _parses(text, _is_guard)
    if key in ("in_spec", "out_spec"):
        return _is_plain_tree(text)
    return bool(_NAME.fullmatch(text))


def _names_no_file(target: str) -> bool:
    namespace, _, name = target.removeprefix("torch.ops.").partition(".")
    operator = f"aten::{name.partition('.')[0]}"
    if namespace != "aten" or computes(operator) or _ASSERTIONS.fullmatch(operator[6:]):
        return True
    schemas = schemas_of(operator)
    return not any("str" in str(a.type) for schema in schemas for a in schema.arguments)


def _parses(text: str, allowed: Any) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(isinstance(node, _ARITHMETIC) or allowed(node) for node in ast.walk(tree))


def _is_symbolic(node: ast.AST) -> bool:
    """Tell whether a node is a known function, a number, a symbol or a symbol's assumption."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and bool(_FUNCTIONS.fullmatch(node.func.id))
    if isinstance(node, ast.Name):
        return bool(_FUNCTIONS.fullmatch(node.id) or _SYMBOLS.fullmatch(node.id))
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or re.fullmatch(r"\w+", node.value) is not None
    return isinstance(node, ast.keyword)


def _is_guard(node: ast.AST) -> bool:
    """Tell whether a node may be part of comparisons of ``L['name'].size()[i]``, max and min."""
    if isinstance(node, ast.Name):
        return node.id in ("L", "max", "min")
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "stride", "storage_offset")
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) or not node.args
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or re.fullmatch(r"\w+", node.value) is not None
    return isinstance(node, ast.Subscript)


def _is_plain_tree(text: str) -> bool:
    """Tell whether a treespec holds only tuples, lists and dicts: other types import modules."""
    try:
        nodes = [json.loads(text)[1]]
    except (ValueError, RecursionError, IndexError, TypeError, KeyError):
        return False
    while nodes:  # a loop, since a recursion's depth would be the file's choice
        node = nodes.pop()
        if not isinstance(node, dict) or node.get("type") not in _TREES:
            return False
        # the context is null, or the keys of a dict
        if not re.fullmatch(r"null|\[[\w\s\",]*\]", str(node.get("context") or "null")):
            return False
        nodes.extend(node.get("children_spec", ()))
    return True
