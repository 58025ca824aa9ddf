"""What does β do to a deep PhasedReLU net, and what does backpropagation not see of it?

PhasedReLU(α, β) is leaky ReLU cut off to 0 below −β/α, where it jumps by −β.

Prediction: only t = β/(α√q) matters. At small q the net is leaky ReLU, at large q ReLU, so the gain
that keeps q rises from √(2/(1+α²)) to √2, and any gain between pulls q to one value, whatever the
input: β sets it (``settling_beta``). The gain that keeps backpropagated gradients is smaller
there, so at rest they grow (χ = q·E φ′²/V > 1). And two inputs of correlation 1 − δ are parted by
δV + √δ·qJ: next to that √δ the slopes, all that backpropagation sees, are nothing at small δ, and
the correlation map has infinite slope at c = 1.
Experiment: the two gains and the growth of small differences from one layer of real nets, each with
the exact standard error; the path of q from three inputs by ``validate``.
Answer: β sets the size at which the signal settles, and its jump parts close inputs faster than
backpropagation can see.
Source: phased (derived in sigprop.theory.phased_relu).
Run time: 20 s on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

from analyses._streams import Streams
from sigprop import DeepMLP, kaiming_leaky_init, measure, plots, validate
from sigprop.activations import Activation, activation
from sigprop.data import load_inputs
from sigprop.gaussian import pair_expectation
from sigprop.records import Row
from sigprop.theory.moments import GaussianMoments
from sigprop.theory.phased_relu import blind_deficit, settling_beta
from sigprop.validation.nets import find_device

FALSE_ALARM = 1e-7


@dataclass(frozen=True)
class Params:
    alpha: float = 0.5
    gain: float = 1.34
    sizes: tuple[float, ...] = (0.03, 0.1, 0.2, 0.4, 0.7, 1.2, 2.0, 5.0, 20.0)  # α√q/β
    deficits: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 0.5)
    one_layer: tuple[int, int, int] = (2048, 256, 100)  # units, outputs, nets
    pairs: tuple[int, int] = (8192, 100)  # units, nets
    starts: tuple[float, ...] = (0.02, 1.0, 50.0)
    deep: tuple[int, int, int] = (60, 384, 12)  # depth, width, nets
    seed: int = 0


FULL = Params()
QUICK = Params(
    sizes=(0.1, 0.7, 5.0),
    deficits=(1e-3, 0.1),
    one_layer=(256, 64, 40),
    pairs=(1024, 40),
    deep=(12, 128, 4),
)


def compute(params: Params) -> list[Row]:
    beta = float(settling_beta(1.0, params.alpha, params.gain))  # the net that settles at q = 1
    phi = activation("phased_relu", alpha=params.alpha, beta=beta)
    rows = _laws(params, phi)
    for index, size in enumerate(params.sizes):
        rows += _gains(params, phi, (size * beta / params.alpha) ** 2, 2 * index)
    for index, deficit in enumerate(params.deficits):
        rows.append(_parting(params, phi, deficit, 2 * index + 1))
    depth, width, nets = params.deep
    x = load_inputs("digits", 4, seed=params.seed)
    x /= np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    for index, start in enumerate(params.starts):
        seed = len(params.starts) * params.seed + index
        result = validate(
            depth=depth, width=width, activation=phi, gain=params.gain, seeds=nets, seed=seed,
            x=math.sqrt(start) / params.gain * x,
        )  # fmt: skip
        head = {"kind": "path", "start": start, "nets": nets, "p_value": result.p_value}
        rows += [head | row for row in result.records() if row["layer"]]
    return rows


def _laws(params: Params, phi: Activation) -> list[Row]:
    """The curves: gains against size, growth of a difference against the difference."""
    alpha, beta = phi.parameters["alpha"], phi.parameters["beta"]
    law = GaussianMoments(phi)
    head = {"kind": "law", "alpha": alpha, "beta": beta, "gain": params.gain}
    sizes, deltas = np.geomspace(0.02, 30, 121), np.geomspace(1e-7, 1, 57)
    q = (sizes * beta / alpha) ** 2
    forward, backward = np.sqrt(q / law.second_moment(q)), 1 / np.sqrt(law.derivative_square(q))
    gains = zip(sizes.tolist(), forward.tolist(), backward.tolist(), strict=True)
    growth = params.gain**2 * law.deficit(np.float64(1.0), deltas) / deltas
    seen = params.gain**2 * float(law.derivative_square(np.float64(1.0)))
    blind = float(blind_deficit(1.0, alpha, beta))
    return [
        *(head | {"size": s, "forward": f, "backward": b} for s, f, b in gains),
        *(
            head | {"delta": d, "growth": g, "seen": seen, "blind": blind}
            for d, g in zip(deltas.tolist(), growth.tolist(), strict=True)
        ),
    ]


def _two_layers(
    params: Params, phi: Activation, widths: tuple[int, int], nets: int, seed: int
) -> tuple[DeepMLP, list[int]]:
    """A real net x → z¹ → φ → z², in float64, and the seeds of its redraws."""
    model = DeepMLP(
        64, widths, activation=phi, bias=False, dtype=torch.float64, device=find_device(None)
    )
    first = (200 * params.seed + seed) * 1000
    return model, list(range(first, first + nets))


def _redraw(model: DeepMLP, seed: int) -> None:
    device = next(model.parameters()).device
    kaiming_leaky_init(model, gain=1.0, generator=torch.Generator(device).manual_seed(seed))


def _every_part(name: str, _module: nn.Module) -> bool:
    return "." in name


def _gains(params: Params, phi: Activation, q: float, seed: int) -> list[Row]:
    """Gains that keep q and the gradient, from mean φ² over units and ĝ¹/ĝ² = E φ′²·(noise)."""
    units, outputs, nets = params.one_layer
    model, seeds = _two_layers(params, phi, (units, outputs), nets, seed)
    x = load_inputs("digits", 1, seed=params.seed)
    x = torch.as_tensor(x * math.sqrt(q / np.mean(x**2))).to(model.layers[0].weight)
    squares, slopes = [], []
    for net in seeds:
        _redraw(model, net)
        cotangent = torch.Generator().manual_seed(Streams.of(net).cotangents)
        seen = measure(model, x, backward=True, generator=cotangent, layers=_every_part)
        first, last = seen["layers.0"], seen["layers.1"]
        squares.append(seen["activations.0"].second_moment)
        slopes.append(units / outputs * first.grad_second_moment / last.grad_second_moment)
    law, alpha = GaussianMoments(phi), phi.parameters["alpha"]
    v, d = float(law.second_moment(np.float64(q))), float(law.derivative_square(np.float64(q)))
    fourth = float(phi.kernels.fourth_moment(q)) / v**2 - 1
    d4 = (1 + alpha**2 * (2 * d - 1)) / 2  # E φ′⁴
    back = (3 * d4 / d**2 - 1) / units
    size = math.sqrt(q) * alpha / phi.parameters["beta"]
    made = (("keeps q", squares, v, q, fourth / units), ("keeps gradients", slopes, d, 1.0, back))
    return [
        {
            "kind": "gain",
            "what": what,
            "size": size,
            "gain": math.sqrt(unit / np.mean(seen)),
            "law": math.sqrt(unit / expected),
            "error": math.sqrt(unit / expected * variance / nets) / 2,
            "z": (np.mean(seen) / expected - 1) / math.sqrt(variance / nets),
        }
        for what, seen, expected, unit, variance in made
    ]


def _parting(params: Params, phi: Activation, delta: float, seed: int) -> Row:
    """How much one layer multiplies 1 − c of two inputs of second moment 1."""
    units, nets = params.pairs
    model, seeds = _two_layers(params, phi, (units, 1), nets, seed)
    pair = _pair(delta, seed).to(model.layers[0].weight)
    seen: list[Tensor] = []

    def keep(_act: nn.Module, _inputs: tuple[Tensor, ...], h: Tensor) -> None:
        seen.append((h[0] - h[1]).square().mean() / 2)

    handle = model.activations[0].register_forward_hook(keep)
    with torch.no_grad():
        for net in seeds:
            _redraw(model, net)
            model(pair)
    handle.remove()
    parted = float(torch.stack(seen).mean())
    expected = float(GaussianMoments(phi).deficit(np.float64(1.0), np.float64(delta)))
    powers = {n: (lambda x, n=n: phi.f(x) ** n) for n in (1, 2, 3, 4)}
    moment = {
        (n, 4 - n): float(
            pair_expectation(
                powers[n], powers[4 - n], 1.0, 1.0, deficit=delta, breakpoints=phi.breakpoints
            )
        )
        for n in (2, 3)
    }
    fourth = 2 * float(phi.kernels.fourth_moment(1.0)) - 8 * moment[3, 1] + 6 * moment[2, 2]
    error = math.sqrt((fourth / 4 - expected**2) / (nets * units))
    scale = params.gain**2 / delta
    head = {"kind": "parting", "delta": delta, "growth": scale * parted, "error": scale * error}
    return head | {"law": scale * expected, "z": (parted - expected) / error}


def _pair(delta: float, seed: int) -> Tensor:
    """Two inputs of mean square 1 whose cosine is exactly 1 − δ."""
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((64, 2)))[0].T * 8
    angle = 2 * math.asin(math.sqrt(delta / 2))
    other = math.cos(angle) * axes[0] + math.sin(angle) * axes[1]
    return torch.as_tensor(np.stack([axes[0], other]))


def check(rows: list[Row]) -> None:
    found = [row for row in rows if row["kind"] in ("gain", "parting")]
    limit = stats.norm.isf(FALSE_ALARM / (2 * len(found)))
    for row in found:
        at = f"1 − c = {row['delta']}" if row["kind"] == "parting" else f"α√q/β = {row['size']:g}"
        assert abs(row["z"]) < limit, f"{row['kind']} at {at}: z = {row['z']:.1f}"
    for row in rows:
        if row["kind"] == "path":
            p = row["p_value"]
            assert p >= FALSE_ALARM, f"from q = {row['start']}: p = {p:.1g}"
    growth = [row["growth"] for row in rows if row["kind"] == "law" and row.get("delta")]
    assert growth[0] > 50, f"at 1 − c = 1e-7 growth is only {growth[0]}: where is the jump?"


def draw(rows: list[Row]) -> Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 5.2), layout="constrained")
    law = [row for row in rows if row["kind"] == "law"]
    _draw_gains(left, [row for row in law if row.get("size") is not None], rows)
    _draw_paths(middle, [row for row in rows if row["kind"] == "path"])
    parting = [row for row in rows if row["kind"] == "parting"]
    _draw_parting(right, [row for row in law if row.get("delta") is not None], parting)
    figure.suptitle(
        "PhasedReLU: β sets the size at which the signal settles,\n"
        "and its jump parts close inputs faster than backpropagation can see "
        f"(α = {law[0]['alpha']:g}, β = {law[0]['beta']:.2f})",
        fontweight="bold",
    )
    return figure


def _draw_gains(ax: plt.Axes, law: list[Row], rows: list[Row]) -> None:
    size, gain = plots.column(law, "size"), law[0]["gain"]
    for key, what, color in (
        ("forward", "keeps q", plots.COLORS[0]),
        ("backward", "keeps gradients", plots.COLORS[2]),
    ):
        points = [row for row in rows if row["kind"] == "gain" and row["what"] == what]
        ax.plot(size, plots.column(law, key), color=color, label=f"gain that {what}")
        x, y = plots.column(points, "size"), plots.column(points, "gain")
        ax.errorbar(x, y, 1.96 * plots.column(points, "error"), fmt="o", color=color, mec="white")
    ax.plot([], [], "o", color=plots.INK, mec="white", label="measured, real layers (95 %)")
    ax.axhline(gain, color=plots.PALE, lw=1, ls=(0, (4, 3)))
    meets = float(np.interp(gain, plots.column(law, "forward"), size))
    ax.plot(meets, gain, "s", ms=8, mfc="none", mec=plots.INK)
    note = f"a net of gain {gain:g} settles here:\nlarger signals shrink,\nsmaller ones grow"
    ax.annotate(
        note, (meets, gain), (1.6 * meets, gain - 0.085), fontsize="small",
        arrowprops={"arrowstyle": "-", "color": plots.PALE},
    )  # fmt: skip
    ax.set(xscale="log", xlabel="size of the signal: α√q / β", ylabel="gain")
    ax.set_title("leaky ReLU when small, ReLU when large", loc="left")
    ax.legend(fontsize="small", loc="upper left")
    ax.set_ylim(top=ax.get_ylim()[1] + 0.03)


def _draw_paths(ax: plt.Axes, path: list[Row]) -> None:
    starts = dict.fromkeys(row["start"] for row in path)
    for start, color in zip(starts, plots.COLORS, strict=False):
        plots.path([row for row in path if row["start"] == start], "q", ax, color=color)
    handles = plots.key()
    handles[1].set_label("typical net (to first order in 1/width)")
    ax.legend(handles=handles, fontsize="small")
    ax.set_title(f"{len(starts)} sizes of input come to rest at one q", loc="left")


def _draw_parting(ax: plt.Axes, law: list[Row], points: list[Row]) -> None:
    delta, seen, blind = plots.column(law, "delta"), law[0]["seen"], law[0]["blind"]
    blue, orange = plots.COLORS[0], plots.COLORS[2]
    ax.plot(delta, plots.column(law, "growth"), color=blue, label="true growth (theory)")
    ax.errorbar(
        plots.column(points, "delta"), plots.column(points, "growth"),
        1.96 * plots.column(points, "error"), fmt="o", color=blue, mec="white",
        label="measured, real layers (95 %)",
    )  # fmt: skip
    ax.axhline(seen, color=orange, ls=(0, (4, 3)), label=f"backpropagation says χ = {seen:.3f}")
    ax.axvspan(delta[0], blind, color=plots.PALE, alpha=0.15, lw=0)
    ax.text(1.3 * delta[0], 0.45, "gradients are blind here", color=plots.PALE)
    ax.set(xscale="log", yscale="log", xlim=(delta[0], 1), ylim=(0.3, None))
    ax.set(xlabel="1 − c between two inputs", ylabel="growth of 1 − c in one layer")
    ax.set_title("the closer two inputs, the faster they part", loc="left")
    ax.legend(fontsize="small", loc="upper right")
