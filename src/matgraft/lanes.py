"""Explicit vectors for compiled kernels: sixteen float32 numbers at a time.

Loops that update several rows of one array defeat the compiler's own vectorisation, because it cannot prove
that the rows differ. LLVM lowers these vectors to whatever the processor has (AVX-512, AVX2, NEON).
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

LANES = 16
CHANNELS = 2 * LANES
"""Filters that the convolution works on at a time: the registers hold so many's coefficients of one cell."""
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, _VECTOR)


def _require_plain(array):
    if not isinstance(array, types.Array) or array.dtype != types.float32 or array.layout != "C":
        raise TypingError(f"a C-contiguous float32 array is needed, not {array}")


def _pointer(context, builder, kind, array, offset, vector=_VECTOR):
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


def _everywhere(builder, number, vector):
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INTEGERS, [0] * LANES))


@intrinsic
def load(typing, array, offset):
    """Sixteen numbers of a C-contiguous float32 array from a flat ``offset`` on; bounds are the caller's."""

    _require_plain(array)

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(pointer, align=4)

    return _lanes(array, types.intp), generate


@intrinsic
def store(typing, array, offset, vector):
    """Write sixteen numbers from a flat ``offset`` on; bounds are the caller's."""

    _require_plain(array)

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes), generate


@intrinsic
def splat(typing, number):
    """The same number sixteen times."""

    def generate(context, builder, signature, arguments):
        return _everywhere(builder, arguments[0], _VECTOR)

    return _lanes(types.float32), generate


@intrinsic
def below(typing, a, b):
    """Where ``a < b``, as the sixteen lowest bits of a whole number, the first lane's the lowest."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(builder.fcmp_ordered("<", *arguments), ir.IntType(LANES))
        return builder.zext(bits, ir.IntType(64))

    return types.int64(_lanes, _lanes), generate


@intrinsic
def count(typing, bits):
    """How many bits are set."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate


@intrinsic
def store_numbers(typing, array, offset, first, bits):
    """Write ``first + k`` for each bit ``k`` of ``bits`` that is set, one after the other from ``offset`` on.

    What follows, up to sixteen numbers in all, is overwritten with anything.
    """
    if not isinstance(array, types.Array) or array.dtype != types.uint32 or array.layout != "C":
        raise TypingError(f"a C-contiguous uint32 array is needed, not {array}")

    def generate(context, builder, signature, arguments):
        array, offset, first, bits = arguments
        start = _everywhere(builder, builder.trunc(first, ir.IntType(32)), _INTEGERS)
        numbers = builder.add(start, ir.Constant(_INTEGERS, list(range(LANES))))
        mask = ir.VectorType(ir.IntType(1), LANES)
        chosen = builder.bitcast(builder.trunc(bits, ir.IntType(LANES)), mask)
        kind = ir.FunctionType(_INTEGERS, [_INTEGERS, mask, _INTEGERS])
        name = f"llvm.experimental.vector.compress.v{LANES}i32"
        compress = cgutils.get_or_insert_function(builder.module, kind, name)
        pointer = _pointer(context, builder, signature.args[0], array, offset, _INTEGERS)
        anything = ir.Constant(_INTEGERS, ir.Undefined)
        builder.store(builder.call(compress, [numbers, chosen, anything]), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64, types.int64), generate


@intrinsic
def fma(typing, a, b, c):
    """``a * b + c``."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
        return builder.call(function, arguments)

    return _lanes(_lanes, _lanes, _lanes), generate


@intrinsic
def total(typing, a):
    """Sum of the sixteen numbers."""

    def generate(context, builder, signature, arguments):
        vector, width = arguments[0], LANES
        while width > 1:
            width //= 2
            indices = ir.VectorType(ir.IntType(32), width)
            halves = [
                builder.shuffle_vector(
                    vector, vector, ir.Constant(indices, list(range(start, start + width)))
                )
                for start in (0, width)
            ]
            vector = builder.fadd(*halves)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return types.float32(_lanes), generate


def _unary(name):
    @intrinsic
    def function(typing, a):
        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(_VECTOR, [_VECTOR])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

        return _lanes(_lanes), generate

    return function


def _binary(operation):
    @intrinsic
    def function(typing, a, b):
        def generate(context, builder, signature, arguments):
            return getattr(builder, operation)(*arguments)

        return _lanes(_lanes, _lanes), generate

    return function


product = _binary("fmul")
difference = _binary("fsub")
quotient = _binary("fdiv")
magnitude = _unary(f"llvm.fabs.v{LANES}f32")
rounded = _unary(f"llvm.rint.v{LANES}f32")


@intrinsic
def larger(typing, a, b):
    """The larger of two, number by number; not a number if the first is not."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_unordered(">", *arguments), *arguments)

    return _lanes(_lanes, _lanes), generate


@intrinsic
def two_to_the(typing, a):
    """``2^a`` of whole numbers between -126 and 127."""

    def generate(context, builder, signature, arguments):
        whole = builder.fptosi(arguments[0], _INTEGERS)
        exponent = builder.add(whole, ir.Constant(_INTEGERS, [127] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(_INTEGERS, [23] * LANES)), _VECTOR)

    return _lanes(_lanes), generate
