"""What one case does is not seen by the next one, nor by the sweep."""

import asyncio
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from sigprop import sweep
from sigprop.sweep import coordinator, engines, keys
from sigprop.sweep.settings import differing
from sigprop.sweep.worker import Batch, CannotLoad, host_name, run_batch
from tests.sweep import functions
from tests.sweep.running import quietly

CONFIG = sweep.grid(x=range(4), config=[{"lr": 0.5}])


@pytest.mark.parametrize(
    "how", [{"workers": 0}, {"workers": 1, "batch": 4}, {"executor": ThreadPoolExecutor(2)}]
)
def test_a_case_that_changes_its_arguments_changes_no_other(how):
    found = quietly(functions.takes_out, CONFIG, **how)
    assert [row["value"] for row in found.records()] == [0.5] * 4
    assert found.records()[3]["config"] == {"lr": 0.5}


@pytest.mark.parametrize("workers", [0, 1])
def test_settings_that_a_case_changes_are_put_back(workers):
    before = differing()
    found = quietly(functions.unsettles, sweep.grid(x=range(3)), workers=workers, batch=3)
    rows = [{k: v for k, v in row.items() if k != "x"} for row in found.records()]
    assert rows[0]["folder"] == Path.cwd().name and math.isnan(rows[0]["variable"])
    assert list(map(repr, rows)) == [repr(rows[0])] * 3
    assert differing() == before and "SIGPROP_X" not in os.environ


def test_settings_of_the_one_that_begins_hold_in_other_processes_and_are_part_of_the_key():
    usual = quietly(functions.default_dtype, sweep.grid(x=[1]), workers=0)
    torch.set_default_dtype(torch.float64)
    try:
        here = quietly(functions.default_dtype, sweep.grid(x=[1]), workers=0)
        there = quietly(functions.default_dtype, sweep.grid(x=[1]), workers=1)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert here.records() == there.records() == [{"x": 1, "value": "torch.float64"}]
    assert here.keys == there.keys != usual.keys


def test_a_number_of_numpy_is_given_as_the_number_of_python_that_has_its_key():
    def kind(x):
        return type(x).__name__

    found = quietly(kind, [{"x": np.float32(0.5)}, {"x": np.int64(3)}], workers=0)
    assert [row["value"] for row in found.records()] == ["float", "int"]


def test_global_random_numbers_are_of_the_case_in_a_thread_too():
    usual = quietly(functions.lucky_torch, sweep.grid(x=range(3)), workers=0).records()
    found = []
    one = threading.Thread(
        target=lambda: found.extend(
            quietly(functions.lucky_torch, sweep.grid(x=range(3)), workers=0).records()
        )
    )
    one.start()
    one.join()
    assert found == usual


class Unprintable(Exception):
    def __str__(self):
        raise TypeError("no text")


ERRORS = {
    "Unprintable: (its text cannot be had)": Unprintable(),
    "CancelledError: gone": asyncio.CancelledError("gone"),
    "ValueError: half \\udc80": ValueError("half \udc80"),
}


def raises(x, words):
    if x == 1:
        raise ERRORS[words]
    return x


@pytest.mark.parametrize("words", ERRORS)
def test_whatever_a_case_raises_is_written_down(words, tmp_path):
    cases = sweep.grid(x=range(3), words=words)
    found = quietly(raises, cases, workers=0, out=tmp_path / "s")
    assert [row["x"] for row in found.records()] == [0, 2]
    assert found.errors()[0]["error"] == words


def test_of_an_endless_message_both_ends_are_kept():
    def shouts(x):
        raise ValueError("a" * 10**7 + "z")

    (error,) = quietly(shouts, sweep.grid(x=[1]), workers=0).errors()
    assert len(error["error"]) < 3000 and error["error"].endswith("z")
    assert len(error["traceback"]) < 30_000


def test_text_that_no_file_can_hold_is_spelled_out(tmp_path):
    found = quietly(functions.same, [{"value": "name\udc80\u2028\n"}], workers=0, out=tmp_path)
    assert found.records() == [{"value": "name\\udc80\u2028\n"}]


def test_a_batch_comes_back_before_its_end_when_it_takes_too_long(monkeypatch, tmp_path):
    cases = [{"x": x, "place": str(tmp_path), "seconds": 0.02} for x in range(6)]
    sender = (host_name(), os.getpid())
    batch = Batch(functions.marked, cases, [bytes(16)] * 6, 1, None, True, sender, limit=0.03)
    assert len(run_batch(batch)) == 2
    (tmp_path / "calls").unlink()
    monkeypatch.setattr(coordinator, "LIMIT", 0.01)
    monkeypatch.setattr(coordinator, "AIMED", 10.0)
    assert len(quietly(functions.marked, cases, workers=0)) == 6
    assert [x for x, _ in functions.calls(tmp_path)] == list(range(6))


def test_a_thread_that_a_case_leaves_behind_does_not_keep_the_sweep(monkeypatch):
    monkeypatch.setattr(engines, "PATIENCE", 1.0)
    begun = time.monotonic()
    found = quietly(functions.kept_by_a_thread, sweep.grid(x=range(2)), workers=1)
    assert len(found) == 2 and time.monotonic() - begun < 60


def test_a_case_that_does_not_heed_a_polite_end_is_ended_after_ctrl_c(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, threading, time\n"
        "from pathlib import Path\n"
        "from sigprop import sweep\n"
        "from tests.sweep.functions import stubborn\n"
        "def interrupt():\n"
        "    while not Path('began').exists():\n"
        "        time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=interrupt, daemon=True).start()\n"
        "    sweep.run(stubborn, sweep.grid(x=[1, 2], place='.'), workers=1, out='s')\n"
    )
    ended = subprocess.run(
        [sys.executable, script], cwd=tmp_path, timeout=60, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert "run the same again to go on" in ended.stderr


def test_arguments_that_cannot_be_sent_are_named_and_blamed_on_no_worker():
    cases = [{"value": 2 * torch.ones(2, requires_grad=True)}]
    with pytest.raises(TypeError, match=r"same cannot be sent to another process: .*non-leaf"):
        quietly(functions.same, cases, workers=1)


SCRIPT = """
import sys
from pathlib import Path
from sigprop import sweep
from tests.sweep.functions import ends_its_module
if __name__ == "__main__":
    cases = sweep.grid(x=range(6), place=__file__)
    sweep.run(ends_its_module, cases, workers=1, out="s", batch=1)
"""


def test_where_no_other_process_starts_no_case_is_blamed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, timeout=120, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert "the worker processes do not start" in ended.stderr
    found = sweep.load(tmp_path / "s")
    assert not found.errors() and [row["x"] for row in found.records()] == [0, 1]


def test_a_case_that_loads_torch_runs_once(tmp_path):
    cases = sweep.grid(x=range(2), place=str(tmp_path))
    assert len(quietly(functions.marked_with_torch, cases, workers=1, batch=2)) == 2
    assert [x for x, _ in functions.calls(tmp_path)] == [0, 1]


def test_what_cannot_be_sent_leaves_no_process_behind():
    before = set(multiprocessing.active_children())
    lock = threading.Lock()

    def holds(x, held=lock):
        return x

    with pytest.raises(TypeError, match=r"cannot be sent|no other process") as caught:
        quietly(holds, sweep.grid(x=range(3)), workers=1)
    assert caught.value and set(multiprocessing.active_children()) <= before


def test_a_job_that_nobody_waits_for_does_not_end_the_polling():
    class Job:
        def __init__(self, function, *arguments):
            self.result, self.begun = (lambda: function(*arguments)), time.monotonic()

        def done(self):
            return time.monotonic() > self.begun + 0.1

    with sweep.Polled(Job, workers=2, every=0.01) as executor:
        assert executor.submit(pow, 2, 3).cancel()
        time.sleep(0.3)
        assert executor.submit(pow, 2, 5).result(timeout=10) == 32


def test_integers_of_any_size_have_a_place_on_the_axes():
    pytest.importorskip("xarray")
    found = quietly(lambda x: 2**70 * x, sweep.grid(x=[0, 1]), workers=0).to_xarray()
    assert np.array_equal(found.value, [0.0, 2.0**70])


def test_an_argument_that_is_called_error_is_told_beside_the_error():
    def refuses(error):
        raise ValueError("no")

    (row,) = quietly(refuses, [{"error": 3}], workers=0).errors()
    assert row["argument_error"] == 3 and row["error"] == "ValueError: no"


def test_a_changed_file_where_the_cases_run_ends_the_sweep_and_blames_no_case(monkeypatch):
    def changed(function):
        raise ValueError("the file was changed")

    monkeypatch.setattr(keys, "source_key", changed)
    function = pickle.dumps(functions.same)
    batch = Batch(function, [{"value": 1}], [bytes(16)], 1, "a" * 32, True, (host_name(), 0))
    with pytest.raises(CannotLoad, match="the file was changed"):
        run_batch(batch)
