"""``sigprop validate``: theory against real nets on real inputs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sigprop.cli.progress import progress_bar

ALPHAS = (0.0, 0.01, 0.2, 0.5)
GAINS = (0.9, 1.0, 1.1)


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "validate",
        help="test theory against real nets on real inputs; the main job",
        description="Initialize real nets for every slope and gain, run them forward and backward "
        "on real inputs, and test them against the exact finite-width law. Prints a table, writes "
        "a figure, CSV and JSON. Exit code 0: theory holds; 1: rejected; 2: bad usage.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("--alpha", type=float, nargs="+", default=ALPHAS, metavar="A", help="negative slopes")
    add(
        "--activation",
        nargs="+",
        default=None,
        metavar="NAME",
        help="other activations, instead of leaky ReLUs of the slopes above",
    )
    add(
        "--gain",
        type=float,
        nargs="+",
        default=GAINS,
        metavar="G",
        help="gains in units of the critical gain g*(alpha), or, with --activation, of the gain "
        "that keeps a second moment of one",
    )
    add("--bias-std", type=float, default=0.0, metavar="S", help="standard deviation of biases")
    add("--depth", type=int, default=100, help="weight layers")
    add("--width", type=int, default=512, help="units per layer")
    add("--seeds", type=int, default=8, help="nets per slope and gain")
    add(
        "--input",
        default="digits",
        metavar="SOURCE",
        help="digits, gaussian, a .npy or .pt file of shape (inputs, ...), or a folder of MNIST",
    )
    add("--batch", type=int, default=16, help="inputs per net")
    add("--device", default=None, help="cpu or cuda (default: cuda if there is one)")
    add(
        "--dtype",
        default="float32",
        choices=("float32", "float64", "bfloat16", "float16"),
        help="of weights and signals",
    )
    add(
        "--layerwise",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="hold one layer in memory at a time (default: if the net does not fit)",
    )
    add(
        "--distribution",
        choices=("normal",),
        default=None,
        help="test that the weights are independent normal numbers too (default: their variance)",
    )
    add(
        "--level",
        type=float,
        default=0.01,
        help="probability to reject a right theory, over the whole grid; each of its n kinds of "
        "net is judged at 1 - (1 - level)^(1/n)",
    )
    add("--seed", type=int, default=0, help="of weights, inputs and cotangents")
    add(
        "--out",
        type=Path,
        default=Path("sigprop-validate"),
        metavar="DIR",
        help="folder for validate.png, validate.csv and validate.json",
    )
    add("--json", action="store_true", help="print JSON instead of the table")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the grid; 0: theory holds, 1: rejected."""
    import torch

    from sigprop.data import load_inputs
    from sigprop.nn.mlp import hidden_activation
    from sigprop.validation import validate_many
    from sigprop.validation.grid import cell_level
    from sigprop.validation.judge import sidak
    from sigprop.validation.nets import forward_gain

    x = load_inputs(options.input, options.batch, seed=options.seed)
    kinds: list[dict[str, Any]] = [{"activation": name} for name in options.activation or ()]
    kinds = kinds or [{"activation": "leaky_relu", "alpha": alpha} for alpha in options.alpha]
    cells = [
        kind | {"gain": ratio * forward_gain(*hidden_activation(**kind))}
        for kind in kinds
        for ratio in options.gain
    ]
    each = cell_level(options.level, len(cells))
    cases = [
        cell
        | {
            "depth": options.depth, "width": options.width, "bias_std": options.bias_std,
            "seeds": options.seeds, "x": x, "dtype": getattr(torch, options.dtype),
            "device": options.device, "seed": options.seed * len(cells) + index, "level": each,
            "layerwise": options.layerwise, "distribution": options.distribution,
        }
        for index, cell in enumerate(cells)
    ]  # fmt: skip
    with progress_bar(unit="net", dots=True) as progress:
        results = validate_many(cases, progress=progress)
    verdict = {
        "p_value": sidak([result.p_value for result in results]),
        "level": options.level,
        "cell_level": each,
        "holds": all(result.holds for result in results),
    }
    paths = _write(results, verdict | {"input": options.input}, options.out)
    if options.json:
        print(json.dumps(verdict | {"cells": [result.summary() for result in results]}, indent=2))
    else:
        print(_report(results, verdict, options.input))
        print("wrote " + ", ".join(map(str, paths)))
    return 0 if verdict["holds"] else 1


def _report(results: list[Any], verdict: dict[str, Any], source: str) -> str:
    from sigprop.records import table

    titles = {
        "activation": ("activation", ""),
        "alpha": ("alpha", "g"),
        "gain": ("gain", ".4f"),
        "gain_over_critical": ("gain/g*", ".3g"),
        "log10_q_mean_field": ("lg q mean-field", ".3f"),
        "log10_q_expected": ("lg q law", ".3f"),
        "log10_q_measured": ("measured", ".3f"),
        "log10_grad_expected": ("lg grad law", ".3f"),
        "log10_grad_measured": ("measured ", ".3f"),
        "p_value": ("p-value", ".3g"),
    }
    rows = [
        {title: result.summary()[key] for key, (title, _) in titles.items()} for result in results
    ]
    first = results[0]
    lines = [
        f"depth {first.depth}, width {max(first.widths[1:])}, {first.seeds} nets x {first.batch} "
        f"inputs ({source}) each, {first.dtype} on {first.device}; q at the last layer, gradient "
        "at the first",
        table(rows, dict(titles.values())),
    ]
    lines += [
        f"{row['activation']}, alpha {row['alpha']}, gain {row['gain']}: {result.conclusion()}"
        for row, result in zip(rows, results, strict=True)
        if not result.holds
    ]
    # What was tested is said once for all kinds of net that say the same.
    scopes: dict[str, int] = {}
    for result in results:
        scopes[result.scope()] = scopes.get(result.scope(), 0) + 1
    for scope, kinds in scopes.items():
        where = "" if len(scopes) == 1 else f"{kinds} of {len(results)} kinds of net, "
        lines.append(where + scope)
    word = "theory holds" if verdict["holds"] else "theory REJECTED"
    lines.append(
        f"{word}: p = {verdict['p_value']:.3g} over all {len(results)} kinds of net "
        f"(rejected below {verdict['level']:g}; one kind alone below {verdict['cell_level']:.2g})"
    )
    return "\n".join(lines)


def _write(results: list[Any], verdict: dict[str, Any], folder: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from sigprop import plots
    from sigprop.records import write_csv, write_json

    rows = [
        {"activation": result.activation, "alpha": result.alpha, "gain": result.gain, **row}
        for result in results
        for row in result.records()
    ]
    written = [
        write_csv(rows, folder / "validate.csv"),
        write_json(
            verdict | {"cells": [result.summary() for result in results]}, folder / "validate.json"
        ),
    ]
    figure = plots.grid(results)
    figure.savefig(folder / "validate.png", dpi=150)
    plt.close(figure)
    return [folder / "validate.png", *written]
