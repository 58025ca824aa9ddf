"""Grids of runs: thousands of cases on one machine or a cluster, resumable, on any executor."""

from __future__ import annotations

from sigprop.sweep.cases import Cases, grid, zip
from sigprop.sweep.engines import Polled
from sigprop.sweep.entry import CaseError, run
from sigprop.sweep.result import Sweep, load
from sigprop.sweep.status import Status, status

__all__ = [
    "CaseError", "Cases", "Polled", "Status", "Sweep", "grid", "load", "run", "status", "zip",
]  # fmt: skip
