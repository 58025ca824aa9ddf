"""``sigprop sweep``: a function for many arguments, on processes, a cluster, or in parts."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.cli.axes import spelled, split
from sigprop.cli.clusters import dask_executor
from sigprop.cli.factory import folders, on_the_path
from sigprop.cli.interrupts import uninterrupted
from sigprop.cli.output import check_places, show
from sigprop.cli.parsing import add_command
from sigprop.cli.targets import axes_of, function_of
from sigprop.records import counted, json_text, write_csv

if TYPE_CHECKING:
    from sigprop.sweep import Status, Sweep

RAISED, BROKEN = 1, 2
EXAMPLES = """examples:
  sigprop sweep chi --gain 0.8:1.6:9 --alpha 0 0.2 --workers 0
  sigprop sweep validate --gain 1.3 1.4 --depth 5 --width 32 --seeds 2 --alpha 0 --out runs/phase
  sigprop sweep sigprop.theory:g_star --grid alpha=0,0.2 width=64,128 --zip --workers 0 --json
  sigprop sweep --status runs/phase"""
VALUES = """values, separated by spaces or commas:
  3  0.1  1e-3  inf  true  none  text  "3" (as text)
  0:8          every whole number from 0 to 7
  0.8:1.2:41   41 numbers from 0.8 to 1.2, both ends among them
  1:1000:4:log 1, 10, 100, 1000"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    command = add_command(
        commands,
        "sweep",
        usage="[TARGET] [--AXIS V ...] [options]",
        help="a function for every combination of arguments; resumable, in processes or a cluster",
        description="Call a function for every combination of some arguments, and keep each result "
        "as soon as it is there. The same command again computes what is missing only. Every "
        "argument of the function is an option: --alpha 0 0.2 gives it two values. One that has "
        "the name of an option below (such as --out or --threads) goes through --grid. Arguments "
        "mean what they mean in Python: the gain of 'sigprop sweep validate' is that of "
        "sigprop.validate, the factor of the weights itself, while 'sigprop validate' takes gains "
        "in units of the critical gain g*(alpha).\n\n"
        f"{VALUES}\n\n"
        "Exit code 0: all that was to run has a result; 1: a case raised; 2: bad usage, or workers "
        "or a scheduler that broke; 130: ended by Ctrl-C, with all that is finished in --out.",
        epilog=EXAMPLES,
        allow_abbrev=False,
    )
    own = {"-h", "--help"}

    def add(name: str, **rest: Any) -> None:
        own.add(name)
        command.add_argument(name, **rest)

    command.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="a function of sigprop (validate, chi, g_star, ...), or package.module:function, or "
        "file.py:function",
    )
    add("--grid", nargs="+", action="append", default=None, metavar="NAME=V,V", help="axes by name")
    add(
        "--zip",
        action="store_true",
        help="take the first values of all axes together, then the second ones, and so on",
    )
    add(
        "--out",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the results, with sweep.csv at the end; without it they are only printed",
    )
    add(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="processes; 0: in this one; if not given: one for each core",
    )
    add(
        "--dask",
        default=None,
        metavar="ADDRESS",
        help="run on the workers of a Dask scheduler: tcp://HOST:PORT, or its file.json",
    )
    add(
        "--shard",
        default=None,
        metavar="K/N",
        help="only part K of N parts, which share --out and know nothing of each other",
    )
    add(
        "--devices",
        nargs="+",
        default=None,
        metavar="NAME",
        help="devices to deal out as the argument device, one process each: cuda:0 cuda:1",
    )
    add("--threads", type=int, default=1, metavar="N", help="torch threads of a case")
    add("--retry", action="store_true", help="run cases again that raised before")
    add("--fresh", action="store_true", help="put what is finished aside and run everything again")
    add(
        "--on-error",
        choices=("record", "raise"),
        default="record",
        help="what to do when a case raises: write it down and go on, or stop",
    )
    add(
        "--status",
        type=Path,
        default=None,
        metavar="DIR",
        help="run nothing; say how far the sweep in a folder is",
    )
    add("--json", action="store_true", help="print JSON, all rows of it")
    command.set_defaults(run=run, axes=(), own=own)
    known = command.parse_known_args

    def parse(words: Sequence[str], namespace: Any = None) -> Any:
        kept, axes = split(words, own)
        found, rest = known(kept, namespace)
        found.axes = axes
        return found, rest

    command.parse_known_args = parse


def run(options: argparse.Namespace) -> int:
    """Run the sweep; 0: all have results, 1: a case raised, 2: what it runs on broke."""
    from sigprop import sweep

    if options.status is not None:
        return _status(options)
    if options.target is None:
        raise ValueError(
            "give a function (validate, or package.module:function), or --status DIR; see "
            "sigprop sweep --help."
        )
    _check_options(options)
    with on_the_path(*folders(options.target)):
        function = function_of(options.target)
        axes = axes_of(options, function)
        cases = (sweep.zip if options.zip else sweep.grid)(**axes)
        if options.out is not None and options.shard is None:
            check_places([options.out / "sweep.csv"], force=True)
        print(_announced(axes, len(cases), options), file=sys.stderr)
        try:
            with _printed_apart(), dask_executor(options.dask, function) as executor:
                result = sweep.run(
                    function, cases, out=options.out, executor=executor, workers=options.workers,
                    devices=options.devices, threads=options.threads, shard=options.shard,
                    on_error=options.on_error, retry=options.retry, fresh=options.fresh,
                )  # fmt: skip
        except sweep.CaseError as error:
            print(f"sigprop sweep: {str(error).rstrip()}", file=sys.stderr)
            return RAISED
        except RuntimeError as error:
            print(f"sigprop sweep: {error}", file=sys.stderr)
            return BROKEN
    return _end(result, options)


@contextmanager
def _printed_apart() -> Iterator[None]:
    """What a function prints goes to standard error: standard output is for the results."""
    with redirect_stdout(sys.stderr):
        kept = os.dup(1)
        os.dup2(2, 1)  # for the processes that are started
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, or do nothing.

    Raises:
        ValueError: such options.
    """
    if options.dask is not None and options.workers is not None:
        raise ValueError("--dask has its own workers; give --workers or --dask.")
    if options.dask is not None and options.devices is not None:
        raise ValueError("--devices are of this machine; give --devices or --dask.")
    if options.out is None:
        for name in ("shard", "retry", "fresh"):
            if getattr(options, name):
                raise ValueError(f"--{name} is about results in a folder; give --out DIR too.")


def _announced(axes: Mapping[str, Sequence[Any]], cases: int, options: argparse.Namespace) -> str:
    """How many cases of what, and where they go."""
    several = {name: len(values) for name, values in axes.items() if len(values) > 1}
    sizes = " x ".join(f"{number:,} {name}" for name, number in several.items())
    if options.zip:
        sizes = f"{', '.join(several)} together"
    kept = "" if options.out else "; nothing is kept in a folder without --out DIR"
    told = f": {sizes}" if several else ""
    return f"sigprop sweep: {counted(cases, 'case')} of {options.target}{told}{kept}"


def _end(result: Sweep, options: argparse.Namespace) -> int:
    """Print the result and write the table of it."""
    failed = result.errors()
    rows = result.records()
    with uninterrupted():
        show(json_text(_as_json(result, rows, failed), indent=2) if options.json else str(result))
        if options.out is not None and options.shard is None and rows:
            place = write_csv(rows, options.out / "sweep.csv")
            if not options.json:
                show(f"wrote {place}")
    return RAISED if failed else 0


def _as_json(result: Sweep, rows: list[Any], failed: list[Any]) -> dict[str, Any]:
    return {
        "function": result.about["function"], "asked": len(set(result.keys)),
        "finished": len(result), "failed": len(failed), "rows": rows, "errors": failed,
    }  # fmt: skip


def _status(options: argparse.Namespace) -> int:
    """Say how far a sweep is, and how to go on."""
    from sigprop.sweep import status

    if options.target is not None or options.axes or options.grid:
        raise ValueError("--status runs nothing; give it without a function and without axes.")
    found = status(options.status)
    command = _again(found, options.own)
    if options.json:
        row = found.records()[0] | {"errors": found.errors, "command": command}
        show(json_text(row, indent=2))
    else:
        goes_on = not found.writing and (found.missing or found.failed) and command
        show(f"{found}\n  {command}" if goes_on else str(found))
    return 0


def _again(found: Status, own: set[str]) -> str | None:
    """The command line that goes on with a sweep; None: its cases are no axes of simple values."""
    if found.axes is None:
        return None
    words = ["sigprop", "sweep", _target(found.function)]
    for name, values in found.axes.items():
        written = spelled(values)
        option = f"--{name.replace('_', '-')}"
        if written is None:
            return None
        words += ["--grid", f"{name}={','.join(written)}"] if option in own else [option, *written]
    words += ["--zip"] * found.zipped + ["--out", str(found.folder)]
    words += ["--threads", str(found.threads)] if found.threads != 1 else []
    words += ["--devices", found.devices] if found.devices else []
    words += ["--retry"] if found.failed and not found.missing else []
    return shlex.join(words)


def _target(function: str) -> str:
    import sigprop

    home, _, name = function.partition(":")
    return name if home.startswith("sigprop.") and name in dir(sigprop) else function
