"""From a model and a request to weights: what decides, and what writes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from sigprop.init.decisions import Decision
from sigprop.init.jobs import Job, tensor_job
from sigprop.init.plan import InitPlan
from sigprop.init.request import Request
from sigprop.init.signal_warnings import SignalWarning
from sigprop.init.targets import target_decision
from sigprop.prediction.drawn import remember
from sigprop.prediction.inputs import shapes_drawn
from sigprop.reading.calling import collector_waits, unwrapped

Target = TypeVar("Target", bound="nn.Module | Tensor")
Report = Callable[[InitPlan], object]


def decision_of(
    target: nn.Module | Tensor, request: Request, generator: torch.Generator | None = None
) -> Decision:
    """What decides for a layer or a model: the graph, or the prediction where there is an aim.

    Raises:
        TypeError: not a module.
    """
    if not isinstance(target, nn.Module):
        raise TypeError(
            "module_or_tensor must be a torch.nn.Module or a weight tensor; "
            f"got {type(target).__name__}."
        )
    model = unwrapped(target)
    if request.aim is None:
        example = shapes_drawn(model, request.example)
        return Decision(model, replace(request, example=example), generator)
    return target_decision(model, request, generator)


def jobs_for(
    target: nn.Module | Tensor, request: Request, generator: torch.Generator | None = None
) -> tuple[list[Job], InitPlan]:
    """Decide everything for a tensor, a layer or a model; what is written on the way is put back.

    Args:
        target: what is to be initialized.
        request: how.
        generator: that the weights are to be drawn from; it is left as it is.

    Raises:
        TypeError, ValueError: whatever cannot be done; see :func:`sigprop.init.kaiming_leaky_init`.
    """
    if isinstance(target, Tensor):
        job = tensor_job(target, request)
        return [job], InitPlan((job.layer,), ())
    return decision_of(target, request, generator).jobs()


def _drawn(target: Target, request: Request, generator: torch.Generator | None) -> InitPlan:
    """Decide and draw; what was needed for it is let go of before the garbage is looked for."""
    if isinstance(target, Tensor):
        jobs, plan = jobs_for(target, request)
        with torch.no_grad():
            jobs[0].write(request.bias_std, generator)
        return plan
    decision = decision_of(target, request, generator)
    jobs, plan = decision.jobs()
    return decision.written(jobs, plan, generator)


def draw(
    target: Target,
    request: Request,
    generator: torch.Generator | None,
    *,
    report: Report | None = None,
    stacklevel: int = 3,
) -> Target:
    """Decide everything, then draw.

    Raises:
        TypeError, ValueError: whatever cannot be done; then nothing has been changed.
    """
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(
            f"generator must be a torch.Generator or None; got {generator!r}. "
            "For a seed, pass torch.Generator().manual_seed(seed)."
        )
    if report is not None and not callable(report):
        raise TypeError(f"report must be a function of a plan, such as print; got {report!r}.")
    with collector_waits():
        plan = _drawn(target, request, generator)
        if isinstance(target, nn.Module):
            remember(unwrapped(target), plan)
    if report is not None:
        report(plan)
    if plan.warnings:
        warnings.warn(" ".join(plan.warnings), SignalWarning, stacklevel=stacklevel)
    return target
