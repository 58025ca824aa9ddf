"""What does sigprop cost next to the bare computation it stands on?

Prediction (targets): importing it and asking for one gain takes at most 60 ms more than Python
itself; ``kaiming_leaky_init`` at most 10 % more than a loop of torch's own; ``measure`` at most
15 % more time and 5 % more peak memory than the same pass without it; drawing from the exact law is
at least 100 times faster than real nets; ``validate`` spends at least 85 % of its time in matrix
products, factorizations and random numbers.
Experiment: ours and the peer in turns in one run, after a warm-up, medians; imports and peak memory
in processes of their own, memory counted from where torch is loaded.
Answer: initializing takes 1.0 times the draws, measuring 1.1 times the bare pass and no memory,
importing 0.07 s, of which numpy takes 0.06. ``validate`` spends 93 % of its time in products,
factorizations and draws at width 1024, and 86 % at width 512 (0.83 to 0.88 in single runs): what
remains there is work on the signals. Nothing is asserted of times, which are the machine's own;
that torch and scipy stay unloaded is.
Source: the targets are this project's own.
Run time: 4 min on one core.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from analyses._paid import in_turns, side_by_side
from sigprop import (
    DeepMLP,
    g_star,
    kaiming_leaky_init,
    measure,
    sample_trajectories,
    validate,
)
from sigprop.records import Row
from sigprop.validation.nets import find_device

ALPHA = 0.2
HEAVY = ("mm", "addmm", "bmm", "baddbmm", "normal_", "linalg_qr", "geqrf", "orgqr")
"""Torch operators that are matrix products, factorizations or random numbers."""

IMPORT = """
import json, sys, sigprop
sigprop.g_star(0.2)
print(json.dumps(sorted({"torch", "scipy", "matplotlib"} & set(sys.modules))))
"""
RESIDENT = """
import sys, torch
from sigprop import DeepMLP
from analyses.bench_core import ALPHA, bare_pass, measure, resident
width, depth, batch = map(int, sys.argv[2:5])
measure(DeepMLP(8, 8, 2, alpha=ALPHA), torch.ones(4, 8), backward=True)
start = resident("VmRSS")
net, x = DeepMLP(width, width, depth, alpha=ALPHA), torch.randn(batch, width)
measure(net, x, backward=True) if sys.argv[1] == "measure" else bare_pass(net, x)
print(max(resident("VmHWM") - start, 1))
"""


@dataclass(frozen=True)
class Params:
    repeats: int = 7
    slopes: int = 1_000_000
    init: tuple[int, int] = (200, 1024)  # depth, width
    measure: tuple[int, int, int] = (20, 1024, 256)  # depth, width, batch
    law: tuple[int, int] = (50, 1024)  # depth, width
    validate: tuple[tuple[int, int, int], ...] = ((100, 512, 16), (50, 1024, 16))  # …, nets
    seed: int = 0


FULL = Params()
QUICK = Params(1, 100_000, (10, 128), (5, 128, 32), (10, 128), ((10, 128, 1),))


def compute(params: Params) -> list[Row]:
    device = find_device(None)
    return [
        *_import_cost(params),
        _slopes(params),
        _init(params, device),
        *_measure(params, device),
        _law(params, device),
        *(_validate(shape, params, device) for shape in params.validate),
    ]


def _row(
    name: str, ours: float, peer: float, unit: str, value: float, limit: str, target: float | None
) -> Row:
    """One comparison; ``cost`` is value/target, or target/value where more is better."""
    cost = None if target is None else value / target if limit == "at most" else target / value
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "unit": unit,
        "value": value,
        "limit": limit,
        "target": target,
        "cost": cost,
        "met": None if cost is None else cost <= 1,
        "loaded": None,
    }


def _process(code: str, *args: str) -> str:
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", code, *args]
    env = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        command, env=env, cwd=root, check=True, capture_output=True, text=True
    ).stdout


def _import_cost(params: Params) -> list[Row]:
    loaded = {"loaded": " ".join(json.loads(_process(IMPORT)))}
    rows = []
    for name, code, target in (("Python", "pass", 60.0), ("import numpy", "import numpy", None)):
        ours, peer = in_turns(
            [lambda: _process(IMPORT), lambda code=code: _process(code)], 2 * params.repeats - 1
        )
        more = 1000 * (ours - peer)
        name = f"import sigprop; g_star(0.2) / {name}"
        rows.append(_row(name, ours, peer, "ms more", more, "at most", target) | loaded)
    return rows


def _slopes(params: Params) -> Row:
    alpha = np.random.default_rng(params.seed).uniform(-1, 1, params.slopes)
    ours, peer = in_turns(
        [lambda: g_star(alpha), lambda: np.sqrt(2 / (1 + alpha**2))], 5 * params.repeats
    )
    name = f"g_star, {params.slopes:,} slopes / numpy formula"
    return _row(name, ours, peer, "× time", ours / peer, "at most", None)


def _init(params: Params, device: torch.device) -> Row:
    depth, width = params.init
    net = DeepMLP(width, width, depth, alpha=ALPHA, device=device)
    generator = torch.Generator(device).manual_seed(params.seed)

    def bare() -> None:
        for layer in net.layers:
            nn.init.kaiming_normal_(layer.weight, a=ALPHA, generator=generator)

    ours, peer = in_turns(
        [lambda: kaiming_leaky_init(net, ALPHA, generator=generator), bare], params.repeats, device
    )
    name = f"kaiming_leaky_init / torch loop, {depth} × {width}"
    return _row(name, ours, peer, "× time", ours / peer, "at most", 1.10)


def bare_pass(net: nn.Module, x: torch.Tensor) -> None:
    """The pass of ``measure(backward=True)``, without looking."""
    x = x.detach().requires_grad_()
    output = net(x)
    torch.autograd.grad(output, x, torch.randn_like(output))


def _measure(params: Params, device: torch.device) -> list[Row]:
    depth, width, batch = params.measure
    net = DeepMLP(width, width, depth, alpha=ALPHA, device=device)
    kaiming_leaky_init(net, ALPHA, generator=torch.Generator(device).manual_seed(params.seed))
    x = torch.randn(batch, width, generator=torch.Generator().manual_seed(params.seed)).to(device)
    passes = (lambda: measure(net, x, backward=True), lambda: bare_pass(net, x))
    ours, peer = in_turns(passes, 3 * params.repeats, device)
    shape = f"{depth} × {width}, batch {batch}"
    rows = [
        _row(f"measure / bare pass, {shape}", ours, peer, "× time", ours / peer, "at most", 1.15)
    ]
    ours, peer = (float(_tensor_peak(call, net, device)) for call in passes)
    name = f"measure / bare pass, peak of tensors, {shape}"
    rows.append(_row(name, ours, peer, "× bytes", ours / peer, "at most", 1.05))
    sizes = [str(size) for size in (width, depth, batch)]
    ours, peer = (
        median(float(_process(RESIDENT, who, *sizes)) for _ in range(min(params.repeats, 5)))
        for who in ("measure", "bare")
    )
    name = f"measure / bare pass, peak resident (CPU), {shape}"
    return [*rows, _row(name, ours, peer, "× bytes", ours / peer, "at most", 1.05)]


def _tensor_peak(call: Callable[[], Any], net: nn.Module, device: torch.device) -> int:
    """Most bytes that the net and what a call allocates take at once."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device)
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(steps).max()) + sum(p.nbytes for p in net.parameters())


def resident(which: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at most so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {which} in /proc/self/status; peak memory is measured on Linux.")


def _law(params: Params, device: torch.device) -> Row:
    depth, width = params.law
    nets, gain = 1_000, float(g_star(ALPHA))
    rng = np.random.default_rng(params.seed)
    net = DeepMLP(width, width, depth, alpha=ALPHA, device=device)
    generator = torch.Generator(device).manual_seed(params.seed)
    x = torch.ones(1, width, device=device)

    def real() -> None:
        kaiming_leaky_init(net, ALPHA, generator=generator)
        measure(net, x)

    ours, peer = in_turns(
        [lambda: sample_trajectories([width] * depth, gain, ALPHA, nets=nets, rng=rng), real],
        params.repeats,
        device,
    )
    name = f"real net / exact-law draw, {depth} × {width}"
    return _row(name, ours / nets, peer, "× faster", peer / (ours / nets), "at least", 100.0)


def _validate(shape: tuple[int, int, int], params: Params, device: torch.device) -> Row:
    """The share of products, factorizations and random numbers.

    What remains at 100 × 512, some 16 ms a net beside 98, is work on the 16 × 512 signals of a
    layer, which no product does: activations and autograd of the pass, squares at z and −z,
    activations at −z, sizes and cosines, scores, building. It falls with the width as 1/n.
    """
    depth, width, nets = shape
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)

    def run() -> None:
        validate(ALPHA, depth, width, seeds=nets, device=device)

    clock = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    names = {f"aten::{name}" for name in HEAVY}
    found: list[float] = []

    def profiled() -> None:
        with torch.profiler.profile(activities=activities) as profile:
            run()
        events = profile.key_averages()
        found.append(sum(getattr(e, clock) for e in events if e.key in names) / 1e6)

    _, seconds = in_turns([profiled, run], params.repeats, device)  # profiling itself costs
    heavy = median(found[1:])
    name = f"validate: products and random numbers, {depth} × {width}"
    return _row(name, heavy, seconds, "of the time", heavy / seconds, "at least", 0.85)


def check(rows: list[Row]) -> None:
    loaded = rows[0]["loaded"]
    assert not loaded, f"import sigprop and g_star(0.2) load {loaded}"
    for row in rows:
        for what in ("ours", "peer"):  # measured; a difference of two of them may have any sign
            assert math.isfinite(row[what]) and row[what] > 0, f"{row['name']}: {what} {row[what]}"


def draw(rows: list[Row]) -> Figure:
    figure, ax = plt.subplots(figsize=(11.5, 4), layout="constrained")
    shown = {row["name"]: row for row in rows if row["unit"] in ("ms more", "× time")}
    for row in rows:
        if row["unit"] == "of the time":  # the bare part of it first, and all of it
            words = row["name"].replace("products and random numbers, ", "")
            shown[words] = row | {"ours": row["peer"], "peer": row["ours"]}
    side_by_side(ax, [*shown.values()], [*shown], "the bare computation")
    ratios = {words: row["ours"] / row["peer"] for words, row in shown.items()}
    measuring = next(ratio for words, ratio in ratios.items() if words.startswith("measure"))
    validating = [ratio for words, ratio in ratios.items() if words.startswith("validate")]
    initializing = next(ratio for words, ratio in ratios.items() if words.startswith("kaiming"))
    figure.suptitle(
        f"Initializing takes {initializing:.2f} times the draws, measuring {measuring:.2f} times "
        f"the pass,\nvalidating {min(validating):.2f} to {max(validating):.2f} times the products "
        "and random numbers",
        fontweight="bold",
    )
    return figure
