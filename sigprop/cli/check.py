"""``sigprop check``: a user's model against theory, for a terminal and for CI."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.cli.inputs import FORM
from sigprop.cli.interrupts import uninterrupted
from sigprop.cli.output import check_places, clear_partial, partial, show
from sigprop.cli.parsing import add_command, add_force
from sigprop.progress import progress_bar
from sigprop.records import json_text, table, write_csv, write_json

if TYPE_CHECKING:
    from torch import nn

    from sigprop.checking import CheckReport
    from sigprop.init import InitPlan
    from sigprop.records import Row

PRINTED = Path("-")
"""In place of a file: print it."""
TARGETS = ("none", "forward", "critical", "edge")
EXAMPLES = """examples, with a file model.py that holds
  from torch import nn
  def build():
      return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
run
  sigprop check model.py:build --input 32,64
  sigprop check model.py:build --input 32,64 --init critical --seeds 3 --html report.html"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "check",
        usage="MODEL:FACTORY --input [NAME=]SHAPE[:DTYPE] [options]",
        help="check your own model: predict, measure and judge every weight layer",
        description="Build a model, run it forward and backward on an example, compare every "
        "weight layer with what theory predicts for it, and say what is wrong and what to do. "
        "Ctrl-C ends it with the nets that are finished. Exit code 0: healthy; 1: unhealthy; "
        "2: bad usage; 130: ended by Ctrl-C.",
        epilog=EXAMPLES,
    )
    add = command.add_argument
    add(
        "factory",
        metavar="MODEL:FACTORY",
        help="what makes the model: package.module:function or file.py:function, called without "
        "arguments; the present folder is on the path",
    )
    add(
        "--input",
        action="append",
        required=True,
        metavar="[NAME=]SHAPE[:DTYPE]",
        help=f"what the model is called with, once for each argument: {FORM}; a shape is filled "
        "with standard normal numbers, or whole ones below the number of embeddings",
    )
    add("--dtype", default=None, help="cast the model to this type; if not given: as it is made")
    add("--device", default=None, help="move the model there; if not given: where it is made")
    add("--eval", action="store_true", help="check it in evaluation mode")
    add(
        "--init",
        choices=TARGETS,
        default="none",
        help="first initialize it with this target of sigprop.initialize",
    )
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="build it so often; torch, numpy and random start from seed 0, 1, …",
    )
    add(
        "--level",
        type=float,
        default=0.01,
        help="how often each of the three tests of weights may name a layer of a right model",
    )
    add_force(command)
    add("--html", type=Path, default=None, metavar="FILE", help="write a page to open in a browser")
    add("--csv", type=Path, default=None, metavar="FILE", help="write the rows of all layers")
    add(
        "--json",
        type=Path,
        nargs="?",
        const=PRINTED,
        default=None,
        metavar="FILE",
        help="write JSON there; without a FILE print it instead of the table",
    )
    command.set_defaults(run=run)


@dataclass
class _Nets:
    """What is kept of the nets: rows of all, and the whole report of the worst.

    Attributes:
        rows: a line each.
        layers: rows of the layers of all.
        findings: of each.
        worst: its seed.
        report: of the worst.
    """

    rows: list[Row] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)
    findings: list[list[Row]] = field(default_factory=list)
    worst: int = 0
    report: CheckReport | None = None

    def take(self, report: CheckReport) -> None:
        """One more."""
        seed = len(self.rows)
        self.rows.append(_row(seed, report))
        self.layers += [{"seed": seed, **row} for row in report.records()]
        self.findings.append([asdict(finding) for finding in report.findings])
        if self.report is None or _badness(report) > _badness(self.report):
            self.worst, self.report = seed, report

    @property
    def sick(self) -> int:
        """How many are unhealthy."""
        return sum(not row["healthy"] for row in self.rows)


def run(options: argparse.Namespace) -> int:
    """Check the model of each seed; 0: all are healthy, 1: one is not.

    Raises:
        KeyboardInterrupt: with what is finished in words; it is printed and written.
    """
    from sigprop.checks import count, real_number

    seeds = count("seeds", options.seeds)
    real_number("level", options.level, above=0, below=1)
    asked = {"html": options.html, "csv": options.csv, "json": options.json}
    files = {kind: path for kind, path in asked.items() if path not in (None, PRINTED)}
    if options.force and not files:
        raise ValueError("--force replaces files; give --html, --csv or --json with one.")
    check_places(list(files.values()), force=options.force)
    nets, stopped = _Nets(), False
    try:
        with progress_bar("check", "nets") if seeds > 1 else nullcontext() as progress:
            for report in _reports(options, seeds):
                nets.take(report)
                if progress is not None:
                    progress(len(nets.rows), seeds)
    except KeyboardInterrupt:
        if nets.report is None:
            raise KeyboardInterrupt("no net is finished; nothing is written") from None
        stopped = True
        files = {kind: partial(path) for kind, path in files.items()}
    found = _as_json(nets) | {"complete": not stopped, "nets_asked_for": seeds}
    wrote = f"wrote {', '.join(map(str, files.values()))}" if files else "no file was asked for"
    said = f"{len(nets.rows)} of {seeds} nets {'is' if len(nets.rows) == 1 else 'are'} finished"
    with uninterrupted(f"{said}; {wrote}"):
        if options.json == PRINTED:
            show(json_text(found, indent=2))
        else:
            show(_as_text(nets) + (f"\n\npartial: {said}" if stopped else ""))
        _write(files, nets, found)
        if not stopped:
            clear_partial(list(files.values()))
            if files and options.json != PRINTED:
                show(wrote)
    if stopped:
        raise KeyboardInterrupt(f"{said}; {wrote}")
    return 1 if nets.sick else 0


def _reports(options: argparse.Namespace, seeds: int) -> Iterator[CheckReport]:
    """The report of each seed.

    Raises:
        ValueError: no such device or type; several seeds for one and the same model.
    """
    from sigprop.checking.entry import check
    from sigprop.cli.factory import seeded
    from sigprop.cli.inputs import device_of, dtype_of, inputs_of

    dtype = None if options.dtype is None else dtype_of(options.dtype)
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"--dtype is a floating-point type; got {options.dtype}.")
    device = None if options.device is None else device_of(options.device)
    before: nn.Module | None = None
    for seed in range(seeds):
        with seeded(seed):
            model = _built(options, seed).to(device=device, dtype=dtype)
            if before is not None and _same(model, before):
                raise ValueError(
                    f"{options.factory} makes the same weights from seed {seed} as from seed "
                    f"{seed - 1}: several seeds say no more than one. Let it draw them anew, "
                    "or leave --seeds out."
                )
            x = inputs_of(options.input, model)
            plan = _initialized(model, x, options.init)
            report = check(model, x, init=plan, level=options.level, seed=seed)
        yield report
        before = model


def _built(options: argparse.Namespace, seed: int) -> nn.Module:
    """The model, in the mode that is wanted.

    Raises:
        ValueError: no model.
    """
    from torch import nn

    from sigprop.cli.factory import made

    model = made(options.factory, seed)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{options.factory} gives {type(model).__name__}, no torch.nn.Module.")
    return model.eval() if options.eval else model


def _same(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models hold the same numbers; one without any is the same as itself alone."""
    import torch

    both = zip(model.parameters(), other.parameters(), strict=False)
    return model is other or all(a.shape == b.shape and torch.equal(a, b) for a, b in both)


def _initialized(model: nn.Module, x: Any, target: str) -> InitPlan | None:
    """Initialize a model, and say by which plan."""
    if target == "none":
        return None
    from sigprop.init import SignalWarning, initialize
    from sigprop.prediction.inputs import example_of

    plans: list[InitPlan] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignalWarning)
        initialize(model, example_of(model, x)[0], target=target, report=plans.append)
    for warning in plans[-1].warnings:
        print(f"sigprop check: --init {target}: {warning}", file=sys.stderr)
    return plans[-1]


def _badness(report: CheckReport) -> tuple[float, ...]:
    """What makes one report worse than another: problems, then warnings, then small p-values."""
    from sigprop.checking.text import grouped

    levels = [found[0].level for found in grouped(report.findings)]
    known = [p for p in (report.p_scale, report.p_direction, report.p_backward) if p is not None]
    return levels.count("unhealthy"), levels.count("warning"), -min(known, default=1.0)


def _row(seed: int, report: CheckReport) -> Row:
    """One seed in a line."""
    from sigprop.checking.columns import QUESTIONS
    from sigprop.checking.text import verdict

    row: Row = {"seed": seed, "healthy": report.healthy, "verdict": verdict(report)}
    if report.layers:
        first, last = report.layers[0], report.layers[-1]
        row |= {"q_first": first.q, "q_last": last.q, "gradient_first": first.gradient}
    return row | {f"p_{name}": getattr(report, f"p_{name}") for name in QUESTIONS}


def _as_text(nets: _Nets) -> str:
    """The report; of several seeds a line each, then the worst."""
    if len(nets.rows) == 1:
        return str(nets.report)
    first = nets.rows[0]
    specs = {key: "" if key in ("seed", "verdict") else ".3g" for key in first if key != "healthy"}
    lines = [
        f"{'un' if nets.sick else ''}healthy: {nets.sick} of {len(nets.rows)} nets are unhealthy",
        "", table(nets.rows, specs), "", f"the worst, seed {nets.worst}:", "", str(nets.report),
    ]  # fmt: skip
    return "\n".join(lines)


def _as_json(nets: _Nets) -> dict[str, Any]:
    from sigprop.records import plain

    rows = [{**row, "findings": found} for row, found in zip(nets.rows, nets.findings, strict=True)]
    found: dict[str, Any] = plain(
        {"healthy": not nets.sick, "unhealthy": nets.sick, "worst": nets.worst, "nets": rows,
         "layers": nets.layers}
    )  # fmt: skip
    return found


def _write(files: dict[str, Path], nets: _Nets, found: dict[str, Any]) -> None:
    if "html" in files and nets.report is not None:
        nets.report.to_html(files["html"])
    if "csv" in files:
        write_csv(nets.layers, files["csv"])
    if "json" in files:
        write_json(found, files["json"])
