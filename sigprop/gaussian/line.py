"""E f(√q z) over one Gaussian: one set of values of f serves every q."""

from __future__ import annotations

import numpy as np

from sigprop.checks import FloatArray
from sigprop.gaussian.mesh import BODY, ORDER, REACH, Function, Panels, call, gauss, refuse

_CHUNK = 4_000_000  # entries of one temporary array: 32 MB


def line_integral(
    f: Function, q: FloatArray, mesh: Panels, *, order: int = ORDER
) -> tuple[FloatArray, FloatArray]:
    """E f and E|f| for every q > 0 (1-D), on a mesh that spans them all."""
    edges = _graded(mesh, np.sqrt(q.max()), np.sqrt(q.min()))
    nodes, weights = gauss(order)
    width = np.diff(edges)
    x = (edges[:-1, None] + width[:, None] * nodes).ravel()
    values = masked(f, x, np.sqrt(q.max()))
    w = (width[:, None] * weights).ravel()
    value, size = np.empty(q.shape), np.empty(q.shape)
    step = max(1, _CHUNK // x.size)
    for start in range(0, q.size, step):
        sigma = np.sqrt(q[start : start + step, None])
        density = np.exp(-0.5 * (x / sigma) ** 2) * (w / (sigma * np.sqrt(2 * np.pi)))
        value[start : start + step] = density @ values
        size[start : start + step] = density @ np.abs(values)
    return value, size


def masked(f: Function, x: FloatArray, sigma: float) -> FloatArray:
    """f(x), with 0 where it overflows so far out that the Gaussian has no weight.

    Raises:
        ValueError: NaN or infinite where the Gaussian has weight.
    """
    values = call(f, x)
    broken = ~np.isfinite(values)
    if broken.any():
        far = np.abs(x) > BODY * sigma
        refuse(np.where(far, 0.0, values), x)
        heavy = np.where(broken, 0.0, np.abs(values)) * np.exp(-0.5 * (x / sigma) ** 2)
        if heavy[np.abs(x) > 0.9 * BODY * sigma].max(initial=0.0) > 1e-20 * heavy.max():
            refuse(values, x)
        values = np.where(broken, 0.0, values)
    return values


def _graded(mesh: Panels, widest: float, narrowest: float) -> FloatArray:
    """The mesh with edges that halve towards 0, so that every Gaussian between is resolved."""
    top = REACH * widest
    steps = 2 * int(np.ceil(np.log2(top / narrowest))) + 6
    dyadic = top * np.sqrt(2.0) ** -np.arange(steps + 1)
    return np.unique(np.concatenate([mesh.edges, -dyadic, dyadic]))
