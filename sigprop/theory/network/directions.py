"""How much products of two vectors of one tensor scatter: 1/D for D equal directions.

For vectors x_s of n channels, r is the variance of x_s·x_s'/n over the square of E x²: 1/n for
independent entries, Σ λ²/(Σ λ)² = Σ_ij K_ij²/(Σ_i K_ii)² for a covariance K of eigenvalues λ, such
as that of the pixels of a patch. A random linear map to m channels adds 1/m. In a sum of
independent terms with shares p_i of E x² it is Σ p_i² r_i + (1 − Σ p_i²)/n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import Axis, along, own_mean
from sigprop.theory.network.calls import Constant
from sigprop.theory.network.divisions import one_axis, with_axis
from sigprop.theory.network.state import SignalState, of_products
from sigprop.theory.network.table import RuleContext

DEEPEST = 256
"""Steps after which the channels are taken for independent."""
_KERNELS = ("conv1d", "conv2d", "conv3d")
_KEEP = ("passage", "scale", "dropout", "normalization")


def scatter_of_products(ctx: RuleContext | None, width: int, steps: int = DEEPEST) -> float:
    """The r of what leaves a node.

    Args:
        ctx: of the node.
        width: channels.
        steps: nodes that are looked back at most.
    """
    if ctx is None or not steps or ctx.call.activation is not None or not ctx.call.inputs:
        return 1 / width if ctx is None else _of_entries(ctx.output, width)
    call = ctx.call
    weight = call.argument(1, "weight")
    if isinstance(weight, Constant) and call.operation in ("linear", *_KERNELS):
        return 1 / width + scatter_read(ctx, weight.shape, steps)
    if call.norm is not None or (call.kind in _KEEP and len(call.inputs) == 1):
        return scatter_of_products(ctx.source(0), width, steps - 1)
    if call.kind in ("sum", "shift"):
        return _of_sum(ctx, width, steps)
    if call.kind == "concatenation":  # along places: the mean over them
        found = [scatter_of_products(ctx.source(i), width, steps - 1)
                 for i in range(len(call.inputs))]  # fmt: skip
        sizes = [float(math.prod(state.shape)) if isinstance(state, SignalState) else 0.0
                 for state in ctx.inputs]  # fmt: skip
        alike = all(isinstance(s, SignalState) and s.shape[-1] == width for s in ctx.inputs)
        total = float(math.fsum(sizes))
        if alike and total > 0:
            return math.fsum(n * r for n, r in zip(sizes, found, strict=True)) / total
    return 1 / width


def scatter_read(ctx: RuleContext, weight: tuple[int, ...], steps: int = DEEPEST) -> float:
    """The r of what a dense map reads, or a kernel at one place.

    Args:
        ctx: of the map.
        weight: its shape.
        steps: see :func:`scatter_of_products`.
    """
    call = ctx.call
    if call.operation not in _KERNELS:
        return scatter_of_products(ctx.source(0), ctx.inputs[0].shape[-1], steps - 1)
    if math.prod(weight[2:]) == 1:
        return scatter_of_products(ctx.source(0), weight[1], steps - 1)
    return of_windows(ctx.inputs[0], weight, call.argument(5, "dilation", 1))


def _of_sum(ctx: RuleContext, width: int, steps: int) -> float:
    sizes, found = [], []
    for place, state in enumerate(ctx.inputs):
        if not isinstance(state, SignalState):
            return 1 / width
        sizes.append(state.q)
        found.append(scatter_of_products(ctx.source(place), width, steps - 1))
    for value in (ctx.call.argument(0, "input"), ctx.call.argument(1, "other")):
        if isinstance(value, Constant):
            sizes.append(value.square)
            found.append(1 / width)
    total = sum(sizes)
    if not total > 0:
        return 1 / width
    shares = [size / total for size in sizes]
    own = sum(share**2 for share in shares)
    return sum(s**2 * r for s, r in zip(shares, found, strict=True)) + (1 - own) / width


def _of_entries(state: object, width: int) -> float:
    """Of the entries along the last dimension."""
    if not isinstance(state, SignalState) or state.shape[-1:] != (width,):
        return 1 / width
    dim = len(state.dims) - 1
    state = _plain(state, dim)
    return _of_pairs(state, {dim: state.axes[state.places(dim).start].counts}, width)


def of_windows(state: SignalState, kernel: tuple[int, ...], dilation: object) -> float:
    """Of the entries that a kernel reads at one place; mean over the places.

    Args:
        state: of what it reads.
        kernel: shape of the weight, (units, channels, taps of each axis).
        dilation: of the taps, one number or one for each axis.

    Example:
        >>> from sigprop.theory.network.state import from_moments
        >>> of_windows(from_moments((8, 3, 9, 9), 1.0), (16, 3, 2, 2), 1)  # independent: 1/12
        0.08333333333333333
        >>> of_windows(from_moments((8, 3, 9, 9), 1.0, apart=1.0), (16, 3, 2, 2), 1)
        1.0
    """
    channels, taps = kernel[1], kernel[2:]
    first, n = len(state.dims) - len(taps), channels * math.prod(taps)
    steps = dilation if isinstance(dilation, tuple | list) else (dilation,) * len(taps)
    counts = {first - 1: _exchangeable_pairs(channels)}
    state = _plain(state, first - 1, alike=True)
    for i, (k, step) in enumerate(zip(taps, steps, strict=True)):
        state = _plain(state, first + i)
        counts[first + i] = _tap_pairs(state.axes[state.places(first + i).start], k, int(step))
    return _of_pairs(state, counts, n)


def _plain(state: SignalState, dim: int, *, alike: bool = False) -> SignalState:
    """One dimension as one axis, full or of one class; ``alike``: of one class."""
    state = one_axis(state, dim)
    place = state.places(dim).start
    axis = state.axes[place]
    if axis.size == 1 or axis.classes == 1 or (axis.full and not alike):
        return state
    return with_axis(state, place, Axis.exchangeable(axis.size))


def _exchangeable_pairs(n: int) -> FloatArray:
    return np.array([n * (n - 1.0), n])


def _tap_pairs(axis: Axis, taps: int, step: int) -> FloatArray:
    """How many pairs of taps have each relation of two places, mean over windows inside."""
    if not axis.full or axis.size == 1:
        return _exchangeable_pairs(taps) if axis.size > 1 else np.array([1.0])
    n = axis.size
    reach = min((taps - 1) * step, n - 1)
    starts = np.arange(n - reach)
    read = starts[:, None] + np.arange(0, reach + 1, step)
    pairs = read[:, :, None] * n + read[:, None, :]
    return np.bincount(pairs.ravel(), minlength=n * n) / len(starts)


def _of_pairs(state: SignalState, counts: Mapping[int, FloatArray], n: int) -> float:
    """Σ K²/(Σ K_ii)² over pairs of entries along some dimensions, of one entry of the others."""
    second = state.second - of_products(state.mean, state.mean, state.axes)
    trace = second
    weights = {state.places(dim).start: count for dim, count in counts.items()}
    squares = second**2
    for place, axis in enumerate(state.axes):
        if place not in weights:
            trace, squares = (own_mean(x, axis, place) for x in (trace, squares))
            continue
        count = along(weights[place], place, second.ndim)
        own = np.where(along(axis.is_same, place, second.ndim), count, 0.0)
        squares = (squares * count).sum(axis=place, keepdims=True)
        trace = (trace * own).sum(axis=place, keepdims=True)
    total = float(trace.item()) ** 2
    return max(float(squares.item()) / total, 1 / n) if total > 0 else 1 / n
