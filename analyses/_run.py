"""Runs analyses: owns seeds, drawing backend, style, and the record of how a figure came about."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import io
import pkgutil
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy
import scipy
import torch
from PIL import Image

import sigprop
from analyses._sweep import Place, executor_of, placed, sweeps
from sigprop.cli.interrupts import INTERRUPTED, uninterrupted
from sigprop.cli.output import check_places
from sigprop.records import (
    Row,
    counted,
    read_csv,
    read_json,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)
from sigprop.sweep import CaseError

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
QUICK_FIGURES = ROOT / "figures-quick"
RUNS = ROOT / "runs"
"""Finished cases of analyses that are under way, a folder each."""
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "figure.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
}

WRITTEN = "its files are written"
"""What a Ctrl-C says that came while the files of an analysis were written."""
ANSWER = re.compile(r"^Answer: (.*?)^(?:Source|Run time):", re.DOTALL | re.MULTILINE)
GALLERY = """# Figures

One question a figure, its answer in a sentence, and the command that computes and draws it again.
This page is written by `python -m analyses --gallery`. `python -m analyses --redraw NAME` draws a
figure from its stored numbers and computes nothing.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Returns:
        0: every claim holds; 1: one does not, or a case raised; 2: bad usage; 130: ended by Ctrl-C.
    """
    args = _parser().parse_args(argv)
    available = names()
    if useless := _useless(args):
        print(useless, file=sys.stderr)
        return 2
    if args.list:
        for name in available:
            print(f"{name:22}{question(load(name))}")
        return 0
    for name in args.names:
        if name not in available:
            near = difflib.get_close_matches(name, available, n=3, cutoff=0.3) or available
            print(f"unknown analysis {name!r}; did you mean {', '.join(near)}?", file=sys.stderr)
            return 2
    if useless := _without_use(args, available):
        print(useless, file=sys.stderr)
        return 2
    out = args.out or (QUICK_FIGURES if args.quick else FIGURES)
    if args.gallery:
        print(f"written: {write_text(gallery(out), out / 'README.md')}")
        return 0
    failed: list[str] = []
    done: list[str] = []
    try:
        check_places([out / f"{name}.png" for name in args.names or available], force=True)
        with executor_of(args.executor) as executor:
            for name in args.names or available:
                print(f"{name}: {question(load(name))}", flush=True)
                if args.redraw:
                    redraw(name, out)
                    done.append(name)
                    print(f"  redrawn: {out / name}.png", flush=True)
                    continue
                record = run(
                    name, out, quick=args.quick, seed=args.seed or 0, mnist=args.mnist,
                    place=_place(name, args, executor),
                )  # fmt: skip
                done.append(name)
                told = f"{record['verdict']}, {record['seconds']:.1f} s{_resumed(record)}"
                print(f"  {told}: {out / name}.png", flush=True)
                if record["verdict"] != "holds":
                    failed.append(name)
    except OSError as error:
        print(f"  {error}", file=sys.stderr)
        return 2
    except CaseError as error:
        print(f"  {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        done += [name] if str(error) == WRITTEN else []
        kept = f"; {error}" if str(error) not in ("", WRITTEN) else ""
        written = ", ".join(done) or "none"
        print(f"interrupted; finished and written to {out}: {written}{kept}", file=sys.stderr)
        return INTERRUPTED
    if failed:
        print(f"claims that do not hold: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _place(name: str, args: argparse.Namespace, executor: Any) -> Place:
    """Where the cases of an analysis run; at its quick size by itself here, and nothing is kept."""
    if args.quick:
        return Place(0 if args.workers is None and executor is None else args.workers, executor)
    return Place(args.workers, executor, RUNS / name, args.fresh)


def _resumed(record: Row) -> str:
    number = record.get("resumed", 0)
    return f" after {counted(number, 'case')} of a run that was ended" if number else ""


def _useless(args: argparse.Namespace) -> str:
    """What is given and would do nothing."""
    given = {"names": args.names, "--quick": args.quick, "--redraw": args.redraw,
             "--out": args.out, "--seed": args.seed is not None, "--mnist": args.mnist,
             "--workers": args.workers is not None, "--executor": args.executor,
             "--fresh": args.fresh}  # fmt: skip
    computing = {"--seed", "--mnist", "--workers", "--executor", "--fresh"}
    without = {"--list": set(given), "--redraw": computing, "--quick": {"--fresh"}}
    for option, others in without.items():
        idle = [name for name in given if given[name] and name in others]
        if getattr(args, option.removeprefix("--")) and idle:
            return f"with {option}, {', '.join(idle)} does nothing: leave it out"
    return ""


def _without_use(args: argparse.Namespace, available: Sequence[str]) -> str:
    """An option that one of the analyses has no use for, and those that have."""
    takes: dict[str, Callable[[ModuleType], bool]] = {
        "mnist": lambda module: hasattr(module.FULL, "mnist"),
        "workers": sweeps, "executor": sweeps, "fresh": sweeps,
    }  # fmt: skip
    for option, has in takes.items():
        if getattr(args, option) in (None, "", False):
            continue
        for name in args.names or available:
            if not has(load(name)):
                takers = ", ".join(other for other in available if has(load(other)))
                return f"--{option} is for {takers}; {name} has no use for it"
    return ""


def names() -> list[str]:
    """Every analysis: the modules beside this one that do not start with an underscore."""
    folder = str(Path(__file__).parent)
    return sorted(m.name for m in pkgutil.iter_modules([folder]) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of an analysis."""
    return importlib.import_module(f"analyses.{name}")


def question(module: ModuleType) -> str:
    """The first line of its docstring."""
    return (module.__doc__ or "").strip().splitlines()[0]


def answer(module: ModuleType) -> str:
    """The first sentence of its answer; it has to tell the result by itself.

    Raises:
        ValueError: the docstring has no answer.
    """
    found = ANSWER.search(module.__doc__ or "")
    if found is None:
        raise ValueError(f"{module.__name__}: its docstring has no line that starts with 'Answer:'")
    text = " ".join(found.group(1).split())
    sentence = re.split(r"(?<=\.)\s(?=[A-Z`])", text, maxsplit=1)[0]
    first = sentence[0]  # a symbol stays: a capital β is Β
    return (first.upper() if first.isascii() else first) + sentence[1:]


def gallery(out: Path = FIGURES) -> str:
    """All stored figures on one page: question, answer, picture, command, run time.

    Raises:
        FileNotFoundError: an analysis has no stored result.
    """
    parts = [GALLERY]
    for name in names():
        module, path = load(name), out / f"{name}.json"
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}; run the analysis first.")
        record = read_json(path)
        parts.append(f"## {question(module)}\n\n{answer(module)}\n")
        parts += [f"![{question(module)}]({picture.name})\n" for picture in pictures(name, out)]
        parts.append(
            f"`python -m analyses {name}` took {_duration(record['seconds'])} "
            f"({record['device']}){_resumed(record)}. "
            f"[Code](../analyses/{name}.py), [numbers]({name}.csv), "
            f"[parameters and versions]({name}.json).\n"
        )
    return "\n".join(parts)


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"


def run(
    name: str, out: Path, *, quick: bool = False, seed: int = 0, mnist: str = "",
    place: Place | None = None,
) -> Row:  # fmt: skip
    """Compute, check and draw; write ``out/name.{csv,png,json}`` and return what the JSON holds.

    What is drawn is what the CSV holds. ``place`` says where cases run; None: in this process.
    """
    module, place = load(name), place or Place()
    params = dataclasses.replace(module.QUICK if quick else module.FULL, seed=seed)
    if mnist:
        params = dataclasses.replace(params, mnist=mnist)
    start = time.perf_counter()
    with placed(place):
        rows = module.compute(params)
    seconds = time.perf_counter() - start
    with uninterrupted(WRITTEN):  # the three files are of one run
        write_csv(rows, out / f"{name}.csv")
        record = {
            "analysis": name,
            "question": question(module),
            "verdict": verdict(module, rows),
            "quick": quick,
            "parameters": dataclasses.asdict(params),
            "seconds": round(seconds, 1),
            **({"resumed": place.resumed} if sweeps(module) else {}),
            **_machine(str(place) if sweeps(module) else _threads()),
        }
        write_json(record, out / f"{name}.json")
        redraw(name, out)
        if place.folder is not None:
            shutil.rmtree(place.folder, ignore_errors=True)
            with suppress(OSError):  # another analysis is under way
                place.folder.parent.rmdir()
    return record


def redraw(name: str, out: Path) -> None:
    """Draw again from ``out/name.csv``; nothing is computed."""
    path = out / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path} to draw from; run the analysis without --redraw."
        )
    _save(load(name), read_csv(path), out / f"{name}.png")


def verdict(module: ModuleType, rows: list[Row]) -> str:
    """``"holds"``, or which claim of the analysis does not."""
    try:
        module.check(rows)
    except AssertionError as error:
        return f"does not hold: {str(error).splitlines()[0]}"
    return "holds"


def stored(name: str, out: Path = FIGURES) -> tuple[list[Row], Any]:
    """The rows and the record behind a figure."""
    return read_csv(out / f"{name}.csv"), read_json(out / f"{name}.json")


def pictures(name: str, out: Path = FIGURES) -> list[Path]:
    """The pictures of an analysis: ``name.png`` and, where it draws several, ``name-key.png``."""
    return [out / f"{name}.png", *sorted(out.glob(f"{name}-*.png"))]


def _save(module: ModuleType, rows: list[Row], path: Path) -> None:
    """Draw; a module that draws several figures returns them by key, the first one with key ""."""
    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE):
        drawn = module.draw(rows)
        for key, figure in (drawn if isinstance(drawn, dict) else {"": drawn}).items():
            pixels, small = io.BytesIO(), io.BytesIO()
            figure.savefig(pixels, format="png")
            plt.close(figure)
            with Image.open(pixels) as picture:  # 256 colours are enough, at a quarter of the size
                picture.convert("RGB").quantize(256).save(
                    small, "PNG", optimize=True, dpi=(150, 150)
                )
            place = path.with_name(f"{path.stem}-{key}.png") if key else path
            write_bytes(small.getvalue(), place)


def _threads() -> str:
    number = torch.get_num_threads()
    return f"{number} thread" + "s" * (number != 1)


def _machine(cores: str) -> Row:
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {cores}",
        "python": platform.python_version(),
        "versions": {
            "sigprop": sigprop.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "scipy": scipy.__version__,
            "matplotlib": matplotlib.__version__,
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analyses", description="Answer the questions of analyses/, draw figures/."
    )
    parser.add_argument("names", nargs="*", metavar="name", help="which to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, into figures-quick/")
    parser.add_argument("--redraw", action="store_true", help="draw from the CSV, compute nothing")
    parser.add_argument("--list", action="store_true", help="list the analyses and leave")
    parser.add_argument("--gallery", action="store_true", help="write README.md of the figures")
    parser.add_argument("--seed", type=int, help="of everything random; if not given: 0")
    parser.add_argument("--out", type=Path, help="folder of the results (default: figures/)")
    about = "cases at a time, 0: in this process (default: all cores)"
    parser.add_argument("--workers", type=_workers, metavar="N", help=about)
    about = "run the cases on a Dask cluster"
    parser.add_argument("--executor", default="", metavar="dask://HOST:PORT", help=about)
    about = "do not go on with a run that was ended: compute all cases"
    parser.add_argument("--fresh", action="store_true", help=about)
    about = "learn MNIST from the folder of its IDX files, where an analysis can"
    parser.add_argument("--mnist", default="", metavar="DIR", help=about)
    return parser


def _workers(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("give 0 or more")
    return number
