"""Do deep nets learn better from weights that hold the signal?

Prediction: where torch's default, the Kaiming loop or LSUV lose signal or gradient (chains of 50
and 100 layers), weights that hold both learn and these do not, by SGD and by Adam. Where a stream
or norms carry the signal (residual, ViT, GPT-2) differences are small.
Experiment: nets without norms on handwritten digits (MLPs of GELU, tanh, leaky ReLU, pre-activation
residual nets), a ViT on the same digits and GPT-2 on the characters of Python's help texts. Each
tool and optimizer (SGD with momentum 0.9, Adam) chooses one of six or five learning rates, each 4
or 5 times the last, by its loss with two seeds; five other seeds then learn at that rate for 80
steps, all tools from the same batches. Loss: mean over the last tenth of the steps, at most twice
that of a guess; accuracy: on what was not learnt; intervals of 95 % over seeds; claims: paired t of
the accuracy, critical + data against each other tool, Holm's correction over all 108. AnyInit 0.4.0
is left out where it is not installed.
Answer: in chains yes, and by far, with one exception (GELU by SGD); where a residual stream carries
the signal it matters little, and in the ViT other weights are better. `tanh` and leaky ReLU at 50
and 100 layers: 91 to 96 % by either optimizer, where the best other tool (LSUV) has 45 to 52 and 27
to 49 % at 50 and at most 20 % at 100. GELU by Adam: 86 and 57 % against 17 and 10 %. The exception
is GELU by SGD: it diverges at all rates but the smallest (a step is then as large as so small a
signal, we suppose), at which it hardly moves (23 % at 100 and, without data, 29 % at 50; with data
all five seeds diverge at the rate that two others chose). "forward" is no better than the Kaiming
loop there. Where a stream carries the signal it matters little: residual nets 94 and 97 % against
92 and 95 by default (not significant; the Kaiming loop alone fails). Where norms stand before each
branch "critical" is the wrong target: in the ViT it has 21 and 35 % against LSUV's 41 and 55 and
the Kaiming loop's 39 and 50 (two of these four differences are significant): nearly linear branches
learn more slowly; "forward" is on a par with the Kaiming loop. GPT-2: "forward" has the lowest loss
(3.06 and 2.74; LSUV 3.10 and 2.80; default 3.24 and 3.07); accuracies do not differ significantly
but from AnyInit's by Adam. Else data change next to nothing. At the end of their grid: GELU by SGD
below; GPT-2 by Adam and some weights that do not learn above.
Source: he2015, mishkin2016; mestre2026 (AnyInit).
Run time: 14 minutes of one core, on a loaded machine; what was learnt is kept in the folder of
temporary files, so that a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

from analyses._init_nets import GPT2, ViT, mlp, residual
from analyses._inits import OURS, TOOLS, Task, quietly
from analyses._paired import compare
from analyses._train import Data, Stack, accuracy, drawn_from, load_data, train
from sigprop import plots
from sigprop.records import Row, read_json, write_json

RATES = {
    "SGD": (0.000032, 0.00016, 0.0008, 0.004, 0.02, 0.1),
    "Adam": (0.000025, 0.0001, 0.0004, 0.0016, 0.0064),
}
MOMENTUM = 0.9
TUNING = 1000
"""Seed from which on nets only choose a learning rate."""
FAMILYWISE = 0.05
"""Chance that any claim of the whole set is wrong."""
LENGTH = 16
"""Characters that a text model sees."""
SYMBOLS = 96
"""Printable ASCII; all else counts as a new line."""


@dataclass(frozen=True)
class Params:
    tools: tuple[str, ...] = (
        "default", "Kaiming loop", "LSUV", "AnyInit", "ours forward", "ours critical", OURS,
    )  # fmt: skip
    """AnyInit where it is installed."""
    depths: tuple[int, ...] = (50, 100)
    activations: tuple[str, ...] = ("GELU", "tanh", "leaky")
    width: int = 64
    blocks: int = 50
    transformer: tuple[int, int] = (8, 32)
    """Blocks and width."""
    images: bool = True
    """Whether residual nets and a ViT learn too."""
    text_batch: int = 16
    batch: int = 32
    steps: int = 80
    seeds: int = 5
    tuning: int = 2
    """Seeds that choose the learning rate; they are not among the others."""
    asked: int = 300
    seed: int = 0


FULL = Params()
QUICK = Params(
    ("default", "LSUV", OURS), (12,), ("leaky",), 16, 4, (1, 8), False, 4, 16, 12, 3, 1, 100
)  # fmt: skip


@dataclass(frozen=True)
class Lesson:
    """A net and what it learns."""

    name: str
    build: Callable[[], nn.Module]
    data: Data
    nonlinearity: tuple[str, float]
    batch: int
    classes: int = 10


def lessons(params: Params) -> list[Lesson]:
    """All nets of a run."""
    width, (deep, dim) = params.width, params.transformer
    pixels = load_data(params.seed, per_pixel=False)
    kinds = {"leaky": ("leaky_relu", 0.2), "tanh": ("tanh", 0.0), "GELU": ("relu", 0.0)}
    found = [
        Lesson(f"MLP {name}, {depth}", lambda a=name, n=depth: mlp(a, n, width, 64, 10), pixels,
               kinds[name], params.batch)
        for name in params.activations for depth in params.depths
    ]  # fmt: skip

    def vit() -> nn.Module:
        return nn.Sequential(nn.Unflatten(-1, (1, 8, 8)), ViT(deep, dim, 1, 8, 2))

    def res() -> nn.Module:
        return residual(params.blocks, width, 64, 10)

    relu, text = kinds["GELU"], characters(params.seed)
    if params.images:
        found += [
            Lesson(f"residual, {params.blocks} blocks", res, pixels, relu, params.batch),
            Lesson(f"ViT, {deep} blocks", vit, pixels, relu, params.batch // 2),
        ]
    return [
        *found,
        Lesson(f"GPT-2, {deep} blocks", lambda: GPT2(deep, dim, SYMBOLS, LENGTH), text, relu,
               params.text_batch, SYMBOLS),
    ]  # fmt: skip


def characters(seed: int, length: int = LENGTH) -> Data:
    """Windows of the help texts that Python ships, and what comes one character later."""
    text = "\n".join(topics[name] for name in sorted(topics))
    codes = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64) - 32
    codes = np.where((codes >= 0) & (codes < SYMBOLS - 1), codes, SYMBOLS - 1)
    windows = codes[: len(codes) // (length + 1) * (length + 1)].reshape(-1, length + 1)
    windows = torch.as_tensor(windows[np.random.default_rng(seed).permutation(len(windows))])
    learnt, asked = windows[1000:], windows[:1000]
    return Data(learnt[:, :-1], learnt[:, 1:], asked[:, :-1], asked[:, 1:])


def compute(params: Params) -> list[Row]:
    rows = [row for lesson in lessons(params) for row in _studied(params, lesson)]
    return rows + claims(rows)


Key = tuple[str, int]
"""Of a net: tool and seed."""


def _studied(params: Params, lesson: Lesson) -> list[Row]:
    """Each tool and optimizer at its best rate: one row a seed."""
    tools = [tool for tool in params.tools if tool in TOOLS]
    tuners = range(TUNING + params.seed, TUNING + params.seed + params.tuning)
    seeds = range(params.seed * params.seeds, (params.seed + 1) * params.seeds)
    nets = {(t, s): _drawn(lesson, t, s) for t in tools for s in (*tuners, *seeds)}
    rows: list[Row] = []
    for optimizer, rates in RATES.items():
        tried = [((tool, s), rate) for tool in tools for rate in rates for s in tuners]
        losses, _ = _learnt(params, lesson, nets, tried, optimizer)
        means = np.reshape(losses, (len(tools), len(rates), len(tuners))).mean(axis=-1)
        best = dict(zip(tools, means.argmin(axis=-1).tolist(), strict=True))
        taken = [((tool, s), rates[best[tool]]) for tool in tools for s in seeds]
        losses, shares = _learnt(params, lesson, nets, taken, optimizer)
        rows += [
            {"kind": "net", "net": lesson.name, "optimizer": optimizer, "tool": tool, "seed": seed,
             "rate": rate, "edge": best[tool] in (0, len(rates) - 1), "loss": loss,
             "accuracy": share}
            for ((tool, seed), rate), loss, share in zip(taken, losses, shares, strict=True)
        ]  # fmt: skip
    return rows


def _drawn(lesson: Lesson, tool: str, seed: int) -> nn.Module:
    with drawn_from(seed):
        net = lesson.build()
    with quietly():
        TOOLS[tool].apply(net, Task(lesson.data.x[: lesson.batch], lesson.nonlinearity, seed))
    return net


def _learnt(
    params: Params, lesson: Lesson, nets: dict[Key, nn.Module],
    tried: Sequence[tuple[Key, float]], optimizer: str,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Train nets at rates, side by side; mean losses of the last tenth of steps, and accuracies.

    Nets of one seed see the same batches. A loss that is no number counts, as the worst allowed
    does, as twice that of a guess. What was once learnt from the same weights is taken from a file,
    so that a long run can go on where it was stopped.
    """
    stack, file = Stack([nets[key] for key, _ in tried]), None
    if params == FULL:
        file = _file(repr((params, lesson.name, tried, optimizer)), stack)
        if file.is_file():
            found = read_json(file)
            return found["losses"], found["accuracies"]
    size = (params.steps, lesson.batch)
    orders = [np.random.default_rng([seed, 7]).integers(len(lesson.data.y), size=size)
              for (_, seed), _ in tried]  # fmt: skip
    picks = torch.as_tensor(np.stack(orders))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return lesson.data.x[picks[:, step]], lesson.data.y[picks[:, step]]

    rates = torch.tensor([rate for _, rate in tried])
    adam, worst = optimizer == "Adam", 2 * math.log(lesson.classes)
    with drawn_from(params.seed):
        losses = train(stack, batch, params.steps, rates, momentum=MOMENTUM, adam=adam)
    last = losses[-max(params.steps // 10, 1) :].mean(dim=0).numpy()
    x, y = (
        part[: params.asked].expand(len(tried), *[-1] * part.dim())
        for part in (lesson.data.x_asked, lesson.data.y_asked)
    )
    found = {
        "losses": np.nan_to_num(last, nan=worst).clip(max=worst).tolist(),
        "accuracies": accuracy(stack, x, y).tolist(),
    }
    if file is not None:
        write_json(found, file)
    return found["losses"], found["accuracies"]


def _file(words: str, stack: Stack) -> Path:
    """Where what these weights learn is kept."""
    key = hashlib.sha256(words.encode())
    for weight in stack.weights.values():
        key.update(weight.detach().cpu().numpy().tobytes())
    return Path(tempfile.gettempdir()) / "sigprop-deep-learning" / f"{key.hexdigest()}.json"


def claims(rows: list[Row]) -> list[Row]:
    """Ours against every other tool, paired over seeds, Holm's correction over all."""
    cells = _cells(rows, "accuracy")
    pairs = []
    for net, optimizer, tool in cells:
        if tool != OURS and (net, optimizer, OURS) in cells:
            head = {"kind": "claim", "net": net, "optimizer": optimizer, "tool": tool}
            pairs.append((head, cells[net, optimizer, tool], cells[net, optimizer, OURS]))
    return compare(pairs)


def _cells(rows: list[Row], name: str) -> dict[tuple[str, str, str], np.ndarray]:
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row["kind"] == "net":
            found.setdefault((row["net"], row["optimizer"], row["tool"]), []).append(row[name])
    return {key: np.array(values) for key, values in found.items()}


def check(rows: list[Row]) -> None:
    stored, fresh = [row for row in rows if row["kind"] == "claim"], claims(rows)
    for old, new in zip(stored, fresh, strict=True):
        assert abs(old["p_value"] - new["p_value"]) < 1e-9, f"not what the nets say: {old}"
    for row in fresh:
        chain = row["net"].startswith("MLP") and not row["tool"].startswith("ours")
        if chain and ("GELU" not in row["net"] or row["optimizer"] == "Adam"):
            assert row["difference"] > 0, f"another tool learns better: {row}"


def draw(rows: list[Row]) -> dict[str, Figure]:
    """Accuracies; and losses, which tell the same."""
    return {"": _draw_table(rows, "accuracy"), "loss": _draw_table(rows, "loss")}


def _draw_table(rows: list[Row], name: str) -> Figure:
    """A column a tool, a line a net, for both optimizers."""
    figure, axes = plt.subplots(1, 2, figsize=(15, 5.4), layout="constrained", sharey=True)
    claimed = {
        (row["net"], row["optimizer"], row["tool"]): row for row in rows if row["kind"] == "claim"
    }
    for ax, optimizer in zip(axes, RATES, strict=True):
        _draw_cells(ax, optimizer, name, _cells(rows, name), claimed)
    others = [row for row in claimed.values() if not row["tool"].startswith("ours")]
    sure = [row["difference"] > 0 for row in others if row["p_value"] < FAMILYWISE]
    if name == "loss":
        figure.suptitle(
            "Loss at the end of training, each tool at its best rate, ± 95 % over seeds\n"
            "(at most twice that of a guess: 4.61 on digits is a net that diverged)",
            fontweight="bold",
        )
        return figure
    figure.suptitle(
        f"{OURS.capitalize()} learns better than another tool in {sum(sure)} of {len(others)} "
        f"pairs, worse in {len(sure) - sum(sure)}: deep chains gain, a ViT loses\n"
        f"▼ less, ▲ more accurate than {OURS}: p < {FAMILYWISE:g} after correction for all "
        f"{len(claimed)} claims; each tool at its best rate, ± 95 % over seeds",
        fontweight="bold",
    )
    return figure


def _draw_cells(
    ax: plt.Axes, optimizer: str, name: str, cells: dict[tuple[str, str, str], np.ndarray],
    claimed: dict[tuple[str, str, str], Row],
) -> None:  # fmt: skip
    nets = list(dict.fromkeys(net for net, _, _ in cells))
    tools = list(dict.fromkeys(tool for _, _, tool in cells))
    ramp = LinearSegmentedColormap.from_list("good", ["white", plots.COLORS[0]])
    shown = np.full((len(nets), len(tools)), np.nan)
    for y, net in enumerate(nets):
        means = [cells[net, optimizer, tool].mean() for tool in tools]
        low, high = min(means), max(means)
        for x, tool in enumerate(tools):
            values = cells[net, optimizer, tool]
            shown[y, x] = low / means[x] if name == "loss" else means[x] / high
            half = stats.t.isf(0.025, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
            words = f"{means[x]:.2f} ± {half:.2f}"
            if name == "accuracy":
                words = f"{100 * means[x]:.0f} ± {100 * half:.0f}"
                row = claimed.get((net, optimizer, tool))
                if row is not None and row["p_value"] < FAMILYWISE:
                    words += " ▼" if row["difference"] > 0 else " ▲"
            ax.text(x, y, words, ha="center", va="center",
                    color="white" if shown[y, x] > 0.7 else plots.INK)  # fmt: skip
    ax.imshow(shown, cmap=ramp, vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(tools)), [tool.replace(" ", "\n", 1) for tool in tools])
    ax.set_yticks(range(len(nets)), nets)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    what = "accuracy (%) on what was not trained on" if name == "accuracy" else "loss at the end"
    ax.set_title(f"{optimizer}: {what}", loc="left")
