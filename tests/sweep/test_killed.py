"""Coordinators and workers that are killed in the middle, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sigprop import sweep
from tests.sweep.functions import calls, marked
from tests.sweep.running import here, values

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
from sigprop import sweep
from tests.sweep.functions import marked
if __name__ == "__main__":
    cases = sweep.grid(x=range(60), place=sys.argv[1], seconds=0.05)
    sweep.run(marked, cases, out=sys.argv[1] + "/s", workers=2, progress=False)
"""


def begun(tmp_path, text=SCRIPT):
    """A script that sweeps, in a process of its own."""
    (tmp_path / "script.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def waited(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def lines(tmp_path):
    place = tmp_path / "s" / "cases.jsonl"
    return place.read_bytes().count(b"\n") if place.exists() else 0


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_coordinator_is_ended_in_the_middle(tmp_path, how):
    """By kill −9 or by Ctrl-C: its workers end, nothing finished is lost, the rest is computed."""
    process = begun(tmp_path)
    waited(lambda: lines(tmp_path) >= 10)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # a terminal sends it to all
    else:
        process.send_signal(how)
    text, _ = process.communicate(timeout=30)  # workers hold its output no longer
    if how == signal.SIGINT:
        assert "finished and kept in" in text and "run the same again to go on" in text
        assert "SpawnProcess" not in text  # workers say nothing
    workers = {worker for _, worker in calls(tmp_path)}
    assert workers and process.pid not in workers
    waited(lambda: not any(map(alive, workers)), 10)
    kept, called = lines(tmp_path), len(calls(tmp_path))
    assert 10 <= kept < 60
    # what ran when it was ended: a batch of each of two workers, of about a quarter of a second
    assert called - kept <= 2 * 8
    cases = sweep.grid(x=range(60), place=str(tmp_path), seconds=0.05)
    result = here(marked, cases, out=tmp_path / "s")
    assert values(result) == [x / 7 for x in range(60)]
    assert len(calls(tmp_path)) == called + 60 - kept


def test_ctrl_c_waits_for_no_case(tmp_path):
    """One worker is in a long case and is ended, the other one is idle and says nothing."""
    cases = "sweep.grid(x=range(60), place=sys.argv[1], seconds=0.05)"
    long = "sweep.zip(x=[0, 1], place=sys.argv[1], seconds=[0.0, 500.0])"
    patient = "import sigprop.sweep.engines\nsigprop.sweep.engines.PATIENCE = 1e6\n"
    process = begun(tmp_path, patient + SCRIPT.replace(cases, long))
    waited(lambda: len(calls(tmp_path)) == 2 and lines(tmp_path) == 1)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=30)
    assert "1 of 2 cases are finished and kept" in text and "SpawnProcess" not in text
    waited(lambda: not any(alive(worker) for _, worker in calls(tmp_path)), 10)


def test_a_worker_is_killed_from_outside(tmp_path):
    process = begun(tmp_path)
    waited(lambda: lines(tmp_path) >= 5)
    os.kill(calls(tmp_path)[-1][1], signal.SIGKILL)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert values(sweep.load(tmp_path / "s")) == [x / 7 for x in range(60)]


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path):
    process = begun(tmp_path, SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the worker processes do not start" in text and 'if __name__ == "__main__"' in text
