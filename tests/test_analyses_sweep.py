"""Analyses whose cases run through a sweep: anywhere, with the same numbers, and resumed."""

import concurrent.futures
import contextlib
import dataclasses
import json
import re
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest

from analyses import _run, _sweep, phase_diagram_nets
from sigprop.sweep import engines

CALLS: list[int] = []
PLANS: dict = {}
"""Number of a case → what it raises."""


def case(number):
    CALLS.append(number)
    if number in PLANS:
        raise PLANS[number]
    return {"number": number, "square": number**2}


@dataclasses.dataclass(frozen=True)
class OnlySeed:
    seed: int = 0


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command, with an analysis of six cases, and one that has none."""
    sweeping = {
        "sweep": _sweep.sweep,
        "compute": lambda params: _sweep.sweep(case, [{"number": n} for n in range(6)]),
    }

    def load(name):
        return SimpleNamespace(
            __doc__=f"Is {name} there?", FULL=OnlySeed(), QUICK=OnlySeed(),
            check=lambda rows: None, draw=lambda rows: plt.figure(),
            **(sweeping if name == "six" else {"compute": lambda params: [{"seed": 0}]}),
        )  # fmt: skip

    monkeypatch.setattr(_run, "names", lambda: ["none", "six"])
    monkeypatch.setattr(_run, "load", load)
    monkeypatch.setattr(_run, "RUNS", tmp_path / "runs")
    CALLS.clear()
    PLANS.clear()
    return lambda *options: _run.main(["six", "--out", str(tmp_path / "out"), *options])


def record(tmp_path):
    return json.loads((tmp_path / "out" / "six.json").read_text())


def test_rows_are_the_same_in_this_process_and_in_two_others(monkeypatch):
    made, processes = [], engines.OneProcess.renew
    monkeypatch.setattr(
        engines.OneProcess, "renew", lambda self: (made.append(1), processes(self))[1]
    )
    params = phase_diagram_nets.Params(gains=2, biases=1, depth=4, width=16)
    rows = phase_diagram_nets.compute(params)
    assert not made
    with _sweep.placed(_sweep.Place(workers=2)):
        assert phase_diagram_nets.compute(params) == rows
    assert len(made) == 2
    assert len({row["forward"] for row in rows if row["kind"] == "net"}) == 8


def test_an_analysis_that_was_interrupted_goes_on_where_it_was(run, tmp_path, capsys):
    PLANS[3] = KeyboardInterrupt()
    assert run("--workers", "0") == 130
    error, folder = capsys.readouterr().err, tmp_path / "runs" / "six" / "case"
    kept = re.search(r": none; (\d) of 6 cases are finished and kept in (.*);", error)
    assert kept and 1 <= int(kept[1]) <= 3 and kept[2] == str(folder), error
    PLANS.clear()
    assert run("--workers", "0") == 0
    assert [0, 1, 2, 3, *range(int(kept[1]), 6)] == CALLS
    assert record(tmp_path)["resumed"] == int(kept[1])
    assert re.search(r"after \d cases? of a run that was ended", capsys.readouterr().out)
    assert [row["square"] for row in _run.stored("six", tmp_path / "out")[0]] == [
        0, 1, 4, 9, 16, 25,
    ]  # fmt: skip


def test_fresh_does_not_go_on(run, tmp_path):
    PLANS[3] = KeyboardInterrupt()
    run("--workers", "0")
    PLANS.clear()
    assert run("--workers", "0", "--fresh") == 0
    assert CALLS[4:] == [0, 1, 2, 3, 4, 5] and record(tmp_path)["resumed"] == 0


def test_a_case_that_raises_ends_the_analysis_by_name_and_runs_again(run, tmp_path, capsys):
    PLANS[4] = ValueError("no such net")
    assert run("--workers", "0") == 1
    error = capsys.readouterr().err
    assert "{'number': 4}, raised ValueError: no such net" in error
    assert "in case" in error and "raise PLANS[number]" in error
    assert not (tmp_path / "out").exists()
    PLANS.clear()
    assert run("--workers", "0") == 0
    assert CALLS == [0, 1, 2, 3, 4, 4, 5] and record(tmp_path)["resumed"] == 4


def test_nothing_is_left_of_the_run_when_its_files_are_written(run, tmp_path):
    assert run("--workers", "0") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert record(tmp_path)["resumed"] == 0 and record(tmp_path)["device"] == "cpu, 1 process"
    (tmp_path / "runs" / "another").mkdir(parents=True)
    assert run("--workers", "0") == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"another"}


def test_a_quick_run_is_in_this_process_and_keeps_nothing(run, tmp_path):
    PLANS[3] = KeyboardInterrupt()
    assert run("--quick") == 130 and CALLS == [0, 1, 2, 3]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", [["--workers", "2"], ["--executor", "dask://a:1"], ["--fresh"]])
def test_an_option_of_sweeps_is_refused_where_there_is_none(run, tmp_path, capsys, option):
    assert _run.main(["none", "--out", str(tmp_path), *option]) == 2
    words = f"{option[0]} is for six; none has no use for it"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--list", "--workers", "0"], "with --list, --workers does nothing"),
        (["--redraw", "--executor", "dask://a:1"], "with --redraw, --executor does nothing"),
        (["--quick", "--fresh"], "with --quick, --fresh does nothing"),
    ],
)
def test_an_option_that_does_nothing_is_refused(run, capsys, arguments, words):
    assert _run.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_number_of_workers_below_zero_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("--workers", "-1")
    assert "--workers: give 0 or more" in capsys.readouterr().err


def unreachable(address, **options):
    raise OSError("timed out")


@pytest.mark.parametrize(
    ("address", "distributed", "words"),
    [
        ("mpi://here:1", None, "--executor must be dask://HOST:PORT; got mpi://here:1"),
        ("dask://here", None, "--executor must be dask://HOST:PORT; got dask://here"),
        ("dask://here:1", None, "Dask is not installed: pip install"),
        (
            "dask://here:1",
            SimpleNamespace(Client=unreachable),
            "no Dask scheduler answers at tcp://here:1",
        ),
    ],
)
def test_an_executor_that_is_not_to_be_had_is_named(
    run, capsys, monkeypatch, address, distributed, words
):
    monkeypatch.setitem(sys.modules, "distributed", distributed)
    assert run("--executor", address) == 2
    assert words in capsys.readouterr().err and not CALLS


def test_cases_run_on_the_executor_of_the_client(run, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def dask_executor(address):
        assert address == "tcp://here:1"
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(_sweep, "dask_executor", dask_executor)
    assert run("--executor", "dask://here:1") == 0
    assert sorted(CALLS) == [0, 1, 2, 3, 4, 5]
    assert record(tmp_path)["device"] == "cpu, Dask"


def test_workers_that_have_not_the_function_are_named(run, capsys, monkeypatch):
    def broken(*given, **options):
        raise RuntimeError("case is not to be had where the cases run")

    monkeypatch.setattr(_sweep, "run", broken)
    assert run() == 2
    assert "not to be had" in capsys.readouterr().err


def test_the_analyses_that_sweep_are_these():
    assert [name for name in _run.names() if _sweep.sweeps(_run.load(name))] == [
        "calibration", "dead_units", "digits_accuracy", "model_zoo", "phase_diagram_nets",
        "phase_diagrams", "trainable_depth",
    ]  # fmt: skip
    assert f"{_run.RUNS.name}/" in (_run.ROOT / ".gitignore").read_text().split()
