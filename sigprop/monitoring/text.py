"""A monitor in words: its table, what is wrong, and what it could not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from sigprop.checking.findings import SHOWN, Finding, by_problem
from sigprop.reading.calling import kind_of, named_modules, some
from sigprop.records import Row
from sigprop.results import Shown

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
    "called where the monitor can see it, on a tensor with plain entries. Modules of the model: "
    "{names}."
)
PASSED_OVER = (
    "layers that compute on {kinds} are passed over: such a tensor has no plain entries that this "
    "process could look at by itself. Layers on plain tensors are reported."
)
SECOND_ORDER = (
    "gradients were themselves differentiated (create_graph=True: a gradient penalty, a residual "
    "of a differential equation). Gradients reported are those of the backward pass that reaches "
    "the parameters; what it mixes by itself, the loss and its gradient term, cannot be told "
    "apart, and slope gradients are not reported."
)

INSIDE = "inside {names} nothing can be seen: recurrent and scripted modules compute in one piece."
_CLOSED = (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule)


def closed(root: nn.Module) -> str:
    """A note that names the modules whose inside nothing can look into; "" if there are none."""
    inside = [(n, m) for n, m in named_modules(root) if isinstance(m, _CLOSED)]
    found = [f"{n or 'the model itself'} ({kind_of(m)})" for n, m in inside]
    return INSIDE.format(names=some(found)) if found else ""


def headline(monitor: Monitor) -> str:
    """What is watched, how long and how often."""
    state = "attached" if monitor.attached else "detached"
    steps = f"{monitor.steps} step{'' if monitor.steps == 1 else 's'}"
    name = type(monitor.model).__name__
    return f"monitor of {name}: {steps}, a report every {monitor.every}, {state}"


def shown(monitor: Monitor, rows: Sequence[Row]) -> Shown:
    """The newest report as a table, then findings with advice, then notes."""
    head = headline(monitor)
    if not rows:
        notes = [f"note: {note}" for note in monitor.notes]
        return Shown([head, "no step has been reported yet.", *notes])
    found = monitor.findings()
    lines = []
    for together in by_problem(found):
        lines += _told(together)
    lines += [] if found else ["Nothing is wrong."]
    lines += [f"note: {note}" for note in monitor.notes]
    return Shown([head, f"step {rows[0]['step']}:"], rows, _columns(rows), lines)


def _told(found: Sequence[Finding]) -> list[str]:
    """Findings of one problem, a line each, and what to do."""
    lines = [f"  {f.name or 'the model itself'}: {f.detail}" for f in found[:SHOWN]]
    lines += [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return [f"{found[0].problem}:", *lines, f"  {found[0].advice}"]


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
