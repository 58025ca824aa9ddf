"""Moments of softmax weights of Gaussian logits: how much of two rows falls on the same entry.

For rows a = softmax(x), b = softmax(y) over n entries, (x_s, y_s) Gaussian with variance v and
covariance w, independent from entry to entry,

    R = E Σ_s a_s b_s  and  H = E Σ_s a_s b_s (1 − a_s − b_s + Σ_r a_r b_r)

are exact integrals: with 1/Z = ∫₀^∞ e^(−zZ) dz the entries separate, and all is a function of
ψ_jk(z, u) = E e^(jx + ky − z e^x − u e^y). To first order R = S e^w/(1 + S(e^w − 1)), S = 1/n.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import special

from sigprop.checks import FloatArray

_OUTER, _INNER = 80, 60
_STEP = 0.25
_SIZES = np.array([1, 2, 3, 4, 6, 9, 13, 19, 28, 40, 60, 100, 200, 500, 2000, 10**4, 10**5], float)
_SHARES = np.linspace(-1.0, 1.0, 13)
_SMALL = 1e-3


def leading(share: FloatArray, w: FloatArray) -> FloatArray:
    """S e^w/(1 + S(e^w − 1)): R to first order in w.

    Example:
        >>> float(leading(np.array(0.25), np.array(0.0)))
        0.25
    """
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + (1 / np.maximum(share, 1e-300) - 1) * np.exp(-w)))


def overlap(share: FloatArray, v: FloatArray, w: FloatArray) -> FloatArray:
    """R for rows of 1/S entries of variance v and covariance w.

    Args:
        share: S = Σ_s of the two rows at logits alike; broadcast against the others.
        v: variance of the logits, their common part apart.
        w: covariance of the two rows at one entry, likewise.
    """
    share, v, w = np.broadcast_arrays(share, v, w)
    factor = _interpolated(0, share, v, w)
    return np.minimum(share * factor, 1.0)


def responsive(share: FloatArray, v: FloatArray, w: FloatArray) -> FloatArray:
    """H, likewise: what of a gradient of variance 1 comes through the softmax."""
    share, v, w = np.broadcast_arrays(share, v, w)
    return np.asarray(share * np.maximum(1 - share, 0.0) * _interpolated(1, share, v, w))


def _interpolated(which: int, share: FloatArray, v: FloatArray, w: FloatArray) -> FloatArray:
    """R/S or H/(S(1 − S)), linear between the nodes in log v, w/v and log n."""
    v = np.maximum(v, 0.0)
    small = v < _SMALL
    level = np.log2(np.maximum(v, _SMALL)) / _STEP
    c = np.clip(np.divide(w, v, out=np.zeros_like(w, dtype=float), where=~small), -1.0, 1.0)
    n = np.log(np.clip(1 / np.maximum(share, 1e-300), _SIZES[0], _SIZES[-1]))
    found = np.zeros(share.shape)
    lower = np.floor(level).astype(int)
    for node in np.unique(lower):
        chosen = lower == node
        t = level[chosen] - node
        parts = [_between(_nodes(int(k))[which], c[chosen], n[chosen]) for k in (node, node + 1)]
        found[chosen] = (1 - t) * parts[0] + t * parts[1]
    return np.asarray(np.where(small, 1 + w * (1 - share), found))


def _between(table: FloatArray, c: FloatArray, n: FloatArray) -> FloatArray:
    """Bilinear in the covariance share and in log n."""
    i, s = _cell(_SHARES, c)
    j, t = _cell(np.log(_SIZES), n)
    rows = [(1 - t) * table[i + k, j] + t * table[i + k, j + 1] for k in (0, 1)]
    return np.asarray((1 - s) * rows[0] + s * rows[1])


def _cell(nodes: FloatArray, x: FloatArray) -> tuple[np.ndarray, FloatArray]:
    i = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2)
    return i, (x - nodes[i]) / (nodes[i + 1] - nodes[i])


@functools.cache
def _nodes(level: int) -> tuple[FloatArray, FloatArray]:
    """R/S and H/(S(1 − S)) at one variance, (shares of covariance, sizes)."""
    v = 2.0 ** (level * _STEP)
    found = [exact(_SIZES, v, float(c)) for c in _SHARES]
    r = np.array([each[0] for each in found]) * _SIZES
    spread = np.maximum((1 - 1 / _SIZES) / _SIZES, 1e-300)
    h = np.array([each[1] for each in found]) / spread
    h[:, 0] = h[:, 1]  # one entry: 0 of 0
    return r, h


def exact(n: FloatArray, v: float, c: float) -> tuple[FloatArray, FloatArray]:
    """R and H for n entries of variance v and correlation c, by the integrals.

    Example:
        >>> r, h = exact(np.array([4.0]), 1e-9, 1.0)
        >>> r.round(3), h.round(3)
        (array([0.25]), array([0.187]))
    """
    x, p = _inner(c)
    std = math.sqrt(v)
    log_z = np.linspace(-_reach(n, std), 4.0 + 3.0 * std, _OUTER)
    z = np.exp(log_z)
    base = np.exp(-z[:, None] * np.exp(std * x)[None, :])

    def psi(j: int, k: int) -> FloatArray:
        left, right = (base * np.exp(i * (log_z[:, None] + std * x[None, :])) for i in (j, k))
        return np.asarray(left @ p @ right.T)

    measure = (log_z[1] - log_z[0]) ** 2
    log_rest = np.log(np.maximum(psi(0, 0), 1e-300))
    one, two, more, square = psi(1, 1), psi(2, 1), psi(1, 2), psi(2, 2)
    r, h = np.empty(len(n)), np.empty(len(n))
    for i, size in enumerate(n):
        rest = np.exp((size - 1) * log_rest) * measure
        pair = np.exp(max(size - 2, 0) * log_rest) * measure
        r[i] = size * (one * rest).sum()
        third = size * ((two + more) * rest).sum()
        fourth = size * (square * rest).sum() + size * (size - 1) * (one**2 * pair).sum()
        h[i] = r[i] - third + fourth
    return r, h


def _reach(n: FloatArray, std: float) -> float:
    return float(np.log(n.max())) + std**2 + 8.0 + 3.0 * std


def _inner(c: float) -> tuple[FloatArray, FloatArray]:
    """Points and weights of two standard normal numbers with correlation c."""
    x = np.linspace(-6.5, 6.5, _INNER)
    p = np.exp(-(x**2) / 2)
    p /= p.sum()
    if abs(c) > 0.999:
        return x, np.diag(p) if c > 0 else np.diag(p)[::-1]
    spread = math.sqrt(1 - c**2)
    edges = np.concatenate([[-np.inf], (x[1:] + x[:-1]) / 2, [np.inf]])
    given = np.diff(special.ndtr((edges[None, :] - c * x[:, None]) / spread), axis=1)
    return x, p[:, None] * given
