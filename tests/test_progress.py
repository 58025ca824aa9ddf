"""How far something is: lines by the clock, or a bar on a terminal."""

import contextlib
import io
import sys
import threading
import time

import pytest

from sigprop import progress


def test_a_line_every_so_often_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with progress.progress_bar("regions", "hyperplanes") as told:
        time.sleep(0.05)
        told(1200, 4000)
        time.sleep(0.05)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sigprop regions: 0 hyperplanes, 0 s"
    assert lines[-1] == "sigprop regions: 1,200 of 4,000 hyperplanes, 0 s, 0 s left"
    assert not any(thread.name.startswith("sigprop") for thread in threading.enumerate())


def test_what_was_done_before_counts_for_no_speed(monkeypatch):
    clock = progress._Clock("sweep f", "cases", 60.0, before=1000)
    clock.began -= 100
    clock.seen(1200, 2200, "3 failed")
    assert clock.line() == ("sigprop sweep f: 1,200 of 2,200 cases, 3 failed, 100 s, 500 s left")
    begun = []

    def bar(**options):
        begun.append(options)
        return contextlib.nullcontext()

    monkeypatch.setattr("tqdm.tqdm", bar)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.progress_bar("sweep f", "cases", before=1000):
        assert begun[0]["initial"] == 1000


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("installed", [True, False])
def test_a_bar_on_a_terminal(monkeypatch, installed):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress.progress_bar("regions", "hyperplanes") as told:
        time.sleep(0.35 if installed else 0)
        told(2, 4)
    assert ("2/4" in terminal.getvalue()) is installed
    assert ("pip install 'sigprop[progress]'" in terminal.getvalue()) is not installed
