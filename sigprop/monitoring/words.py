"""A monitor in words: its table, what is wrong, and what it could not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sigprop.measurement.calling import some
from sigprop.monitoring.findings import by_problem, in_words
from sigprop.records import Row, table

if TYPE_CHECKING:
    from sigprop.monitoring.monitors import Monitor

COMPILED_IN_PLACE = (
    "the model was compiled in place (model.compile()): its hooks would only run inside compiled "
    "code, where nothing can be seen. Use compiled = torch.compile(model) and give compiled to the "
    "monitor."
)
UNSEEN = (
    "an optimizer steps on the model's parameters, but no forward pass of the model was seen. "
    "Either the model runs inside a compiled function (give the monitor the module that "
    "torch.compile(model) returns, and call that), or its parts are called without it (wrap them "
    "in 'with mon.observe():'), or it is in evaluation mode (training_only=False)."
)
NOTHING_SEEN = (
    "a reported step had no layer to report{pattern}: no linear map, convolution or activation was "
    "called where the monitor can see it. Modules of the model: {names}."
)

INSIDE = "inside {names} nothing can be seen: recurrent and attention modules compute in one piece."
_CLOSED = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, torch.jit.ScriptModule)


def closed(root: nn.Module) -> str:
    """A note that names the modules whose inside nothing can look into; "" if there are none."""
    found = [f"{n} ({type(m).__name__})" for n, m in root.named_modules() if isinstance(m, _CLOSED)]
    return INSIDE.format(names=some(found)) if found else ""


def as_text(monitor: Monitor, rows: Sequence[Row]) -> str:
    """The newest report as a table, then findings with advice, then notes."""
    state = "attached" if monitor.attached else "detached"
    head = (
        f"monitor of {type(monitor.model).__name__}: {monitor.steps} steps, "
        f"a report every {monitor.every}, {state}"
    )
    if not rows:
        notes = [f"note: {note}" for note in monitor.notes]
        return "\n".join([head, "no step has been reported yet.", *notes])
    found = monitor.findings()
    lines = [head, f"step {rows[0]['step']}:", table(rows, _columns(rows))]
    lines += [in_words(together) for together in by_problem(found)] or ["Nothing is wrong."]
    return "\n".join([*lines, *(f"note: {note}" for note in monitor.notes)])


def _columns(rows: Sequence[Row]) -> dict[str, str]:
    columns = {
        "name": "", "kind": "", "activation": "", "second_moment": ".3g",
        "negative_share": ".2f", "dead_units": "", "units": "", "grad_second_moment": ".3g",
        "slope_mean": ".3g", "slope_min": ".3g", "slope_max": ".3g", "slope_signal": ".2g",
        "slope_grad": ".2g", "gain": ".4g", "g_star": ".4g", "nonfinite": "", "finding": "",
    }  # fmt: skip
    always = ("name", "kind", "activation", "units", "second_moment", "negative_share")
    return {
        key: spec
        for key, spec in columns.items()
        if key in always or any(row[key] not in (None, "", 0) for row in rows)
    }
