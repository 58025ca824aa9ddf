"""What a monitor saved, read as a whole before anything is taken from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from sigprop.checks import count
from sigprop.monitoring.report import LayerReport
from sigprop.reading.calling import described
from sigprop.records import Row

VERSION = 1
KEYS = ("last_fired", "notes", "reports", "steps", "version", "warned")


@dataclass(frozen=True)
class State:
    """The parts of a state, each a copy."""

    steps: int
    reports: list[list[Row]]
    last_fired: dict[str, Tensor]
    warned: set[tuple[str, str]]
    notes: list[str]


def read_state(state: Any) -> State:
    """Read what :meth:`Monitor.state_dict` returned.

    Raises:
        TypeError: not a mapping.
        ValueError: not the state of a monitor, or one with parts of another kind.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping from state_dict(); got {described(state)}.")
    if set(state) != set(KEYS) or state["version"] != VERSION:
        raise ValueError(
            f"this is no state of a monitor: it must have version {VERSION} and the keys "
            f"{', '.join(KEYS)}; got {', '.join(map(str, state)) or 'none'}."
        )
    steps = count("steps", state["steps"], minimum=0)
    try:
        read = State(
            steps,
            [[dict(row) for row in rows] for rows in state["reports"]],
            {str(name): fired.clone() for name, fired in state["last_fired"].items()},
            {(str(name), str(problem)) for name, problem in state["warned"]},
            [str(note) for note in state["notes"]],
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"this is no state of a monitor: a part is damaged ({error}).") from error
    wanted = {field.name for field in fields(LayerReport)}
    if any(set(row) != wanted for rows in read.reports for row in rows):
        raise ValueError(
            "this is no state of a monitor: its reports have other fields than this version "
            "writes. Start with a fresh monitor."
        )
    return read
