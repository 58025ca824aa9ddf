"""How much products of two vectors of one tensor scatter: 1/D for D equal directions.

For vectors x_s of n channels, r is the variance of x_s·x_s'/n over the square of E x²: 1/n for
independent entries, Σ λ²/(Σ λ)² for a covariance of eigenvalues λ. A random linear map to m
channels adds 1/m. In a sum of independent terms with shares p_i of E x² it is
Σ p_i² r_i + (1 − Σ p_i²)/n.
"""

from __future__ import annotations

import math

from sigprop.theory.network.calls import Constant
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext

DEEPEST = 256
"""Steps after which the channels are taken for independent."""
_KEEP = ("passage", "scale", "dropout", "normalization")


def scatter_of_products(ctx: RuleContext | None, width: int, steps: int = DEEPEST) -> float:
    """The r of what leaves a node.

    Args:
        ctx: of the node.
        width: channels.
        steps: nodes that are looked back at most.
    """
    if ctx is None or not steps or ctx.call.activation is not None or not ctx.call.inputs:
        return 1 / width
    call = ctx.call
    weight = call.argument(1, "weight")
    if isinstance(weight, Constant) and call.operation == "linear":
        return 1 / width + scatter_of_products(ctx.source(0), weight.shape[1], steps - 1)
    if isinstance(weight, Constant) and call.operation in ("conv1d", "conv2d", "conv3d"):
        return 1 / width + weight.shape[0] / math.prod(weight.shape)
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
