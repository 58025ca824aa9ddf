"""Images span few directions: what the variance of one channel over them owes to that.

A channel behind a kernel is w·x(p), its variance over all samples and places is Σ λ_i t_i with λ
the eigenvalues of the covariance of what the kernel reads. Where few of them are large, channels
differ in variance, and a norm that divides by it enlarges the gradient by E[1/v]. Their number is
1/W(0) of what leaves the kernel,

    W(d) = mean over all pairs of places of k(p, p′) k(p + d, p′ + d)/(E x²)²,

k(p, p′) = E x(p) x(p′) less its mean. Of data W(d) = Σ_ab R_ab(d)²/(Σ_a R_aa(0))² with R_ab(d) the
covariance of channels a and b at that lag. Kernels take means of W over their taps; windows do too,
their q being another; activations multiply it by the square of the slope of c′(c) at the mean c of
all pairs, norms by (q/v)² and by what dividing each channel by its own v leaves; sums add roots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import fft

from sigprop.checks import FloatArray
from sigprop.theory.network.axes import own_mean, pair_mean
from sigprop.theory.network.borders import has_windows
from sigprop.theory.network.calls import Constant
from sigprop.theory.network.freedom import Freedom, number_of, uneven
from sigprop.theory.network.lags import MOST, Reads
from sigprop.theory.network.neighbours import ALONE, Rule, has_places, shares_of
from sigprop.theory.network.normalization import divided_by
from sigprop.theory.network.roughness import averaged
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import RuleContext
from sigprop.theory.network.taps import plan_of
from sigprop.theory.network.told import Told
from sigprop.theory.network.windows import close, of_all, weighted

REACH = {1: 64, 2: 16, 3: 6}
"""Lags followed along each axis at most, by the number of axes."""
CHANNELS = 8
"""Channels of data of which it is taken, at most."""
LEAST = 1e-3
"""W(0) below which there are many directions."""
_STEP = 0.02


def span_of(values: FloatArray) -> FloatArray | None:
    """W by lags of data (samples, channels, places …); None where many directions are spanned.

    Example:
        >>> x = np.array([[[1.0, -1.0] * 8, [-2.0, 2.0] * 8]])
        >>> span_of(x)[0].round(3)  # one direction: channels are multiples of each other
        np.float64(1.0)
    """
    sizes, axes = values.shape[2:], tuple(range(1, values.ndim - 1))
    if not 1 <= len(sizes) <= 3 or values.shape[1] > CHANNELS:
        return None
    values = values[:: max(1, -(-values.size // MOST))]
    own = float((values**2).sum())
    values = values - values.mean(axis=(0, *range(2, values.ndim)), keepdims=True)
    reach = [min(n, REACH[len(sizes)]) for n in sizes]
    shape = [fft.next_fast_len(n + m - 1, real=True) for n, m in zip(sizes, reach, strict=True)]
    spectra = [fft.rfftn(sample, shape, axes=axes) for sample in values]
    if not own > 0:
        return None
    found: Any = 0.0
    for a in range(values.shape[1]):
        for b in range(a + 1):
            power = sum(each[a] * each[b].conj() for each in spectra)
            both = np.asarray(fft.irfftn(power, shape)) ** 2
            found = found + (1 + (a != b)) * both
    for axis, (n, m) in enumerate(zip(sizes, reach, strict=True)):
        d = np.arange(m)
        found = (np.take(found, d, axis) + np.take(found, -d, axis)) / 2
        found = found * ((n / (n - d)) ** 2).reshape(-1, *(1,) * (found.ndim - axis - 1))
    found = np.asarray(found / own**2)
    return found if found.flat[0] > LEAST else None


class Spans:
    """W of the nodes that span few directions.

    Args:
        given: of inputs, see :func:`span_of`.
    """

    def __init__(self, given: Mapping[str, FloatArray] | None = None) -> None:
        self.found = dict(given or {})

    def forward(self, ctx: RuleContext, rule: Rule, made: Any) -> Any:
        """What a rule made; behind a kernel with its W(0) for a norm that follows."""
        call = ctx.call
        given = [self.found.get(name) for name in call.inputs]
        if all(each is None for each in given) or call.full:
            return made
        if not all(map(has_places, [made, *ctx.inputs])):
            return made
        found = _behind(ctx, rule, made, given)
        if found is None or not found.flat[0] > LEAST:
            return made
        self.found[call.name] = found
        told = made.told_at(call.name)
        if isinstance(told, Freedom) and call.named("groups", 1) == 1:
            return replace(made, told=Told(call.name, replace(told, pairs=float(found.flat[0]))))
        return made


def _behind(
    ctx: RuleContext, rule: Rule, made: SignalState, given: Sequence[FloatArray | None]
) -> FloatArray | None:
    call, state, w = ctx.call, ctx.inputs[0], given[0]
    if call.kind in ("sum", "concatenation"):
        return _together(given, shares_of(ctx))
    if len(ctx.inputs) != 1 or w is None:
        return None
    if call.operation.startswith("conv"):
        bias = call.argument(2, "bias")
        varies = 1 - bias.square / made.q if isinstance(bias, Constant) and made.q > 0 else 1.0
        return averaged([Reads.of(taps.total) for taps in plan_of(ctx)[1].taps], w) * varies**2
    if call.activation is not None:
        return w * _slope(ctx, rule, state) ** 2
    if call.kind == "normalization":
        v = divided_by(ctx)
        if not (v > 0 and made.q > 0):
            return None
        centred = w * (state.q / v) ** 2
        kept = kept_by_norms(1 / float(centred.flat[0]))
        return np.asarray(centred * kept / made.q**2)
    if call.kind == "pooling" and has_windows(call.operation):
        return averaged(weighted(ctx), w) * (state.q / made.q) ** 2 if made.q > 0 else None
    return w if call.kind in ALONE and made.shape == state.shape else None


def kept_by_norms(number: float) -> float:
    """What norms of each channel leave of W(0): small channels, of other directions, grow.

    Σ μ² with μ_i = E[λ_i t_i/v], the mean over channels, over Σ λ².

    Example:
        >>> kept_by_norms(2.0) < kept_by_norms(4.0) < 0.85 < kept_by_norms(40.0) < 1
        True
    """
    law = uneven(number_of(number))
    mixed = law.values * law.shares(law.values, 1e-6)
    return float((mixed**2).sum() / (law.values**2).sum())


def _slope(ctx: RuleContext, rule: Rule, state: SignalState) -> float:
    """That of the c of what leaves by the c of what enters, at the mean c of all pairs."""
    second = state.second
    for i, axis in enumerate(state.axes):
        mean = own_mean if i == 1 else pair_mean
        second = mean(second, axis, i)
    c = float(np.clip(second.item() / state.q, _STEP - 1, 1 - _STEP)) if state.q > 0 else 0.0
    high, low = (of_all(close(ctx, rule, c + step)) for step in (_STEP, -_STEP))
    return (high - low) / (2 * _STEP)


def _together(given: Sequence[FloatArray | None], shares: FloatArray) -> FloatArray:
    """Of a sum, or of signals beside each other."""
    known = [(w, share) for w, share in zip(given, shares, strict=True) if w is not None]
    cut = tuple(slice(min(n)) for n in zip(*(w.shape for w, _ in known), strict=True))
    return np.asarray(sum(share * np.sqrt(w[cut]) for w, share in known) ** 2)
