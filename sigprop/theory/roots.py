"""Many roots at once: Chandrupatla's bracketing method on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # floats, or the indices of cells
Indexed = Callable[[Array, Array], Array]
STEPS = 200


def bracketed_roots(function: Indexed, low: Array, high: Array) -> Array:
    """Roots of function(x, cells) in brackets [low, high], one per cell, to the last digits.

    Args:
        function: takes points and the indices of their cells, both 1-D.
        low: one end per cell, 1-D.
        high: the other; the function has opposite signs (or a zero) at the two.

    Source: chandrupatla1997.
    """
    cells = np.arange(len(low))
    b, a = low.astype(np.float64), high.astype(np.float64)
    fa, fb = function(a, cells), function(b, cells)
    c, fc = a.copy(), fa.copy()
    t, root = np.full(len(b), 0.5), np.empty(len(b))
    for _ in range(STEPS):
        x = a + t * (b - a)
        fx = function(x, cells)
        same = np.sign(fx) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        width = np.abs(b - a)
        slack = 4e-16 * np.abs(best) + 1e-300
        with np.errstate(divide="ignore", invalid="ignore"):
            least = slack / width
            done = (least > 0.5) | (fa == 0) | (fb == 0)
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            quadratic = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            step = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (
                fc - fb
            )
            t = np.where(quadratic & np.isfinite(step), step, 0.5)
            t = np.minimum(np.maximum(t, least), 1 - least)
        if done.any():
            root[cells[done]] = best[done]
            keep = ~done
            if not keep.any():
                return root
            cells, a, b, c, t = cells[keep], a[keep], b[keep], c[keep], t[keep]
            fa, fb, fc = fa[keep], fb[keep], fc[keep]
    root[cells] = np.where(np.abs(fa) < np.abs(fb), a, b)
    return root
