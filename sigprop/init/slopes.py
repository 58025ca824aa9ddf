"""PReLU slopes started from the data: the more of a channel's inputs are negative, the larger."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.checks import FloatArray, one_of, real_array, real_number
from sigprop.graph import Graph, Node
from sigprop.init.entry import first_activation
from sigprop.init.levels import levels
from sigprop.init.parameters import writable_layer
from sigprop.measurement.hooks import every_module_called
from sigprop.reading import trace
from sigprop.reading.calling import as_found, call, check_model, flatten, unwrapped
from sigprop.reading.layers import WEIGHT_LAYERS, module_slopes
from sigprop.records import Row
from sigprop.results import Result, Shown
from sigprop.slopes import can_set_slopes, own_slopes, set_slopes

Rule = str | float | Callable[[FloatArray], Any]


@dataclass(frozen=True)
class StartedSlopes(Result):
    """What :func:`init_slopes` set at one module.

    Attributes:
        name: path of the PReLU, or of the weight layer whose gain was corrected.
        kind: its class.
        channels: slopes of the PReLU; None at a weight layer.
        negative_share: mean share of its inputs below 0.
        slope: mean of its slopes.
        slope_min: the smallest.
        slope_max: the largest.
        factor: what the weight was multiplied by; None at a PReLU.
    """

    name: str
    kind: str
    channels: int | None = None
    negative_share: float | None = None
    slope: float | None = None
    slope_min: float | None = None
    slope_max: float | None = None
    factor: float | None = None


@dataclass(frozen=True)
class SlopeStart(Result):
    """All that :func:`init_slopes` set, in the order of the data. Prints as a table."""

    modules: tuple[StartedSlopes, ...]

    def records(self) -> list[Row]:
        """One flat row a module."""
        return [asdict(module) for module in self.modules]

    def _shown(self) -> Shown:
        numbers = ("negative_share", "slope", "slope_min", "slope_max", "factor")
        columns = {"name": "", "kind": "", "channels": ""} | dict.fromkeys(numbers, ".4f")
        return Shown(rows=self.records(), columns=columns)


def init_slopes(
    model: nn.Module, x: Any, rule: Rule = "negative_share", *, correct_gain: bool = True
) -> SlopeStart:
    """Start PReLU slopes from the share of their inputs below zero, p̂₋, in place.

    The more of a channel's inputs are negative, the larger its slope, so that less of the signal is
    lost. In the order of the data: each PReLU is set when the data reaches it, so what follows
    already sees its slopes. A PReLU that is called several times takes the share of its first call.

    The gain follows: weights fed by a PReLU are multiplied by √(Σ(1 + ᾱ²_old)/Σ(1 + ᾱ²_new)), the
    sums over the branches that feed the layer; ᾱ² is the mean of α² over channels. So
    g*(α_old) becomes g*(α_new). A layer fed by the raw input is, bias included, multiplied likewise
    by what it feeds, as :func:`sigprop.kaiming_leaky_init` sets it.

    That gain is the one of α's mean square. Slopes that follow the share sit where they pass most
    signal on, so q still grows, the more the deeper (34 times in 30 layers on digits). What the
    rule is worth is measured in ``analyses/init_slopes.py``: at small learning rates a little, by
    that louder signal; at good ones nothing.

    Args:
        model: any module with PReLU (or ConstrainedPReLU) modules, initialized; it runs in the mode
            it is in, without gradient. Buffers and random state are given back.
        x: what to call it with: a tensor, a tuple of positional or a dict of keyword arguments.
        rule: ``"negative_share"``: α = p̂₋/2, so that an even split gives 0.25; a function from
            the shares, shape (channels,), to slopes; or a number for all.
        correct_gain: whether weights follow; needs a model that torch.fx can follow.

    Returns:
        What was set.

    Raises:
        TypeError: not a module; a rule of another kind.
        ValueError: no PReLU was called; inputs of a PReLU that are not finite; slopes that are not
            finite or outside a ConstrainedPReLU's interval; a gain that cannot be corrected. Then
            nothing has been changed.

    Source: he2015 (the gain); the rule is a textbook suggestion.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.PReLU(8), nn.Linear(8, 2))
        >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        >>> start = init_slopes(net, x)
        >>> [(module.name, module.kind) for module in start.modules]
        [('1', 'PReLU'), ('2', 'Linear'), ('0', 'Linear')]
        >>> bool((net[1].weight >= 0).all() and (net[1].weight <= 0.5).all())
        True
    """
    check_model(model)
    rule_of = _rule(rule)
    inner = unwrapped(model)
    modules = dict(inner.named_modules())
    sloped = {name: m for name, m in modules.items() if can_set_slopes(m)}
    for name, module in sloped.items():
        if isinstance(module, nn.PReLU):
            own_slopes(name, module)
    gains = _Gains(trace(inner), modules, set(sloped)) if correct_gain else None
    kept = [(p, p.detach().clone()) for p in inner.parameters()]
    done: dict[str, StartedSlopes] = {}

    def before(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if name in done:
            return
        if name in sloped:
            done[name] = _start(name, module, args[0], rule_of)
        elif gains is not None and gains.fed(name):
            factor = gains.correct(name)
            done[name] = StartedSlopes(name, type(module).__name__, factor=factor)

    try:
        found = as_found(inner.modules(), flatten(x))
        with found, every_module_called(), torch.no_grad(), ExitStack() as on:
            for name, module in modules.items():
                if name in sloped or isinstance(module, WEIGHT_LAYERS):
                    handle = module.register_forward_pre_hook(_named_hook(name, before))
                    on.callback(handle.remove)
            call(inner, x)
        if not sloped.keys() & done.keys():
            raise ValueError(
                f"{type(model).__name__} called no PReLU module on this input, so there are no "
                "slopes to start (those given to F.prelu are out of reach)."
            )
        for name in gains.first_layers() if gains is not None else ():
            factor = gains.correct(name, bias=True) if gains is not None else 1.0
            done[name] = StartedSlopes(name, type(modules[name]).__name__, factor=factor)
    except BaseException:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)
        raise
    return SlopeStart(tuple(done.values()))


class _Gains:
    """What feeds each weight layer, and how much slopes that change move its gain."""

    def __init__(self, graph: Graph, modules: dict[str, nn.Module], sloped: set[str]) -> None:
        self.modules, self.sloped = modules, sloped
        self.signals = levels(graph)
        self.layers: dict[str, Node] = {}
        for node in graph.of_kind("weight"):
            self.layers.setdefault(node.module, node)
        self.feeders = {name: self._feeders(node) for name, node in self.layers.items()}
        self.old = {name: self._square(name) for name in sloped}
        self.done: dict[tuple[object, ...], float] = {}

    def fed(self, name: str) -> bool:
        """Whether a layer is fed by a PReLU (not: feeds it, standing at the input)."""
        return name in self.layers and self._changes(name) and not self._at_input(name)

    def first_layers(self) -> list[str]:
        """The layers at the input that feed a PReLU."""
        return [n for n in self.layers if self._at_input(n) and self._changes(n)]

    def correct(self, name: str, *, bias: bool = False) -> float:
        """Multiply the weight of a layer by the factor that its new slopes ask for; return it."""
        old = new = 0.0
        for source in self.feeders[name]:
            if source.alpha is not None and source.module in self.sloped:
                old, new = old + 1 + self.old[source.module], new + 1 + self._square(source.module)
            elif source.kind == "weight" or source.alpha is not None:
                alpha = (1.0,) if source.kind == "weight" else source.alpha or ()
                old, new = (s + 1 + float(np.mean(np.square(alpha))) for s in (old, new))
            else:
                raise ValueError(
                    f"the gain of weight layer {name!r} cannot be corrected: it is fed by a PReLU "
                    f"in or beside {source}, which has no one slope. Pass correct_gain=False."
                )
        factor = math.sqrt(old / new)
        module = self.modules[name]
        for attribute in ("weight", "bias") if bias else ("weight",):
            if getattr(module, attribute) is not None:
                self._multiply(name, attribute, factor)
        return factor

    @torch.no_grad()
    def _multiply(self, name: str, attribute: str, factor: float) -> None:
        """Multiply a tensor once, even if several layers share it."""
        module = self.modules[name]
        writable = writable_layer(module, attribute, f"the {attribute} of {name!r}")
        before = self.done.get(writable.memory)
        if before is None:
            self.done[writable.memory] = factor
            scaled = getattr(module, attribute).detach() * factor
            writable.write(lambda tensor: _copy(tensor, scaled))
        elif not math.isclose(before, factor, rel_tol=1e-6):
            raise ValueError(
                f"the {attribute} of {name!r} is shared with a layer whose gain changes by another "
                f"factor ({before:.6g}, here {factor:.6g}). Pass correct_gain=False."
            )

    def _at_input(self, name: str) -> bool:
        node = self.layers[name]
        return all(self.signals.signals[before].raw for before in node.inputs)

    def _feeders(self, node: Node) -> tuple[Node, ...]:
        """What decides the gain of a layer; at the input the activation that it feeds."""
        if all(self.signals.signals[before].raw for before in node.inputs):
            met = first_activation(self.signals.graph, node)
            return () if met is None else (met,)
        names = (n for before in node.inputs for n in self.signals.signals[before].makers)
        return tuple(self.signals.graph.by_name[name] for name in names)

    def _changes(self, name: str) -> bool:
        return any(self._holds_slopes(source) for source in self.feeders[name])

    def _holds_slopes(self, node: Node) -> bool:
        """Whether a node is a PReLU, or an expression with one in it."""
        homes = {parameter.rpartition(".")[0] for parameter in node.parameters}
        return node.module in self.sloped or bool(homes & self.sloped)

    def _square(self, name: str) -> float:
        return float(np.mean(np.square(module_slopes(self.modules[name]))))


def _start(
    name: str, module: nn.Module, z: Tensor, rule: Callable[[FloatArray], FloatArray]
) -> StartedSlopes:
    if not bool(torch.isfinite(z).all()) or not z.numel():
        raise ValueError(
            f"what enters PReLU {name!r} is empty or not finite, so it has no share below zero; "
            "look at the input and the weights before it."
        )
    channels = _channels(module)
    others = [dim for dim in range(z.dim()) if dim != 1 or channels == 1]
    share = real_array("share", (z < 0).double().mean(dim=others).cpu().numpy().reshape(-1))
    slopes = rule(share)
    if slopes.shape not in ((), (1,), share.shape):
        raise ValueError(
            f"rule must return one slope, or one for each of the {channels} channels of PReLU "
            f"{name!r}; got an array of shape {slopes.shape}."
        )
    slopes = np.broadcast_to(slopes, (channels,))
    set_slopes(name, module, slopes)
    return StartedSlopes(
        name,
        type(module).__name__,
        channels,
        float(share.mean()),
        float(slopes.mean()),
        float(slopes.min()),
        float(slopes.max()),
    )


def _channels(module: nn.Module) -> int:
    """How many slopes a module has; by the protocol, as many as ``slopes()`` returns."""
    known = getattr(module, "num_parameters", None)
    if isinstance(known, int):
        return known
    return torch.as_tensor(module.slopes()).numel()  # type: ignore[operator]


def _copy(tensor: Tensor, values: Tensor) -> None:
    tensor.copy_(values)


def _rule(rule: Any) -> Callable[[FloatArray], FloatArray]:
    if callable(rule):
        return lambda share: real_array("what rule returned", rule(share.copy()))
    if isinstance(rule, str):
        one_of("rule", rule, ("negative_share",))
        return lambda share: share / 2
    slope = real_number("rule", rule)
    return lambda share: np.full(share.shape, slope)


def _named_hook(
    name: str, see: Callable[[str, nn.Module, tuple[Any, ...]], None]
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda module, args: see(name, module, args)
