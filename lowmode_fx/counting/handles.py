"""Multiply-adds of operators that fvcore does not count, or counts differently: functions of the shapes in a trace.

A handle takes the inputs and the outputs of an operator, as values of a ``torch.jit`` trace.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

Handle = Callable[[list[Any], list[Any]], float | Counter[str]]
#: A Fourier transform of N complex points takes some 5 N log₂ N additions and multiplications: half as many macs.
_TRANSFORM = 2.5
_SAMPLING = 4  # a bilinear sample, as fvcore counts ``grid_sample``


def macs_per_value(macs: float) -> Handle:
    """Return a handle that counts ``macs`` for each value that the operator returns."""

    def handle(inputs: list[Any], outputs: list[Any]) -> float:
        return macs * math.prod(_shape(outputs[0]))

    return handle


def _shape(value: Any) -> list[int]:
    from fvcore.nn.jit_handles import get_shape

    shape: list[int] | None = get_shape(value)
    return shape or []


def _integers(value: Any) -> list[int]:
    """A constant integer or list of integers; empty if there is none, or if it was computed."""
    if value.node().kind() == "prim::ListConstruct":
        found = [each.toIValue() for each in value.node().inputs()]
    else:
        constant = value.toIValue()
        found = list(constant) if isinstance(constant, list | tuple) else [constant]
    return [] if any(each is None for each in found) else found


def _attention(inputs: list[Any], outputs: list[Any]) -> float:
    """q kᵀ and the product with v: ``(…, L, E) · (…, S, E)`` and ``(…, L, S) · (…, S, V)``."""
    query, key, value = map(_shape, inputs[:3])
    return float(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _matmul(inputs: list[Any], outputs: list[Any]) -> float:
    """``(…, L, E) · (…, E, V)`` with leading dimensions broadcast, or vectors: each result is a sum over E."""
    return float(math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1])


def _einsum(inputs: list[Any], outputs: list[Any]) -> float:
    """For two tensors, one mac for each combination of all indices; for more, fvcore's count."""
    from fvcore.nn.jit_handles import einsum_flop_jit

    equation = inputs[0].toIValue().replace(" ", "")
    shapes = [_shape(value) for value in inputs[1].node().inputs()]
    terms = equation.partition("->")[0].split(",")
    if len(terms) != 2:
        return float(einsum_flop_jit(inputs, outputs))
    terms = [_spelled_out(term, len(shape)) for term, shape in zip(terms, shapes, strict=True)]
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return float(math.prod(sizes.values()))


def _spelled_out(term: str, rank: int) -> str:
    """A term of an equation with digits in place of ``...``, aligned from the right in each term."""
    missing = rank - len(term.replace("...", ""))
    return term.replace("...", "0123456789"[10 - missing :])


def _vector(inputs: list[Any], outputs: list[Any]) -> float:
    """A matrix or a vector times a vector: ``(…, L) · (L)``."""
    return float(math.prod(_shape(inputs[0])))


def _added(product: Handle) -> Handle:
    """A product that is added to the first input."""
    return lambda inputs, outputs: product(inputs[1:3], outputs)


def _batches_summed(inputs: list[Any], outputs: list[Any]) -> float:
    """``(B, L, E) · (B, E, V)``, summed over B."""
    return float(math.prod(_shape(inputs[0])) * _shape(inputs[1])[-1])


def _tensordot(inputs: list[Any], outputs: list[Any]) -> float:
    """The result's values, each a sum over the indices that are summed."""
    shape = _shape(inputs[0])
    return float(math.prod(_shape(outputs[0])) * math.prod(shape[axis] for axis in _integers(inputs[2])))


def _bilinear(inputs: list[Any], outputs: list[Any]) -> float:
    """``x₁ᵀ W x₂`` with ``W`` ``(out, in₁, in₂)``: by ``W`` first, then the other."""
    first, weight = _shape(inputs[0]), _shape(inputs[2])
    return float(math.prod(first[:-1]) * (math.prod(weight) + weight[0] * weight[2]))


def _recurrent(inputs: list[Any], outputs: list[Any]) -> float:
    """``nn.LSTM``, ``GRU``, ``RNN``: each step of each sequence is multiplied by every matrix of every layer once.

    The sequence is ``(T, B, F)``, ``(B, T, F)``, ``(T, F)`` or packed ``(ΣT, F)``.
    """
    lists = [value for value in inputs if value.node().kind() == "prim::ListConstruct"]
    shapes = [[_shape(each) for each in value.node().inputs()] for value in lists]
    weights = next(found for found in reversed(shapes) if any(len(shape) == 2 for shape in found))
    return float(math.prod(_shape(inputs[0])[:-1]) * _matrices(weights))


def _cell(inputs: list[Any], outputs: list[Any]) -> float:
    """``nn.LSTMCell`` and similar cells: one step of each sequence ``(B, F)``; the matrices follow input and state."""
    return float(math.prod(_shape(inputs[0])[:-1]) * _matrices([_shape(value) for value in inputs[2:4]]))


def _matrices(shapes: Sequence[Sequence[int]]) -> int:
    return sum(math.prod(shape) for shape in shapes if len(shape) == 2)


def _deformable(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution on samples of the map: the taps of every output, and separately a bilinear sample for each tap."""
    images, weight, out = _shape(inputs[0]), _shape(inputs[1]), _shape(outputs[0])
    places, taps = math.prod(out) // out[1], math.prod(weight[2:])
    samples = _SAMPLING * images[1] * taps
    return Counter(deform_conv2d=places * math.prod(weight), bilinear_sampling=places * samples)


def _fourier(axes: int | None, real: str = "") -> Handle:
    """A Fourier transform over the last ``axes`` axes, unless its ``dim`` says which; ``None``: all of them.

    ``real``: which side is real, ``"inputs"`` or ``"outputs"``; such a transform costs half of a complex one.
    """

    def handle(inputs: list[Any], outputs: list[Any]) -> float:
        shape, lengths, dims = list(_shape(outputs[0])), _integers(inputs[1]), _integers(inputs[2])
        count = axes if axes is not None else len(lengths) or len(shape)
        chosen = dims or list(range(-count, 0))
        if real == "inputs":  # the result holds half of the last axis, the rest being redundant
            length = lengths[-1] if lengths else -1
            shape[chosen[-1]] = length if length > 0 else _shape(inputs[0])[chosen[-1]]
        points = math.prod(shape[axis] for axis in chosen)
        return _TRANSFORM * math.prod(shape) * math.log2(max(points, 1)) / (2 if real else 1)

    return handle


_FOURIER: dict[str, Handle] = {
    f"aten::fft_{name}": _fourier(axes, real)
    for suffix, axes in (("", 1), ("2", 2), ("n", None))
    for name, real in (
        (f"fft{suffix}", ""),
        (f"ifft{suffix}", ""),
        (f"rfft{suffix}", "inputs"),
        (f"irfft{suffix}", "outputs"),
    )
}


def _rms_norm(inputs: list[Any], outputs: list[Any]) -> float:
    """A square, its mean and a division for each value, and a weight if there is one; an estimate, like fvcore's."""
    return float(math.prod(_shape(inputs[0])) * (4 if _shape(inputs[2]) else 3))


def _padded_conv(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution with its padding as a string (``"same"``), counted as a convolution."""
    from fvcore.nn.jit_handles import conv_flop_count

    return Counter(conv=conv_flop_count(_shape(inputs[0]), _shape(inputs[1]), _shape(outputs[0])))


#: What fvcore does not count by itself, and what it counts for some shapes only.
HANDLES: dict[str, Handle] = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::_convolution_mode": _padded_conv,
    "aten::matmul": _matmul,
    "aten::einsum": _einsum,
    "aten::mv": _vector,
    "aten::dot": _vector,
    "aten::vdot": _vector,
    "aten::inner": _matmul,
    "aten::addmv": _added(_vector),
    "aten::baddbmm": _added(_matmul),
    "aten::addbmm": _added(_batches_summed),
    "aten::tensordot": _tensordot,
    "aten::bilinear": _bilinear,
    **{f"aten::{name}": _recurrent for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{f"aten::{name}_cell": _cell for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "aten::rms_norm": _rms_norm,
    "torchvision::deform_conv2d": _deformable,
    **_FOURIER,
}
