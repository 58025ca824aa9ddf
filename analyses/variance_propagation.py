"""Does the signal of a deep leaky-ReLU net obey the variance map below, at and above g*?

Prediction: q grows by χ = g²(1+α²)/2 a layer, so at 0.9, 1 and 1.1 g* it dies, stays and explodes
by a factor 0.81, 1 and 1.21 a layer. A net of width n strays from that line: log q of the typical
net falls behind by κ4/(2n) a layer and scatters with variance κ4/n a layer (exact law, no fit).
Answer: yes, at all three gains; real nets on real handwritten digits keep to the exact law at every
gain.
Source: he2015 (variance map), hanin2020 (law of the logarithm).
Run time: 10 s on one core.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from analyses._paths import Params, by_factor, check_law, compute_paths, draw_paths
from sigprop.records import Row

FULL = Params()
QUICK = Params(depth=40, width=64, nets=4, inputs=4)


def compute(params: Params) -> list[Row]:
    return compute_paths(params)


def check(rows: list[Row]) -> None:
    check_law(rows)
    for factor, path in by_factor(rows).items():
        growth = (path[-1]["log10_q_mean_field"] - path[1]["log10_q_mean_field"]) / (len(path) - 2)
        assert abs(10**growth - factor**2) < 1e-12, f"χ at {factor} g* is {10**growth}"


def draw(rows: list[Row]) -> Figure:
    finding = "Below g* the signal dies, above it explodes: by as much as the theory says"
    return draw_paths(rows, "q", finding, {"below": "dies", "at": "stays", "above": "explodes"})
