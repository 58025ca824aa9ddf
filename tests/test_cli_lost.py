"""Nothing finished is lost: places, results that are there, full disks, Ctrl-C."""

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sigprop import cli
from sigprop.cli import interrupts, output
from sigprop.records import read_csv, read_json
from sigprop.validation import validate as real_validate
from sigprop.validation import validate_many

MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
"""
COMMANDS = {
    "validate": (
        "validate --alpha 0.2 --depth 3 --width 24 --seeds 1 --batch 4 --device cpu"
        " --input gaussian --out out",
        ["out/validate.png", "out/validate.csv", "out/validate.json"],
    ),
    "check": (
        "check model.py:build --input 8,6 --seeds 3 --html out/a.html --csv out/a.csv"
        " --json out/a.json",
        ["out/a.html", "out/a.csv", "out/a.json"],
    ),
    "phase": ("phase --activation relu --out out", ["out/phase-relu.png", "out/phase-relu.csv"]),
    "regions": (
        "regions model.py:build --plane --input gaussian --out out",
        ["out/regions.png", "out/regions.csv", "out/regions.json"],
    ),
}
"""Each command that writes, and what."""
WORK = {
    "validate": "sigprop.validation.validate_many",
    "check": "sigprop.checking.entry.check",
    "phase": "sigprop.theory.critical.edge_of_chaos",
    "regions": "sigprop.cli.regions._network",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line, *more):
    return cli.main([*shlex.split(line), *map(str, more)])


def no_work(monkeypatch, command):
    def work(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(WORK[command], work)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_that_is_there_is_named_and_stays(here, capsys, monkeypatch, undrawn, command):
    line, files = COMMANDS[command]
    (here / "out").mkdir()
    whole = here / files[-1]
    whole.write_text("of yesterday")
    left = output.partial(here / files[0])
    left.write_text("of an interrupted run")
    (here / files[1]).touch()  # an empty file is no result
    with monkeypatch.context() as patched:
        no_work(patched, command)
        assert run(line) == 2
    error = capsys.readouterr().err
    named = {files[-1], str(output.partial(type(here)(files[0])))}
    assert named == {word for word in re.split("[ ,]+", error) if word.startswith("out/")}
    assert "--force" in error
    assert whole.read_text() == "of yesterday" and left.is_file()
    assert run(line, "--force") in (0, 1)
    assert "wrote " + ", ".join(files) in capsys.readouterr().out or command == "phase"
    assert whole.read_text() != "of yesterday" and not left.exists()
    assert sorted(os.listdir(here / "out")) == sorted(file.removeprefix("out/") for file in files)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["model.py/deep", "/proc/deep", "there"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    here, capsys, monkeypatch, command, place
):
    line, files = COMMANDS[command]
    no_work(monkeypatch, command)
    if place == "there":  # a folder where a file is to be
        (here / files[0]).mkdir(parents=True)
    else:
        line = re.sub(r"(--out|--html) out", rf"\1 {place}", line)
    assert run(line) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sigprop {command}: ") and error.count("\n") == 1
    assert (files[0] if place == "there" else place.rpartition("/")[0]) in error


def test_a_look_at_a_place_leaves_nothing(here):
    output.check_places([here / "new" / "deep" / "a.csv"], force=False)
    assert os.listdir(here) == ["model.py"]
    output.check_places([type(here)("/dev/stdout"), type(here)("/dev/null")], force=False)


def test_two_results_of_one_name_and_force_without_a_file(here, capsys):
    line = "check model.py:build --input 8,6"
    assert run(f"{line} --html a --csv a") == 2
    assert "a is given for two results" in capsys.readouterr().err
    assert run(f"{line} --force") == 2
    assert "--force replaces files; give --html, --csv or --json" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_found_is_printed_before_a_disk_is_full(capsys, monkeypatch, undrawn, command):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sigprop.records.os.fsync", full)
    assert run(COMMANDS[command][0]) == 2
    out, error = capsys.readouterr()
    words = {"validate": "theory holds", "check": "healthy", "phase": "bias_std",
             "regions": "activation regions"}  # fmt: skip
    assert words[command] in out
    assert re.search(r"out/[\w.-]+: No space left on device\.$", error)


@pytest.mark.parametrize("line", ["gain relu", "explain relu --gain 1", "gain relu --json"])
def test_standard_output_that_is_full_is_said_and_one_that_is_closed_is_not(
    capsys, monkeypatch, line
):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Full())
        assert run(line) == 2
    name = line.split()[0]
    said = f"sigprop {name}: standard output: No space left on device.\n"
    assert capsys.readouterr().err == said
    read, write = os.pipe()
    os.close(read)
    with monkeypatch.context() as patched, open(write, "w") as closed:
        patched.setattr(sys, "stdout", closed)
        assert run(line) == 0
    assert capsys.readouterr().err == ""


# Ctrl-C


def ends(capsys, command, line, code=interrupts.INTERRUPTED):
    """What the command says when it ends: its output, and its one line of error."""
    assert run(line) == code
    out, error = capsys.readouterr()
    assert error.startswith(f"sigprop {command}: interrupted: ") and error.count("\n") == 1
    return out, error


def pressed_in(monkeypatch, target, at):
    """Ctrl-C as the system sends it, at a call of a function."""
    module, _, name = target.rpartition(".")
    home = importlib.import_module(module)
    function, calls = getattr(home, name), []

    def called(*args, **options):
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return function(*args, **options)

    monkeypatch.setattr(home, name, called)


def test_validate_ends_with_the_kinds_of_net_that_are_finished(
    here, capsys, monkeypatch, figures_closed
):
    """One of two threads is in a net when Ctrl-C comes: it ends with that net."""
    asleep = threading.Event()

    def validate(*, progress, gain, **case):
        if gain > 1.4:  # the second of the three
            asleep.wait(10)
            time.sleep(0.5)  # until the first has been handed over
            os.kill(os.getpid(), signal.SIGINT)  # to the process, as a terminal sends it
            for _ in range(1000):
                time.sleep(0.01)
                progress(1, 1)
            raise AssertionError("it was not ended")
        result = real_validate(gain=gain, progress=progress, **case)
        asleep.set()
        return result

    monkeypatch.setattr("sigprop.validation.grid.validate", validate)
    monkeypatch.setattr("sigprop.validation.grid.cores", lambda: 2)
    titles = []
    monkeypatch.setattr(
        "sigprop.cli.validate.write_figure",
        lambda figure, path: titles.append((figure.get_suptitle(), path.name)),
    )
    line = COMMANDS["validate"][0] + " --gain 0.9 1.05 1.1"
    out, error = ends(capsys, "validate", line)
    assert "1 of 3 kinds of net is finished; wrote out/validate.partial.png" in error
    assert out.endswith("partial: 1 of 3 kinds of net is finished\n")
    assert titles[0][0].startswith("partial: 1 of 3 kinds of net is finished\n")
    assert titles[0][1] == "validate.partial.png"
    found = read_json(here / "out" / "validate.partial.json")
    assert (found["complete"], found["kinds_of_net_asked_for"], len(found["cells"])) == (
        False, 3, 1,
    )  # fmt: skip
    assert len(read_csv(here / "out" / "validate.partial.csv")) == 4
    assert not (here / "out" / "validate.json").exists()


def test_validate_many_hands_on_what_is_finished():
    cases = [{"alpha": 0.2, "depth": 2, "width": 24, "seeds": 2, "batch": 2, "device": "cpu"}] * 3
    for workers in (1, 2):
        got = {}
        results = validate_many(cases, workers=workers, finished=got.__setitem__)
        assert [got[number] for number in range(3)] == results


def test_nothing_finished_is_said_and_nothing_written(here, capsys, monkeypatch):
    pressed_in(monkeypatch, "sigprop.validation.grid.validate", 1)
    pressed_in(monkeypatch, "sigprop.checking.entry.check", 1)
    pressed_in(monkeypatch, "sigprop.theory.critical.edge_of_chaos", 1)
    pressed_in(monkeypatch, "sigprop.arrangement.plane.cut", 1)
    for command, (line, _) in COMMANDS.items():
        assert "nothing is written" in ends(capsys, command, line)[1]
    assert not (here / "out").exists()


def test_check_ends_with_the_nets_that_are_finished(here, capsys, monkeypatch):
    pressed_in(monkeypatch, "sigprop.checking.entry.check", 3)
    out, error = ends(capsys, "check", COMMANDS["check"][0])
    assert "2 of 3 nets are finished; wrote out/a.partial.html, out/a.partial.csv" in error
    assert out.endswith("\npartial: 2 of 3 nets are finished\n")
    found = read_json(here / "out" / "a.partial.json")
    assert (found["complete"], found["nets_asked_for"], len(found["nets"])) == (False, 3, 2)
    assert {row["seed"] for row in read_csv(here / "out" / "a.partial.csv")} == {0, 1}
    assert "</html>" in (here / "out" / "a.partial.html").read_text()


def test_phase_ends_with_the_biases_that_are_finished(here, capsys, monkeypatch):
    pressed_in(monkeypatch, "sigprop.theory.critical.edge_of_chaos", 8)
    out, error = ends(capsys, "phase", COMMANDS["phase"][0])
    assert "found for 7 of 51 biases; wrote out/phase-relu.partial.csv" in error
    assert len(read_csv(here / "out" / "phase-relu.partial.csv")) == 7
    assert out.startswith("bias_std")


def test_regions_end_with_the_layers_that_are_done(here, capsys, monkeypatch, undrawn):
    pressed_in(monkeypatch, "sigprop.arrangement.plane.cut", 2)
    out, error = ends(capsys, "regions", COMMANDS["regions"][0])
    assert "the regions of the first layers are counted; wrote out/regions.partial.png" in error
    assert " (partial: interrupted)\n" in out
    found = read_json(here / "out" / "regions.partial.json")
    assert found["complete"] is False and found["activation_regions"] <= 16
    assert read_csv(here / "out" / "regions.partial.csv")


def test_regions_end_with_one_count_where_cells_are_being_merged(here, capsys, monkeypatch):
    pressed_in(monkeypatch, "sigprop.arrangement.results.same_map", 1)
    out, error = ends(capsys, "regions", COMMANDS["regions"][0])
    assert "activation regions are counted, linear regions are not; wrote out/regions.p" in error
    assert " (partial: linear regions are not counted)\n" in out
    found = read_json(here / "out" / "regions.partial.json")
    assert found["linear_regions"] is None and found["activation_regions"] > 5
    assert os.listdir(here / "out") == ["regions.partial.json"]


def test_ctrl_c_while_files_are_written_waits_for_them(here, capsys, monkeypatch, undrawn):
    pressed_in(monkeypatch, "sigprop.cli.regions.write_csv", 1)
    _, error = ends(capsys, "regions", COMMANDS["regions"][0])
    assert "wrote out/regions.png, out/regions.csv, out/regions.json" in error
    assert read_json(here / "out" / "regions.json")["complete"] is True


def test_a_second_ctrl_c_counts_at_once():
    before = signal.getsignal(signal.SIGINT)
    seen = []
    with pytest.raises(KeyboardInterrupt) as first, interrupts.uninterrupted():
        signal.raise_signal(signal.SIGINT)
        seen.append("first")
    assert str(first.value) == "all is finished and written"
    with pytest.raises(KeyboardInterrupt) as second, interrupts.uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        seen.append("never")
    assert str(second.value) == ""
    with interrupts.uninterrupted():
        seen.append("quiet")
    thread = threading.Thread(target=lambda: interrupts.uninterrupted().__enter__())
    thread.start()
    thread.join()
    assert seen == ["first", "quiet"] and signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_a_command_is_read_is_one_line(capsys, monkeypatch):
    def pressed():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parser", pressed)
    assert run("validate") == interrupts.INTERRUPTED
    assert capsys.readouterr().err == "sigprop: interrupted\n"


def test_ctrl_c_after_the_last_line_is_the_systems():
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupts.ended_at_once()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_overflow_loses_only_its_own_kind_of_net(here, capsys, undrawn):
    line = "validate --activation gelu --depth 2 --width 24 --seeds 1 --batch 4 --device cpu"
    line += " --input gaussian --out out"
    assert run(f"{line} --gain 1e20") == 2  # not 1: nothing is rejected
    assert "not finite in torch.float32" in capsys.readouterr().err
    assert not (here / "out").exists()
    assert run(f"{line} --gain 1 1e20") == 2
    _, error = capsys.readouterr()
    assert "1 of 2 kinds of net is finished; wrote out/validate.partial.png" in error
    assert "not finite in torch.float32" in error
    assert len(read_json(here / "out" / "validate.partial.json")["cells"]) == 1


def test_a_handler_of_someone_else_stays():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.uninterrupted():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


QUICK = """
import sys
from matplotlib import pyplot
from sigprop import plots
from sigprop import progress
from sigprop.cli import main
progress.EVERY = 0.02
plots.grid = lambda results: pyplot.figure()
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_in_a_process_of_its_own(here):
    gains = " ".join(f"{gain:.3f}" for gain in np.linspace(0.9, 1.1, 400))
    line = COMMANDS["validate"][0] + f" --gain {gains}"
    process = subprocess.Popen(
        [sys.executable, "-c", QUICK, *shlex.split(line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not re.search(r" \d\d of 400 nets", process.stderr.readline()):
        pass
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 130
    *_, last = error.splitlines()
    assert "Traceback" not in error
    assert re.match(r"sigprop validate: interrupted: \d+ of 400 kinds of net are finished;", last)
    found = read_json(here / "out" / "validate.partial.json")
    assert 1 < len(found["cells"]) < 400 and f"over all {len(found['cells'])} kinds of net" in out


# What is told before the work


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "warp"])
@pytest.mark.parametrize("command", ["validate", "check"])
def test_a_missing_device_is_told_before_the_work(capsys, monkeypatch, command, device):
    import torch

    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr("sigprop.data.load_inputs", None)
    monkeypatch.setattr("sigprop.cli.factory.made", None)
    line = COMMANDS[command][0].replace("--device cpu", "")
    assert run(f"{line} --device {device}") == 2
    assert "--device" in capsys.readouterr().err


def test_an_option_that_does_nothing_is_refused(capsys):
    assert run("regions model.py:build --line --box 0 1 0 1") == 2
    assert "--box is of a plane" in capsys.readouterr().err
    assert run("validate --activation tanh gelu --alpha 0.2") == 2
    assert "'tanh' has no parameter 'alpha'" in capsys.readouterr().err


def test_json_on_the_terminal_is_strict(capsys):
    def refuse(word):
        raise ValueError(word)

    assert run("explain --activation tanh --gain 1 --json") == 0
    row = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert row["depth_scale_q"] == float("inf")


def test_a_count_that_is_not_certified_says_so(here, capsys, monkeypatch, undrawn):
    monkeypatch.setattr("sigprop.arrangement.points.SECONDS", -1e9)
    assert run(COMMANDS["regions"][0]) == 0
    out = capsys.readouterr().out
    assert "linear regions (not certified)\n" in out or "linear region (not certified)\n" in out
    assert "not certified: some signs rest on error bounds that were measured" in out
    assert read_json(here / "out" / "regions.json")["certified"] is False


def test_a_reader_that_leaves_early_ends_nothing():
    read, write = os.pipe()
    os.close(read)
    code = "from sigprop.cli.output import show; show('x'); show('y' * 10**6); print('z')"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
