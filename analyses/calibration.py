"""Is the p-value of ``validate`` calibrated, and does it reject what is wrong?

Prediction: nets that are what they claim give uniform p-values, so 5 % of them fall below 5 %:
over random settings of slope (near ±1 too), activation, depth, widths, gain, biases, number of nets
and inputs, repeated inputs, floating-point format, with and without the law of the weights. A gain
off by δ moves the drift score of the forward weights alone, for a single input, by
2δ·√(n·L·N/2) standard errors (N nets of width n, depth L): 6.4 at δ = 0.5 %, n = 512, L = 100,
N = 16, so 0.5 % is rejected in at least 99 % of cases. Backward, the gradients of B inputs start
out independent at the output and give up to √B times as many. Well-known mistakes are rejected at
once, a single wrong layer of 50 is named, and so are weights that are not normal.
Answer: of right nets in 2,000 random settings 4.5 % have a p-value below 5 %, a gain 0.5 % off is
rejected 40 times in 40, and every known mistake of the list is rejected.
Source: hall1983 (law of the scores), sidak1967 (one p-value from many).
Run time: 11 minutes on one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import optimize, stats
from torch import nn

from analyses._sweep import sweep
from sigprop import g_star, kaiming_leaky_init, plots, validate
from sigprop.data import load_inputs
from sigprop.records import Row
from sigprop.validation import Validation
from sigprop.validation.smallest import smallest_law

FALSE_ALARM = 1e-7
UNLIKELY = 1e-3
"""A law of p-values that a seeded run contradicts at this level is not uniform."""
LEVEL = 0.01
WRONG_LAYER = 24


@dataclass(frozen=True)
class Params:
    settings: int = 2000  # random right nets
    shape: tuple[int, int, int] = (100, 512, 16)  # depth, width, nets of one test of power
    power: tuple[tuple[float, int], ...] = ((0.0005, 8), (0.001, 8), (0.0015, 8), (0.005, 40))
    required: tuple[float, float] = (0.005, 0.99)  # this error is to be seen this often
    inputs: int = 8
    seed: int = 0


FULL = Params()
QUICK = Params(40, (20, 64, 4), ((0.01, 10), (0.06, 20)), (0.06, 0.99), inputs=4)

OTHERS = (
    "gelu", "swish", "mish", "sigmoid", "tanh", "elu", "selu", "softplus", "hardtanh",
    "phased_relu", "erf", "sin", "softsign", "relu6",
)  # fmt: skip
NEAR_ONE = (-16.0, -2.0)
"""Range of log₁₀ |1 − |α|| of slopes near ±1."""


def random_setting(rng: np.random.Generator) -> dict[str, Any]:
    """Keyword arguments of ``validate`` for right nets of some kind."""
    dtype = str(rng.choice(["float32", "float32", "float64", "bfloat16", "float16"]))
    depth = round(math.exp(rng.uniform(0, math.log(16))))
    width = round(math.exp(rng.uniform(math.log(16), math.log(96))))
    features = int(rng.integers(16, 100))
    batch = int(min(rng.integers(1, 13), features - 1))
    x = rng.standard_normal((batch, features)) * math.exp(rng.normal())
    if rng.random() < 0.3:  # repeated inputs
        x = x[rng.integers(0, batch, batch)]
    unequal = rng.integers(max(8, width // 2), 2 * width, depth).tolist()
    setting: dict[str, Any] = {
        "x": x,
        "width": unequal if rng.random() < 0.3 else [width] * depth,
        "seeds": int(rng.integers(1, 4)),
        "dtype": getattr(torch, dtype),
        "bias_std": float(rng.uniform(0.05, 1)) if rng.random() < 0.4 else 0.0,
        "distribution": "normal" if rng.random() < 0.3 else None,
        # The narrow formats hold a signal that is driven off only layer by layer.
        "layerwise": dtype in ("float16", "bfloat16") or bool(rng.random() < 0.2),
        "device": "cpu",
    }
    if rng.random() < 0.4:
        return setting | {"activation": str(rng.choice(OTHERS))}
    sizes = (
        1 - 10 ** rng.uniform(*NEAR_ONE) * rng.choice([-1, 1]),
        rng.choice([0.0, 0.01, 0.2, 0.25, 0.5, 1.0]),
        rng.uniform(0, 1.3),
    )
    alpha = float(rng.choice(sizes, p=(0.3, 0.2, 0.5)) * rng.choice([-1, 1]))
    off = 1.0 if setting["bias_std"] else math.exp(rng.uniform(-0.2, 0.2))
    return setting | {"alpha": alpha, "gain": float(g_star(alpha)) * off}


def compute(params: Params) -> list[Row]:
    rows = sweep(right, [{"seed": params.seed, "number": i} for i in range(params.settings)])
    depth, width, nets = params.shape
    families = [np.ones(depth)] * 4
    smallest = optimize.brentq(lambda p: smallest_law(p, families) - LEVEL, 1e-9, LEVEL)
    bar = stats.norm.isf(smallest / 2)
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
    cases = [
        {"error": error, "shape": params.shape, "inputs": params.inputs, "seed": params.seed}
        | {"nets_seed": 10**6 * params.seed + 10**5 * number + repeat}
        for number, (error, repeats) in enumerate(params.power, start=1)
        for repeat in range(repeats)
    ]
    found = sweep(off, cases)
    for error, repeats in params.power:
        p = [row["value"] for row, case in zip(found, cases, strict=True) if case["error"] == error]
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
    return rows + sweep(mistake, [{"name": name, "seed": params.seed} for name in MISTAKES])


def right(seed: int, number: int) -> Row:
    """Right nets in a random setting."""
    setting = random_setting(np.random.default_rng([seed, number]))
    result = validate(**setting, seed=10**6 * seed + number)
    return {"kind": "null", "p": result.p_value, **_words(setting, result)}


def off(error: float, shape: tuple[int, int, int], inputs: int, seed: int, nets_seed: int) -> float:
    """The p-value of nets whose gain is off by a share."""
    (depth, width, nets), alpha = shape, 0.2
    x, gain = load_inputs("digits", inputs, seed=seed), float(g_star(alpha)) * (1 + error)

    def init(module: nn.Module, generator: torch.Generator) -> Any:
        return kaiming_leaky_init(module, alpha, gain=gain, generator=generator)

    return validate(alpha, depth, width, seeds=nets, x=x, init=init, seed=nets_seed).p_value


def _words(setting: dict[str, Any], result: Validation) -> Row:
    return {
        "activation": result.activation,
        "alpha": setting.get("alpha"),
        "depth": result.depth,
        "width": max(result.widths[1:]),
        "nets": result.seeds,
        "inputs": result.batch,
        "dtype": result.dtype,
        "bias_std": result.bias_std,
        "weights": result.distribution,
        "layerwise": result.layerwise,
    }


def mistake(name: str, seed: int) -> Row:
    """An initialization with a known mistake, tested as if it were right."""
    result = validate(**MISTAKES[name], seed=seed)
    return {
        "kind": "mistake", "name": name, "p": max(result.p_value, 1e-300),
        "culprits": " ".join(map(str, result.verdict.culprits)),
    }  # fmt: skip


def _as_slope(alpha: float) -> Callable[[nn.Module, torch.Generator], Any]:
    return lambda model, generator: kaiming_leaky_init(model, alpha, generator=generator)


def _swapped(model: Any, generator: torch.Generator) -> None:
    for layer in model.layers:
        std = float(g_star(0.2)) / math.sqrt(layer.out_features)
        nn.init.normal_(layer.weight, 0, std, generator=generator)
        nn.init.zeros_(layer.bias)


def _one_layer(model: Any, generator: torch.Generator) -> None:
    kaiming_leaky_init(model, 0.2, generator=generator)
    with torch.no_grad():
        model.layers[WRONG_LAYER - 1].weight *= 1.1


def _uniform(model: Any, generator: torch.Generator) -> None:
    kaiming_leaky_init(model, 0.2, distribution="uniform", generator=generator)


def _orthogonal(model: Any, generator: torch.Generator) -> None:
    kaiming_leaky_init(model, 0.2, distribution="orthogonal", generator=generator)


def _shared(model: Any, generator: torch.Generator) -> None:
    kaiming_leaky_init(model, 0.2, generator=generator)
    with torch.no_grad():
        model.layers[12].weight.copy_(model.layers[4].weight)


SLOPES = np.linspace(-0.5, 1.0, 256)
MISTAKES: dict[str, dict[str, Any]] = {
    "fan_in and fan_out swapped": {
        "alpha": 0.2, "width": [100, 400] * 5, "seeds": 4, "init": _swapped,
    },
    "√2 used with α = 0.25": {
        "alpha": 0.25, "depth": 50, "width": 256, "seeds": 4, "init": _as_slope(0.0),
    },
    "α = 0.25 missing from the claim": {
        "alpha": 0.25, "depth": 50, "width": 256, "seeds": 4, "gain": 2**0.5,
        "init": _as_slope(0.25),
    },
    "PReLU: mean slope, not mean square": {
        "alpha": SLOPES, "depth": 50, "width": 256, "seeds": 4,
        "init": _as_slope(float(SLOPES.mean())),
    },
    "uniform weights": {
        "alpha": 0.2, "depth": 20, "width": 256, "seeds": 4, "init": _uniform,
        "distribution": "normal",
    },
    "orthogonal weights": {
        "alpha": 0.2, "depth": 20, "width": 256, "seeds": 4, "init": _orthogonal,
        "distribution": "normal",
    },
    "two layers of 20 share their weights": {
        "alpha": 0.2, "depth": 20, "width": 256, "seeds": 4, "init": _shared,
        "distribution": "normal",
    },
    "one layer of 50 off by 10 %": {
        "alpha": 0.2, "depth": 50, "width": 256, "seeds": 16, "init": _one_layer,
    },
}  # fmt: skip
"""Arguments of ``validate``; the last one is to be named."""


def check(rows: list[Row]) -> None:
    p = plots.column([row for row in rows if row["kind"] == "null"], "p")
    uniform = stats.kstest(p, "uniform").pvalue
    assert uniform >= UNLIKELY, f"p-values of right nets are not uniform (KS p = {uniform:.1g})"
    for level in (0.01, 0.05, 0.5):
        rate = stats.binomtest(int((p < level).sum()), len(p), level).pvalue
        share = (p < level).mean()
        assert rate >= UNLIKELY, f"{share:.1%} of right nets have p < {level} (p = {rate:.1g})"
    for row in rows:
        if row["kind"] == "power" and row["required"] is not None:
            test = stats.binomtest(row["hits"], row["repeats"], row["required"], "less")
            assert test.pvalue >= FALSE_ALARM, f"power at {row['error']:.1%}: {row['hits']}"
        if row["kind"] == "mistake":
            assert row["p"] < 1e-6, f"{row['name']} is not rejected: p = {row['p']:.2g}"
    named = str(rows[-1]["culprits"]).split()  # of the last mistake, one layer of 50
    assert str(WRONG_LAYER) in named, f"layer {WRONG_LAYER} is wrong; named: {named}"


def draw(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(
        1, 3, figsize=(14, 5.6), width_ratios=(1.1, 1, 1.15), layout="constrained"
    )
    p = np.sort(plots.column([row for row in rows if row["kind"] == "null"], "p"))
    power = [row for row in rows if row["kind"] == "power"]
    _draw_null(axes[0], p)
    _draw_power(axes[1], power, [row for row in rows if row["kind"] == "predicted"])
    _draw_mistakes(axes[2], [row for row in rows if row["kind"] == "mistake"])
    figure.suptitle(
        f"The p-value means what it says: {100 * (p < 0.05).mean():.1f} % of right nets fall "
        "below 5 %,\n"
        f"a gain off by {100 * power[-1]['error']:.1f} % is caught {power[-1]['hits']} times in "
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
    ax.step(
        p, share, where="post", color=plots.COLORS[0], lw=1.6, label=f"{len(p)} random settings"
    )
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="p-value", ylabel="share of settings at or below it")
    uniform = stats.kstest(p, "uniform").pvalue
    ax.set_title(f"Right nets: p is uniform (KS: {plots.p_text(uniform)})", loc="left")
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
