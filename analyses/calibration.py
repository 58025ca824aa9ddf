"""Is the p-value of ``validate`` calibrated, and does it reject what is wrong?

Prediction: nets drawn with the claimed gain give uniform p-values, so 5 % of them fall below 5 %. A
gain off by δ moves the drift score of the forward weights alone, for a single input, by
2δ·√(n·L·N/2) standard errors (N nets of width n, depth L): 6.4 at δ = 0.5 %, n = 512, L = 100,
N = 16, so 0.5 % is rejected in at least 99 % of cases. Backward, the gradients of B inputs start
out independent at the output and give up to √B times as many. Well-known mistakes are rejected at
once, and a single wrong layer of 50 is named.
Answer: of 400 right nets 3.2 % have a p-value below 5 %, a gain 0.5 % off is rejected 100 times in
100, and every known mistake of the list is rejected.
Source: hall1983 (law of the scores), sidak1967 (one p-value from many).
Run time: 5.5 minutes on one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from sigprop import g_star, kaiming_leaky_init, plots, validate
from sigprop.data import load_inputs
from sigprop.records import Row
from sigprop.validation import Validation

FALSE_ALARM = 1e-7
LEVEL = 0.01
WRONG_LAYER = 24


@dataclass(frozen=True)
class Params:
    null: tuple[int, int, int] = (100, 256, 400)  # depth, width, nets tested one by one
    shape: tuple[int, int, int] = (100, 512, 16)  # depth, width, nets of one test of power
    power: tuple[tuple[float, int], ...] = ((0.0005, 15), (0.001, 15), (0.0015, 15), (0.005, 100))
    required: tuple[float, float] = (0.005, 0.99)  # this error is to be seen this often
    inputs: int = 8
    seed: int = 0


FULL = Params()
QUICK = Params((20, 64, 60), (20, 64, 4), ((0.01, 10), (0.06, 20)), (0.06, 0.99), inputs=4)


def compute(params: Params) -> list[Row]:
    alpha, right = 0.2, float(g_star(0.2))
    x = load_inputs("digits", params.inputs, seed=params.seed)
    depth, width, nets = params.null
    start = 10**6 * params.seed
    rows: list[Row] = [
        {
            "kind": "null",
            "p": validate(alpha, depth, width, seeds=1, x=x, seed=start + net).p_value,
        }
        for net in range(nets)
    ]
    depth, width, nets = params.shape
    bar = stats.norm.isf(-math.expm1(math.log1p(-LEVEL) / 8) / 2)  # 4 families, 2 questions each
    errors = np.linspace(0, 1.1 * params.power[-1][0], 45)
    shifts = 2 * errors * math.sqrt(width * depth * nets / 2)
    rows += [
        {
            "kind": "predicted",
            "error": error,
            "one_input": float(stats.norm.sf(bar - shift)),
            "all_inputs": float(stats.norm.sf(bar - shift * math.sqrt(params.inputs))),
            "inputs": params.inputs,
        }
        for error, shift in zip(errors.tolist(), shifts.tolist(), strict=True)
    ]
    for number, (error, repeats) in enumerate(params.power, start=1):
        wrong = right * (1 + error)

        def init(module: nn.Module, generator: torch.Generator, gain: float = wrong) -> Any:
            return kaiming_leaky_init(module, alpha, gain=gain, generator=generator)

        p = [
            validate(
                alpha, depth, width, seeds=nets, x=x, init=init, seed=start + 10**5 * number + r
            ).p_value
            for r in range(repeats)
        ]
        hits = sum(value < LEVEL for value in p)
        interval = stats.binomtest(hits, repeats).proportion_ci(0.95, "exact")
        rows.append(
            {
                "kind": "power",
                "error": error,
                "hits": hits,
                "repeats": repeats,
                "low": interval.low,
                "high": interval.high,
                "worst_p": max(p),
                "required": params.required[1] if error == params.required[0] else None,
                "depth": depth,
                "width": width,
                "nets": nets,
            }
        )
    for name, result in mistakes(params.seed):
        p = max(result.p_value, 1e-300)
        culprits = " ".join(map(str, result.verdict.culprits))
        rows.append({"kind": "mistake", "name": name, "p": p, "culprits": culprits})
    return rows


def mistakes(seed: int) -> Iterator[tuple[str, Validation]]:
    """Initializations with a known mistake, each tested as if it were right."""

    def swapped(model: Any, generator: torch.Generator) -> None:
        for layer in model.layers:
            std = float(g_star(0.2)) / math.sqrt(layer.out_features)
            nn.init.normal_(layer.weight, 0, std, generator=generator)
            nn.init.zeros_(layer.bias)

    def one_layer(model: Any, generator: torch.Generator) -> None:
        kaiming_leaky_init(model, 0.2, generator=generator)
        with torch.no_grad():
            model.layers[WRONG_LAYER - 1].weight *= 1.1

    def as_slope(alpha: float) -> Callable[[nn.Module, torch.Generator], Any]:
        return lambda model, generator: kaiming_leaky_init(model, alpha, generator=generator)

    slopes = np.linspace(-0.5, 1.0, 256)
    mean = float(slopes.mean())
    unequal = [100, 400] * 5
    yield (
        "fan_in and fan_out swapped",
        validate(0.2, width=unequal, seeds=4, init=swapped, seed=seed),
    )
    yield (
        "√2 used with α = 0.25",
        validate(0.25, 50, 256, seeds=4, init=as_slope(0.0), seed=seed),
    )
    yield (
        "α = 0.25 missing from the claim",
        validate(0.25, 50, 256, seeds=4, gain=2**0.5, init=as_slope(0.25), seed=seed),
    )
    yield (
        "PReLU: mean slope, not mean square",
        validate(slopes, 50, 256, seeds=4, init=as_slope(mean), seed=seed),
    )
    yield (
        "one layer of 50 off by 10 %",
        validate(0.2, 50, 256, seeds=16, init=one_layer, seed=seed),
    )


def check(rows: list[Row]) -> None:
    p = plots.column([row for row in rows if row["kind"] == "null"], "p")
    uniform = stats.kstest(p, "uniform").pvalue
    assert uniform >= FALSE_ALARM, f"p-values of right nets are not uniform (KS p = {uniform:.1g})"
    rate = stats.binomtest(int((p < 0.05).sum()), len(p), 0.05).pvalue
    assert rate >= FALSE_ALARM, f"{(p < 0.05).mean():.1%} of right nets rejected at 5 %"
    for row in rows:
        if row["kind"] == "power" and row["required"] is not None:
            test = stats.binomtest(row["hits"], row["repeats"], row["required"], "less")
            assert test.pvalue >= FALSE_ALARM, f"power at {row['error']:.1%}: {row['hits']}"
        if row["kind"] == "mistake":
            assert row["p"] < 1e-6, f"{row['name']} is not rejected: p = {row['p']:.2g}"
    named = str(rows[-1]["culprits"]).split()
    assert str(WRONG_LAYER) in named, f"layer {WRONG_LAYER} is wrong; named: {named}"


def draw(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(
        1, 3, figsize=(13, 5.6), width_ratios=(1, 1, 1.15), layout="constrained"
    )
    p = np.sort(plots.column([row for row in rows if row["kind"] == "null"], "p"))
    power = [row for row in rows if row["kind"] == "power"]
    _draw_null(axes[0], p)
    _draw_power(axes[1], power, [row for row in rows if row["kind"] == "predicted"])
    _draw_mistakes(axes[2], [row for row in rows if row["kind"] == "mistake"])
    figure.suptitle(
        f"The p-value means what it says: {(p < 0.05).mean():.1%} of right nets fall below 5 %,\n"
        f"a gain off by {power[-1]['error']:.1%} is caught {power[-1]['hits']} times in "
        f"{power[-1]['repeats']} (largest p: {power[-1]['worst_p']:.0e})",
        fontweight="bold",
    )
    return figure


def _draw_null(ax: plt.Axes, p: np.ndarray) -> None:
    share = np.arange(1, len(p) + 1) / len(p)
    band = math.sqrt(math.log(2 / 0.05) / (2 * len(p)))
    line = np.array([0.0, 1.0])
    ax.fill_between(
        line,
        line - band,
        line + band,
        color=plots.PALE,
        alpha=0.25,
        lw=0,
        label="95 % band of a uniform law",
    )
    ax.plot(line, line, color=plots.PALE, lw=1)
    ax.step(p, share, where="post", color=plots.COLORS[0], lw=1.6, label=f"{len(p)} right nets")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="p-value", ylabel="share of nets at or below it")
    ax.set_title("Right nets: p-values are uniform", loc="left")
    ax.legend(loc="lower right", fontsize="small")


def _draw_power(ax: plt.Axes, power: list[Row], predicted: list[Row]) -> None:
    error = 100 * plots.column(power, "error")
    share = plots.column(power, "hits") / plots.column(power, "repeats")
    bars = np.abs(np.stack((plots.column(power, "low"), plots.column(power, "high"))) - share)
    ax.errorbar(
        error,
        share,
        bars,
        fmt="o",
        color=plots.COLORS[0],
        capsize=3,
        label="measured, 95 % Clopper–Pearson",
    )
    inputs = predicted[0]["inputs"]
    for key, color, name in (
        ("one_input", plots.COLORS[2], "law: forward, one input"),
        ("all_inputs", plots.COLORS[1], f"law: backward, {inputs} independent gradients"),
    ):
        x, y = 100 * plots.column(predicted, "error"), plots.column(predicted, key)
        ax.plot(x, y, color=color, ls=(0, (4, 3)), label=name)
    ax.set(
        xlabel="gain off by  (%)", ylabel=f"share rejected at level {LEVEL:g}", ylim=(-0.03, 1.05)
    )
    ax.set_xlim(0, 1.1 * error[-1])
    last = power[-1]
    ax.set_title(f"{last['nets']} nets, depth {last['depth']}, width {last['width']}", loc="left")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize="small")


def _draw_mistakes(ax: plt.Axes, rows: list[Row]) -> None:
    names = [row["name"] for row in rows]
    strength = -np.log10(plots.column(rows, "p"))
    ax.barh(names[::-1], strength[::-1], color=plots.COLORS[1], height=0.55)
    ax.axvline(2, color=plots.ALARM, ls=":", lw=1.3)
    for y, row in enumerate(rows[::-1]):
        named = f"  names layer {row['culprits']}" if row is rows[-1] else ""
        ax.text(
            2.3,
            y,
            f"{plots.p_text(row['p'])}{named}",
            va="center",
            color="white",
            fontweight="bold",
            fontsize="small",
        )
    ax.set(xscale="log", xlim=(1, 400), xlabel="−log₁₀ p   (rejected right of the dotted line)")
    ax.set_title("Known mistakes: all rejected", loc="left")
    ax.grid(axis="y", visible=False)
