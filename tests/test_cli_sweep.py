"""``sigprop sweep`` as a user meets it: axes, targets, folders, exit codes, Ctrl-C, a cluster."""

import json
import math
import re
import shlex
import signal
import subprocess
import sys

import pytest

import sigprop
from sigprop import cli, sweep
from sigprop.cli import axes, clusters
from sigprop.records import read_csv

JOBS = """
import time

def train(lr, depth=3, *, init="none", seed=0, **rest):
    if lr > 1:
        raise ValueError("diverged")
    return {"loss": lr * depth + seed}

def odd(out, threads=1, bias_std=0.0):
    return out + 10 * threads + 100 * bias_std

def slow(seed):
    time.sleep(0.02)
    return seed

def dealt(seed, device):
    return {"on": device}

NOT_A_FUNCTION = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "sweep_jobs.py").write_text(JOBS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("sweep_jobs", None)


def run(line):
    return cli.main(shlex.split(line))


def rows(capsys, line, code=0):
    """What a command prints as JSON."""
    assert run(f"{line} --workers 0 --json") == code
    return json.loads(capsys.readouterr().out)["rows"]


def refused(capsys, line):
    """The one line of a command that ends with bad usage."""
    assert run(line) == 2
    out, error = capsys.readouterr()
    last = error.splitlines()[-1]
    assert not out and last.startswith("sigprop sweep: ") and "Traceback" not in error
    return last


# Values and axes


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("3", [3]), ("-3", [-3]), ("+3", [3]), ("0.5", [0.5]), (".5", [0.5]), ("2.", [2.0]),
        ("1e-3", [0.001]), ("-1E3", [-1000.0]), ("inf", [math.inf]), ("-inf", [-math.inf]),
        ("true", [True]), ("False", [False]), ("none", [None]), ("relu", ["relu"]),
        ('"3"', ["3"]), ('"none"', ["none"]), ('""', [""]), ("1_000", ["1_000"]),
        ("cuda:0", ["cuda:0"]), ("a:b:c", ["a:b:c"]), ("1:x", ["1:x"]), ("0x10", ["0x10"]),
        ("0:4", [0, 1, 2, 3]), ("-2:1", [-2, -1, 0]),
        ("0.8:1.2:5", [0.8, 0.9, 1.0, 1.1, 1.2]), ("1:0.5:2", [1.0, 0.5]),
        ("10:100:10", [*range(10, 101, 10)]), ("3:1:3", [3, 2, 1]),
        ("1:1000:4:log", [1, 10, 100, 1000]), ("1.0:4:3:log", [1.0, 2.0, 4.0]),
        ("1e-4:1e-1:4:log", [1e-4, 1e-3, 1e-2, 1e-1]),
    ],
)  # fmt: skip
def test_a_word_stands_for_values_of_these_types(word, wanted):
    found = axes.values("x", word)
    assert repr(found) == repr(wanted)
    again = axes.spelled(found)
    if not (isinstance(found[0], str) and "," in found[0]):
        assert repr([v for w in again for v in axes.values("x", w)]) == repr(wanted)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("", "empty value"),
        ("0.5:2", "of two ends that are not whole it needs the number of values, as 0.5:2:11"),
        ("8:0", "it has 0 values"),
        ("0:99999999", "it has 99,999,999 values"),
        ("0:8:2.5", "it is none of these"),
        ("0:8:2:lin", "it is none of these"),
        ("0:8:2:log:x", "it is none of these"),
        ("0:8:1", "there are 2 values or more"),
        ("0:8:3:log", "both ends are positive"),
        ("inf:8:3", "its ends are not finite"),
        ("0:100:10", "0:100:10 would be 0, 11.1111, 22.2222, ...: whole ends .* 0.0:100:10 if"),
        ("1:100:4:log", "Write 1.0:100:4:log if that is meant"),
    ],
)
def test_a_range_that_can_be_read_in_two_ways_or_none_is_refused(word, told):
    with pytest.raises(ValueError, match=f"x.*{told}"):
        axes.values("x", word)


def test_numbers_of_a_range_are_those_that_one_types():
    assert axes.values("x", "0.8:1.2:41") == [round(0.8 + 0.01 * i, 2) for i in range(41)]


def test_values_are_spelled_in_few_words_that_are_read_back():
    for found, words in [
        ([0, 1, 2, 3], ["0:4"]), ([10, 20, 30], ["10:30:3"]), ([1, 10, 100], ["1:100:3:log"]),
        ([0.1, 0.5], ["0.1", "0.5"]), (["3", "x", ""], ['"3"', "x", '""']),
        ([1, 1.0], ["1", "1.0"]),
        ([True, None, math.inf], ["true", "none", "inf"]), (["a,b"], None), ([[1]], None),
        ([0.8, 0.82, 0.9], ["0.8", "0.82", "0.9"]),
    ]:  # fmt: skip
        assert axes.spelled(found) == words


def test_axes_are_taken_out_of_a_line_and_options_stay():
    line = "f.py:g --a 1 -0.5 -1:1:3 --out x --b=2 --c true --workers 3 --d e,f"
    kept, found = axes.split(shlex.split(line), ["--out", "--workers"])
    assert kept == ["f.py:g", "--out", "x", "--workers", "3"]
    assert found == [("a", "1,-0.5,-1:1:3"), ("b", "2"), ("c", "true"), ("d", "e,f")]
    assert axes.split(["-h"], []) == (["-h"], [])


# What is swept


def test_a_function_of_sigprop_over_a_grid(capsys):
    found = rows(capsys, "sweep chi --gain 1.0:2:3 --alpha 0 0.2")
    wanted = [(g, a) for g in (1.0, 1.5, 2.0) for a in (0, 0.2)]
    assert [(row["gain"], row["alpha"]) for row in found] == wanted
    assert [row["value"] for row in found] == [float(sigprop.chi(g, a)) for g, a in wanted]


def test_gains_are_those_of_the_function_and_the_help_says_so(capsys):
    line = "sweep validate --gain 1.3 --alpha 0 --depth 3 --width 16 --seeds 1 --batch 2"
    (row,) = rows(capsys, f"{line} --device cpu")
    known = sigprop.validate(0, 3, 16, gain=1.3, seeds=1, batch=2, device="cpu").summary()
    assert row["gain"] == 1.3 and row["gain_over_critical"] == pytest.approx(1.3 / 2**0.5)
    assert row["p_value"] == pytest.approx(known["p_value"])
    with pytest.raises(SystemExit):
        run("sweep --help")
    words = " ".join(capsys.readouterr().out.split())
    assert "while 'sigprop validate' takes gains in units of the critical gain" in words


@pytest.mark.parametrize("target", ["sweep_jobs:train", "sweep_jobs.py:train"])
def test_a_function_of_ones_own(here, capsys, target):
    found = rows(capsys, f"sweep {target} --grid lr=0.1,0.2 depth=1:3 --seed 0 5")
    assert len(found) == 8
    assert found[-1] == {"lr": 0.2, "depth": 2, "seed": 5, "loss": 5.4}
    assert str(here) not in sys.path


def test_a_file_of_another_folder_and_extra_arguments(here, capsys):
    (here / "deep").mkdir()
    (here / "deep" / "sweep_deep.py").write_text(JOBS)
    found = rows(capsys, "sweep deep/sweep_deep.py:train --lr 0.5 --more-of 1 2")
    assert [row["more_of"] for row in found] == [1, 2]
    del sys.modules["sweep_deep"]


def test_axes_with_the_name_of_an_option_go_through_grid(here, capsys):
    found = rows(capsys, "sweep sweep_jobs:odd --grid out=1,2 threads=3 --bias-std 0.5 --threads 2")
    assert [row["value"] for row in found] == [81.0, 82.0]
    assert [row["threads"] for row in found] == [3, 3]


def test_values_are_taken_together(here, capsys):
    found = rows(capsys, "sweep sweep_jobs:train --zip --lr 0.1 0.2 --depth 5 6 --seed 1")
    assert [(row["lr"], row["depth"], row["seed"]) for row in found] == [(0.1, 5, 1), (0.2, 6, 1)]
    said = refused(capsys, "sweep sweep_jobs:train --zip --lr 0.1 0.2 --depth 5 6 7")
    assert "lr has 2, depth has 3" in said


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "give a function .* or --status DIR"),
        ("chy --gain 1", "sigprop has no function 'chy'. Did you mean 'chi'"),
        (
            "DeepMLP --depth 1",
            "no function 'DeepMLP'. .*package.module:function or file.py:functio",
        ),
        ("no_jobs:f --a 1", "there is no module 'no_jobs' here"),
        ("no_jobs.py:f --a 1", "there is no file 'no_jobs.py'"),
        ("sweep_jobs:tran --lr 1", "sweep_jobs has no 'tran'; it has train, odd"),
        ("sweep_jobs:NOT_A_FUNCTION --a 1", "NOT_A_FUNCTION is no function; it is int"),
        ("sweep_jobs:odd", "there is nothing to vary; .* as in --out V V"),
        ("sweep_jobs:odd --bias-std", "--bias-std has no values"),
        ("sweep_jobs:odd --bias-sdt 1", "no argument 'bias_sdt', .* Did you mean '--bias-std'"),
        ("sweep_jobs:odd --worker 1", "no argument 'worker', and sweep no such .*'--workers'"),
        ("sweep_jobs:odd --bias-std 1", r"missing a required argument: 'out'"),
        ("sweep_jobs:train --lr 1 --grid lr=2", "lr is given twice"),
        ("sweep_jobs:train --grid lr", "--grid takes NAME=V,V, as in .*got 'lr'"),
        ("sweep_jobs:train --grid l.r=1", "'l.r' is no name of an argument"),
        ("sweep_jobs:train --lr 1,,2", "lr has an empty value"),
        ("sweep_jobs:train --lr 1 --fresh", "--fresh is about results in a folder; give --out"),
        ("sweep_jobs:train --lr 1 --retry", "--retry is about results"),
        ("sweep_jobs:train --lr 1 --shard 1/2", "--shard is about results"),
        ("sweep_jobs:train --lr 1 --out o --shard 3/2", "parts are numbered from 1 to 2"),
        ("sweep_jobs:train --lr 1 --out o --shard x", "the third of 16 parts"),
        ("sweep_jobs:train --lr 1 --dask a:1 --workers 2", "give --workers or --dask"),
        ("sweep_jobs:train --lr 1 --dask a:1 --devices cpu", "give --devices or --dask"),
        ("sweep_jobs:dealt --device cpu --seed 1 --devices cpu", "give --devices or --device"),
        ("sweep_jobs:train --lr 1 --dask gone.json", "there is no file gone.json"),
        ("--status gone", "gone holds no sweep"),
        ("sweep_jobs:train --lr 1 --status o", "--status runs nothing"),
        ("sweep_jobs:train --lr 1 --out sweep_jobs.py", "sweep_jobs.py"),
        ("sweep_jobs:train --lr 1 --out .", "holds other things"),
        ("sweep_jobs:train --lr 1 --workers -1", "workers must be >= 0"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_line(here, capsys, line, told):
    assert re.search(told, refused(capsys, f"sweep {line}"))
    assert not (here / "o" / "sweep.csv").exists()


def test_a_file_that_workers_would_import_as_another_is_refused(here, capsys):
    (here / "json.py").write_text(JOBS)
    assert "give the file another name" in refused(capsys, "sweep json.py:train --lr 1")
    (here / "a-b.py").write_text(JOBS)
    assert "'a-b' is no name of a module" in refused(capsys, "sweep a-b.py:train --lr 1")


# Folders


def test_results_are_kept_and_only_what_is_missing_is_run(here, capsys, monkeypatch):
    line = "sweep sweep_jobs:train --lr 0.1 0.2 --out runs/a --workers 0"
    assert run(f"{line} --depth 1 2") == 0
    out, error = capsys.readouterr()
    assert out.endswith("wrote runs/a/sweep.csv\n") and "4 of 4 cases finished" in out
    assert "4 cases of sweep_jobs:train: 2 lr x 2 depth\n" in error
    assert read_csv(here / "runs" / "a" / "sweep.csv")[0] == {"lr": 0.1, "depth": 1, "loss": 0.1}
    assert run(f"{line} --depth 1 2 3") == 0
    assert len(read_csv(here / "runs" / "a" / "sweep.csv")) == 6
    assert len((here / "runs" / "a" / "cases.jsonl").read_text().splitlines()) == 6
    assert run(f"{line} --depth 1 2 3 --fresh") == 0
    assert len(list((here / "runs" / "a" / "old").iterdir())) == 1


def test_without_a_folder_it_says_that_nothing_is_kept(here, capsys):
    assert run("sweep sweep_jobs:train --lr 0.1 --workers 0") == 0
    out, error = capsys.readouterr()
    assert "nothing is kept in a folder without --out DIR" in error and "wrote" not in out
    assert [p.name for p in here.iterdir() if p.suffix != ".py" and p.name[0] != "_"] == []


def test_cases_that_raise_end_with_1_and_are_tried_again_when_asked(here, capsys):
    line = "sweep sweep_jobs:train --lr 0.1 2 --out runs --workers 0"
    assert run(line) == 1
    assert "1 x ValueError: diverged" in capsys.readouterr().out
    assert run(f"{line} --json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["asked"], found["finished"], found["failed"]) == (2, 2, 1)
    assert found["errors"][0]["lr"] == 2 and "diverged" in found["errors"][0]["traceback"]
    assert len((here / "runs" / "cases.jsonl").read_text().splitlines()) == 2
    assert run(f"{line} --retry") == 1
    assert len((here / "runs" / "cases.jsonl").read_text().splitlines()) == 3
    assert len(read_csv(here / "runs" / "sweep.csv")) == 1
    capsys.readouterr()
    assert run(f"{line} --retry --on-error raise") == 1
    out, error = capsys.readouterr()
    assert not out and "raised ValueError: diverged" in error
    assert run("sweep sweep_jobs:train --lr 2 3 --workers 0 --out none") == 1
    assert not (here / "none" / "sweep.csv").exists()


def test_shards_share_a_folder_and_the_whole_has_the_table(here, capsys):
    line = "sweep sweep_jobs:train --lr 0.1 0.2 0.3 --out runs --workers 0"
    for part, cases in ((1, "2 of 2 cases"), (2, "1 of 1 case")):
        assert run(f"{line} --shard {part}/2") == 0
        assert not (here / "runs" / "sweep.csv").exists()
        assert f"{cases} finished" in capsys.readouterr().out
    assert run(line) == 0
    assert "3 of 3 cases finished" in capsys.readouterr().out
    assert not (here / "runs" / "cases.jsonl").read_text()
    assert len(read_csv(here / "runs" / "sweep.csv")) == 3


def test_devices_are_dealt_out(here, capsys):
    (row,) = rows(capsys, "sweep sweep_jobs:dealt --seed 1 --devices cpu")
    assert row["on"] == "cpu"


def test_what_it_runs_on_breaks(here, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a worker died")

    monkeypatch.setattr("sigprop.sweep.run", broken)
    assert "a worker died" in refused(capsys, "sweep sweep_jobs:train --lr 1")


# How far it is


def test_status_says_how_to_go_on_and_that_line_goes_on(here, capsys):
    line = "sweep sweep_jobs.py:odd --bias-std 0.1:0.2:3 --grid out=1:5 --threads 2 --out 'my runs'"
    assert run(f"{line} --workers 0 --shard 1/2") == 0
    capsys.readouterr()
    assert run("sweep --status 'my runs'") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["sweep of sweep_jobs:odd in my runs", "6 of 12 cases finished"]
    wanted = "sigprop sweep sweep_jobs:odd --bias-std 0.1:0.2:3 --grid out=1:5"
    assert last.strip() == f"{wanted} --out 'my runs' --threads 2"
    assert run(last.strip().removeprefix("sigprop ") + " --workers 0") == 0
    assert "12 of 12 cases finished" in capsys.readouterr().out
    assert run("sweep --status 'my runs' --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["missing"], found["writing"], found["errors"]) == (0, False, {})


def test_status_of_functions_of_sigprop_of_zips_and_of_lists(here, capsys):
    assert run("sweep chi --zip --gain 1 1.4 --alpha 0 0.2 --out z --workers 0") == 0
    capsys.readouterr()
    run("sweep --status z --json")
    command = json.loads(capsys.readouterr().out)["command"]
    assert command == "sigprop sweep chi --gain 1 1.4 --alpha 0 0.2 --zip --out z"
    sweep.run(sigprop.chi, [{"gain": 1, "alpha": 0}], out="z", workers=0, progress=False)
    sweep.run(
        sigprop.chi, sweep.grid(gain=1, alpha=[[0.1, 0.2]]), out="y", workers=0, progress=False
    )
    for folder in "zy":
        capsys.readouterr()
        run(f"sweep --status {folder} --json")
        assert json.loads(capsys.readouterr().out)["command"] is None


# In processes, on a cluster, ended


TELLS = """
import sys
from sigprop.cli import main
from sigprop.sweep.store import Store
add = Store.add
Store.add = lambda *lines: (add(*lines), print("added", file=sys.stderr, flush=True))
sys.exit(main())
"""


def test_processes_import_a_file_and_ctrl_c_keeps_what_is_finished(here):
    """One start of processes for both."""
    words = "sweep sweep_jobs.py:slow --seed 0:2000 --out runs --workers 2"
    with subprocess.Popen(
        [sys.executable, "-c", TELLS, *shlex.split(words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        added = 0
        while added < 3:
            line = process.stderr.readline()
            assert line, "it has ended"
            added += line == "added\n"
        found = sweep.status(here / "runs")
        assert found.writing and found.function == "sweep_jobs:slow"
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    last = [line for line in error.splitlines() if line != "added"][-1]
    assert process.returncode == 130 and not out and "Traceback" not in error
    told = re.fullmatch(
        r"sigprop sweep: interrupted: ([\d,]+) of 2,000 cases are finished and kept in runs; .*",
        last,
    )
    assert 1 <= int(told[1].replace(",", "")) <= sweep.status(here / "runs").finished < 2000


def test_ctrl_c_ends_with_130(here, capsys, monkeypatch):
    def pressed(*_, **__):
        raise KeyboardInterrupt("3 of 4 cases are finished and kept in runs")

    monkeypatch.setattr("sigprop.sweep.run", pressed)
    assert run("sweep sweep_jobs:train --lr 1 --out runs") == 130
    *_, last = capsys.readouterr().err.splitlines()
    assert last == "sigprop sweep: interrupted: 3 of 4 cases are finished and kept in runs"


def test_a_dead_scheduler_is_told_plainly(here, capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(clusters, "CONNECT", 0.2)
    said = refused(capsys, "sweep sweep_jobs:train --lr 1 --dask tcp://127.0.0.1:9")
    assert "no Dask scheduler answers at tcp://127.0.0.1:9 within 0.2 s" in said
    assert "dask scheduler" in said


def test_dask_that_is_not_installed_is_told_plainly(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    said = refused(capsys, "sweep sweep_jobs:train --lr 1 --dask tcp://127.0.0.1:9")
    assert said.endswith(
        "Dask is not installed: pip install 'sigprop[dask]' (or 'dask[distributed]')."
    )


def test_a_dask_cluster_runs_a_file_of_the_present_folder(here, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed")
    sent, send = [], distributed.Client.upload_file
    spy = lambda client, file: (sent.append(file), send(client, file))  # noqa: E731
    monkeypatch.setattr(distributed.Client, "upload_file", spy)
    with distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address=":0", threads_per_worker=1
    ) as cluster:
        address = cluster.scheduler_address
        with monkeypatch.context() as patched:
            patched.setattr(clusters, "ARRIVE", 0.2)
            said = refused(capsys, f"sweep sweep_jobs.py:train --lr 1 --dask {address}")
        assert f"no worker has come to {address}" in said
        cluster.scale(1)
        cluster.wait_for_workers(1)
        line = f"sweep sweep_jobs.py:train --lr 0.1 0.2 --dask {address} --out runs"
        assert run(line) == 0
    assert sent == [str(here / "sweep_jobs.py")]
    assert [row["loss"] for row in read_csv(here / "runs" / "sweep.csv")] == pytest.approx(
        [0.3, 0.6]
    )


def test_a_function_is_sent_with_its_file_only_where_it_is_one(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    import sweep_jobs  # type: ignore[import-not-found]

    assert clusters._single_file(sweep_jobs.train) == str(here / "sweep_jobs.py")
    assert clusters._single_file(sigprop.chi) is None
    assert clusters._single_file(json.dumps) is None
    assert clusters._single_file(math.sqrt) is None
    assert clusters._single_file(shlex.join) is None


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_function_prints_is_no_part_of_the_result(here, capfd, workers):
    name = f"chatty{workers}.py"  # imported once
    (here / name).write_text("def f(x):\n    print('loss', x, flush=True)\n    return x\n")
    assert run(f"sweep {name}:f --x 1 2 --workers {workers} --json") == 0
    told = capfd.readouterr()
    assert [row["value"] for row in json.loads(told.out)["rows"]] == [1, 2]
    assert "loss 1" in told.err
