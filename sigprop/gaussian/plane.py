"""E f(u) h(v) over two correlated Gaussians: Hermite series far from c = ±1, panels near it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import NDArray

from sigprop.checks import FloatArray
from sigprop.gaussian.line import masked
from sigprop.gaussian.mesh import LOW_ORDER, ORDER, REACH, Function, Panels, call, gauss

SERIES_UP_TO = 0.9  # |c|: beyond, the Hermite series needs more than 400 terms
_CHUNK = 1_000_000  # nodes at a time: some 60 MB of temporary arrays
_CLEAN_NODES = 24
_INNER = {ORDER: 12, LOW_ORDER: 10}  # nodes per panel of v given those of u
_TAIL = 1e-18


def body_radius(f: Function, sigma: FloatArray) -> float:
    """How many standard deviations hold all of E f² and E|f| but 1e-18; in logs, f² overflows."""
    z = np.arange(0.125, REACH, 0.25)
    z = np.concatenate([-z[::-1], z])
    values = np.abs(call(f, sigma[:, None] * z))
    with np.errstate(divide="ignore"):
        logs = np.log(np.where(np.isfinite(values), values, 0.0))
    square = 2 * logs - z**2 / 2
    peak = np.maximum(square.max(axis=1, keepdims=True), -1e4)
    size = peak + np.log(np.maximum(np.exp(square - peak).sum(axis=1, keepdims=True), 1e-300))
    share = np.exp(square - size) + np.exp(logs - z**2 / 2 - size / 2)
    folded = share + share[:, ::-1]
    outside = np.cumsum(folded, axis=1).max(axis=0)[: z.size // 2]  # from the outermost inwards
    out = np.nonzero(outside < _TAIL)[0]
    radius = -z[out[-1]] if out.size else REACH
    return float(np.clip(radius, 8.5, REACH))


def hermite_coefficients(
    f: Function,
    sigma: FloatArray,
    mesh: Panels,
    terms: int,
    radius: float,
    order: int = ORDER,
    *,
    centred: bool = False,
) -> tuple[FloatArray, FloatArray]:
    """a_n = E f(σz) He_n(z)/√n! for n < terms, per σ (1-D); and E f²; or of f less its mean."""
    base = np.linspace(-radius, radius, int(np.ceil(2 * radius / 0.75)) + 1)
    inside = np.abs(mesh.edges) < radius * sigma.max()
    own = np.clip(mesh.edges[inside] / sigma[:, None], -radius, radius)
    both = np.concatenate([np.broadcast_to(base, (sigma.size, base.size)), own], axis=1)
    edges = np.sort(both, axis=1)
    nodes, weights = gauss(order)
    width = np.diff(edges, axis=1)[:, :, None]
    z = (edges[:, :-1, None] + width * nodes).reshape(sigma.size, -1)
    w = (width * weights).reshape(sigma.size, -1) / np.sqrt(2 * np.pi)
    values = masked(f, z * sigma[:, None], float(sigma.max()))
    density = w * np.exp(-0.5 * z * z)
    if centred:
        values = values - (density * values).sum(axis=1, keepdims=True)
    now = values * density
    square = (now * values).sum(axis=1)
    before = np.zeros_like(now)
    spare = np.empty_like(now)
    result = np.empty((sigma.size, terms))
    for n in range(terms):
        result[:, n] = now.sum(axis=1)
        np.multiply(now, z, out=spare)
        before *= -np.sqrt(n)
        spare += before
        spare /= np.sqrt(n + 1)
        before, now, spare = now, spare, before
    return result, square


def series(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    """Σ a_n b_n cⁿ (Mehler), smallest terms first."""
    terms = a * b
    total = np.zeros(c.shape)
    for n in range(terms.shape[1] - 1, -1, -1):
        total = total * c + terms[:, n]
    return total


@cache
def _hermite_rule() -> tuple[FloatArray, FloatArray]:
    nodes, weights = hermite_e.hermegauss(_CLEAN_NODES)
    return nodes, weights / np.sqrt(2 * np.pi)


@dataclass(frozen=True)
class Near:
    """Nodes x, t (outer repeated for inner) and weights for u = σ1·x, v = σ2·(c·x + s·t)."""

    x: FloatArray
    t: FloatArray
    weight: FloatArray
    clean: bool


def near_cost(
    f_edges: FloatArray, h_edges: FloatArray, s: float, radius: float, order: int = ORDER
) -> float:
    """About how many nodes :func:`near_nodes` will make."""
    own = int((np.abs(f_edges) < radius).sum())
    other = int((np.abs(h_edges) < radius).sum())
    outer = own + min(other, 2 * radius / (0.5 * s)) + 2 * radius
    return order**2 * outer * (2 * radius / 1.5 + other * min(s, 1.0))


def near_nodes(
    f_edges: FloatArray,
    h_edges: FloatArray,
    h_breaks: FloatArray,
    c: float,
    s: float,
    radius: float,
    order: int = ORDER,
) -> Iterator[Near]:
    """Groups of nodes: inner lines free of edges (Gauss–Hermite), and the others (panels).

    All edges in standard deviations. h is averaged over v = c·x + s·t given x: that average is
    smooth but for steps of width s where h has breakpoints, so outer panels grow from s there.
    """
    outer = _outer_edges(f_edges, h_edges, h_breaks, c, s, radius)
    nodes, weights = gauss(order)
    width = np.diff(outer)[:, None]
    x = (outer[:-1, None] + width * nodes).ravel()
    w = (width * weights).ravel() * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    first = np.searchsorted(h_edges, c * x - s * radius)
    last = np.searchsorted(h_edges, c * x + s * radius)
    clean = last == first
    if clean.any():
        t, v = _hermite_rule()
        shape = (int(clean.sum()), t.size)
        wide = np.broadcast_to(x[clean, None], shape)
        yield Near(wide, np.broadcast_to(t, shape), w[clean, None] * v, True)
    x, w, first, last = x[~clean], w[~clean], first[~clean], last[~clean]
    panels = int((last - first).max(initial=0)) + 2 * radius / 1.5
    step = max(1, int(_CHUNK / (order * panels)))
    for k in range(0, x.size, step):
        part = slice(k, k + step)
        own = _own_edges(x[part], h_edges, first[part], last[part], c, s, radius)
        yield _split_lines(x[part], w[part], own, radius, _INNER[order])


def _own_edges(
    x: FloatArray,
    h_edges: FloatArray,
    first: NDArray[np.intp],
    last: NDArray[np.intp],
    c: float,
    s: float,
    radius: float,
) -> FloatArray:
    """Where, in t, the line of each x crosses the edges of h; the rows filled up with radius."""
    index = first[:, None] + np.arange(int((last - first).max()))
    own = h_edges[np.minimum(index, h_edges.size - 1)]
    own = np.where(index < last[:, None], (own - c * x[:, None]) / s, radius)
    return np.clip(own, -radius, radius)


def _split_lines(x: FloatArray, w: FloatArray, own: FloatArray, radius: float, order: int) -> Near:
    """Inner panels that end at given edges; those empty or beyond x² + t² = radius² + 8 dropped."""
    base = np.linspace(-radius, radius, int(np.ceil(2 * radius / 1.5)) + 1)
    edges = np.concatenate([np.broadcast_to(base, (x.size, base.size)), own], axis=1)
    edges.sort(axis=1)
    width = np.diff(edges, axis=1)
    nearest = np.maximum(np.maximum(edges[:, :-1], -edges[:, 1:]), 0.0)
    row, column = np.nonzero((width > 0) & (nearest**2 + (x * x)[:, None] < radius**2 + 8))
    low, width = edges[row, column], width[row, column]
    nodes, weights = gauss(order)
    t = low[:, None] + width[:, None] * nodes
    weight = np.exp(-0.5 * t * t)
    weight *= (w[row] * width / np.sqrt(2 * np.pi))[:, None] * weights
    return Near(np.broadcast_to(x[row, None], t.shape), t, weight, False)


def _outer_edges(
    f_edges: FloatArray,
    h_edges: FloatArray,
    h_breaks: FloatArray,
    c: float,
    s: float,
    radius: float,
) -> FloatArray:
    base = np.linspace(-radius, radius, int(np.ceil(2 * radius / 1.0)) + 1)
    steps = np.arange(0.0, radius + 1.5, 1.5)
    grown = int(np.ceil(max(np.log(1 / (s * radius)) / np.log(1.7), 0.0)))
    steps = s * np.concatenate([steps, steps[-1] * 1.7 ** np.arange(1, grown + 1)])
    around = np.concatenate([-steps, steps])
    own = (np.append(h_breaks, 0.0) / c)[:, None] + around  # at 0 a wide Gaussian sees a kink
    soft = np.sort(np.concatenate([base, own.ravel(), h_edges / c]))
    soft = soft[np.abs(soft) < radius]
    keep = np.concatenate([[True], np.diff(soft // (0.5 * s)) > 0])
    hard = np.concatenate([f_edges[np.abs(f_edges) < radius], [-radius, radius]])
    return np.unique(np.concatenate([soft[keep], hard]))
