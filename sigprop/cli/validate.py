"""``sigprop validate``: theory against real nets on real inputs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sigprop.cli.interrupts import uninterrupted
from sigprop.cli.output import check_places, clear_partial, partial, show, write_figure
from sigprop.cli.parsing import add_command, add_force
from sigprop.progress import progress_bar
from sigprop.records import json_text, table, write_csv, write_json

ALPHAS = (0.0, 0.01, 0.2, 0.5)
GAINS = (0.9, 1.0, 1.1)
EXAMPLES = """examples:
  sigprop validate --alpha 0.2 --depth 20 --width 64 --seeds 4 --device cpu
  sigprop validate --activation tanh gelu --gain 1 --depth 8 --width 128 --out tanh-gelu"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "validate",
        help="test theory against real nets on real inputs; the main job",
        description="Initialize real nets for every slope and gain, run them forward and backward "
        "on real inputs, and test them against the exact finite-width law. Prints a table, writes "
        "a figure, CSV and JSON. Ctrl-C ends it with the kinds of net that are finished. Exit code "
        "0: theory holds; 1: rejected; 2: bad usage; 130: ended by Ctrl-C.",
        epilog=EXAMPLES,
    )
    add = command.add_argument
    add(
        "--alpha",
        "--negative-slope",
        type=float,
        nargs="+",
        default=None,
        metavar="A",
        help="negative slopes, or the parameter alpha of the activations that have one; if not "
        f"given: {' '.join(f'{alpha:g}' for alpha in ALPHAS)}, with --activation its own default",
    )
    add(
        "--activation",
        nargs="+",
        default=None,
        metavar="NAME",
        help="other activations, instead of leaky ReLUs",
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
    add("--device", default=None, help="cpu or cuda; if not given: cuda if there is one")
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
        help="hold one layer in memory at a time; if not given: where the net does not fit",
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
    add_force(command)
    add("--json", action="store_true", help="print JSON instead of the table")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the grid; 0: theory holds, 1: rejected.

    Raises:
        KeyboardInterrupt: with what is finished in words; it is printed and written.
    """
    from sigprop.checks import real_number
    from sigprop.validation import Validation, validate_many
    from sigprop.validation.grid import cell_level
    from sigprop.validation.judge import sidak

    level = real_number("level", options.level, above=0, below=1)
    files = [options.out / f"validate.{ending}" for ending in ("png", "csv", "json")]
    check_places(files, force=options.force)
    cases = _cases(options)
    each = cell_level(level, len(cases))
    cases = [case | {"level": each} for case in cases]
    finished: dict[int, Validation] = {}
    ended: BaseException | None = None
    try:
        with progress_bar("validate", "nets") as progress:
            validate_many(cases, progress=progress, finished=finished.__setitem__)
    except KeyboardInterrupt as error:
        if not finished:
            raise KeyboardInterrupt("no kind of net is finished; nothing is written") from None
        ended = error
    except Exception as error:
        if not finished:
            raise
        ended = error  # the rest is lost, not what is finished
    if ended is not None:
        files = [partial(file) for file in files]
    results = [finished[number] for number in sorted(finished)]
    missing = [1.0] * (len(cases) - len(results))  # the level was shared among all
    verdict = {
        "p_value": sidak([result.p_value for result in results] + missing),
        "level": level,
        "cell_level": each,
        "holds": all(result.holds for result in results),
        "complete": ended is None,
        "kinds_of_net_asked_for": len(cases),
        "input": options.input,
    }
    found = verdict | {"cells": [result.summary() for result in results]}
    wrote = "wrote " + ", ".join(map(str, files))
    words = f"{_finished(results, verdict)}; {wrote}"
    with uninterrupted(words):
        show(json_text(found, indent=2) if options.json else _report(results, verdict))
        _write(results, found, files)
        if ended is None:
            clear_partial(files)
            if not options.json:
                show(wrote)
    if isinstance(ended, KeyboardInterrupt):
        raise KeyboardInterrupt(words)
    if ended is not None:
        print(f"sigprop validate: {words}", file=sys.stderr)
        raise ended
    return 0 if verdict["holds"] else 1


def _cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The arguments of ``validate`` for each kind of net.

    Raises:
        ValueError: out of range, or an option that does nothing here.
    """
    import torch

    from sigprop.checks import count, real_number
    from sigprop.cli.inputs import device_of
    from sigprop.data import load_inputs
    from sigprop.nn.mlp import hidden_activation
    from sigprop.validation.nets import forward_gain

    device = None if options.device is None else device_of(options.device)
    ratios = [real_number("--gain", ratio, above=0) for ratio in options.gain]
    slopes = options.alpha or (ALPHAS if options.activation is None else [None])
    kinds = [
        {"activation": name} | ({} if alpha is None else {"alpha": alpha})
        for name in options.activation or ("leaky_relu",)
        for alpha in slopes
    ]
    cells = [
        kind | {"gain": ratio * forward_gain(*hidden_activation(**kind))}
        for kind in kinds
        for ratio in ratios
    ]
    seed = count("seed", options.seed, minimum=0)
    x = load_inputs(options.input, options.batch, seed=seed)
    return [
        cell
        | {
            "depth": options.depth, "width": options.width, "bias_std": options.bias_std,
            "seeds": options.seeds, "x": x, "dtype": getattr(torch, options.dtype),
            "device": device, "seed": seed * len(cells) + index,
            "layerwise": options.layerwise, "distribution": options.distribution,
        }
        for index, cell in enumerate(cells)
    ]  # fmt: skip


def _finished(results: list[Any], verdict: dict[str, Any]) -> str:
    asked = verdict["kinds_of_net_asked_for"]
    return f"{len(results)} of {asked} kinds of net {'is' if len(results) == 1 else 'are'} finished"


def _kinds(number: int) -> str:
    return "one kind of net" if number == 1 else f"all {number} kinds of net"


def _report(results: list[Any], verdict: dict[str, Any]) -> str:

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
        f"inputs ({verdict['input']}) each, {first.dtype} on {first.device}; q at the last "
        "layer, gradient at the first",
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
        f"{word}: p = {verdict['p_value']:.3g} over {_kinds(len(results))} "
        f"(rejected below {verdict['level']:g}; one kind alone below {verdict['cell_level']:.2g})"
    )
    if not verdict["complete"]:
        lines.append(f"partial: {_finished(results, verdict)}")
    return "\n".join(lines)


def _write(results: list[Any], found: dict[str, Any], files: list[Path]) -> None:
    """The picture, the rows of all layers, the verdict with a row for each kind of net."""
    import matplotlib

    matplotlib.use("Agg")

    from sigprop import plots

    rows = [
        {"activation": result.activation, "alpha": result.alpha, "gain": result.gain, **row}
        for result in results
        for row in result.records()
    ]
    picture, layers, verdict = files
    write_csv(rows, layers)
    write_json(found, verdict)
    figure = plots.grid(results)
    if not found["complete"]:
        title = f"partial: {_finished(results, found)}\n{figure.get_suptitle()}"
        figure.suptitle(title, fontweight="bold")
    write_figure(figure, picture)
