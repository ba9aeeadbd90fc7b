"""Checks that a TorchScript archive can only compute, before anything of it runs.

``torch.jit.load`` compiles the sources of an archive and runs every ``__setstate__`` in them; the
language has operators that write and map files. This check reads the archive as the zip file that
it is. It accepts the sources if every operator in them is known to compute only, and the pickles if
they make nothing but tensors and objects of those sources. Anything else needs ``trust: true``.
"""

from __future__ import annotations

import functools
import io
import pickletools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from cte_dask.models.formats.private_torch import archive_reader, schemas_of
from cte_dask.models.formats.script_operators import CLASSES, computes

__all__ = ["refuse_graphs", "refuse_operators"]

_SOURCE = re.compile(r"code/.+\.py")
_PICKLE = re.compile(r"(data|constants|traced_inputs)\.pkl")
# Tensors, and what torch.jit.load does not read or only to tell a line of an error.
_INERT = re.compile(
    r"(data|constants|traced_inputs)/\d+|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/(version|serialization_id)|code/.+\.debug_pkl|extra/.*"
    r"|(bytecode|mobile_debug_handles)\.pkl"
)
_GLOBAL = re.compile(
    r"torch\.jit\._pickle (build_((int|tensor|double|bool)list|tensor_from_id)|restore_type_tag)"
    r"|torch\._utils _rebuild_(tensor_v2|qtensor)|collections OrderedDict|builtins complex"
    r"|torch (device|\w+Storage|per_(tensor|channel)_\w+)"
)
# Those that torch's own pickler writes; its reader and Python's agree about each.
_PICKLED = """
PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE BINPUT
LONG_BINPUT BINGET LONG_BINGET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND
APPENDS EMPTY_DICT DICT SETITEM SETITEMS GLOBAL NEWOBJ BUILD REDUCE BINPERSID
"""
_OPCODES = frozenset(_PICKLED.split())

# What torch's printer writes, and nothing that its lexer reads in another way: no comments, no
# continued lines, no other quotes, and no "is not" and "not in" that run into a name, since that
# lexer ends the word before the name.
_TOKEN = re.compile(
    r"(?P<space>[ \n]+)"
    r'|(?P<string>"(?:[ !#-\[\]-~]|\\[ -~])*"(?!"))'
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?j?(?![\w.]))"
    r"|(?P<name>(?!is not\w|not in\w)[A-Za-z_]\w*)"
    r"|(?P<mark>[-+*/%&|^~<>=!(),:.\[\]{}])",
    re.ASCII,
)
# How many names after these tell what they lead to: with fewer, the source could rename them.
_DEPTHS = {"torch": 1, "ops": 2, "CONSTANTS": 1, "__torch__": 1}

_PLAIN = re.compile(r"[^\\.]+")


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def refuse_operators(content: bytes) -> None:
    """Raise if loading or running this TorchScript archive could do more than compute.

    Parameters
    ----------
    content
        The whole archive.

    Raises
    ------
    ValueError
        If it could, or that is not known, naming the first cause and where it stands; or if it is
        no such archive.
    """
    try:
        # torch's own reader: another zip reader might see other entries than torch.jit.load will.
        reader = archive_reader(io.BytesIO(content))
        records = sorted(reader.get_all_records())
    except RuntimeError as error:
        raise ValueError(f"the file is not a TorchScript archive: {error}") from error
    if not {"constants.pkl", "model.json"} & set(records):
        raise ValueError(
            "the file is not a TorchScript archive: use format state_dict for weights, "
            "torch_export for a .pt2"
        )
    # of two entries, upper and lower case being one, the reader returns only one
    if len({record.lower() for record in records}) < len(records):
        _refuse("two entries of the same name")
    for record in records:
        if _SOURCE.fullmatch(record):
            _check_source(record, reader.get_record(record))
        elif _PICKLE.fullmatch(record):
            _check_pickle(record, reader.get_record(record))
        elif not _INERT.fullmatch(record):
            _refuse(f"the entry {record!r}")


def refuse_graphs(module: torch.jit.ScriptModule) -> None:
    """Raise if a loaded TorchScript module has an operator that is not known to compute only.

    Raises
    ------
    ValueError
        As `refuse_operators`, naming the operator and the method.
    """
    for name, submodule in module.named_modules():
        for method in submodule._c._method_names():
            for kind in _kinds(submodule._c._get_method(method).inlined_graph):
                if not computes(kind):
                    _refuse(f"the operator {kind} in {name or 'the network'}.{method}")


def _kinds(block: torch.Graph | torch.Block) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
        if node.hasAttribute("Subgraph"):
            yield from _kinds(node.g("Subgraph"))


def _refuse(cause: str) -> None:
    raise ValueError(f"{cause} is not known to compute only: it needs trust: true")


def _check_pickle(record: str, content: bytes) -> None:
    """Refuse what torch does not write; its reader runs no Python, but every ``__setstate__``."""
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                _refuse(f"{opcode.name} in {record}")
            if opcode.name == "GLOBAL" and not _is_known_global(str(argument)):
                _refuse(f"{str(argument)[:200].replace(' ', '.')} in {record}")
    except (ValueError, IndexError) as error:
        raise ValueError(f"{record} of the TorchScript archive: {error}") from error


def _is_known_global(argument: str) -> bool:
    name = argument.replace(" ", ".")
    if name.startswith("__torch__.torch.classes."):
        return name in CLASSES
    # a class whose source stands in the archive
    return name.startswith("__torch__.") or _GLOBAL.fullmatch(argument) is not None


def _check_source(record: str, content: bytes) -> None:
    try:
        source = content.decode("ascii")
    except UnicodeDecodeError:
        _refuse(f"text outside of ASCII in {record}")
    for start, chain in _chains(_tokens(record, source)):
        cause = _unknown(chain)
        if cause:
            line = source.count("\n", 0, start) + 1
            _refuse(f"{cause} in {record}, line {line},")


def _tokens(record: str, source: str) -> list[_Token]:
    tokens, position = [], 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None:
            line = source.count("\n", 0, position) + 1
            _refuse(f"{source[position : position + 20]!r} in {record}, line {line},")
        elif match.lastgroup != "space":
            tokens.append(_Token(str(match.lastgroup), match.group(), position))
        position = match.end() if match else len(source)
    return tokens


def _chains(tokens: Sequence[_Token]) -> Iterator[tuple[int, list[str]]]:
    """Yield where each ``a.b.c`` starts and its names; the first is empty for ``(…).b.c``."""
    position, previous = 0, ""
    while position < len(tokens):
        token, names = tokens[position], [""]
        if token.text == "getattr":
            names = ["", _attribute(tokens[position + 1 :])]
        elif token.kind == "name":
            names = [token.text]
        position += token.text != "."
        while position < len(tokens) and tokens[position].text == ".":
            names.append(tokens[position + 1].text if position + 1 < len(tokens) else "")
            position += 2
        declared = len(names) == 1 and [t.text for t in tokens[position : position + 1]] == [":"]
        # what is imported, or declared as a variable or argument, holds nothing until it is used
        if previous != "import" and not declared:
            yield token.start, names
        previous = token.text


def _attribute(tokens: Iterable[_Token]) -> str:
    """Return the name that ``getattr`` gets by ``(…, "name")``; empty if it is not written so."""
    depth, inside = 0, []
    for token in tokens:
        depth += (token.text in "([{") - (token.text in ")]}")
        if depth <= 0:
            break
        inside.append(token)
    if len(inside) < 4 or inside[-2].text != "," or inside[-1].kind != "string":
        return ""
    return inside[-1].text[1:-1]


def _unknown(chain: Sequence[str]) -> str:
    """Return what a chain of names leads to, if that is not known to compute only; else nothing."""
    root, *names = chain
    if len(names) < _DEPTHS.get(root, 0):
        return f"{'.'.join(chain)} with no name after it"
    if not all(_PLAIN.fullmatch(name) for name in names):
        return "an attribute whose name is not written out"
    operators = []
    if root == "torch":
        operators = [f"aten::{names[0]}"]
    elif root == "ops":
        operators = [f"{names[0]}::{names[1]}"]
    elif chain[:2] == ["__torch__", "torch"] and chain[2:3] in ([], ["classes"]):
        name = ".".join(chain[:5])
        if name not in CLASSES:
            return f"the class {name}"
    # of a value, a name is an attribute of its class or else an operator
    operators += [f"aten::{name}" for name in names if _exists(f"aten::{name}")]
    unknown = [operator for operator in operators if not computes(operator)]
    return f"the operator {unknown[0]}" if unknown else ""


@functools.cache
def _exists(operator: str) -> bool:
    return bool(schemas_of(operator))
