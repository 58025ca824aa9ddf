"""PReLU slopes in training: without weight decay, kept in an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from sigprop.checks import FloatArray, real_array, real_number
from sigprop.nn.rectifiers import ConstrainedPReLU
from sigprop.reading.calling import check_model, read_pattern
from sigprop.reading.layers import has_slopes, is_whole

Model = TypeVar("Model", bound=nn.Module)


def param_groups(
    model: nn.Module, weight_decay: float, *, also: str | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer in which PReLU slopes have no weight decay.

    Decay pulls a slope towards 0, that is towards ReLU; it says nothing about the size of weights.
    Left out of decay are all parameters of activations: of PReLU, of the activations of
    ``sigprop.nn``, and of any module with a method ``slopes()``.

    Args:
        model: any module.
        weight_decay: of everything else, ≥ 0.
        also: a regular expression searched in parameter names, for others that take no decay: the
            slopes of ``F.prelu``, biases, normalization.

    Returns:
        Groups for ``torch.optim``: those with decay, then those without; every parameter once, no
        group empty.

    Raises:
        TypeError: not a module, or not a number.
        ValueError: decay below 0; a pattern that is none or matches nothing; no parameters.

    Source: he2015.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 2))
        >>> groups = param_groups(net, weight_decay=1e-2)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(4, 0.01), (1, 0.0)]
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
    """
    check_model(model)
    decay = real_number("weight_decay", weight_decay, minimum=0)
    free = {id(p) for m in model.modules() if _is_activation(m) for p in m.parameters()}
    free |= {id(p) for p in _named(model, also)}
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameters to optimize.")
    groups = [
        {"params": [p for p in parameters if id(p) not in free], "weight_decay": decay},
        {"params": [p for p in parameters if id(p) in free], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def project_slopes(
    model: nn.Module, min: float = 0.0, max: float = 1.0, *, also: str | None = None
) -> None:
    """Put every PReLU slope back into [min, max], in place; call it after each optimizer step.

    In [0, 1] the activation is monotone and no steeper below zero than above. Slopes of
    ConstrainedPReLU stay in their own interval by themselves (parametrized) or are kept in both;
    those of your own modules with ``slopes()`` and ``set_slopes(values)`` are set where one is
    outside. A slope that is NaN stays NaN: looking for it would wait for the device at every step;
    a monitor reports it.

    Args:
        model: any module.
        min: smallest slope.
        max: largest slope.
        also: a regular expression searched in parameter names, for slopes given to ``F.prelu``.

    Raises:
        TypeError: not a module, or not numbers.
        ValueError: an empty interval; a pattern that is none or matches nothing; no slopes; slopes
            that are computed from other parameters.

    Source: he2015.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.PReLU(init=-0.1))
        >>> project_slopes(net)
        >>> net[1].weight.item()
        0.0
    """
    check_model(model)
    low = real_number("min", min, allow_infinite=True)
    high = real_number("max", max, minimum=low, allow_infinite=True)
    slopes = list(_named(model, also))
    sloped = [(name, m) for name, m in model.named_modules() if can_set_slopes(m)]
    slopes += [own_slopes(name, m) for name, m in sloped if isinstance(m, nn.PReLU)]
    if not slopes and not sloped:
        raise ValueError(
            f"{type(model).__name__} has no PReLU, so there are no slopes to project; name slopes "
            "given to F.prelu with also='their names'."
        )
    for weight in slopes:
        weight.clamp_(low, high)
    for _, module in sloped:
        if isinstance(module, ConstrainedPReLU):  # without waiting for the device
            module.project_(low, high)
        elif not isinstance(module, nn.PReLU):
            _project(module, low, high)


def constrain_slopes(
    model: Model, min: float = 0.0, max: float = math.inf, *, method: str = "parametrization"
) -> Model:
    """Replace every ``nn.PReLU`` by a :class:`sigprop.nn.ConstrainedPReLU` with the same slopes.

    In place, but the parameters are new: make the optimizer after it. Slopes that were shared are
    shared again.

    Args:
        model: any module.
        min: smallest slope.
        max: largest slope, may be infinite.
        method: as for ConstrainedPReLU: ``"parametrization"`` or ``"projection"``.

    Returns:
        The model; what replaces it, if it is a PReLU itself.

    Raises:
        TypeError: not a module, or not numbers.
        ValueError: an empty interval; no PReLU; a slope that is not inside the interval, or is
            computed from other parameters. Then nothing has been changed.

    Source: he2015.

    Example:
        >>> net = constrain_slopes(nn.Sequential(nn.Linear(4, 8), nn.PReLU(8, init=0.1)))
        >>> round(net[1].slopes()[0].item(), 6)
        0.1
    """
    check_model(model)
    new: dict[nn.Module, ConstrainedPReLU] = {}
    tied: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.PReLU):
            new[module] = _constrained(name, module, min, max, method)
            new[module].weight = tied.setdefault(id(module.weight), new[module].weight)
    if not new:
        raise ValueError(f"{type(model).__name__} has no PReLU whose slopes could be constrained.")
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in new:
                parent._modules[name] = new[child]
    return new.get(model, model)  # type: ignore[return-value]


def can_set_slopes(module: nn.Module) -> bool:
    """Whether a module has slopes that can be set: a PReLU, or slopes() and set_slopes()."""
    settable = has_slopes(module) and callable(getattr(type(module), "set_slopes", None))
    return isinstance(module, nn.PReLU) or settable


@torch.no_grad()
def set_slopes(name: str, module: nn.Module, slopes: FloatArray) -> None:
    """Give a PReLU, or a module with ``set_slopes``, its slopes, one a channel.

    Raises:
        ValueError: what the module says of slopes that it does not take.
    """
    values = torch.tensor(slopes.tolist(), dtype=torch.float64)
    if isinstance(module, nn.PReLU):
        module.weight.copy_(values)
        return
    try:
        module.set_slopes(values)  # type: ignore[operator]
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}" if name else str(error)) from error


def _project(module: Any, low: float, high: float) -> None:
    slopes = torch.as_tensor(module.slopes())
    if bool(((slopes < low) | (slopes > high)).any()):
        module.set_slopes(slopes.clamp(low, high))


def _constrained(
    name: str, module: nn.PReLU, low: float, high: float, method: str
) -> ConstrainedPReLU:
    weight = own_slopes(name, module)
    middle = low + 1.0 if math.isinf(high) else (low + high) / 2
    new = ConstrainedPReLU(
        module.num_parameters,
        middle,
        lower=low,
        upper=high,
        method=method,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        set_slopes(name, new, real_array("slopes", weight))
    new.weight.requires_grad_(weight.requires_grad)
    return new.train(module.training)


def own_slopes(name: str, module: nn.PReLU) -> nn.Parameter:
    """The slopes of a PReLU, which can be written to.

    Raises:
        ValueError: they are computed from other parameters.
    """
    weight = module._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"the slopes of PReLU {name!r} are computed from other parameters (parametrized) and "
            "cannot be written; the parametrization must keep them where they belong."
        )
    return weight


def _is_activation(module: nn.Module) -> bool:
    return isinstance(module, nn.PReLU) or is_whole(module)


def _named(model: nn.Module, also: str | None) -> Iterator[nn.Parameter]:
    pattern = read_pattern("also", also)
    if pattern is None:
        return
    found = [p for name, p in model.named_parameters() if pattern.search(name)]
    if not found:
        names = [name for name, _ in model.named_parameters()]
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise ValueError(f"also={also!r} matches no parameter; there are {shown or 'none'}.")
    yield from found
