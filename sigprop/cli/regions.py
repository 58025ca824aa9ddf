"""``sigprop regions``: the linear regions of a user's model, between or around real inputs."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.cli.progress import progress_bar

if TYPE_CHECKING:
    from sigprop.arrangement.network import PiecewiseLinear

DIGIT = (1, 8, 8)
"""The shape of the digits as images."""
MOST_CELLS = 100_000
"""A convolution of 1,000 units takes some 40 kB a cell: what a laptop holds."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "regions",
        help="count the linear regions of a model, exactly",
        description="Count the activation regions and the linear regions of a model on the line "
        "between two inputs or in the plane through three, exactly, and draw them. Exit code 0: "
        "counted (or stopped by --max-cells, and marked so); 2: bad usage.",
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
        default=(-0.5, 1.5, -0.5, 1.5),
        metavar=("S0", "S1", "T0", "T1"),
        help="of the plane a + s(b - a) + t(c - a) through inputs a, b, c; if not given: "
        "-0.5 1.5 -0.5 1.5",
    )
    add(
        "--max-cells",
        type=int,
        default=MOST_CELLS,
        metavar="N",
        help="stop before there are more cells, with those of the layers done, marked as partial; "
        "if not given: %(default)s",
    )
    add("--seed", type=int, default=0, help="of the choice of inputs; if not given: 0")
    add(
        "--out",
        type=Path,
        default=Path("sigprop-regions"),
        metavar="DIR",
        help="folder for regions.png, regions.csv (the edges, or the breakpoints) and "
        "regions.json; if not given: %(default)s",
    )
    add("--json", action="store_true", help="print JSON instead of the report")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Count, print, write."""
    from sigprop.regions.slices import in_plane, on_line

    net = _network(options)
    if options.plane and net.input_dim < 2:
        raise ValueError(f"{options.model} takes one number; a plane needs two: give --line.")
    source, points = _points(net, options)
    start = time.perf_counter()
    with progress_bar(unit=" hyperplanes", disable=None, delay=0.3) as progress:
        limits: dict[str, Any] = {"max_cells": options.max_cells, "progress": progress}
        if options.line:
            result: Any = on_line(net, points[0], points[1], **limits)
        else:
            a, b, c = points
            box = (options.box[:2], options.box[2:])
            result = in_plane(net, a, b - a, c - a, box, **limits)
    found = {
        "model": options.model,
        "network": repr(net),
        "where": "line" if options.line else "plane",
        "input": source,
        **result.records()[0],
        "max_cells": options.max_cells,
        "exact_decisions": result.exact_decisions,
        "kinks": net.kinks,
        **_theory(net, points, options),
        "seconds": round(time.perf_counter() - start, 3),
    }
    paths = _write(result, found, options.out)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(_report(found, str(result)))
        print("wrote " + ", ".join(map(str, paths)))
    return 0


def _network(options: argparse.Namespace) -> PiecewiseLinear:
    import numpy as np

    from sigprop.cli.factory import made
    from sigprop.piecewise import as_network

    model = made(options.model)
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
            box = (options.box[:2], options.box[2:])
            plane = (a, b - a, c - a, box)
            expected = expected_in_plane(net.input_dim, plain.widths, *plane, **law).regions
    except ValueError:  # the closed form does not cover it, such as a line through the origin
        expected = None
    return {"bounds": limits.records(), "expected_of_random_net": expected}


def _report(found: dict[str, Any], counts: str) -> str:
    line = found["where"] == "line"
    on = "on the line between two inputs" if line else "in the plane through three inputs"
    lines = [f"{found['network']}, {on} ({found['input']})", counts]
    if found["expected_of_random_net"] is not None:
        lines.append(
            f"expected of a {'' if line else 'wide '}random net with weights and biases of these "
            f"sizes: {found['expected_of_random_net']:.1f}"
        )
    if found["bounds"] is not None:
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


def _write(result: Any, found: dict[str, Any], folder: Path) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from sigprop import plots
    from sigprop.records import write_csv, write_json

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
    written = [
        write_csv(rows, folder / "regions.csv"),
        write_json(found, folder / "regions.json"),
    ]
    figure, ax = plt.subplots(figsize=(7, 7 if found["where"] == "plane" else 4.5))
    figure.set_layout_engine("constrained")
    plots.regions(result, ax)
    if found["where"] == "plane":
        for name, place in (("a", (0, 0)), ("b", (1, 0)), ("c", (0, 1))):
            box = {"boxstyle": "circle,pad=0.25", "fc": "white", "ec": plots.INK}
            ax.annotate(name, place, ha="center", va="center", bbox=box, annotation_clip=True)
        ax.set(xlabel="$s$, from $a$ to $b$", ylabel="$t$, from $a$ to $c$")
    figure.savefig(folder / "regions.png", dpi=150)
    plt.close(figure)
    return [folder / "regions.png", *written]
