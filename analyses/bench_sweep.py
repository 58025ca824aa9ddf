"""What does a sweep cost beside the engines that people know, and what do two cores give?

Prediction (targets): at most .5 ms a case that does nothing in processes (100 at a time), at most
2 ms through Dask (20 at a time); two processes are at least 1.8 times as fast as one on nets of
width 128 and depth 50; at most 200 bytes a case stay in memory.
Experiment: the same function and the same cases through ``sweep.run`` with a folder, which writes a
line for each, and through ``joblib.Parallel`` and ``dask.bag``, which write nothing; on processes
that are there already, in turns in one run after a warm-up, medians. Starting processes of its own
is counted apart. Memory and the time to find that nothing is missing over many cases.
Answer: a case costs a third of a millisecond in processes and .7 ms through Dask beyond what it
does itself, and two processes are 1.9 times as fast as one. All targets are met: .32 and .73 ms,
1.88 times, 126 bytes a case after 100,000. ``joblib`` takes .02 ms and ``dask.bag`` .35 ms, for
they write nothing, seed nothing and put nothing back after a case; on nets of 39 ms that is not
seen. Processes of its own take 5 s to begin, most of it the import of torch. To see that none of
100,000 cases is missing takes 1.2 s. The numbers are the same through every engine.
Source: the targets are this project's own.
Run time: 8 minutes on two cores.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from analyses._paid import in_turns
from sigprop import plots, sweep, validate
from sigprop.records import Row

ALPHA = 0.2
MEMORY = """
import json, sys, tempfile, time
from analyses.bench_sweep import nothing, resident
from sigprop import sweep
def run(number, out):
    return sweep.run(nothing, sweep.grid(i=range(number)), out=out, workers=0, progress=False)
if __name__ == "__main__":
    number = int(sys.argv[1])
    run(100, tempfile.mkdtemp())
    out, start = tempfile.mkdtemp(), resident()
    result = run(number, out)
    held, begun = resident() - start, time.perf_counter()
    again = run(number, out)
    print(json.dumps([held, time.perf_counter() - begun, len(again)]))
"""


@dataclass(frozen=True)
class Params:
    nothing: int = 10_000
    nets: int = 160
    shape: tuple[int, int] = (50, 128)  # depth, width
    many: int = 100_000
    repeats: int = 5
    seed: int = 0


FULL = Params()
QUICK = Params(400, 4, (3, 16), 2000, 1)


def nothing(i: int) -> int:
    """A case that costs nothing by itself."""
    return i


def net(seed: int, depth: int, width: int) -> Row:
    """A net of the leaky family, validated: drawn, run forward and backward, judged."""
    return validate(ALPHA, depth, width, seeds=1, seed=seed, device="cpu").summary()


def compute(params: Params) -> list[Row]:
    idle = sweep.grid(i=range(params.nothing))
    depth, width = params.shape
    seeds = range(10**4 * params.seed, 10**4 * params.seed + params.nets)
    nets = sweep.grid(seed=seeds, depth=depth, width=width)
    alone = total(sweep.run(net, nets, workers=0, progress=False))
    with pool(1) as one, pool(2) as two, joblib_of(2) as jobs, dask_of(2) as (client, bag):
        runs = {
            ("idle", "sweep.run, processes", 100): lambda: swept(nothing, idle, two, 100),
            ("idle", "joblib", 100): lambda: jobs(nothing, idle, 100),
            ("idle", "sweep.run, Dask", 20): lambda: swept(nothing, idle, client, 20),
            ("idle", "dask.bag", 20): lambda: bag(nothing, idle, 20),
            ("nets", "sweep.run, 1 process", None): lambda: swept(net, nets, one),
            ("nets", "sweep.run, 2 processes", None): lambda: swept(net, nets, two),
            ("nets", "joblib, 2 processes", None): lambda: jobs(net, nets, 1),
            ("nets", "sweep.run, Dask, 2 workers", None): lambda: swept(net, nets, client),
        }
        seconds = in_turns([*runs.values()], params.repeats)
        found = {
            "sweep.run, 1 process": one, "sweep.run, 2 processes": two,
            "sweep.run, Dask, 2 workers": client,
        }  # fmt: skip
        sums = {
            name: total(sweep.run(net, nets, executor=engine, progress=False))
            for name, engine in found.items()
        }
    start = time.perf_counter()
    own = total(sweep.run(net, nets, workers=2, progress=False))
    begun = time.perf_counter() - start
    rows = [
        {"kind": kind, "name": name, "batch": batch, "cases": len(idle if kind == "idle" else nets)}
        | {"seconds": taken, "q": sums.get(name), "alone": alone if name in sums else None}
        for (kind, name, batch), taken in zip(runs, seconds, strict=True)
    ]
    rows.append(
        {"kind": "begun", "name": "sweep.run, 2 processes of its own", "cases": len(nets)}
        | {"seconds": begun, "q": own, "alone": alone}
    )
    return [*rows, memory(params)]


def swept(function: Any, cases: sweep.Cases, executor: Executor, batch: int | None = None) -> None:
    with tempfile.TemporaryDirectory() as out:
        sweep.run(
            function, cases, executor=executor, batch=batch, out=Path(out) / "s", progress=False
        )


@contextmanager
def pool(workers: int) -> Iterator[Executor]:
    """Processes that have loaded torch already."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        list(executor.map(net, range(2 * workers), [2] * 2 * workers, [8] * 2 * workers))
        yield executor


@contextmanager
def joblib_of(workers: int) -> Iterator[Callable[..., Any]]:
    """``joblib.Parallel`` on processes with one thread each, which stay for the next call."""
    import joblib

    with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):

        def run(function: Any, cases: sweep.Cases, batch: int) -> Any:
            calls = (joblib.delayed(function)(**case) for case in cases)
            return joblib.Parallel(batch_size=batch)(calls)

        yield run


@contextmanager
def dask_of(workers: int) -> Iterator[tuple[Executor, Callable[..., Any]]]:
    """A local cluster: its executor, and ``dask.bag`` on it."""
    import dask.bag
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0",
            host="tcp://127.0.0.1:0", silence_logs="ERROR",
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip

        def run(function: Any, cases: sweep.Cases, batch: int) -> Any:
            sequence = dask.bag.from_sequence(cases, partition_size=batch)
            return sequence.map(_by_name, function).compute(scheduler=client)

        yield client.get_executor(pure=False), run


def _by_name(case: dict[str, Any], function: Callable[..., Any]) -> Any:
    return function(**case)


def memory(params: Params) -> Row:
    """What stays in memory after many cases, and how long it takes to see that none is missing."""
    printed = subprocess.run(
        [sys.executable, "-c", MEMORY, str(params.many)],
        stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1],
    ).stdout  # fmt: skip
    held, again, number = json.loads(printed)
    row = {"kind": "memory", "name": "kept and looked through again", "cases": number}
    return row | {"bytes": held / number, "seconds": again}


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def total(result: sweep.Sweep) -> float:
    """Of what was measured: equal to the last digit where every net is."""
    return math.fsum(row["log10_q_measured"] for row in result.records())


def each(rows: list[Row], name: str) -> float:
    """Milliseconds a case."""
    return next(1000 * row["seconds"] / row["cases"] for row in rows if row["name"] == name)


def check(rows: list[Row]) -> None:
    """The numbers are the same through every engine; of times nothing is asserted."""
    same = [row for row in rows if row.get("q") is not None]
    assert len(same) == 4
    for row in same:
        assert row["q"] == row["alone"], f"{row['name']}: {row['q']} for {row['alone']}"


def draw(rows: list[Row]) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 3.6), layout="constrained")
    titles = {
        "idle": "a case that does nothing, ms",
        "nets": "a net of depth 50 and width 128, ms",
    }
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        shown = [row for row in rows if row["kind"] == kind]
        for y, row in enumerate(reversed(shown)):
            ours = row["name"].startswith("sweep")
            value = each(rows, row["name"])
            ax.barh(y, value, color=plots.COLORS[0] if ours else plots.PALE)
            ax.text(value, y, f" {value:.2g}", va="center")
        names = [
            row["name"] + (f", {row['batch']:g} at a time" if row["batch"] else "") for row in shown
        ]
        ax.set_yticks(range(len(shown)), names[::-1])
        ax.set_title(title, loc="left")
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.12)
    faster = each(rows, "sweep.run, 1 process") / each(rows, "sweep.run, 2 processes")
    kept = next(row for row in rows if row["kind"] == "memory")
    cost = max(each(rows, "sweep.run, processes"), each(rows, "sweep.run, Dask"))
    figure.suptitle(
        f"A sweep costs at most {cost:.2g} ms a case, its line on disk included; two processes "
        f"are {faster:.2f} times as fast as one;\nafter {kept['cases']:,} cases "
        f"{kept['bytes']:.0f} bytes of each are in memory",
        fontweight="bold",
    )
    return figure
