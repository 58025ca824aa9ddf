"""Does the gradient of a deep leaky-ReLU net grow and shrink by the same factor, backwards?

Prediction: from the output down to layer 1 the second moment of the gradient with respect to the
pre-activations grows by χ = g²(1+α²)/2 a layer, at equal widths: what the forward signal does going
up, the gradient does going down, with the same exact law at finite width. So 0.9 g* starves the
first layers of gradient and 1.1 g* floods them; only g* trains all layers alike.
Answer: yes, by the same factor as the signal; real nets on real handwritten digits keep to the
exact law at every gain.
Source: he2015 (backward pass), hanin2018 and hanin2020 (law at finite width).
Run time: 10 s on one core.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from analyses._paths import Params, by_factor, check_law, compute_paths, draw_paths
from sigprop.records import Row

FULL = Params(alpha=0.25)
QUICK = Params(alpha=0.25, depth=40, width=64, nets=4, inputs=4)


def compute(params: Params) -> list[Row]:
    return compute_paths(params)


def check(rows: list[Row]) -> None:
    check_law(rows)
    for factor, path in by_factor(rows).items():
        fall = path[1]["log10_grad_mean_field"] - path[-1]["log10_grad_mean_field"]
        growth = 10 ** (fall / (len(path) - 2))
        assert abs(growth - factor**2) < 1e-12, f"backward χ at {factor} g* is {growth}"


def draw(rows: list[Row]) -> Figure:
    finding = "Only at g* do first and last layers get the same gradient, as the theory says"
    return draw_paths(
        rows, "grad", finding, {"below": "vanishes", "at": "stays", "above": "explodes"}
    )
