"""What an initialization leaves as it is, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from sigprop.init.parameters import Writable
from sigprop.init.plan import Untouched
from sigprop.reading.layers import LEAKY_MODULES, has_slopes, home_of_forward

_REASONS = {
    "batchnorm": "normalization",
    "instancenorm": "normalization",
    "normalization": "normalization",
    "sparse": "embedding",
    "rnn": "recurrent",
}


def untouched(
    modules: Mapping[str, nn.Module],
    parameters: Mapping[str, nn.Parameter],
    writables: Iterable[Writable],
    reasons: Mapping[str, str],
) -> tuple[Untouched, ...]:
    """Every parameter that is not written, with the reason given or that of its module."""
    held = {id(tensor) for writable in writables for tensor in writable.held}
    return tuple(
        Untouched(name, tuple(p.shape), reasons.get(name) or _why(modules, name))
        for name, p in parameters.items()
        if id(p) not in held and not isinstance(p, nn.UninitializedParameter)
    )


def nothing_left(model: nn.Module, reasons: Sequence[str]) -> str:
    """Why there is nothing to initialize."""
    said = "; ".join(list(dict.fromkeys(reasons))[:3])
    return f"{type(model).__name__} has nothing left to initialize: {said}."


def _why(modules: Mapping[str, nn.Module], name: str) -> str:
    owner = modules[name.rpartition(".")[0]]
    if isinstance(owner, LEAKY_MODULES) or has_slopes(owner):
        return f"slopes of a {type(owner).__name__}"
    if home_of_forward(owner).startswith("sigprop.nn."):
        return f"parameter of an activation ({type(owner).__name__})"
    homes = [c.__module__.removeprefix("torch.nn.modules.") for c in type(owner).__mro__]
    known = next((_REASONS[home] for home in homes if home in _REASONS), "not a weight layer")
    return f"{known} ({type(owner).__name__})"
