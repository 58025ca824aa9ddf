"""What do the linear regions of a net look like between three real digits, and what does α do?

Prediction: same weights, three slopes. The kink lines of the first layer do not depend on α at all;
those of deeper layers bend where they cross earlier ones, less the nearer α is to 1 (at α = 1 they
would be straight). The number of cells is nearly the same, since every unit has its kink whatever
its slope: what α changes is how sharply the pieces meet, not how many there are.
Experiment: nets 64-32-32-10, weights of variance 2/fan_in without any rescaling, weak biases, cut
exactly in the plane through a 0, a 1 and a 2 of the digits; cells counted exactly for each α.
Answer: a real plane is cut into about as many cells at every slope, but the larger the slope the
less sharply they meet. The mean over 30 nets is 728, 727 and 737 cells for α = 0, 0.2 and 0.5 (684
expected of infinitely wide nets; one net differs from slope to slope by a tenth or so, either way).
Where a kink line of layer 2 crosses one of layer 1 it turns by 5.4°, 4.1° and 2.4°, median over
crossings.
Source: hanin2019 (counts at initialization); the expected count is that of infinitely wide nets.
Run time: 4 s on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from scipy import stats

from sigprop import plots
from sigprop.arrangement.network import PiecewiseLinear
from sigprop.arrangement.results import PlaneRegions
from sigprop.data import digits
from sigprop.records import Row
from sigprop.regions.expected import expected_in_plane
from sigprop.regions.slices import in_plane

BOX = ((-0.75, 1.75), (-0.75, 1.75))
BIAS_STD = 0.1
FALSE_ALARM = 1e-7
SPREAD = 0.35
"""Largest difference of the mean count of any slope from the expected count, as a share of it."""
DIGITS = (0, 1, 2)


@dataclass(frozen=True)
class Params:
    slopes: tuple[float, ...] = (0.0, 0.2, 0.5)
    width: int = 32
    depth: int = 2
    nets: int = 30
    seed: int = 0


FULL = Params()
QUICK = Params(width=12, nets=10)


def compute(params: Params) -> list[Row]:
    images, labels = digits()
    corners = [images[np.flatnonzero(labels == digit)[0]] for digit in DIGITS]
    rows: list[Row] = [
        {
            "kind": "digit",
            "digit": digit,
            "pixels": " ".join(f"{16 * pixel:.0f}" for pixel in image),
        }
        for digit, image in zip(DIGITS, corners, strict=True)
    ]
    a, b, c = corners
    plane = (a, b - a, c - a, BOX)
    widths = [params.width] * params.depth
    for alpha in params.slopes:
        law = {"alpha": alpha, "gain": np.sqrt(2.0), "bias_std": BIAS_STD}
        expected = expected_in_plane(64, widths, *plane, **law).regions
        for net in range(params.nets):
            weights, biases = _weights(params, net)
            found = in_plane(PiecewiseLinear(weights, biases, [alpha] * params.depth), *plane)
            rows.append(
                {
                    "kind": "count",
                    "alpha": alpha,
                    "net": net,
                    "cells": found.activation_regions,
                    "linear": found.linear_regions,
                    "expected": expected,
                    **_turns(found, params.width),
                }
            )
            if net == 0:
                rows += _geometry(found, alpha, params.width)
    return rows + _differences(rows)


def _differences(rows: list[Row]) -> list[Row]:
    """Counts against those of the first slope, paired over nets, as a normal score."""
    counts = {alpha: plots.column(p, "cells") for alpha, p in _by_slope(rows, "count").items()}
    first, *others = counts
    made = []
    for alpha in others:
        change = counts[alpha] - counts[first]
        t = change.mean() / (change.std(ddof=1) / np.sqrt(len(change)))
        z = float(np.copysign(stats.norm.isf(stats.t.sf(abs(t), len(change) - 1)), t))
        made.append({"kind": "change", "alpha": alpha, "change": change.mean(), "z": z})
    return made


def _weights(params: Params, net: int) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    rng = np.random.default_rng([params.seed, net])
    sizes = [64, *[params.width] * params.depth, 10]
    weights = [
        rng.standard_normal((out, into)) * np.sqrt(2 / into) for into, out in pairwise(sizes)
    ]
    return weights, [BIAS_STD * rng.standard_normal(out) for out in sizes[1:]]


def _turns(found: PlaneRegions, width: int) -> Row:
    """How much kink lines turn where they cross one of an earlier layer: angles in degrees."""
    cells = found.complex
    inner = cells.face_owner >= 0
    ends, owner = cells.faces[inner], cells.face_owner[inner].astype(np.int64)
    place = cells.points.coordinates[:, :2]
    earliest = np.full(len(place), np.iinfo(np.int64).max)
    np.minimum.at(earliest, ends, owner[:, None])
    way = place[ends[:, 1]] - place[ends[:, 0]]
    key = np.concatenate([owner, owner]) * len(place) + ends.T.ravel()
    outward = np.concatenate([way, -way])  # along the edge, from the point that it shares
    order = np.argsort(key, kind="stable")
    key, outward = key[order], outward[order]
    _, first, number = np.unique(key, return_index=True, return_counts=True)
    first = first[number == 2]  # where a unit's kink line goes on
    one, two = outward[first], -outward[first + 1]
    cross = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    angle = np.degrees(np.abs(np.arctan2(cross, (one * two).sum(axis=1))))
    layer, other = key[first] // len(place) // width, earliest[key[first] % len(place)] // width
    return {
        "turn_own": float(angle[other >= layer].max(initial=0.0)),
        "turn_earlier": float(np.median(angle[other < layer])),
    }


def _geometry(found: PlaneRegions, alpha: float, width: int) -> list[Row]:
    rows: list[Row] = [
        {"kind": "cell", "alpha": alpha, "label": int(label), "corners": _text(corners)}
        for label, corners in zip(found.complex.linear_label, found.polygons, strict=True)
    ]
    owner = found.complex.face_owner[found.complex.face_owner >= 0]
    for unit in range(width):
        ends = found.edges[owner == unit].reshape(-1, 2)
        if len(ends):
            along = ends @ (ends[0] - ends.mean(axis=0))
            line = ends[[along.argmin(), along.argmax()]]
            rows.append({"kind": "line", "alpha": alpha, "label": unit, "corners": _text(line)})
    return rows


def _text(points: np.ndarray) -> str:
    return " ".join(f"{x:.4f}" for x in points.ravel())


def _points(text: str) -> np.ndarray:
    return np.array(text.split(), float).reshape(-1, 2)


def check(rows: list[Row]) -> None:
    lines = {}
    turns = []
    for alpha, part in _by_slope(rows, "count").items():
        cells, expected = plots.column(part, "cells"), part[0]["expected"]
        off = abs(cells.mean() / expected - 1)
        assert off < SPREAD, f"α = {alpha}: {cells.mean():.0f} cells, {expected:.0f} expected"
        assert (plots.column(part, "linear") <= cells).all(), "more linear than activation regions"
        assert max(row["turn_own"] for row in part) < 1e-3, (
            "a kink line turns at one of its own layer"
        )
        turns.append(plots.column(part, "turn_earlier"))
        lines[alpha] = [row["corners"] for row in rows if _is(row, "line", alpha)]
    limit = stats.norm.isf(FALSE_ALARM / 2)
    for row in rows:
        if row["kind"] == "change":
            assert abs(row["z"]) < limit, f"α = {row['alpha']} has {row['change']:+.0f} cells"
    for more, less in pairwise(turns):
        assert more.mean() > less.mean(), "deep kink lines do not straighten as α grows"
    assert len({tuple(found) for found in lines.values()}) == 1, "the first layer's lines move"


def _is(row: Row, kind: str, alpha: float) -> bool:
    return row["kind"] == kind and row["alpha"] == alpha


def _by_slope(rows: list[Row], kind: str) -> dict[float, list[Row]]:
    slopes = dict.fromkeys(row["alpha"] for row in rows if row["kind"] == kind)
    return {alpha: [row for row in rows if _is(row, kind, alpha)] for alpha in slopes}


def draw(rows: list[Row]) -> Figure:
    counts = _by_slope(rows, "count")
    figure = plt.figure(figsize=(4.6 * len(counts), 6.25), layout="constrained")
    axes = figure.subplots(1, len(counts), sharey=True)
    for ax, (alpha, part) in zip(axes, counts.items(), strict=True):
        cells = [row for row in rows if _is(row, "cell", alpha)]
        plots.cells(
            [_points(row["corners"]) for row in cells],
            ax,
            label=[row["label"] for row in cells],
            edge=plots.INK,
            edge_width=0.45,
        )
        straight = [_points(row["corners"]) for row in rows if _is(row, "line", alpha)]
        ax.add_collection(LineCollection(straight, colors=plots.INK, linewidths=1.7))
        _place_digits(ax, rows)
        shown = part[0]
        ax.set(xlim=BOX[0], ylim=BOX[1], aspect="equal", xticks=[])
        ax.set_title(f"α = {alpha:g}: {shown['cells']} cells", fontweight="bold")
        mean = plots.column(part, "cells").mean()
        turn = plots.column(part, "turn_earlier").mean()
        ax.set_xlabel(
            f"towards the 1 →\n\nmean of {len(part)} nets: {mean:.0f} cells; thin lines turn by\n"
            f"{turn:.1f}° at a typical crossing with a thick one"
        )
    axes[0].set(ylabel="towards the 2 →", yticks=[])
    figure.suptitle(
        "The slope hardly changes how many pieces there are, but how sharply they meet: one net,\n"
        "same weights, between three digits (thick: kinks of layer 1, the same for every α)",
        fontweight="bold",
    )
    return figure


def _place_digits(ax: plt.Axes, rows: list[Row]) -> None:
    drawn = [row for row in rows if row["kind"] == "digit"]
    for row, at in zip(drawn, ((0, 0), (1, 0), (0, 1)), strict=True):
        pixels = np.array(row["pixels"].split(), float).reshape(8, 8)
        image = OffsetImage(pixels, zoom=3.2, cmap="gray_r", interpolation="nearest")
        ax.add_artist(AnnotationBbox(image, at, pad=0.12, bboxprops={"lw": 1.2}))
