"""Sees a model compute: which layer, which activation, on what; functional calls like modules.

A ``TorchFunctionMode`` sees every torch function; the hooks of ``observed_pass`` say in which
module. Names are those of the nodes that ``reading.record`` writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.weak import WeakTensorKeyDictionary

from sigprop.measurement import axes as unit_axes
from sigprop.measurement import statistics
from sigprop.measurement.axes import LAST, Axes
from sigprop.measurement.calls import (
    ActivationCall,
    WeightCall,
    first_tensor,
    is_activation,
    parameters_behind,
    passes,
    read_activation,
    read_weight,
    square_factor,
)
from sigprop.measurement.layer_statistics import (
    LayerStatistics,
    Observation,
    SlopeStatistics,
    Source,
    Token,
)
from sigprop.reading.calling import flatten, kind_of
from sigprop.reading.layers import WEIGHT_LAYERS, layer_of
from sigprop.reading.memory import storage_id
from sigprop.reading.operations import Operation
from sigprop.reading.recorder import transformed
from sigprop.reading.writing import traits

_NOTHING: frozenset[Token] = frozenset()
_INPUT: frozenset[Token] = frozenset({("input", "")})
_CONSTANT: frozenset[Token] = frozenset({("constant", "")})


class Watch(NamedTuple):
    """What is looked at.

    Attributes:
        weights: which weights, by name.
        activations: which activations, by name, where they stand behind something else.
        outputs: modules whose output is looked at, as it is.
        training: whether what a step of training changes is taken too: the sizes of the weights,
            the gradients of slopes.
    """

    weights: Callable[[str], bool]
    activations: Callable[[str], bool]
    outputs: frozenset[nn.Module] = frozenset()
    training: bool = True


class SignalOrigin(NamedTuple):
    """Where a tensor comes from, and its axes of units, counted from the end; None: not known."""

    source: Source
    axes: Axes | None

    @property
    def tokens(self) -> frozenset[Token]:
        """What made it."""
        return self.source.tokens


_OF_A_CONSTANT = SignalOrigin(Source(_CONSTANT), None)


class Observer(TorchFunctionMode):
    """What one thread sees of one pass."""

    def __init__(self, root: nn.Module, seen: Observation, watch: Watch) -> None:
        super().__init__()
        self._root, self.seen, self.watch = root, seen, watch
        self.stack: list[tuple[str, nn.Module]] = [("", root)]
        self.calls: Counter[str] = Counter()
        self.returned: Counter[str] = Counter()
        self.origins: MutableMapping[Tensor, SignalOrigin] = WeakTensorKeyDictionary()
        self.made: MutableMapping[Tensor, tuple[LayerStatistics, int]] = WeakTensorKeyDictionary()
        self.edges: list[GradientEdge] = []
        self.called: set[str] = set()
        """Modules that were called, by name."""
        self.used: set[int] = set()
        """Identities of the weights that were met."""
        self.blind = 0
        self.wholes: list[Callable[[Any], None] | None] = []
        """Of the modules under way that are single steps: what looks at their output."""
        self._buffers = {id(buffer): buffer for buffer in root.buffers()}  # held: ids stay theirs

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function; look at it if it is an activation or a weight."""
        kwargs = kwargs or {}
        if self.blind or transformed() is not None:
            return func(*args, **kwargs)
        known = traits(func)
        row = known.row
        if known.body is not None:
            with self:
                return known.body(*args, **kwargs)
        if row is not None and is_activation(row):
            z = self._signal(args, kwargs)
            if z is not None:
                see = self.before_activation(z, read_activation(row, func, args, kwargs), row)
                out = func(*args, **kwargs)
                see(out)
                return out
        elif row is not None and row.kind == "weight":
            signals = self._signals(row, args, kwargs)
            weight = read_weight(row, func, args, kwargs, signals)
            if weight is not None:
                out = func(*args, **kwargs)
                return self._weight(weight, row, next(iter(signals.values())), out)
            if any(self._is_data(tensor) for tensor in _tensors(args, kwargs)):
                self._named(row.name, row)  # a product of signals has a name in the graph too
            if _is_wrapped(first_tensor(args, kwargs)):
                self.seen.passed_over.add(type(first_tensor(args, kwargs)).__name__)
        out = func(*args, **kwargs)
        self._hand_on(row, func, args, kwargs, out)
        return out

    def _signal(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The tensor that a function acts on, if it is a signal that can be looked at."""
        z = first_tensor(args, kwargs)
        return z if z is not None and self._is_data(z) else None

    def _is_data(self, z: Tensor) -> bool:
        """Whether a tensor is a signal that can be looked at."""
        if not is_signal(z):
            return False
        origin = self._origin(z)
        return origin is None or origin.tokens != _CONSTANT

    def _signals(
        self, row: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[int, SignalOrigin | None]:
        """The signals that a linear map is given, by identity, with where they come from.

        The first argument of a layer, whatever it is; else what comes from the data; where nothing
        is known to, what comes from outside and is no parameter.
        """
        known = [(t, self._origin(t)) for t in _tensors(args, kwargs) if is_signal(t)]
        first = first_tensor(args, kwargs) if "bias" in row.arguments else None
        signals = {
            id(t): o for t, o in known if t is first or (o is not None and o.tokens != _CONSTANT)
        }
        return signals or {id(t): o for t, o in known if o is None}

    def enter(self, inputs: Any) -> None:
        """Take these tensors for the model's input."""
        for tensor in flatten(inputs):
            self.origins[tensor] = SignalOrigin(Source(_INPUT), None)

    def before_activation(
        self, z: Tensor, activation: ActivationCall, row: Operation | None = None
    ) -> Callable[[Any], None]:
        """Look at what enters an activation; the function returned takes what leaves it.

        Args:
            z: what enters.
            activation: what it is.
            row: the operation called; None: the module as a whole.
        """
        kind, name = self._named(activation.kind, row)
        origin = self._origin(z)
        for source, feeding in () if origin is None else origin.tokens:
            if source == "layer":
                self.seen.heads.setdefault(feeding, set()).add(name)
        slopes = self.seen.see_slopes(name, activation.slopes)
        layer = self._layer(z, name, kind, slopes)
        if layer is not None:
            layer.activation, layer.activation_name = kind, name
            known = activation.slopes is not None or activation.dies
            layer.dies = activation.dies if known else None
            axis = None if slopes is None else statistics.slope_axis(z, slopes.count)
            layer.slope_a_unit = axis is None or self.axes_of(z) in ((axis - z.dim(),), ())

        def after(out: Any) -> None:
            if isinstance(out, Tensor):
                leaky = activation.slopes is not None  # which hands a factor on
                square = origin.source.square if origin is not None and origin.tokens else None
                square = square if leaky or square == 1.0 else None
                source = Source(frozenset({("activation", name)}), square)
                self.origins[out] = SignalOrigin(source, None if origin is None else origin.axes)
                self.made.pop(out, None)  # in place: no longer what the layer made
                if layer is not None and slopes is not None and slopes.vector is not None:
                    self._await_slope_gradient(layer, z, out, slopes.count)

        return after

    def _layer(
        self, z: Tensor, name: str, kind: str, slopes: SlopeStatistics | None
    ) -> LayerStatistics | None:
        """The layer's own if z is what it made; else those of the activation, if watched."""
        made = self.made.get(z)
        if made is not None and made[1] == _version(z):
            layer = made[0]
            if layer.activation_name in ("", name):
                return layer
        if not self.watch.activations(name):
            return None
        layer = self.seen.layer(name, kind)
        axes = None if slopes is None else statistics.slope_axis(z, slopes.count)
        layer.see_signal(z, self.axes_of(z) if axes is None else (axes - z.dim(),))
        self._await_gradient(layer, z, made=False)
        return layer

    def _weight(
        self,
        weight: WeightCall,
        row: Operation,
        origin: SignalOrigin | None,
        out: Tensor,
    ) -> Tensor:
        kind, name = self._named(weight.kind, row)
        base = weight.tensor._base
        self.used |= {id(weight.tensor), id(weight.tensor if base is None else base)}
        for source, feeding in () if origin is None else origin.tokens:
            if source == "layer":
                self.seen.heads.setdefault(feeding, set()).add("")
        if origin is None:
            self.seen.feeds[name] = Source(_INPUT)
        else:
            self.seen.feeds[name] = origin.source if origin.tokens else None
        axes = unit_axes.of_weight(weight.step, row.name, out)
        self.origins[out] = SignalOrigin(Source(frozenset({("layer", name)})), axes)
        if self.watch.weights(name):
            layer = self.seen.layer(name, kind)
            if self.watch.training:
                layer.see_weight(weight.tensor, weight.fan_in)
            else:
                layer.parameters = parameters_behind(weight.tensor, self._parameters)
            if is_signal(out):
                layer.see_signal(out, axes)
                self._await_gradient(layer, out, made=True)
                self.made[out] = (layer, _version(out))
        return out

    @cached_property
    def _parameters(self) -> dict[int, str]:
        """The names of parameters by their identities."""
        return {id(parameter): name for name, parameter in self._root.named_parameters()}

    def output(self, name: str, module: nn.Module, out: Any) -> None:
        """Look at what a module returned."""
        self.returned[name] += 1
        label = name if self.returned[name] == 1 else f"{name}#{self.returned[name]}"
        for position, tensor in enumerate(t for t in flatten(out) if is_signal(t, scalars=True)):
            full = f"{label}[{position}]" if position else label
            layer = self.seen.layer(full, kind_of(module))
            layer.see_signal(tensor, self.axes_of(tensor) if tensor.dim() else ())
            self._await_gradient(layer, tensor, made=isinstance(module, WEIGHT_LAYERS))

    def _hand_on(
        self,
        row: Operation | None,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Any,
    ) -> None:
        """Say of what a function made where it comes from."""
        taken = list(_tensors(args, kwargs))
        known = [(t, o) for t in taken if (o := self._origin(t)) is not None]
        if not known:
            return
        signals = [(t, o) for t, o in known if o.tokens != _CONSTANT]
        source = Source(_CONSTANT)
        if signals:
            first = any(taken[0] is tensor for tensor, _ in signals)
            through = row is not None and passes(row, func, len(signals), first)
            source = _joined([o.source for _, o in signals]) if through else Source(_NOTHING)
            if source.square is not None:
                factor = square_factor(row, args, kwargs, len(signals))
                square = None if factor is None else source.square * factor
                source = Source(source.tokens, square)
        if row is not None and row.kind == "normalization":
            source = self.seen.normalize(source)
        written = row is not None and row.name == "setitem"
        leading, origin = signals[0] if signals else known[0]
        axes = origin.axes
        if row is not None and row.kind == "weight":  # a product of two signals
            axes = signals[-1][1].axes if signals else None
            axes = LAST if axes == LAST else None
        for tensor in [taken[0]] if written else _tensors((out,), {}):
            if row is None or row.kind != "weight":
                axes = unit_axes.after(row, func, args, kwargs, leading, origin.axes, tensor)
            self.origins[tensor] = SignalOrigin(source, axes)

    def _origin(self, tensor: Tensor) -> SignalOrigin | None:
        """Where a tensor comes from: no tokens: not known; None: from outside the model."""
        known = self.origins.get(tensor)  # a parameter or buffer too, if data was written there
        if known is None and (isinstance(tensor, nn.Parameter) or id(tensor) in self._buffers):
            return _OF_A_CONSTANT
        return known

    def axes_of(self, z: Tensor) -> Axes:
        """The axes of units, as the layer left them.

        Of what no layer has made (the data, what an unknown function returned): 1 for images, the
        last for the others.
        """
        known = self.origins.get(z)
        if known is not None and known.axes is not None:
            return known.axes
        return (1 - z.dim(),) if z.dim() > 3 else LAST

    def _named(self, kind: str, row: Operation | None) -> tuple[str, str]:
        """Kind and name of a call: those of its module, or of the function and where it stands."""
        path, module = self.stack[-1]
        if row is None or layer_of(module, row):
            name, kind = path or kind, kind_of(module)
        else:
            name = f"{path}.{kind}".lstrip(".")
        self.calls[name] += 1
        return kind, name if self.calls[name] == 1 else f"{name}#{self.calls[name]}"

    def _await_gradient(self, layer: LayerStatistics, tensor: Tensor, *, made: bool) -> None:
        """Have the gradient of a tensor; ``made``: by a layer, which may return a view of it."""
        if not tensor.requires_grad:
            return
        # Layers given unbatched images return a view; an activation in place would lose its hook.
        base = tensor._base if made else None
        whole = base is not None and base.requires_grad and base.numel() == tensor.numel()
        hooked = base if whole and base is not None else tensor
        runs = self.seen.runs

        def see(delta: Tensor) -> None:
            if transformed() is None and storage_id(delta) is not None:  # not one of many at once
                layer.see_gradient(delta, runs.see(delta))

        self.seen.handles.append(hooked.register_hook(see))  # type: ignore[no-untyped-call]
        self.edges.append(get_gradient_edge(hooked))

    def _await_slope_gradient(
        self, layer: LayerStatistics, z: Tensor, out: Tensor, channels: int
    ) -> None:
        if not out.requires_grad or not self.watch.training:
            return
        z, runs = z.detach(), self.seen.runs

        def see(delta: Tensor) -> None:
            if transformed() is None and storage_id(delta) is not None:  # not one of many at once
                layer.see_slope_gradient(z, delta, channels, runs.see(delta))

        self.seen.handles.append(out.register_hook(see))  # type: ignore[no-untyped-call]


def is_signal(z: Tensor, *, scalars: bool = False) -> bool:
    """Whether the entries of a tensor can be looked at: real numbers, along one axis or more."""
    numbers = z.is_floating_point() and (scalars or z.dim() > 0)
    plain = z.layout is torch.strided and not z.is_nested and not z.is_meta
    return numbers and plain and z.numel() > 0 and not _is_wrapped(z)


def _joined(sources: Sequence[Source]) -> Source:
    """Where a signal made of several comes from; not known if one is not."""
    if any(not source.tokens for source in sources):
        return Source(_NOTHING)
    squares = {source.square for source in sources}
    square = squares.pop() if len(squares) == 1 else None
    return Source(frozenset().union(*(source.tokens for source in sources)), square)


def _is_wrapped(z: Tensor | None) -> bool:
    """Whether its entries are in other tensors: a DTensor, of which this process has a part."""
    return type(z) not in (Tensor, nn.Parameter) and is_traceable_wrapper_subclass(z)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _tensors(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (entry for entry in value if isinstance(entry, Tensor))
