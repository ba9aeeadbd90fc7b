"""Writing machine code with llvmlite: loops, addresses, and arithmetic of many floats at a time.

What is written is compiled for the processor that it runs on, in a tenth of a second.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import binding, ir

__all__ = ["Code", "compiled", "new_module", "register_floats"]

_INT, _FLOAT, _POINTER = ir.IntType(64), ir.FloatType(), ir.PointerType()
_FLAGS = ("contract", "nsz")  # a product and a sum may be rounded once
_OWNERS: list[Any] = []
"""What owns the code."""


def register_floats() -> int:
    """Return how many floats a register of this processor holds."""
    return 16 if binding.get_host_cpu_features().get("avx512f") else 8


def new_module(name: str) -> Any:
    """Return what functions are written into."""
    return ir.Module(name)


def compiled(module: Any) -> list[Callable[..., None]]:
    """Return the functions of a module, in the order that they were written in.

    They may run in several threads at a time, and hold no lock of Python's.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
    )
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), machine)
    engine.finalize_object()
    _OWNERS.append(engine)
    return [
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(function.args))(
            engine.get_function_address(function.name)
        )
        for function in module.functions
    ]


class Code:
    """Writes a function of integers that gives nothing; addresses count bytes, all else floats.

    Parameters
    ----------
    module
        What the function is written into.
    name, arguments
        Of the function; the arguments are int64.
    lanes
        Numbers that are loaded, worked on and stored at a time.
    """

    def __init__(self, module: Any, name: str, arguments: Sequence[str], lanes: int) -> None:
        kind = ir.FunctionType(ir.VoidType(), [_INT] * len(arguments))
        function = ir.Function(module, kind, name)
        self.arguments = dict(zip(arguments, function.args, strict=True))
        self.build = ir.IRBuilder(function.append_basic_block())
        self.lanes, self._vector = lanes, ir.VectorType(_FLOAT, lanes)

    def whole(self, value: int) -> Any:
        """Return a whole number."""
        return ir.Constant(_INT, value)

    def plus(self, *terms: Any) -> Any:
        """Add whole numbers."""
        total, *rest = terms
        for term in rest:
            total = self.build.add(total, term)
        return total

    def less(self, one: Any, other: Any) -> Any:
        """Subtract whole numbers."""
        return self.build.sub(one, other)

    def times(self, one: Any, *others: Any) -> Any:
        """Multiply whole numbers."""
        for other in others:
            one = self.build.mul(one, self.whole(other) if isinstance(other, int) else other)
        return one

    def at(self, address: Any, *pairs: tuple[Any, Any]) -> Any:
        """Return an address so many strides farther: pairs of a number and a stride."""
        return self.plus(address, *(self.times(n, stride, 4) for n, stride in pairs))

    def multiple(self, start: Any, stop: Any, step: int) -> Any:
        """Return where the last whole step between two numbers ends."""
        left = self.build.srem(self.less(stop, start), self.whole(step))
        return self.less(stop, left)

    def either(self, *ways: tuple[Any, Any]) -> Any:
        """Return the value that goes with the block which the code comes from."""
        phi = self.build.phi(ways[0][0].type)
        for value, block in ways:
            phi.add_incoming(value, block)
        return phi

    def choose(self, condition: Any, ones: Sequence[Any], others: Sequence[Any]) -> list[Any]:
        """Return the ones where a condition holds, else the others."""
        pairs = zip(ones, others, strict=True)
        return [self.build.select(condition, one, other) for one, other in pairs]

    def inside(self, place: Any, extent: Any) -> Any:
        """Tell whether a place is from 0 to before an extent."""
        return self.build.icmp_unsigned("<", place, extent)

    def every(self, *conditions: Any) -> Any:
        """Tell whether all conditions hold."""
        result, *rest = conditions
        for condition in rest:
            result = self.build.and_(result, condition)
        return result

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int = 1) -> Iterator[Any]:
        """Write what is done for each number of a range."""
        before = self.build.block
        head, body, after = (before.function.append_basic_block() for _ in range(3))
        self.build.branch(head)
        self.build.position_at_end(head)
        number = self.build.phi(_INT)
        number.add_incoming(start, before)
        self.build.cbranch(self.build.icmp_signed("<", number, stop), body, after)
        self.build.position_at_end(body)
        yield number
        number.add_incoming(self.plus(number, self.whole(step)), self.build.block)
        self.build.branch(head)
        self.build.position_at_end(after)

    def channels(self) -> Any:
        """Loop over the channels, as many at a time as a register holds."""
        return self.loop(self.whole(0), self.arguments["channels"], self.lanes)

    def load(self, address: Any) -> Any:
        """Return the floats from an address on."""
        pointer = self.build.inttoptr(address, _POINTER)
        return self.build.load(pointer, align=4, typ=self._vector)

    def store(self, value: Any, address: Any) -> None:
        """Write floats from an address on."""
        self.build.store(value, self.build.inttoptr(address, _POINTER), align=4)

    def spread(self, address: Any) -> Any:
        """Return one number of memory at all places of a vector."""
        one = self.build.load(self.build.inttoptr(address, _POINTER), align=4, typ=_FLOAT)
        empty, place = ir.Constant(self._vector, ir.Undefined), ir.IntType(32)
        first = self.build.insert_element(empty, one, ir.Constant(place, 0))
        everywhere = ir.Constant(ir.VectorType(place, self.lanes), [0] * self.lanes)
        return self.build.shuffle_vector(first, empty, everywhere)

    def number(self, value: float) -> Any:
        """Return one number at all places of a vector."""
        return ir.Constant(self._vector, [value] * self.lanes)

    def sum(self, one: Any, *others: Any) -> Any:
        """Add floats."""
        for other in others:
            one = self.build.fadd(one, other, flags=_FLAGS)
        return one

    def plus_product(self, total: Any, one: Any, other: Any) -> Any:
        """Add the product of two floats."""
        return self.sum(total, self.build.fmul(one, other, flags=_FLAGS))

    def difference(self, one: Any, other: Any) -> Any:
        """Subtract floats."""
        return self.build.fsub(one, other, flags=_FLAGS)

    def product(self, factor: float, value: Any) -> Any:
        """Multiply floats by a constant."""
        return self.build.fmul(self.number(factor), value, flags=_FLAGS)

    def leaky(self, value: Any, slope: Any) -> Any:
        """Return a value, or its part `slope` where it is below zero."""
        below = self.build.fcmp_ordered("<", value, self.number(0.0))
        return self.build.select(below, self.build.fmul(value, slope), value)
