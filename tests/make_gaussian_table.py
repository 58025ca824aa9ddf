"""Make tests/gaussian_table.json: E f(u) f(v) by mpmath, for every activation and its derivative.

Run ``python tests/make_gaussian_table.py`` (about an hour on one busy core; needs mpmath
and numpy, nothing of sigprop).

Piecewise polynomial and exponential functions, erf and GELU: the mean of f(v) given u in closed
form, then Gauss–Legendre over u. sin: closed form. The others: Gauss–Legendre over u and over v
given u, or for |c| <= 0.9 (and 0.99 at large q) Mehler's series with Hermite coefficients in
fixed-point integers of 150 bits. 22 digits are kept.
"""

from __future__ import annotations

import json
import sys
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import mpmath as mp
import numpy as np

mp.mp.dps = 40
TABLE = Path(__file__).with_name("gaussian_table.json")
QS = ("1e-12", "1e-6", "1e-2", "1", "1e2", "1e6")
CS = ("-0.9", "-0.5", "0", "0.5", "0.99", "0.999999", "1")
REACH = mp.mpf(12)
INF = mp.inf
LEAK, PHASE = mp.mpf("0.01"), mp.mpf("0.25")
SELU_SCALE, SELU_ALPHA = mp.mpf("1.0507009873554805"), mp.mpf("1.6732632423543772")

# Pieces (low, high, polynomial coefficients from the constant up, a, b): polynomial + a·e^{bx}.
PIECES = {
    "identity": ([(-INF, INF, [0, 1], 0, 0)], [(-INF, INF, [1], 0, 0)]),
    "relu": ([(0, INF, [0, 1], 0, 0)], [(0, INF, [1], 0, 0)]),
    "leaky_relu": (
        [(-INF, 0, [0, LEAK], 0, 0), (0, INF, [0, 1], 0, 0)],
        [(-INF, 0, [LEAK], 0, 0), (0, INF, [1], 0, 0)],
    ),
    "phased_relu": (
        [(-4, 0, [0, PHASE], 0, 0), (0, INF, [0, 1], 0, 0)],
        [(-4, 0, [PHASE], 0, 0), (0, INF, [1], 0, 0)],
    ),
    "relu_squared": ([(0, INF, [0, 0, 1], 0, 0)], [(0, INF, [0, 2], 0, 0)]),
    "hardtanh": (
        [(-INF, -1, [-1], 0, 0), (-1, 1, [0, 1], 0, 0), (1, INF, [1], 0, 0)],
        [(-1, 1, [1], 0, 0)],
    ),
    "relu6": ([(0, 6, [0, 1], 0, 0), (6, INF, [6], 0, 0)], [(0, 6, [1], 0, 0)]),
    "hardswish": (
        [(-3, 3, [0, mp.mpf(1) / 2, mp.mpf(1) / 6], 0, 0), (3, INF, [0, 1], 0, 0)],
        [(-3, 3, [mp.mpf(1) / 2, mp.mpf(1) / 3], 0, 0), (3, INF, [1], 0, 0)],
    ),
    "elu": (
        [(-INF, 0, [-1], 1, 1), (0, INF, [0, 1], 0, 0)],
        [(-INF, 0, [0], 1, 1), (0, INF, [1], 0, 0)],
    ),
    "selu": (
        [
            (-INF, 0, [-SELU_SCALE * SELU_ALPHA], SELU_SCALE * SELU_ALPHA, 1),
            (0, INF, [0, SELU_SCALE], 0, 0),
        ],
        [(-INF, 0, [0], SELU_SCALE * SELU_ALPHA, 1), (0, INF, [SELU_SCALE], 0, 0)],
    ),
    "celu": (  # alpha = 2
        [(-INF, 0, [-2], 2, mp.mpf(1) / 2), (0, INF, [0, 1], 0, 0)],
        [(-INF, 0, [0], 1, mp.mpf(1) / 2), (0, INF, [1], 0, 0)],
    ),
}


def _sigmoid(x):
    return 1 / (1 + mp.exp(-x)) if x > 0 else mp.exp(x) / (1 + mp.exp(x))


def _softplus(x):
    return x + mp.log1p(mp.exp(-x)) if x > 0 else mp.log1p(mp.exp(x))


def _sech2(x):
    e = mp.exp(-2 * abs(x))
    return 4 * e / (1 + e) ** 2


def _gelu_tanh(x):
    return x * _sigmoid(2 * _bent(x))


def _bent(x):
    return mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def _gelu_tanh_slope(x):
    s = _sigmoid(2 * _bent(x))
    return s + x * s * (1 - s) * 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * x**2)


def _swish(beta):
    def f(x):
        return x * _sigmoid(beta * x)

    def df(x):
        s = _sigmoid(beta * x)
        return s + beta * x * s * _sigmoid(-beta * x)

    return f, df


def _mish_slope(x):
    t = mp.tanh(_softplus(x))
    return t + x * _sech2(_softplus(x)) * _sigmoid(x)


SMOOTH = {
    "tanh": (mp.tanh, _sech2),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "softplus": (_softplus, _sigmoid),
    "silu": _swish(1),
    "swish": _swish(mp.mpf("2.5")),
    "mish": (lambda x: x * mp.tanh(_softplus(x)), _mish_slope),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh_slope),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
}


def _Phi(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _phi(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def _gelu_mean(m, w):
    r = mp.sqrt(1 + w * w)
    return m * _Phi(m / r) + w * w / r * _phi(m / r)


def _gelu_slope_mean(m, w):
    r = mp.sqrt(1 + w * w)
    return _Phi(m / r) + _phi(m / r) * m / r**3


def _erf_slope_mean(m, w):
    r = mp.sqrt(1 + 2 * w * w)
    return 2 / mp.sqrt(mp.pi) * mp.exp(-((m / r) ** 2)) / r


ENTIRE = {  # (function, mean over N(m, w²)) of f and of f′
    "gelu": (
        (lambda x: x * _Phi(x), _gelu_mean),
        (lambda x: _Phi(x) + x * _phi(x), _gelu_slope_mean),
    ),
    "erf": (
        (mp.erf, lambda m, w: mp.erf(m / mp.sqrt(1 + 2 * w * w))),
        (lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x), _erf_slope_mean),
    ),
}


def piecewise(pieces, x):
    for low, high, poly, a, b in pieces:
        if low < x < high:
            return mp.polyval(poly[::-1], x) + (a * mp.exp(b * x) if a else 0)
    return mp.mpf(0)


def piecewise_mean(pieces, m, w):
    """E h(m + w t) piece by piece: truncated moments and the tilted Gaussian."""
    total = mp.mpf(0)
    for low, high, poly, a, b in pieces:
        lo, hi = (low - m) / w, (high - m) / w
        moments = [_interval(lo, hi)]
        edge = [0 if mp.isinf(lo) else _phi(lo), 0 if mp.isinf(hi) else _phi(hi)]
        if len(poly) > 1:
            moments.append(edge[0] - edge[1])
        if len(poly) > 2:
            ends = (0 if edge[0] == 0 else lo * edge[0]) - (0 if edge[1] == 0 else hi * edge[1])
            moments.append(moments[0] + ends)
        total += poly[0] * moments[0]
        if len(poly) > 1:
            total += poly[1] * (m * moments[0] + w * moments[1])
        if len(poly) > 2:
            total += poly[2] * (m * m * moments[0] + 2 * m * w * moments[1] + w * w * moments[2])
        if a:
            total += a * mp.exp(b * m + (b * w) ** 2 / 2) * _interval(lo - b * w, hi - b * w)
    return total


def _interval(lo, hi):
    """Φ(hi) − Φ(lo) without cancellation in the tails."""
    if lo > 0:
        lo, hi = -hi, -lo
    return (mp.mpf(1) if hi == INF else _Phi(hi)) - (mp.mpf(0) if lo == -INF else _Phi(lo))


@cache
def rule(order=24):
    """Gauss–Legendre on [0, 1] in 40 digits: Newton from numpy's nodes."""
    nodes, weights = [], []
    for start in np.polynomial.legendre.leggauss(order)[0]:
        x = mp.mpf(float(start))
        for _ in range(4):
            p, before = x, mp.mpf(1)
            for k in range(2, order + 1):
                p, before = ((2 * k - 1) * x * p - (k - 1) * before) / k, p
            slope = order * (x * p - before) / (x * x - 1)
            x -= p / slope
        nodes.append((x + 1) / 2)
        weights.append(1 / ((1 - x * x) * slope**2))
    return nodes, weights


def panels(edges, reach=REACH):
    """Nodes and Gaussian weights on the panels between sorted edges within ±reach."""
    edges = sorted({e for e in edges if -reach < e < reach} | {-reach, reach})
    nodes, weights = rule()
    for low, high in pairwise(edges):
        for x, w in zip(nodes, weights, strict=True):
            z = low + (high - low) * x
            yield z, w * (high - low) * _phi(z)


def outer_edges(breaks, sigma, c, s, features=True):
    edges = {mp.mpf(k) * mp.mpf("1.5") for k in range(-8, 9)}
    edges |= {b / sigma for b in breaks}
    if features:  # dyadic from a quarter of the scale 1 of f
        k = mp.mpf("0.25") / sigma
        while k < REACH:
            edges |= {k, -k}
            k *= 2
    if s:
        steps = [s * mp.mpf("1.5") * k for k in range(9)]
        while steps[-1] < REACH:
            steps.append(steps[-1] * 2)
        edges |= {b / sigma / c + side * e for b in breaks for e in steps for side in (-1, 1)}
    return edges


def breaks_of(pieces):
    return sorted({mp.mpf(e) for p in pieces for e in p[:2] if not mp.isinf(e)})


def by_mean(f, mean, breaks, q, c):
    """E f(u) f(v) with the mean of f(v) given u in closed form."""
    sigma, s = mp.sqrt(q), mp.sqrt(1 - c * c)
    edges = outer_edges(breaks, sigma, c, s)
    return mp.fsum(w * f(sigma * z) * mean(c * sigma * z, s * sigma) for z, w in panels(edges))


def line(g, breaks, q):
    sigma = mp.sqrt(q)
    return mp.fsum(w * g(sigma * z) for z, w in panels(outer_edges(breaks, sigma, 1, 0)))


def nested(f, breaks, q, c, kinked):
    """E f(u) f(v) by Gauss–Legendre over u and, given u, over v."""
    sigma, s = mp.sqrt(q), mp.sqrt(1 - c * c)
    edges = outer_edges(breaks, sigma, c, s if kinked or s * sigma > 0.1 else 0)
    base = [mp.mpf(k) * 2 for k in range(-5, 6)]
    grades = []
    k = mp.mpf("0.5") / (s * sigma)
    while k < 2 * REACH:
        grades.append(k)
        k *= 2
    total = []
    reach = mp.mpf("10.5")
    for z, w in panels(edges, reach):
        middle = -c * z / s
        own = [middle + side * g for g in grades for side in (-1, 1)]
        own += [middle] if kinked or grades else []
        inner = mp.fsum(v * f(sigma * (c * z + s * t)) for t, v in panels(base + own, reach))
        total.append(w * f(sigma * z) * inner)
    return mp.fsum(total)


BITS = 150


def mehler(f, breaks, q, cs, most):
    """E f(u) f(v) = Σ a_n² cⁿ for every c, the coefficients in fixed-point integers."""
    sigma = mp.sqrt(q)
    pitch = min(mp.mpf("1.5"), 12 / mp.sqrt(most))
    steps = int(REACH / pitch)
    edges = outer_edges(breaks, sigma, 1, 0) | {pitch * k for k in range(-steps, steps + 1)}
    points = list(panels(edges))
    one = 1 << BITS
    z = np.array([int(mp.nint(p[0] * one)) for p in points], dtype=object)
    now = np.array([int(mp.nint(p[1] * f(sigma * p[0]) * one)) for p in points], dtype=object)
    before = np.zeros_like(now)
    cs = [mp.mpf(float(c)) for c in cs]
    totals, powers = [mp.mpf(0) for _ in cs], [mp.mpf(1) for _ in cs]
    for n in range(most):
        a = mp.mpf(int(now.sum())) / one
        for i, c in enumerate(cs):
            totals[i] += a * a * powers[i]
            powers[i] *= c
        up = int(mp.nint(one / mp.sqrt(n + 1)))
        back = int(mp.nint(one * mp.sqrt(mp.mpf(n) / (n + 1))))
        now, before = ((((z * now) >> BITS) * up) >> BITS) - ((before * back) >> BITS), now
    return totals


def sine(q, c, slope):
    plus, minus = mp.exp(-q * (1 - c)), mp.exp(-q * (1 + c))
    return (plus + minus) / 2 if slope else (plus - minus) / 2


def rows(name):
    """(kind, q, c, value) for one activation."""
    for slope, kind in ((0, "f"), (1, "df")):
        for q_text in QS:
            q = mp.mpf(float(q_text))
            for c_text, value in values(name, slope, q).items():
                yield kind, q_text, c_text, mp.nstr(value, 22)


def values(name, slope, q):
    cs = {c: mp.mpf(float(c)) for c in CS}  # the float64 that a caller passes
    if name == "sin":
        return {text: sine(q, c, slope) for text, c in cs.items()}
    if name in PIECES:
        pieces = PIECES[name][slope]
        breaks = breaks_of(pieces)
        f, mean = (lambda x: piecewise(pieces, x)), (lambda m, w: piecewise_mean(pieces, m, w))
        return closed(f, mean, breaks, q, cs)
    if name in ENTIRE:
        return closed(*ENTIRE[name][slope], [], q, cs)
    f = SMOOTH[name][slope]
    kinked = name == "softsign"
    breaks = [mp.mpf(0)] if kinked else []
    result = {"0": line(f, breaks, q) ** 2, "1": line(lambda x: f(x) ** 2, breaks, q)}
    if q < 1:
        for c in ("-0.9", "-0.5", "0.5", "0.99", "0.999999"):
            result[c] = nested(f, breaks, q, cs[c], kinked)
        return result
    low = ["-0.9", "-0.5", "0.5"]
    result.update(zip(low, mehler(f, breaks, q, low, 480), strict=True))
    if q > 1:
        result["0.99"] = mehler(f, breaks, q, ["0.99"], 5000)[0]
    else:
        result["0.99"] = nested(f, breaks, q, cs["0.99"], kinked)
    result["0.999999"] = nested(f, breaks, q, cs["0.999999"], kinked)
    return result


def closed(f, mean, breaks, q, cs):
    result = {"0": mean(mp.mpf(0), mp.sqrt(q)) ** 2, "1": line(lambda x: f(x) ** 2, breaks, q)}
    for text in ("-0.9", "-0.5", "0.5", "0.99", "0.999999"):
        result[text] = by_mean(f, mean, breaks, q, cs[text])
    return result


def main(names):
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for name in names or ["sin", *PIECES, *ENTIRE, *SMOOTH]:
        began = time.perf_counter()
        table[name] = [list(row) for row in rows(name)]
        body = ",\n".join(
            f' "{key}": [\n' + ",\n".join("  " + json.dumps(r) for r in table[key]) + "\n ]"
            for key in sorted(table)
        )
        TABLE.write_text("{\n" + body + "\n}\n")
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
