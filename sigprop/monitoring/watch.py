"""``monitor``: watch a model while it trains, every so many steps, and say what is wrong."""

from __future__ import annotations

from typing import Any

from torch import nn

from sigprop.monitoring.findings import Thresholds
from sigprop.monitoring.monitors import Monitor
from sigprop.monitoring.writers import as_sinks


def monitor(
    model: nn.Module,
    every: int = 50,
    *,
    include: str | None = None,
    log: Any = None,
    to: Any = None,
    thresholds: Thresholds | None = None,
    loss_scale: Any = None,
    training_only: bool = True,
    warn: bool = True,
    keep: int | None = None,
) -> Monitor:
    """Watch a model while it trains: a report of every layer every so many steps.

    Attaches at once; detach with ``with monitor(...) as mon:`` (on any exit) or ``mon.detach()``.
    A step ends when an optimizer that holds a parameter of the model has stepped, or when you call
    ``mon.step()``; where no optimizer is seen, when parameters have been changed in place. All
    forward and backward passes of a step count together. Steps 0, every, 2·every … are reported;
    in between only one hook on the model is there.

    Per layer: second moment and negative share of the pre-activations, silent and dead units,
    second moment of their gradient, PReLU slopes and what they learn from, the gain the weights
    have now against g*(slopes now), non-finite entries: see :class:`LayerReport`. Activations are
    seen as modules and as functions (``F.relu``, ``torch.relu``, ``clamp(min=0)``, ``F.prelu``…).
    Everything is reduced on its device and brought home once a reported step. Outputs, gradients,
    buffers and random numbers stay what they are without the monitor, bit for bit.

    Of several backward passes in a step those count that reach a parameter and whose gradients are
    kept: not a penalty's inner gradient, nor an adversarial step by ``torch.autograd.grad`` or by
    ``backward`` and ``zero_grad`` (which sets gradients to None, torch's default).

    What it cannot see: operations inside scripted modules, RNNs and custom C++ or autograd
    functions; the gradient at a view that an activation overwrites; gradients under reentrant
    checkpointing (without it: all, but reported steps keep what enters a PReLU); activations
    written as ``torch.where`` or ``torch.maximum``; calls by other threads while a pass is under
    way; nested and meta tensors.
    In distributed training (DDP, FSDP, ``fully_shard``) each process sees its own data, whole
    weights and slopes, and gradients before they are averaged; give ``to`` and ``log`` in one of
    them. Layers on tensors split over processes (DTensor, tensor parallelism) are passed over.
    Compiled code cannot be looked into: give the compiled module (``torch.compile(model)``), and
    reported steps run uncompiled, the others compiled; a model compiled in place
    (``model.compile()``) is refused. Under ``torch.func`` transforms nothing is seen.

    Args:
        model: any module; wrappers (DataParallel, DistributedDataParallel, compiled) may stay on.
        every: steps from one report to the next.
        include: a regular expression, searched in the names of layers and activations; None: all.
        log: where every number goes as ``log(name, value, step)``: such a function, or an object
            with ``add_scalar`` (TensorBoard's SummaryWriter) or ``log`` (a W&B run).
        to: one or more paths (``.jsonl``, ``.csv``) or functions that take a list of rows. Files
            are written line by line; what was written outlives the process.
        thresholds: where it begins to warn.
        loss_scale: what the loss is multiplied by before the backward pass, to take it out again: a
            ``torch.amp.GradScaler``, a number, or a function that gives it.
        training_only: look only at passes in training mode with gradients on.
        warn: warn (``MonitorWarning``) once for each layer and problem.
        keep: reports kept for :meth:`Monitor.records`; None: all.

    Returns:
        The monitor, attached.

    Raises:
        TypeError: not a module, or an argument of another kind.
        ValueError: an argument out of range, a pattern that is none, a model compiled in place
            or scripted.

    Example:
        >>> import sigprop, torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 2))
        >>> net = sigprop.kaiming_leaky_init(net)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> with monitor(net, every=2) as mon:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         net(torch.ones(5, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> [(row["step"], row["name"], row["activation"]) for row in mon.records()][:3]
        [(0, '0', 'PReLU'), (0, '2', ''), (2, '0', 'PReLU')]
    """
    return Monitor(
        model,
        every,
        include=include,
        sinks=as_sinks(to, log),
        thresholds=Thresholds() if thresholds is None else thresholds,
        loss_scale=loss_scale,
        training_only=training_only,
        warn=warn,
        keep=keep,
    ).attach()
