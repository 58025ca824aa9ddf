"""What ``validate`` takes for ``init``: a function of ours, or one of ``torch.nn.init``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sigprop.checks import one_of, shown
from sigprop.init.drawing import jobs_for
from sigprop.init.jobs import Job
from sigprop.init.request import slopes_request

Init: TypeAlias = Callable[[nn.Module, torch.Generator], Any]
GivenInit: TypeAlias = Init | Callable[..., Any] | str
"""What an argument ``init`` may be."""

LAWS = (
    "kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal",
    "trunc_normal", "normal", "uniform",
)  # fmt: skip
"""Functions of ``torch.nn.init`` that draw a weight from nothing but its shape."""


def read_init(init: GivenInit | None, gain: float, bias_std: float) -> Init:
    """The initialization of a module from a generator that an argument ``init`` means.

    - None: ``kaiming_leaky_init`` with the claimed gain and biases.
    - A name or a function of ``torch.nn.init``, ``"kaiming_normal"`` or ``nn.init.orthogonal_``, or
      a ``functools.partial`` of one: it draws every weight of two axes or more, with the arguments
      that it has of itself (``kaiming_normal_`` takes gain √2). Biases are drawn as claimed.
    - Any other function: called with a module and a generator.

    Raises:
        TypeError: not a function of a module and a generator.
        ValueError: an unknown name, or a function of ``torch.nn.init`` that draws nothing.

    Example:
        >>> layer = nn.Linear(400, 400)
        >>> read_init("kaiming_normal", 1.0, 0.0)(layer, torch.Generator().manual_seed(0))
        >>> round(layer.weight.std().item() * 20, 2), layer.bias.any().item()
        (1.41, False)
    """
    if init is None:
        return _ours(gain, bias_std)
    if isinstance(init, str):
        name = init.rpartition(".")[2].removesuffix("_").lower()
        return functools.partial(
            _drawn, getattr(nn.init, one_of("init", name, LAWS) + "_"), bias_std
        )
    draw: Any = init.func if isinstance(init, functools.partial) else init
    if getattr(draw, "__module__", None) == nn.init.__name__:
        one_of("init", draw.__name__.removesuffix("_"), LAWS)
        return functools.partial(_drawn, init, bias_std)
    _check_takes_two(init)
    return init


def _ours(gain: float, bias_std: float) -> Init:
    """``kaiming_leaky_init``; what it decides of a module depends on no draw, and is kept."""
    request = slopes_request(None, gain, "fan_in", "normal", bias_std)
    decided: dict[nn.Module, list[Job]] = {}

    def init(module: nn.Module, generator: torch.Generator) -> None:
        if module not in decided:
            decided[module], _ = jobs_for(module, request)
        with torch.no_grad():
            for job in decided[module]:
                job.write(bias_std, generator)

    return init


def _drawn(
    draw: Callable[..., Any], bias_std: float, module: nn.Module, generator: torch.Generator
) -> None:
    """Every weight by a function of ``torch.nn.init``, every bias normal."""

    def weight(tensor: Tensor) -> None:
        draw(tensor, generator=generator)

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                weight(parameter)
            elif name.endswith("bias"):
                parameter.normal_(0, bias_std, generator=generator)


def _check_takes_two(init: Any) -> None:
    if not callable(init):
        raise TypeError(
            "init must be a function init(module, generator), or the name of a function of "
            f"torch.nn.init, as 'kaiming_normal'; got {shown(init)}."
        )
    try:
        inspect.signature(init).bind(None, None)
    except TypeError as error:
        raise TypeError(
            "init is called with a module and a torch.Generator, init(module, generator), but it "
            f"does not take them: {error}. Draw from the generator, so that nets differ by seed."
        ) from None
    except ValueError:  # a callable of C++ without a signature is called as it is
        return
