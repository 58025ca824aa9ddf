"""``sigprop regions``: the linear regions of a user's model, between or around real inputs."""

from __future__ import annotations

import argparse
import math
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.cli.interrupts import uninterrupted
from sigprop.cli.output import check_places, clear_partial, partial, show, write_figure
from sigprop.cli.parsing import add_command, add_force
from sigprop.progress import progress_bar
from sigprop.records import counted, json_text, write_csv, write_json

if TYPE_CHECKING:
    from sigprop.arrangement.network import PiecewiseLinear

DIGIT = (1, 8, 8)
"""The shape of the digits as images."""
MOST_CELLS = 100_000
"""A convolution of 1,000 units takes some 40 kB a cell: what a laptop holds."""
BOX = (-0.5, 1.5, -0.5, 1.5)
EXAMPLES = """examples, with a file model.py that holds
  from torch import nn
  def build():
      return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
run
  sigprop regions model.py:build --plane
  sigprop regions model.py:build --line --input gaussian --seed 1 --out line"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "regions",
        usage="MODEL:FACTORY (--plane | --line) [options]",
        help="count the linear regions of a model, exactly",
        description="Count the activation regions and the linear regions of a model on the line "
        "between two inputs or in the plane through three, exactly, and draw them. Ctrl-C ends it "
        "with the layers that are done. Exit code 0: counted (or stopped by --max-cells, and "
        "marked so); 2: bad usage; 130: ended by Ctrl-C.",
        epilog=EXAMPLES,
    )
    add = command.add_argument
    add(
        "model",
        metavar="MODEL:FACTORY",
        help="what makes the model: package.module:function or file.py:function, called without "
        "arguments; the present folder is on the path; the model is put into evaluation mode",
    )
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--plane", action="store_true", help="the plane through three inputs")
    where.add_argument("--line", action="store_true", help="the line between two inputs")
    add(
        "--input",
        default=None,
        metavar="SOURCE",
        help="digits, gaussian, or a .npy or .pt file of shape (inputs, ...); if not given: digits "
        "where the model takes their 64 numbers, else gaussian",
    )
    add(
        "--shape",
        type=int,
        nargs="+",
        default=None,
        metavar="N",
        help="the shape of one input, such as 3 32 32, where the first layer does not say it and "
        "it is not that of the digits, 1 8 8",
    )
    add(
        "--box",
        type=float,
        nargs=4,
        default=None,
        metavar=("S0", "S1", "T0", "T1"),
        help="of the plane a + s(b - a) + t(c - a) through inputs a, b, c; if not given: "
        + " ".join(f"{limit:g}" for limit in BOX),
    )
    add(
        "--max-cells",
        type=int,
        default=MOST_CELLS,
        metavar="N",
        help="stop before there are more cells, with those of the layers done, marked as partial",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of what the factory draws (torch, numpy, random) and of the choice of inputs",
    )
    add(
        "--out",
        type=Path,
        default=Path("sigprop-regions"),
        metavar="DIR",
        help="folder for regions.png, regions.csv (the edges, or the breakpoints) and regions.json",
    )
    add_force(command)
    add("--json", action="store_true", help="print JSON instead of the report")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Count, print, write.

    Raises:
        KeyboardInterrupt: with what is finished in words; it is printed and written.
    """
    from sigprop.checks import count

    if options.line and options.box is not None:
        raise ValueError("--box is of a plane; with --line it does nothing: leave it out.")
    count("max_cells", options.max_cells)
    if count("seed", options.seed, minimum=0) >= 2**63:
        raise ValueError(f"--seed must be < 2^63; got {options.seed}.")
    files = [options.out / f"regions.{ending}" for ending in ("png", "csv", "json")]
    check_places(files, force=options.force)
    net = _network(options)
    if options.plane and net.input_dim < 2:
        raise ValueError(f"{options.model} takes one number; a plane needs two: give --line.")
    source, points = _points(net, options)
    start = time.perf_counter()
    with progress_bar("regions", "hyperplanes") as progress:
        result = _counted(net, points, options, progress)
        counts = _merged(result)
    merged = counts["linear_regions"] is not None
    stopped, whole = result.interrupted, merged and not (result.interrupted and not result.complete)
    theory: dict[str, Any] = {}
    if whole and not stopped:
        try:
            theory = _theory(net, points, options)
        except KeyboardInterrupt:
            stopped = True
    found = {
        "model": options.model,
        "network": repr(net),
        "where": "line" if options.line else "plane",
        "input": source,
        "seed": options.seed,
        **counts,
        "max_cells": options.max_cells,
        "exact_decisions": result.exact_decisions,
        "kinks": net.kinks,
        **theory,
        "seconds": round(time.perf_counter() - start, 3),
    }
    written = files if whole else [partial(file) for file in files]
    written = written if merged else written[-1:]
    wrote = f"wrote {', '.join(map(str, written))}"
    words = f"{_finished(merged, whole)}; {wrote}"
    with uninterrupted(words):
        show(json_text(found, indent=2) if options.json else _report(found, result))
        _write(result, found, written)
        if whole:
            clear_partial(files)
        if not stopped and merged and not options.json:
            show(wrote)
    if stopped or not merged:
        raise KeyboardInterrupt(words)
    return 0


def _finished(merged: bool, whole: bool) -> str:
    if not merged:
        return "activation regions are counted, linear regions are not"
    return "the regions are counted" if whole else "the regions of the first layers are counted"


def _counted(net: PiecewiseLinear, points: Any, options: argparse.Namespace, progress: Any) -> Any:
    """The count; as far as it came, after Ctrl-C.

    Raises:
        KeyboardInterrupt: no layer is done.
    """
    from sigprop.regions.slices import in_plane, on_line

    limits: dict[str, Any] = {
        "max_cells": options.max_cells, "progress": progress, "keep_partial": True,
    }  # fmt: skip
    try:
        if options.line:
            return on_line(net, points[0], points[1], **limits)
        a, b, c = points
        return in_plane(net, a, b - a, c - a, _box(options), **limits)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("no layer is done; nothing is written") from None


def _merged(result: Any) -> dict[str, Any]:
    """The counts; without the linear regions where Ctrl-C comes while cells are merged."""
    try:
        row: dict[str, Any] = result.records()[0]
    except KeyboardInterrupt:
        row = {
            "activation_regions": result.activation_regions,
            "linear_regions": None,
            "complete": False,
            "certified": result.certified,
        }
    return row


def _box(options: argparse.Namespace) -> Any:
    s0, s1, t0, t1 = BOX if options.box is None else options.box
    return (s0, s1), (t0, t1)


def _network(options: argparse.Namespace) -> PiecewiseLinear:
    import numpy as np

    from sigprop.cli.factory import made, seeded
    from sigprop.piecewise import as_network

    with seeded(options.seed):
        model = made(options.model, options.seed)
    if hasattr(model, "eval") and hasattr(model, "modules"):
        model = model.eval()
    example = None if options.shape is None else np.zeros(options.shape)
    try:
        return as_network(model, example)
    except TypeError as error:
        raise ValueError(f"{options.model} gives no network: {error}") from error
    except ValueError as error:
        if "input_shape" not in str(error):
            raise
    if options.input in (None, "digits"):
        with suppress(ValueError):  # images of another shape
            return as_network(model, np.zeros(DIGIT))
    raise ValueError(
        f"the shape of the inputs of {options.model} cannot be read from its first layer, and it "
        "is not that of the digits, 1 8 8; give it, as in --shape 3 32 32."
    )


def _points(net: PiecewiseLinear, options: argparse.Namespace) -> tuple[str, Any]:
    """Where the inputs come from, and two or three of them, (inputs, input_dim)."""
    from sigprop.data import load_inputs

    wanted, source = 2 if options.line else 3, options.input
    if source is None:
        pixels = math.prod(DIGIT)
        source = "digits" if net.input_dim == pixels else "gaussian"
        if source == "gaussian":
            print(
                f"(Gaussian inputs: the model takes inputs of size {net.input_dim}, the digits "
                f"have {pixels}; --input takes a file of your own)",
                file=sys.stderr,
            )
    points = load_inputs(source, wanted, seed=options.seed, features=net.input_dim)
    if points.shape[1] != net.input_dim:
        raise ValueError(
            f"{source} has inputs of {points.shape[1]} numbers; the model takes "
            f"{net.input_dim}. Give --input gaussian, or a file of inputs that fit."
        )
    return source, points


def _theory(net: PiecewiseLinear, points: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Bounds, and what a random net of the same variances has, for plain fully connected nets."""
    from sigprop.regions.bounds import bounds
    from sigprop.regions.expected import expected_in_plane, expected_on_line, plain_layers

    plain = plain_layers(net)
    if plain is None:
        return {"bounds": None, "expected_of_random_net": None}
    seen = min(net.input_dim, 1 if options.line else 2)
    limits = bounds(seen, plain.widths, list(plain.slopes))
    law: dict[str, Any] = {
        "alpha": list(plain.slopes),
        "gain": plain.gains,
        "bias_std": plain.bias_stds,
    }
    expected: float | None
    try:
        if options.line:
            expected = expected_on_line(net.input_dim, plain.widths, *points, **law).regions
        else:
            a, b, c = points
            plane = (a, b - a, c - a, _box(options))
            expected = expected_in_plane(net.input_dim, plain.widths, *plane, **law).regions
    except ValueError:  # the closed form does not cover it, such as a line through the origin
        expected = None
    return {"bounds": limits.records(), "expected_of_random_net": expected}


def _report(found: dict[str, Any], result: Any) -> str:
    line = found["where"] == "line"
    on = "on the line between two inputs" if line else "in the plane through three inputs"
    lines = [f"{found['network']}, {on} ({found['input']})"]
    if found["linear_regions"] is None:
        regions = counted(found["activation_regions"], "activation region")
        lines.append(f"{regions} (partial: linear regions are not counted)")
    else:
        lines.append(str(result))
    if not found["certified"]:
        lines.append(
            "not certified: some signs rest on error bounds that were measured on this network, "
            "with a wide margin, not proven"
        )
    if found.get("expected_of_random_net") is not None:
        lines.append(
            f"expected of a {'' if line else 'wide '}random net with weights and biases of these "
            f"sizes: {found['expected_of_random_net']:.1f}"
        )
    if found.get("bounds") is not None:
        lines.append(f"no net of this shape has more than {_least(found['bounds'])} there:")
        for row in found["bounds"]:
            if row["kind"] != "lower":
                lines.append(f"  {row['kind']:<6}{_short(row['value']):>14}  {row['name']}")
    return "\n".join(lines)


def _least(rows: list[dict[str, Any]]) -> str:
    return _short(min(row["value"] for row in rows if row["kind"] != "lower"))


def _short(value: int) -> str:
    return (
        f"{value:,}" if value < 10**9 else f"{float(value):.2e}" if value < 10**300 else "10^300+"
    )


def _write(result: Any, found: dict[str, Any], files: list[Path]) -> None:
    """The counts; then the edges and the picture, where cells are merged."""
    write_json(found, files[-1])
    if len(files) == 1:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from sigprop import plots

    if found["where"] == "line":
        jumps = np.isin(result.breakpoints, result.jumps)
        columns = {"t": result.breakpoints, "bends": result.bends, "jumps": jumps}
    else:
        ends = result.edges.reshape(-1, 4)
        columns = dict(zip(("s0", "t0", "s1", "t1"), ends.T, strict=True))
        columns |= {"bends": result.bends, "jumps": result.jumps}
    rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
    write_csv(rows, files[1])
    figure, ax = plt.subplots(figsize=(7, 7 if found["where"] == "plane" else 4.5))
    figure.set_layout_engine("constrained")
    plots.regions(result, ax)
    if found["where"] == "plane":
        for name, place in (("a", (0, 0)), ("b", (1, 0)), ("c", (0, 1))):
            box = {"boxstyle": "circle,pad=0.25", "fc": "white", "ec": plots.INK}
            ax.annotate(name, place, ha="center", va="center", bbox=box, annotation_clip=True)
        ax.set(xlabel="$s$, from $a$ to $b$", ylabel="$t$, from $a$ to $c$")
    write_figure(figure, files[0])
