"""How fast are regions counted exactly, and how much memory does it take?

Prediction (targets, one thread): plane slices of 2-16-16-16 and 2-32-32-32 nets at 150,000 cells
per CPU second or more, 2-64-64-64 at 90,000, 2-128-128-128 and 2-256-256 at 50,000; a slice of some
38,000 cells of a 784-256-256-256 net within 0.8 s; 112,000 cells of a 2-256-256 net in at most
300 MB above the import; a line through a 784-1024-1024-1024-1024 net (some 2,000 intervals) within
0.2 s; boxes of 3-10-10 and 4-8-8 nets at 5,000 cells per second, with any slope.
Experiment: He weights, biases N(0, 1), seed fixed; medians of CPU time after a warm-up; memory in a
process of its own; the one line each time on a net that was never looked at before. Planes of up to
20,000 cells are counted in both of our ways. Peers that can be imported count the same nets in the
same run: the edge subdivision of Berzins (2023; its checkout on the path; float32) and relucent
(its package; all of the plane). Their counts stand beside ours.
Answer: 240,000 to 620,000 cells a CPU second in planes, and 0.2 s for a slice through a net of 784
inputs; both peers find the same cells, 4 to 73 times (edge subdivision) and 2,200 times (relucent)
more slowly.
Source: berzins2023; the targets are this project's own.
Run time: 120 s on one core, 60 s of it the peers.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from analyses._paid import seconds, seconds_axis
from sigprop import plots, regions
from sigprop.arrangement import polytopes
from sigprop.arrangement.counting import Polytopes
from sigprop.arrangement.exact import dyadic
from sigprop.records import Row

MEMORY = """
import sys
import numpy as np
from pathlib import Path
from sigprop import regions

def resident(which):
    status = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in status if line.startswith(which))

def count(widths, half):
    rng = np.random.default_rng(1)
    shapes = list(zip(widths[1:], widths))
    weights = [rng.normal(size=(out, into)) * np.sqrt(2 / into) for out, into in shapes]
    net = regions.PiecewiseLinear(weights, [rng.normal(size=out) for out, _ in shapes], 0.0)
    return regions.in_plane(net, [0, 0], [1, 0], [0, 1], [(-half, half)] * 2)

count([2, 4], 1.0)
start = resident("VmRSS")
print(count(eval(sys.argv[1]), float(sys.argv[2])).activation_regions, resident("VmHWM") - start)
"""


@dataclass(frozen=True)
class Params:
    repeats: int = 7
    planes: tuple[tuple[tuple[int, ...], float], ...] = (  # widths, cells per second wanted
        ((2, 16, 16, 16), 150e3),
        ((2, 32, 32, 32), 150e3),
        ((2, 64, 64, 64), 90e3),
        ((2, 128, 128, 128), 50e3),
        ((2, 256, 256), 50e3),
    )
    half: float = 3.0
    """Half the side of the square."""
    boxes: tuple[tuple[tuple[int, ...], float], ...] = (
        ((3, 10, 10), 0.0), ((3, 10, 10), -0.5), ((4, 8, 8), 0.0), ((4, 8, 8), 0.1),
    )  # fmt: skip
    wide: tuple[tuple[int, ...], float] = ((784, 256, 256, 256), 0.72)  # widths, half the side
    line: tuple[int, ...] = (784, 1024, 1024, 1024, 1024)
    lines: int = 100
    memory: tuple[tuple[int, ...], float] = ((2, 256, 256), 8.0)
    peers: tuple[str, ...] = ("edge subdivision", "relucent")
    most_for_relucent: int = 2000
    """Cells of the plane beyond which relucent is left out: it finds about 65 in a second."""
    most_again: int = 20_000
    """Cells up to which a plane is also counted hyperplane by hyperplane."""
    seed: int = 0


FULL = Params()
QUICK = Params(
    repeats=1,
    planes=(((2, 16, 16, 16), 150e3),),
    boxes=(((3, 6, 6), 0.0),),
    wide=((784, 32, 32), 1.0),
    line=(784, 64, 64),
    lines=5,
    memory=((2, 32, 32), 3.0),
    peers=(),
)


def compute(params: Params) -> list[Row]:
    rows = [row for widths, target in params.planes for row in _plane(params, widths, target)]
    rows.append(_wide(params))
    rows += _lines(params)
    rows += [_box(params, widths, slope) for widths, slope in params.boxes]
    rows.append(_memory(*params.memory))
    return rows


def net_of(widths: tuple[int, ...], slope: float) -> regions.PiecewiseLinear:
    """A net with He weights and biases N(0, 1), the same at every call."""
    rng = np.random.default_rng(1)
    shapes = list(zip(widths[1:], widths, strict=False))
    weights = [rng.normal(size=(out, into)) * np.sqrt(2 / into) for out, into in shapes]
    return regions.PiecewiseLinear(weights, [rng.normal(size=out) for out, _ in shapes], slope)


def square(net: regions.PiecewiseLinear, half: float) -> regions.PlaneRegions:
    """The cells of a net of two inputs in a square round 0."""
    return regions.in_plane(net, [0, 0], [1, 0], [0, 1], [(-half, half)] * 2)


def _timed(call: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        found = call()
        seconds.append(time.process_time() - start)
    return found, median(seconds)


def _row(name: str, cells: int, seconds: float, target: float, unit: str, **more: Any) -> Row:
    """A measured figure; unit "cells/s" wants at least the target, any other at most."""
    value = cells / seconds if unit == "cells/s" else seconds
    cost = target / value if unit == "cells/s" else value / target
    return {
        "name": name,
        "who": "sigprop",
        "regions": cells,
        "seconds": seconds,
        "value": value,
        "unit": unit,
        "target": target,
        "cost": cost,
        "met": cost <= 1,
        "ratio": None,
    } | more


def _plane(params: Params, widths: tuple[int, ...], target: float) -> list[Row]:
    net = net_of(widths, 0.0)
    found, seconds = _timed(lambda: square(net, params.half), params.repeats)
    name = f"plane, {_words(widths)}"
    cells = found.activation_regions
    rows = [_row(name, cells, seconds, target, "cells/s", exact=found.exact_decisions)]
    if cells <= params.most_again:
        rows[0]["again"] = _hyperplane_by_hyperplane(net, params.half)
    start = time.process_time()
    linear = found.linear_regions
    rows[0] |= {"linear": linear, "linear_seconds": time.process_time() - start}
    if "edge subdivision" in params.peers:
        rows += _edge_subdivision(net, params.half, rows[0])
    if "relucent" in params.peers:
        rows += _relucent(params, net, rows[0])
    return rows


def _hyperplane_by_hyperplane(net: regions.PiecewiseLinear, half: float) -> int:
    """The same count by the other way, the one for hyperplanes in any position."""
    start = polytopes.box(np.array([-half, -half]), np.array([half, half]))
    found = Polytopes(net, [dyadic(np.eye(2, 3))], None, None, start, 2).results()
    return int(found.activation_regions)


def _peer(ours: Row, who: str, cells: int, right: int, seconds: float) -> Row:
    return ours | {
        "who": who,
        "regions": cells,
        "right": right,
        "seconds": seconds,
        "value": cells / seconds,
        "target": None,
        "cost": None,
        "met": None,
        "ratio": ours["value"] * seconds / cells,
        "exact": None,
        "again": None,
        "linear": None,
        "linear_seconds": None,
    }


def _edge_subdivision(net: regions.PiecewiseLinear, half: float, ours: Row) -> list[Row]:
    try:
        from edge_subdivision import skeletal_subdivision
        from NN import Net
    except ImportError:
        return []
    sizes = [net.input_dim, *(step.weight.shape[0] for step in _affine(net))]
    model = Net(sizes)
    _copy(model.fcs, net)

    def count() -> int:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            points, edges, *_ = skeletal_subdivision(
                model, bbox=(-half, half), device=torch.device("cpu"), verbose=False
            )
        return len(edges) - len(points) + 1  # Euler

    cells, seconds = _timed(count, 1)
    return [_peer(ours, "edge subdivision", cells, ours["regions"], seconds)]


def _relucent(params: Params, net: regions.PiecewiseLinear, ours: Row) -> list[Row]:
    try:
        import relucent
    except ImportError:
        return []
    right = regions.in_box(net).activation_regions  # it knows no box: all of the plane
    if right > params.most_for_relucent:
        return []
    layers: list[torch.nn.Module] = []
    for step in _affine(net):
        layers += [torch.nn.Linear(step.weight.shape[1], step.weight.shape[0]), torch.nn.ReLU()]
    layers.append(torch.nn.Linear(net.widths[-1], 1))
    _copy(layers[:-1:2], net)
    found = relucent.Complex(torch.nn.Sequential(*layers))
    start = _with_children()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.bfs(nworkers=1, verbose=0)
    seconds = _with_children() - start
    return [_peer(ours, "relucent", len(found), right, seconds)]


def _with_children() -> float:
    """CPU seconds of this process and of those it started."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def _affine(net: regions.PiecewiseLinear) -> list[Any]:
    return [step for step in net.steps if hasattr(step, "weight")]


def _copy(layers: Any, net: regions.PiecewiseLinear) -> None:
    for layer, step in zip(layers, _affine(net), strict=True):
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(step.weight))
            layer.bias.copy_(torch.from_numpy(step.bias))


def _wide(params: Params) -> Row:
    widths, half = params.wide
    net, rng = net_of(widths, 0.0), np.random.default_rng(params.seed)
    origin, u, v = rng.normal(size=(3, widths[0]))
    found, seconds = _timed(
        lambda: regions.in_plane(net, origin, u, v, [(-half, half)] * 2), params.repeats
    )
    return _row(f"slice, {_words(widths)}", found.activation_regions, seconds, 0.8, "s")


def _lines(params: Params) -> list[Row]:
    net, rng = net_of(params.line, 0.0), np.random.default_rng(params.seed)
    a, b = 2 * rng.normal(size=(2, params.lines, params.line[0]))
    fresh = iter([net_of(params.line, 0.0) for _ in range(params.repeats + 1)])
    one, seconds = _timed(lambda: regions.on_line(next(fresh), a[0], b[0]), params.repeats)
    name = f"line, {_words(params.line)}"
    rows = [_row(name, one.activation_regions, seconds, 0.2, "s")]
    some, seconds = _timed(lambda: regions.on_line(net, a, b), 1)
    cells = sum(each.activation_regions for each in some)
    return [*rows, _row(f"{params.lines} lines together", cells, seconds, 0.2 * len(some), "s")]


def _box(params: Params, widths: tuple[int, ...], slope: float) -> Row:
    net, box = net_of(widths, slope), [(-params.half, params.half)] * widths[0]
    found, seconds = _timed(lambda: regions.in_box(net, box), params.repeats)
    name = f"box, {_words(widths)}, slope {slope:g}"
    return _row(name, found.activation_regions, seconds, 5e3, "cells/s")


def _memory(widths: tuple[int, ...], half: float) -> Row:
    root = str(Path(__file__).resolve().parent.parent)
    env = os.environ | {"PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-c", MEMORY, repr(widths), repr(half)]
    done = subprocess.run(command, env=env, cwd=root, check=True, capture_output=True, text=True)
    cells, memory = map(int, done.stdout.split())
    return _row(f"memory, {_words(widths)}", cells, memory / 1e6, 300.0, "MB")


def _words(widths: tuple[int, ...]) -> str:
    return "-".join(map(str, widths))


def check(rows: list[Row]) -> None:
    for row in rows:
        assert row["regions"] > 0
        if row["who"] == "sigprop":
            assert row.get("again") in (None, row["regions"]), row
            assert row.get("linear") is None or 0 < row["linear"] <= row["regions"]
        else:  # float32, or a search of its own: not exact, but near
            assert abs(row["regions"] - row["right"]) <= 0.01 * row["right"], row


def draw(rows: list[Row]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    planes = [row for row in rows if row["name"].startswith("plane")]
    names = list(dict.fromkeys(row["name"] for row in planes))
    whos = list(dict.fromkeys(row["who"] for row in planes))
    for k, who in enumerate(whos):
        some = [row for row in planes if row["who"] == who]
        at = [names.index(row["name"]) + 0.26 * (k - (len(whos) - 1) / 2) for row in some]
        left.barh(at, plots.column(some, "value"), 0.24, label=who, color=plots.COLORS[k])
        for y, row in zip(at, some, strict=True):
            text = f" {row['value']:,.0f}"
            text += f"   ({row['ratio']:,.0f} × slower)" if row["ratio"] else ""
            left.text(row["value"], y, text, va="center", fontsize="small")
    left.set_xscale("log")
    left.set_xlim(10, 3e7)
    left.set_yticks(range(len(names)), [name.removeprefix("plane, ") for name in names])
    left.invert_yaxis()
    left.grid(axis="y", visible=False)
    left.set_xlabel("cells per CPU second, one thread")
    left.set_title("all cells of a plane", loc="left")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncol=4)
    asked = [row for row in rows if row["who"] == "sigprop" and row not in planes
             and row["unit"] != "MB"][::-1]  # fmt: skip
    taken = plots.column(asked, "seconds")
    right.barh([row["name"] for row in asked], taken, 0.6, color=plots.COLORS[0])
    for y, row in enumerate(asked):
        right.text(row["seconds"], y, f" {seconds(row['seconds'])} for {row['regions']:,} cells",
                   va="center", fontsize="small")  # fmt: skip
    right.set_xscale("log")
    right.set_xlim(taken.min() / 3, taken.max() * 60)
    seconds_axis(right)
    right.grid(axis="y", visible=False)
    right.set_title("other questions", loc="left")
    speeds = [row["value"] for row in planes if row["who"] == "sigprop"]
    ratios = [row["ratio"] for row in planes if row["ratio"]]
    peers = f", {min(ratios):.0f} to {max(ratios):,.0f} times faster than peers" if ratios else ""
    figure.suptitle(
        f"Exact counts of {_round(min(speeds))} to {_round(max(speeds))} cells a second{peers}",
        fontweight="bold",
    )
    return figure


def _round(speed: float) -> str:
    return f"{float(f'{speed:.2g}'):,.0f}"
