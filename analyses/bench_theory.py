"""How fast is the theory of any activation, next to its targets and to neural-tangents?

Prediction (targets): every layer of 10,000 critical leaky layers in 0.05 s; a 100 × 100 grid of
gain and bias to depth 100 in 0.1 s for leaky ReLU, erf and GELU and in 4 s for tanh; a 100 × 100
phase diagram (q*, c*, χ, depth scales) of any activation in 2 s with no cell on the wrong side of
χ = 1; the pair expectation of a callable in 10 ms; each solver in 50 ms.
Experiment: the first call in a fresh interpreter, tables included, imports not; median over
interpreters; the solvers of a named activation share its tables. Peers: neural-tangents (jax,
compiled, float64; first call, then a warm one) in an environment that is built here and thrown
away, left out where it cannot be; scipy's ``dblquad``.
Answer: a critical gain takes 20 ms, a phase diagram 0.1 s; only grids to depth 100 of activations
without a closed form take seconds. On idle cores all targets are met; the closed-form grids and
the slowest phase diagram (PhasedReLU, 1.98 s) narrowly: on a busy machine they took twice as long
and missed.
Hard swish and Mish, for which no target was set, take 10 to 20 s for their first grid, to make the
tables. neural-tangents is about 50 times slower on tanh; where it has closed forms it is, once
compiled, up to 2.4 times faster on the grids (but NaN in 1,600 cells of leaky ReLU and 8,389 of
GELU) and 8 times on one path, where it keeps c and not 1 − c. Times are the machine's own, so not
asserted; asserted is that χ, by quadrature at q*, leaves no cell that has a q* on the wrong side,
and that none of this loads torch.
Source: the targets are this project's own; novak2020 (neural-tangents).
Run time: 2.5 minutes on two idle cores.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import integrate

from analyses._paid import seconds, seconds_axis
from analyses._peer import from_neural_tangents
from sigprop import plots
from sigprop.activations import ACTIVATIONS, activation
from sigprop.gaussian import pair_expectation
from sigprop.records import Row
from sigprop.theory.critical import half_stable_points, solve_critical
from sigprop.theory.mean_field import MeanField

GRIDS = {"leaky_relu": 0.1, "erf": 0.1, "gelu": 0.1, "tanh": 4.0}
CORRELATION = 0.6  # of the two inputs
SIDE = 1e-6  # |χ − 1| within which a cell is on the edge


@dataclass(frozen=True)
class Params:
    cells: int = 100
    depth: int = 100
    layers: int = 10_000
    interpreters: int = 3
    planes: tuple[str, ...] = tuple(ACTIVATIONS)
    others: tuple[str, ...] = ("hardswish", "mish")  # grids without a target, timed once
    peer: bool = True
    seed: int = 0


FULL = Params()
QUICK = Params(12, 20, 500, 1, ("leaky_relu", "tanh", "gelu"), (), peer=False)


def compute(params: Params) -> list[Row]:
    runs = [_fresh(params, sides=i == 0) for i in range(params.interpreters)]
    ours = {name: median(run["seconds"][name] for run in runs) for name in runs[-1]["seconds"]}
    peer = _neural_tangents(params) if params.peer else {}
    rows = [
        _row(name, ours[name], target, peer.get(key, {}))
        for name, key, target in (
            (f"every layer of {params.layers:,}, leaky", "layers", 0.05),
            *((f"grid to depth {params.depth}, {name}", name, t) for name, t in GRIDS.items()),
        )
    ]
    planes = {name: ours[f"phase diagram, {name}"] for name in params.planes}
    slow = max(planes, key=lambda name: planes[name])
    rows.append(_row(f"phase diagram, median of {len(planes)}", median(planes.values()), 2.0))
    rows.append(_row(f"phase diagram, slowest ({slow})", planes[slow], 2.0))
    for name in ("pair expectation, smooth callable", "pair expectation, kinked callable"):
        rows.append(_row(name, ours[name], 0.01, {"warm": ours[f"dblquad, {name}"]}, "dblquad"))
    rows += [_row(name, ours[name], 0.05) for name in ours if name.startswith("solver")]
    for name in params.others:
        seconds = runs[0]["seconds"][f"grid to depth {params.depth}, {name}"]
        rows.append(_row(f"grid to depth {params.depth}, {name}", seconds, None))
    rows[0] |= {
        "load": os.getloadavg()[0],
        "loaded": " ".join(runs[0]["loaded"]),
        "wrong_side": sum(wrong for wrong, _ in runs[0]["wrong"].values()),
        "cells_checked": sum(seen for _, seen in runs[0]["wrong"].values()),
        "planes": " ".join(f"{name}={seconds:.3g}" for name, seconds in planes.items()),
    }
    return rows


def _row(
    name: str,
    ours: float,
    target: float | None,
    peer: Row | None = None,
    who: str = "neural-tangents",
) -> Row:
    peer = peer or {}
    warm = peer.get("warm")
    return {
        "name": name,
        "ours": ours,
        "target": target,
        "met": None if target is None else ours <= target,
        "peer": warm,
        "peer_first": peer.get("first"),
        "peer_name": who if peer else None,
        "peer_nan": peer.get("nan"),
        "ratio": None if warm is None else warm / ours,
    }


def _fresh(params: Params, *, sides: bool) -> Any:
    """What :func:`first_calls` finds in an interpreter of its own."""
    code = "import json, sys; from analyses.bench_theory import *\n"
    code += f"print(json.dumps(first_calls(Params(**json.loads(sys.argv[1])), sides={sides})))"
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", code, json.dumps(asdict(params))]
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=env, cwd=root, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def first_calls(params: Params, *, sides: bool) -> Row:
    """Seconds of the first call of everything; cells on the wrong side; what got loaded."""
    warnings.simplefilter("ignore")
    gains = np.linspace(0.1, 10, params.cells)[:, None]
    biases = np.linspace(0, 5, params.cells)
    seconds: dict[str, float] = {}
    wrong: dict[str, tuple[int, int]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        seconds[name] = time.perf_counter() - start
        return result

    for solver in (solve_critical, half_stable_points):  # warm-up: modules, no table in use below
        solver(lambda z: z / (1 + z * z))
    leaky = activation("leaky_relu", alpha=0.2)
    critical = math.sqrt(2 / 1.04)
    for who in ("tanh", "gelu", "callable"):
        act = (lambda z: z * np.tanh(z) - 0.1 * z) if who == "callable" else who
        timed(f"solver: critical gain, {who}", lambda a=act: solve_critical(a, bias_std=0.2))
        timed(f"solver: q*, c*, {who}", lambda a=act: MeanField(a, 1.2, 0.2).fixed_point())
        timed(f"solver: half-stable, {who}", lambda a=act: half_stable_points(a))
    for kind, f in (("smooth", lambda z: z * np.tanh(z)), ("kinked", lambda z: np.abs(z - 0.3))):
        name = f"pair expectation, {kind} callable"
        timed(name, lambda f=f: pair_expectation(f, f, 1.3, 0.7, 0.5))
        timed(f"dblquad, {name}", lambda f=f: _dblquad(f, 1.3, 0.7, 0.5))
    for name in params.planes:  # before the grids: nothing may be in the tables yet
        act = leaky if name == "leaky_relu" else activation(name)
        net = MeanField(act, gains, biases)
        timed(f"phase diagram, {name}", lambda n=net: (n.fixed_point(), n.depth_scales()))
        if sides and act.kind == "function":
            wrong[name] = _wrong_side(net)
    timed(
        f"every layer of {params.layers:,}, leaky",
        lambda: MeanField(leaky, critical).trajectory(params.layers, c0=CORRELATION),
    )
    for name in (*GRIDS, *(params.others if sides else ())):
        act = activation(name, alpha=0.2) if name == "leaky_relu" else _anew(name)
        timed(
            f"grid to depth {params.depth}, {name}",
            lambda a=act: MeanField(a, gains, biases).propagate(params.depth, c0=CORRELATION),
        )
    return {"seconds": seconds, "wrong": wrong, "loaded": sorted({"torch"} & set(sys.modules))}


def _anew(name: str) -> Any:
    """A record whose tables are not made yet."""
    return ACTIVATIONS[name]()


def _wrong_side(net: MeanField) -> tuple[int, int]:
    """Cells whose χ, by quadrature at q*, is on the other side of 1, or whose q* moves; cells seen.

    Seen are those with a q* to look at: neither 0 nor inf.
    """
    point = net.fixed_point()
    inside = np.isfinite(point.q_star) & (point.q_star > 1e-20) & (point.q_star < 1e20)
    q = point.q_star[inside]
    gain, bias = (np.broadcast_to(v, net.shape)[inside] for v in (net.gain, net.bias_std))
    chi = gain**2 * net.kernel.moments.derivative_square(q)
    after = gain**2 * net.kernel.moments.second_moment(q) + bias**2
    sides = (chi - 1) * (point.chi[inside] - 1) < 0
    wrong = (sides & (np.abs(chi - 1) > SIDE)) | (np.abs(after / q - 1) > 1e-9)
    return int(wrong.sum()), int(inside.sum())


def _dblquad(f: Callable[..., Any], q1: float, q2: float, c: float) -> float:
    def integrand(y: float, x: float) -> float:
        u = math.sqrt(q1) * x
        v = math.sqrt(q2) * (c * x + math.sqrt(1 - c * c) * y)
        return float(f(u) * f(v)) * math.exp(-(x * x + y * y) / 2) / (2 * math.pi)

    return float(integrate.dblquad(integrand, -9, 9, -9, 9, epsabs=1e-9)[0])


def _neural_tangents(params: Params) -> Any:
    """The peer's seconds by name; empty where it cannot be installed."""
    sizes = (params.cells, params.depth, params.layers)
    return from_neural_tangents("_neural_tangents.py", *map(str, sizes))


def check(rows: list[Row]) -> None:
    first = rows[0]
    assert not first["loaded"], f"the theory loads {first['loaded']}"
    assert first["wrong_side"] == 0, f"{first['wrong_side']} cells on the wrong side of chi = 1"
    for row in rows:
        assert math.isfinite(row["ours"]) and row["ours"] > 0, f"{row['name']}: {row['ours']}"


TASKS = {
    "critical gain, slowest of three activations": "solver: critical gain",
    "q* and c*, slowest of three activations": "solver: q*, c*",
    "10,000 layers of a leaky net": "every layer of 10,000",
    "expectation over two Gaussians, kinked": "pair expectation, kinked",
    "phase diagram, median of 27 activations": "phase diagram, median",
    "phase diagram, slowest (PhasedReLU)": "phase diagram, slowest",
    "grid to depth 100, leaky ReLU": "grid to depth 100, leaky_relu",
    "grid to depth 100, erf": "grid to depth 100, erf",
    "grid to depth 100, GELU": "grid to depth 100, gelu",
    "grid to depth 100, tanh": "grid to depth 100, tanh",
    "grid to depth 100, hard swish": "grid to depth 100, hardswish",
    "grid to depth 100, Mish": "grid to depth 100, mish",
}
"""What a user asks for → the rows that it stands for; of several the slowest is drawn."""


def draw(rows: list[Row]) -> Figure:
    figure, ax = plt.subplots(figsize=(11, 5.6), layout="constrained")
    asked = {
        task: max(found, key=lambda row: row["ours"])
        for task, start in reversed(TASKS.items())
        if (found := [row for row in rows if row["name"].startswith(start)])
    }
    for y, row in enumerate(asked.values()):
        ax.plot(row["ours"], y, "o", ms=10, color=plots.COLORS[0], mec="white", zorder=4)
        text = seconds(row["ours"])
        if row["peer"] is not None:
            first = row["peer"] if row["peer_first"] is None else row["peer_first"]
            ax.plot([row["peer"], first], [y, y], "D-", ms=6, lw=1.5, color=plots.COLORS[4],
                    mec="white", zorder=3)  # fmt: skip
            text += f"   ({row['peer_name']} {seconds(row['peer'])}"
            text += f", first call {seconds(first)})" if first != row["peer"] else ")"
            text += f", {row['peer_nan']:,} of its cells NaN" if row["peer_nan"] else ""
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_yticks(range(len(asked)), [*asked])
    ax.set(xscale="log", xlim=(3e-4, 40), xlabel="first call in a fresh interpreter")
    seconds_axis(ax)
    ax.grid(axis="y", visible=False)
    marks = (("sigprop", "o", plots.COLORS[0]), ("peer, warm to first call", "D", plots.COLORS[4]))
    handles = [Line2D([], [], marker=m, ls="", ms=8, color=c, label=label) for label, m, c in marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.suptitle(
        "A critical gain takes 20 ms, a phase diagram 0.1 s;\n"
        "only grids of activations without a closed form take seconds (100 × 100 nets)",
        fontweight="bold",
    )
    return figure
