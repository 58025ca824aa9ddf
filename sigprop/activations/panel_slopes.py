"""φ′ of a callable: the slope of the polynomials that its values are, panel by panel."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.polynomial import legendre

from sigprop.activations.record import Function
from sigprop.checks import FloatArray

REACH = 100.0  # how far from 0
ORDER = 16  # values on a panel
HELD = (2e-15, 1e-13, 1e-11)  # of φ: what the last two terms of a panel may be, tried in turn
ROUNDING = 3e-16  # of the largest |φ| nearer to 0: what any value may be off
FAINT = 1e-300  # smaller values hold no digits
FALLING = 0.75  # towards 0 panels get smaller while max|φ|/width, its share in rounding, falls so
_SCALES = np.ldexp(REACH, -np.arange(960))  # down to 1e-287
_MOST = 8192  # panels


class PanelSlopes:
    """φ′ on ±100 from polynomials of degree 15, on panels halved until each holds φ.

    Around 0 panels halve down to all that φ varies on. On an end of a panel: the slope below it.

    Args:
        f: φ, on real arrays; finite on ±100.
        ends: ends of panels to start from: breakpoints, and what is about narrow features.

    Raises:
        ValueError: φ is held by no panels that floats can tell, as of noise.
    """

    def __init__(self, f: Function, ends: tuple[float, ...]) -> None:
        self.f = f
        self._scale = np.maximum.accumulate(
            np.abs(np.stack([f(_SCALES[::-1]), f(-_SCALES[::-1])])).max(axis=0)
        )
        self._edges = self._held(np.array(ends, dtype=np.float64))
        low, high = self._edges[:-1], self._edges[1:]
        # from the end nearer to 0: φ′ there and what is added to it a width, which is known to its
        # own digits where φ′ goes to 0
        inner = np.where(low < 0, high, low)
        width = np.where(low < 0, low - high, high - low)
        terms = self._terms(inner, width)[0]
        slopes = legendre.legder(terms[:, :-2], axis=1) * (2 / width[:, None])
        there = slopes @ (-1.0) ** np.arange(ORDER - 3)
        self._panels = np.column_stack([inner, width, there, slopes @ _added().T])
        wrong = np.maximum(np.abs(terms[:, -2:]).max(axis=1), ROUNDING * np.abs(terms[:, 1]))
        told = np.abs(width) > 64 * np.spacing(np.abs(low) + np.abs(high))
        self.error = float((wrong * ORDER**2 / np.abs(width))[told].max())

    def __call__(self, x: FloatArray) -> FloatArray:
        """φ′ at |x| ≤ 100."""
        place = np.clip(np.searchsorted(self._edges, x) - 1, 0, self._edges.size - 2)
        inner, width, there, *added = self._panels[place].T
        share = (x - inner) / width
        more = legendre.legval(2 * share - 1, np.array(added), tensor=False)
        return np.asarray(there + share * more)

    def _terms(self, start: FloatArray, width: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Legendre coefficients of φ less its value in the middle, and the largest |φ|."""
        values = self.f(start[:, None] + width[:, None] * _nodes())
        if not np.isfinite(values).all():
            raise ValueError("φ is not finite")
        middle = values[:, ORDER // 2, None]
        return (values - middle) @ _to_terms().T, np.abs(values).max(axis=1)

    def _held(self, ends: FloatArray) -> FloatArray:
        for self._share in HELD:
            edges = self._halved(self._start(ends))
            if edges is not None:
                return edges
        raise ValueError("no panels hold φ")

    def _misfit(self, low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Per panel: the last terms over what they may be, and the largest |φ|."""
        terms, peak = self._terms(low, high - low)
        last = np.abs(terms[:, -2:]).max(axis=1)
        nearer = np.searchsorted(_SCALES[::-1], np.maximum(np.abs(low), np.abs(high)))
        known = self._scale[np.minimum(nearer, self._scale.size - 1)]
        return last / (np.maximum(self._share * peak, ROUNDING * known) + FAINT), peak

    def _start(self, ends: FloatArray) -> FloatArray:
        """0, ±100, the given ends, and scales that halve down to one panel beside 0."""
        ends = ends[np.abs(ends) < REACH]
        edges = [np.array([-REACH, 0.0, REACH]), ends]
        for side in (-1.0, 1.0):
            self._seen(side)
            outer, zeros = side * _SCALES, np.zeros(_SCALES.size)
            off, peak = self._misfit(np.minimum(outer, zeros), np.maximum(outer, zeros))
            first = int(np.nonzero(off > 1)[0].max(initial=-1)) + 1
            with np.errstate(over="ignore"):
                share = peak / _SCALES
            first = min(first, share.size - 2)
            falls = share[first + 1 :] <= FALLING * share[first:-1]
            first += int(np.argmin(falls)) if not falls.all() else falls.size
            edges.append(outer[: first + 1])
        return np.unique(np.concatenate(edges))

    def _seen(self, side: float) -> None:
        """Refuse a φ that still varies below the smallest panel."""
        inner, x = side * _SCALES[-1], side * np.geomspace(1e-307, _SCALES[-1] / 8, 64)
        ((terms,), (peak,)) = self._terms(np.zeros(1), np.array([inner]))
        middle = self.f(np.array([inner * _nodes()[ORDER // 2]]))
        off = legendre.legval(2 * x / inner - 1, terms) + middle - self.f(x)
        if np.abs(off).max() > 1e-9 * peak:
            raise ValueError("φ varies below the smallest panel")

    def _halved(self, edges: FloatArray) -> FloatArray | None:
        low, high = edges[:-1], edges[1:]
        while low.size:
            off, _ = self._misfit(low, high)
            apart = high - low > 4 * np.spacing(np.maximum(np.abs(low), np.abs(high)))
            bad = (off > 1) & apart
            low, high = low[bad], high[bad]
            middle = (low + high) / 2
            edges = np.concatenate([edges, middle])
            if edges.size > _MOST:
                return None
            low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        return np.unique(edges)


@cache
def _nodes() -> FloatArray:
    """Gauss–Legendre nodes on [0, 1]."""
    return (legendre.leggauss(ORDER)[0] + 1) / 2


@cache
def _to_terms() -> FloatArray:
    """From values at the nodes to Legendre coefficients."""
    return np.asarray(np.linalg.inv(legendre.legvander(2 * _nodes() - 1, ORDER - 1)), np.float64)


@cache
def _added() -> FloatArray:
    """From the coefficients of p of degree ORDER − 4 to those of (p − p(start))/share."""
    times = np.zeros((ORDER - 3, ORDER - 4))  # by share = (z + 1)/2
    for k in range(ORDER - 4):
        times[: k + 2, k] = (
            legendre.legadd(legendre.legmulx(np.eye(k + 1)[k]), np.eye(k + 1)[k]) / 2
        )
    from_start = np.eye(ORDER - 3)
    from_start[0] -= (-1.0) ** np.arange(ORDER - 3)
    return np.asarray(np.linalg.lstsq(times, from_start, rcond=None)[0], np.float64)
