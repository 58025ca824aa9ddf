"""Make tests/theory/range_table.json: V, χ, χ∥ and V − K at the ends of the floats, by mpmath.

Run ``python tests/theory/make_range_table.py`` (some ten minutes on one core with gmpy2; needs
mpmath and numpy, nothing of sigprop). Functions and rules are those of ``make_gaussian_table.py``.

V − K = E (φ(u) − φ(v))²/2. At c = −1 and 0 it is one integral. Elsewhere, up to q = 1e3, with
u, v = √q (x cos(θ/2) ± y sin(θ/2)), two; from q = 1e20 on φ is its two straight ends h, in closed
form, and the rest r, whose mean with h given v is one integral, and with itself (∫r)²/(2πq sin θ).
Digits grow with 1/q, so that nothing cancels; 22 are kept.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import mpmath as mp

sys.path.insert(0, str(Path(__file__).parents[1]))
import make_gaussian_table as g

TABLE = Path(__file__).with_name("range_table.json")
QS = ("1e-300", "1e-20", "1e3", "1e20", "1e300")
CS = {"-0.5": -0.5, "0.5": 0.5, "1-1e-9": 1 - 1e-9}  # as a float64
REACH = mp.mpf(12)
RELU, STEP, SIGN = (0, 0, 1, 0), (0, 0, 0, 1), (0, -1, 0, 1)
ENDS = {  # φ far out: a₋x + b₋ and a₊x + b₊
    "softplus": RELU, "sigmoid": STEP, "silu": RELU, "mish": RELU, "gelu": RELU,
    "gelu_tanh": RELU, "hardswish": RELU, "phased_relu": RELU, "elu": (0, -1, 1, 0),
    "tanh": SIGN, "erf": SIGN, "hardtanh": SIGN, "softsign": SIGN,
}  # fmt: skip
JUMPS = {"phased_relu": [(-4, 0, -1)]}  # where, and φ before and after


def parts(name):
    """φ, φ′ and where they bend."""
    if name in g.PIECES:
        f, df = g.PIECES[name]
        breaks = sorted({*g.breaks_of(f), *g.breaks_of(df)})
        return (lambda x: g.piecewise(f, x)), (lambda x: g.piecewise(df, x)), breaks
    if name in g.ENTIRE:
        return g.ENTIRE[name][0][0], g.ENTIRE[name][1][0], []
    return *g.SMOOTH[name], [mp.mpf(0)] if name == "softsign" else []


def edges(breaks, sigma, step=1.5):
    """Of panels in z: Gaussian steps, breakpoints, and φ's own scale: units up to 64, then twos."""
    found = {step * k for k in range(-8, 9)} | {b / sigma for b in breaks}
    if sigma > 0.01:
        k = mp.mpf("0.5")
        while k < REACH * sigma:
            found |= {k / sigma, -k / sigma}
            k = k + 1 if 1 <= k < 64 else 2 * k
    return found


def line(fn, breaks, sigma):
    return mp.fsum(w * fn(sigma * z) for z, w in g.panels(edges(breaks, sigma), REACH))


def singles(name, q):
    """What takes one integral."""
    (f, df, breaks), sigma = parts(name), mp.sqrt(q)
    base = f(mp.mpf(0)) if q < 1 else mp.mpf(0)
    odd = base * df(mp.mpf(0)) if base else base
    mean = line(lambda x: f(x) - base, breaks, sigma)
    slope = line(lambda x: x * (f(x) * df(x) - odd), breaks, sigma) / q
    for b, low, high in JUMPS.get(name, []):
        slope += (high**2 - low**2) * b / (2 * q) * mp.npdf(b, 0, sigma)
    both = sorted({*breaks, *(-b for b in breaks)})
    return {
        "V": line(lambda x: f(x) ** 2, breaks, sigma),
        "chi": line(lambda x: df(x) ** 2, breaks, sigma),
        "chi_parallel": slope,
        "-1": line(lambda x: (f(x) - f(-x)) ** 2, both, sigma) / 2,
        "0": line(lambda x: (f(x) - base - mean) ** 2, breaks, sigma),
    }


def double(name, q, c):
    """V − K by two integrals; y > 0 by symmetry."""
    (f, _, breaks), sigma = parts(name), mp.sqrt(q)
    a, b = mp.sqrt((1 + c) / 2), mp.sqrt((1 - c) / 2)
    step = 3.0 if q < 1 else 1.5
    outer = {e / a for e in edges(breaks, sigma, step)}
    k = b
    while breaks and k < REACH:
        outer |= {
            kink / sigma / a + side * s for kink in breaks for side in (-1, 1) for s in (k, 3 * b)
        }
        k *= 2
    wide = edges([], sigma) if sigma * b > 0.05 else set()
    nodes, weights = g.rule()
    total = []
    for x, w in g.panels(outer, mp.mpf("10.5")):
        own = {abs((e - a * x) / b) for e in wide | {kink / sigma for kink in breaks}}
        ends = sorted(e for e in own | {mp.mpf(3 * k) for k in range(3)} if e < 10.5)
        for low, high in pairwise([*ends, mp.mpf("10.5")]):
            for node, weight in zip(nodes, weights, strict=True):
                y = low + (high - low) * node
                change = f(sigma * (a * x + b * y)) - f(sigma * (a * x - b * y))
                total.append(w * weight * (high - low) * g._phi(y) * change**2)
    return mp.fsum(total)


def far(name, q, c):
    """V − K at large q, from the straight ends of φ and the rest."""
    (f, _, breaks), sigma = parts(name), mp.sqrt(q)
    am, bm, ap, bp = ENDS[name]
    sine = mp.sqrt((1 - c) * (1 + c))

    def joint(c):
        """E h(u)h(v): arc cosines, arc sines, and E u₊·1(v > 0) = σ(1 + c)/√(8π)."""
        theta, e = mp.acos(c), sigma / (2 * mp.sqrt(2 * mp.pi))
        same = (mp.sin(theta) + (mp.pi - theta) * c) / (2 * mp.pi)
        cross = (mp.sin(theta) - theta * c) / (2 * mp.pi)
        value = q * ((ap**2 + am**2) * same - 2 * ap * am * cross)
        value += ((bp**2 + bm**2) * (mp.pi - theta) + 2 * bp * bm * theta) / (2 * mp.pi)
        return value + 2 * e * ((ap * bp - am * bm) * (1 + c) + (ap * bm - am * bp) * (1 - c))

    def h(x):
        return ap * x + bp if x > 0 else am * x + bm

    def mean(m, w):
        above, below, density = g._Phi(m / w), g._Phi(-m / w), g._phi(m / w)
        return (
            ap * (m * above + w * density)
            + bp * above
            + am * (m * below - w * density)
            + bm * below
        )

    ends = sorted({*breaks, *(mp.mpf(k) for k in range(-80, 81))})

    def rest(fn):
        """E fn(u) of what is nothing beyond 80."""
        total = []
        for low, high in pairwise(ends):
            for node, weight in zip(*g.rule(), strict=True):
                x = low + (high - low) * node
                total.append(weight * (high - low) * fn(x) * mp.exp(-x * x / (2 * q)))
        return mp.fsum(total) / mp.sqrt(2 * mp.pi * q)

    value = joint(mp.mpf(1)) - joint(c) + rest(lambda x: (f(x) - h(x)) * (f(x) + h(x)))
    value -= 2 * rest(lambda x: (f(x) - h(x)) * mean(c * x, sigma * sine))
    return value - rest(lambda x: f(x) - h(x)) ** 2 / sine


def row(name, text):
    q = mp.mpf(float(text))
    small = max(0, -mp.log10(q))
    mp.mp.dps = int(45 + small)
    g.rule.cache_clear()
    found = singles(name, q)
    mp.mp.dps = int(70 if q > 1e3 else 35 + small * 0.55)
    g.rule.cache_clear()
    for key, c in CS.items():
        c = mp.mpf(c)
        if q > 1e3 and name != "softsign":  # its rest falls off too slowly
            found[key] = far(name, q, c)
        elif q < 1 or (q <= 1e3 and key == "1-1e-9"):
            found[key] = double(name, q, c)
    return {key: mp.nstr(value, 22) for key, value in found.items()}


def main(names):
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for name in names or ENDS:
        table[name] = {q: row(name, q) for q in QS}
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
