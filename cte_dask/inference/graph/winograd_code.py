"""Machine code that takes maps to the space where a convolution is a product, and back.

Winograd's F(4 x 4, 3 x 3) as Lavin & Gray use it (2016, arXiv 1509.09308, sec. 4.3). The channels
of a voxel lie side by side in memory, and as many as a register of the processor holds go through
a transform at a time. Written with llvmlite, which has compiled it in a fifth of a second, once a
process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from cte_dask.inference.graph.machine_code import Code, compiled, new_module, register_floats

__all__ = ["FAR", "LANES", "NEAR", "OUT", "POINTS", "SIDE", "Steps", "steps"]

OUT = 4
"""Outputs along a side of a patch."""
SIDE = OUT + 2
"""Inputs along a side of a patch, and its numbers along a side of the product's space."""
POINTS = SIDE**2
NEAR, FAR = 0.75, 1.5
"""The points 0, ± these and infinity: rounded a third as much as the paper's 1 and 2."""
LANES = 16
"""Channels in and out must be multiples of these."""

_FORWARD = (
    *("maps", "maps z", "maps y", "maps x", "depth", "height", "width", "channels"),
    *("padding z", "padding y", "padding x", "patches a row", "first", "last", "planes"),
    *("product", "scratch"),
)
_INVERSE = (
    *("maps", "maps z", "maps y", "maps x", "height", "width", "channels"),
    *("added", "added z", "added y", "added x", "zeros", "bias", "slope"),
    *("patches a row", "first", "last", "planes", "product", "scratch"),
)


_MULTIPLY = (
    "one",
    "one apart",
    "other",
    "result",
    "result apart",
    "rows",
    "inner",
    "channels",
    "add",
)


class Steps(NamedTuple):
    """Functions of addresses and of numbers of elements, all int64, by position.

    Parameters
    ----------
    forward
        Writes the patches ``first`` to ``last`` of a sample, counted along x and then y, of all its
        planes as (36, planes, patches, channels): arguments as in `_FORWARD`. Outside of the maps
        are zeros.
    multiply
        Of 36 matrices (rows, inner), which are ``apart``, by 36 of (inner, channels): arguments as
        in `_MULTIPLY`. Results are added to what is there unless ``add`` is zero.
    inverse
        Writes the outputs of such patches from (36, planes, patches, channels): arguments as in
        `_INVERSE`. ``slope`` is the address of a factor for numbers below zero; at ``zeros`` is one
        for each channel.
    """

    forward: Callable[..., None]
    multiply: Callable[..., None]
    inverse: Callable[..., None]


@cache
def steps(lanes: int | None = None) -> Steps:
    """Return the functions, compiled for this processor.

    Parameters
    ----------
    lanes
        Numbers that they work on at a time; None for as many as a register holds.
    """
    lanes = lanes or register_floats()
    module = new_module("winograd")
    _write_forward(Code(module, "forward", _FORWARD, lanes))
    _write_multiply(Code(module, "multiply", _MULTIPLY, lanes))
    _write_inverse(Code(module, "inverse", _INVERSE, lanes))
    return Steps(*compiled(module))


def _forward(code: Code, d: Sequence[Any]) -> list[Any]:
    """Write the transform of a row of a patch (matrix B of the paper, transposed)."""
    near, far = NEAR**2, FAR**2
    first, last = (
        code.sum(
            code.difference(code.product(near * far, d[i]), code.product(near + far, d[i + 2])),
            d[i + 4],
        )
        for i in (0, 1)
    )
    pairs = []
    for point, other in ((NEAR, far), (FAR, near)):
        even = code.difference(d[4], code.product(other, d[2]))
        odd = code.product(point, code.difference(d[3], code.product(other, d[1])))
        pairs += [code.sum(even, odd), code.difference(even, odd)]
    return [first, *pairs, last]


def _inverse(code: Code, m: Sequence[Any]) -> list[Any]:
    """Write the transform back of a row of products (matrix A of the paper, transposed)."""
    sums = code.sum(m[1], m[2]), code.sum(m[3], m[4])
    differences = code.difference(m[1], m[2]), code.difference(m[3], m[4])

    def power(exponent: int, pair: tuple[Any, Any]) -> Any:
        near, far = (
            code.product(point**exponent, value)
            for point, value in zip((NEAR, FAR), pair, strict=True)
        )
        return code.sum(near, far)

    return [
        code.sum(m[0], *sums),
        power(1, differences),
        power(2, sums),
        code.sum(power(3, differences), m[5]),
    ]


def _write_forward(code: Code) -> None:
    arguments, build = code.arguments, code.build
    first, last, planes = (arguments[name] for name in ("first", "last", "planes"))
    channels, scratch = arguments["channels"], arguments["scratch"]
    strides = [arguments[f"maps {axis}"] for axis in "zyx"]
    count = code.less(last, first)
    apart = code.times(planes, count, channels)
    with code.loop(code.whole(0), planes) as plane, code.loop(first, last) as patch:
        number = code.plus(code.times(plane, count), code.less(patch, first))
        target = code.at(arguments["product"], (number, channels))
        z = code.less(plane, arguments["padding z"])
        y, x = (
            code.less(code.times(along, OUT), arguments[f"padding {axis}"])
            for axis, along in zip("yx", _place(code, patch), strict=True)
        )
        source = _corner(code, "maps", (z, y, x))
        with build.if_else(code.inside(z, arguments["depth"])) as (existing, outside):
            with existing:
                far = code.whole(SIDE - 1)
                inner = code.every(
                    *(code.inside(v, arguments["height"]) for v in (y, code.plus(y, far))),
                    *(code.inside(v, arguments["width"]) for v in (x, code.plus(x, far))),
                )
                with build.if_then(build.not_(inner)):
                    _gather(code, source, (y, x))
                there = scratch, code.times(channels, SIDE), channels
                patch_at, *near = code.choose(inner, (source, *strides[1:]), there)
                _to_product(code, patch_at, near, target, apart)
            with outside, code.channels() as c, code.loop(code.whole(0), code.whole(POINTS)) as n:
                code.store(code.number(0.0), code.at(target, (n, apart), (c, 1)))
    build.ret_void()


def _place(code: Code, patch: Any) -> tuple[Any, Any]:
    """Return the row and the column of a patch."""
    row = code.arguments["patches a row"]
    return code.build.sdiv(patch, row), code.build.srem(patch, row)


def _to_product(code: Code, source: Any, strides: Sequence[Any], target: Any, apart: Any) -> None:
    """Transform one patch of all channels."""
    side = range(SIDE)
    with code.channels() as c:
        here, there = code.at(source, (c, 1)), code.at(target, (c, 1))
        rows = [
            _forward(code, [code.load(code.at(row, (code.whole(j), strides[1]))) for j in side])
            for row in (code.at(here, (code.whole(i), strides[0])) for i in side)
        ]
        columns = [_forward(code, [row[j] for row in rows]) for j in side]
        for i in side:
            for j in side:
                code.store(columns[j][i], code.at(there, (code.whole(SIDE * i + j), apart)))


def _gather(code: Code, source: Any, start: tuple[Any, Any]) -> None:
    """Copy a patch at a border to where it can be read whole, with zeros for what is outside."""
    arguments, side = code.arguments, code.whole(SIDE)
    channels = arguments["channels"]
    with code.loop(code.whole(0), side) as i, code.loop(code.whole(0), side) as j:
        place = code.plus(code.times(i, SIDE), j)
        here = code.at(source, *zip((i, j), _strides(code, "maps"), strict=True))
        there = code.at(arguments["scratch"], (place, channels))
        exists = code.every(
            code.inside(code.plus(start[0], i), arguments["height"]),
            code.inside(code.plus(start[1], j), arguments["width"]),
        )
        with code.build.if_else(exists) as (yes, no):
            with yes, code.channels() as c:
                code.store(code.load(code.at(here, (c, 1))), code.at(there, (c, 1)))
            with no, code.channels() as c:
                code.store(code.number(0.0), code.at(there, (c, 1)))


COLUMNS = (2, 1)
"""Registers of a row of a matrix product that are summed at a time."""


def _rows(lanes: int) -> tuple[int, ...]:
    """Return how many rows are summed at a time: all registers are in use, and no more."""
    return (8, 2, 1) if lanes == LANES else (6, 2, 1)


def _write_multiply(code: Code) -> None:
    arguments = code.arguments
    with code.loop(code.whole(0), code.whole(POINTS)) as point:
        here = {
            "one": code.at(arguments["one"], (point, arguments["one apart"])),
            "result": code.at(arguments["result"], (point, arguments["result apart"])),
            "other": code.at(
                arguments["other"],
                (code.times(point, arguments["inner"]), arguments["channels"]),
            ),
        }
        first_column = code.whole(0)
        for across in COLUMNS:
            width = across * code.lanes
            last_column = code.multiple(first_column, arguments["channels"], width)
            with code.loop(first_column, last_column, width) as column:
                first_row = code.whole(0)
                for down in _rows(code.lanes):
                    last_row = code.multiple(first_row, arguments["rows"], down)
                    with code.loop(first_row, last_row, down) as row:
                        _write_tile(code, here, (row, column), (down, across))
                    first_row = last_row
            first_column = last_column
    code.build.ret_void()


def _write_tile(
    code: Code, here: dict[str, Any], start: tuple[Any, Any], size: tuple[int, int]
) -> None:
    """Write the sums of some rows and columns of a product, all of them in registers."""
    arguments, build = code.arguments, code.build
    (row, column), (down, across) = start, size
    ours = [code.plus(row, code.whole(n)) for n in range(down)]
    lefts = [code.at(here["one"], (n, arguments["inner"])) for n in ours]
    columns = [code.plus(column, code.whole(n * code.lanes)) for n in range(across)]
    places = [
        code.at(here["result"], (n, arguments["channels"]), (c, 1)) for n in ours for c in columns
    ]
    added = build.icmp_signed("!=", arguments["add"], code.whole(0))
    with build.if_else(added) as (yes, no):
        with yes:
            found, there = [code.load(place) for place in places], build.block
        with no:
            absent = build.block
    firsts = [code.either((value, there), (code.number(0.0), absent)) for value in found]
    before, body, after = build.block, *(build.block.function.append_basic_block() for _ in "12")
    build.branch(body)
    build.position_at_end(body)
    number = code.either((code.whole(0), before))
    totals = [code.either((first, before)) for first in firsts]
    right = code.at(here["other"], (number, arguments["channels"]))
    rights = [code.load(code.at(right, (c, 1))) for c in columns]
    spread = [code.spread(code.at(left, (number, 1))) for left in lefts]
    factors = [(left, right) for left in spread for right in rights]
    sums = [code.plus_product(total, *pair) for total, pair in zip(totals, factors, strict=True)]
    following = code.plus(number, code.whole(1))
    for phi, value in ((number, following), *zip(totals, sums, strict=True)):
        phi.add_incoming(value, build.block)
    build.cbranch(build.icmp_signed("<", following, arguments["inner"]), body, after)
    build.position_at_end(after)
    for value, place in zip(sums, places, strict=True):
        code.store(value, place)


def _write_inverse(code: Code) -> None:
    arguments, build = code.arguments, code.build
    first, last, planes = (arguments[name] for name in ("first", "last", "planes"))
    count = code.less(last, first)
    apart = code.times(planes, count, arguments["channels"])
    slope = code.spread(arguments["slope"])
    with code.loop(code.whole(0), planes) as plane, code.loop(first, last) as patch:
        number = code.plus(code.times(plane, count), code.less(patch, first))
        source = code.at(arguments["product"], (number, arguments["channels"]))
        y, x = (code.times(along, OUT) for along in _place(code, patch))
        far = code.whole(OUT - 1)
        inner = code.every(
            code.inside(code.plus(y, far), arguments["height"]),
            code.inside(code.plus(x, far), arguments["width"]),
        )
        maps, added = (_corner(code, name, (plane, y, x)) for name in ("maps", "added"))
        # at a border patches are put together elsewhere, and what there is of them written then
        channels, none = arguments["channels"], code.whole(0)
        there = arguments["scratch"], code.times(channels, OUT), channels
        target, *near = code.choose(inner, (maps, *_strides(code, "maps")), there)
        nothing = arguments["zeros"], none, none
        more, *by = code.choose(inner, (added, *_strides(code, "added")), nothing)
        (factor,) = code.choose(inner, (slope,), (code.number(1.0),))
        with code.channels() as c:
            for i, j, value in _outputs(code, source, apart, c):
                place, other = (
                    code.at(corner, (code.whole(i), down), (code.whole(j), right), (c, 1))
                    for corner, (down, right) in ((target, near), (more, by))
                )
                total = code.sum(value, code.load(other))
                code.store(code.leaky(total, factor), place)
        with build.if_then(build.not_(inner)):
            _scatter(code, (maps, added), (y, x), slope)
    build.ret_void()


def _corner(code: Code, name: str, start: Sequence[Any]) -> Any:
    """Return where a patch begins in the maps that are written or in those that are added."""
    strides = (code.arguments[f"{name} {axis}"] for axis in "zyx")
    return code.at(code.arguments[name], *zip(start, strides, strict=True))


def _strides(code: Code, name: str) -> tuple[Any, Any]:
    return code.arguments[f"{name} y"], code.arguments[f"{name} x"]


def _outputs(code: Code, source: Any, apart: Any, c: Any) -> Iterator[tuple[int, int, Any]]:
    """Transform some channels of a patch back; yields the row, the column and the values."""
    here = code.at(source, (c, 1))
    points = [code.load(code.at(here, (code.whole(n), apart))) for n in range(POINTS)]
    columns = [_inverse(code, points[j::SIDE]) for j in range(SIDE)]
    bias = code.load(code.at(code.arguments["bias"], (c, 1)))
    for i in range(OUT):
        for j, value in enumerate(_inverse(code, [column[i] for column in columns])):
            yield i, j, code.sum(value, bias)


def _scatter(code: Code, corners: tuple[Any, Any], start: tuple[Any, Any], slope: Any) -> None:
    """Write a patch of outputs at a border as far as there are maps."""
    arguments, side = code.arguments, code.whole(OUT)
    with code.loop(code.whole(0), side) as i, code.loop(code.whole(0), side) as j:
        exists = code.every(
            code.inside(code.plus(start[0], i), arguments["height"]),
            code.inside(code.plus(start[1], j), arguments["width"]),
        )
        place = code.plus(code.times(i, OUT), j)
        here = code.at(arguments["scratch"], (place, arguments["channels"]))
        target, added = (
            code.at(corner, *zip((i, j), _strides(code, name), strict=True))
            for corner, name in zip(corners, ("maps", "added"), strict=True)
        )
        with code.build.if_then(exists), code.channels() as c:
            value, more = (code.load(code.at(address, (c, 1))) for address in (here, added))
            code.store(code.leaky(code.sum(value, more), slope), code.at(target, (c, 1)))
