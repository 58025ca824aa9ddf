"""A model watched while it trains: layers that die, slopes that do not learn, gains off g*."""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.checking.findings import Finding
from sigprop.monitoring.findings import MonitorWarning, Thresholds
from sigprop.monitoring.lightning import lightning_callback
from sigprop.monitoring.monitors import Monitor
from sigprop.monitoring.report import LayerReport
from sigprop.monitoring.watch import monitor
from sigprop.monitoring.writers import CsvLines, JsonLines, Scalars, read_jsonl

__all__ = [
    "CsvLines",
    "Finding",
    "JsonLines",
    "LayerReport",
    "Monitor",
    "MonitorWarning",
    "Scalars",
    "Thresholds",
    "lightning_callback",
    "monitor",
    "read_jsonl",
]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
