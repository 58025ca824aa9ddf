"""The weights of a model that may be set: every use of each, and the parameters behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from sigprop.graph import Moments, Node
from sigprop.init.decided import Held
from sigprop.reading import Reading, UsedWeight
from sigprop.reading.layers import WEIGHT_LAYERS

FROZEN = "frozen (requires_grad=False); frozen=True sets it"
TIED = "tied to an embedding"
CENTRED = 1e-5
"""Row means of a weight below this share of its size are zero."""
VOID = "its scale is void: the weight in use is made from its direction alone"


@dataclass(eq=False, slots=True)
class ModelWeight:
    """One weight that may be set.

    Attributes:
        name: what users call it; see :class:`~sigprop.init.plan.LayerPlan`.
        kind: class of its layer, or operation.
        module: its layer; None: it has none.
        attribute: of ``module``, where that holds the weight in use; "": the model computes it.
        label: how messages call the weight.
        uses: its weight nodes; () where the model was not read.
        used: the weight in use.
        parameters: behind it, by name.
        biases: names of the parameters that its linear maps add as they are.
        target: the parameter to write where ``attribute`` is "".
        direction: whether the target is multiplied only, and the direction left as it is.
        fans: (fan_in, fan_out), None until the layer's shape is known.
        left: why it is left as it is; "": it is set.
        trouble: why it cannot be set.
    """

    name: str
    kind: str
    module: nn.Module | None = None
    attribute: str = "weight"
    label: str = ""
    uses: tuple[Node, ...] = ()
    used: UsedWeight | None = None
    parameters: Mapping[str, nn.Parameter] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    target: str = ""
    direction: bool = False
    fans: tuple[float, float] | None = None
    left: str = ""
    trouble: str = ""

    @property
    def held(self) -> Held | None:
        """What it does to the signal as it is; None: it has no values."""
        value = None if self.used is None or self.fans is None else self.used.value
        if value is None or self.fans is None or value.is_meta or value.is_quantized:
            return None
        square = float(value.abs().double().square().mean()) * self.fans[0]
        return Held(square, self._bias)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all parameters that go with it."""
        return (*self.parameters, *self.biases)

    @property
    def centred(self) -> bool:
        """Whether the weight in use is computed so that the entries of each unit sum to zero."""
        if self.attribute or self.used is None or not self.parameters or self.direct:
            return False
        value = self.used.value.detach()
        if value.is_meta or value.dim() < 2 or not value.is_floating_point():
            return False
        rows = value.double().flatten(1)
        size = rows.square().mean().sqrt()
        return bool(rows.shape[1] > 1 and rows.mean(1).abs().max() < CENTRED * size)

    @property
    def direct(self) -> bool:
        """Whether a parameter is used as it is, or parts of it."""
        return all(node.weight is not None and node.weight.direct for node in self.uses)

    @property
    def _bias(self) -> Moments:
        bias = getattr(self.module, "bias", None)
        if not isinstance(bias, torch.Tensor) or not bias.numel():
            return Moments(0.0, 0.0)
        if bias.is_meta or bias.is_complex():
            return Moments(0.0, 0.0)
        values = bias.detach().double()
        return Moments(float(values.mean()), float(values.square().mean()))


def weights_of_layers(model: nn.Module, *, frozen: bool) -> list[ModelWeight]:
    """The weight layers among a model's modules, whether they are called or not."""
    return [
        _layer_weight(name, module, frozen)
        for name, module in model.named_modules()
        if isinstance(module, WEIGHT_LAYERS)
    ]


def _layer_weight(name: str, module: nn.Module, frozen: bool) -> ModelWeight:
    held = parameters_behind(name, module)
    biases = (f"{name}.bias".lstrip("."),) if module.bias is not None else ()
    label = label_of(name, module)
    found = ModelWeight(name, kind_of(module), module, label=label, parameters=held, biases=biases)
    if held and not frozen and not any(p.requires_grad for p in held.values()):
        return replace(found, left=FROZEN)
    return found


def kind_of(module: nn.Module) -> str:
    """The class of weight layers that a module is."""
    return next(c.__name__ for c in type(module).__mro__ if c in WEIGHT_LAYERS)


def label_of(name: str, module: nn.Module) -> str:
    """How messages call the weight of a layer."""
    return f"the weight of {name!r}" if name else f"the weight of the {kind_of(module)}"


def parameters_behind(name: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters behind a layer's weight, by name."""
    return {
        full: parameter
        for full, parameter in module.named_parameters(name)
        if full.removeprefix(name)
        .lstrip(".")
        .removeprefix("parametrizations.")
        .startswith("weight")
    }


def weights_of_reading(
    modules: Mapping[str, nn.Module],
    parameters: Iterable[str],
    reading: Reading,
    *,
    frozen: bool,
) -> list[ModelWeight]:
    """The weights that a model uses, in the order of its modules and parameters, by name."""
    groups: dict[tuple[str, ...], list[Node]] = {}
    for node in reading.graph.of_kind("weight"):
        names = tuple(sorted(reading.weights[node.name].parameters))
        groups.setdefault(names or ("", node.module), []).append(node)
    tables = reading.graph.of_kind("embedding")
    embedded = frozenset(name for node in tables for name in node.parameters)
    layers = _Layers(modules, reading)
    found = [_model_weight(nodes, reading, layers, embedded, frozen) for nodes in groups.values()]
    places = {name: place for place, name in enumerate(modules)}
    order = {name: place for place, name in enumerate(parameters)}

    def place(weight: ModelWeight) -> tuple[int, int]:
        first = min((order[name] for name in weight.parameters), default=0)
        home = weight.name.split(" = ")[0]
        if home not in places:
            home = next(iter(weight.parameters), "").rpartition(".")[0]
        return places.get(home, 0), first

    return sorted(found, key=place)


def _model_weight(
    nodes: list[Node],
    reading: Reading,
    layers: _Layers,
    embedded: frozenset[str],
    frozen: bool,
) -> ModelWeight:
    in_use = [reading.weights[node.name] for node in nodes]
    used = next((w for w in in_use if w.owner is not None), in_use[0])
    parameters = used.parameters
    names: dict[str, None] = {}
    layer: nn.Module | None = None
    for node, use in zip(nodes, in_use, strict=True):
        path = layers.of(node, use)
        names[next(iter(use.parameters), node.name) if path is None else path] = None
        if layer is None and path is not None:
            layer = layers.modules[path]
    name = " = ".join(names)
    module, attribute = used.owner or (layer, "")
    left = _left(used, attribute, embedded, frozen)
    found = ModelWeight(
        name,
        nodes[0].operation if layer is None else kind_of(layer),
        module,
        attribute,
        f"the weight of {name!r}",
        tuple(nodes),
        used,
        parameters,
        biases=tuple(dict.fromkeys(use.bias for use in in_use if use.bias)),
        fans=nodes[0].weight.fans if nodes[0].weight is not None else None,
        left=left,
    )
    if left or attribute:
        return found
    if not parameters:
        return _constant(found)
    return _through_parameter(found)


def _left(used: UsedWeight, attribute: str, embedded: frozenset[str], frozen: bool) -> str:
    """Why a weight is left as it is, "" if it is not."""
    parameters = used.parameters
    if not embedded.isdisjoint(parameters):
        return TIED
    if parameters and not frozen and not any(p.requires_grad for p in parameters.values()):
        return FROZEN
    return VOID if attribute and _is_void(used, attribute) else ""


class _Layers:
    """Which weight layer each use of a weight belongs to."""

    def __init__(self, modules: Mapping[str, nn.Module], reading: Reading) -> None:
        self.modules = modules
        self.held: dict[str, set[int]] = {}
        self.paths: dict[int, str] = {}
        for path, module in modules.items():
            if isinstance(module, WEIGHT_LAYERS):
                own = module._parameters.get("weight")
                behind = (own,) if own is not None else parameters_behind(path, module).values()
                self.held[path] = {id(parameter) for parameter in behind}
                self.paths.update((id(parameter), path) for parameter in behind)
        self.mine: dict[str, str] = {}
        """Uses by a layer of its own weight, and not of another parameter beside it."""
        for name, used in reading.weights.items():
            path = reading.graph.by_name[name].module
            held = self.held.get(path)
            if held is None:
                continue
            if not used.parameters or any(id(p) in held for p in used.parameters.values()):
                self.mine[name] = path
        self.own = set(self.mine.values())

    def of(self, node: Node, used: UsedWeight) -> str | None:
        """The path of the layer whose weight it is; None: it is that of none."""
        if node.name in self.mine or (node.module in self.held and node.module not in self.own):
            return node.module
        known = (self.paths.get(id(parameter)) for parameter in used.parameters.values())
        return next((path for path in known if path is not None), None)


def _is_void(used: UsedWeight, attribute: str) -> bool:
    """Whether a parametrization undoes the scale of its parameters."""
    assert used.owner is not None
    if attribute in used.owner[0]._parameters:
        return False
    return all(used.degree(name) == 0 for name in used.parameters)


def _constant(weight: ModelWeight) -> ModelWeight:
    """A weight without parameters: a buffer, or what a hook computes into the layer."""
    module = weight.module
    if not isinstance(module, WEIGHT_LAYERS) or "weight" in module._buffers:
        return replace(weight, left="constant")
    return replace(weight, attribute="weight", label=label_of(weight.name, module))


def _through_parameter(weight: ModelWeight) -> ModelWeight:
    """Choose the parameter through which a computed weight is set, by how it grows with each."""
    used = weight.used
    assert used is not None
    if weight.direct:
        return replace(weight, target=next(iter(weight.parameters)))
    degrees = {name: used.degree(name) for name in weight.parameters}
    large = {name for name, p in weight.parameters.items() if p.dim() > 1 and not _is_column(p)}
    grown = [name for name in large if degrees[name] == 1]
    if len(grown) == 1 and all(degrees[name] == 0 for name in large - set(grown)):
        if _depends(used, grown[0]):
            why = (
                f"{weight.label} is computed from {grown[0]} so that its entries have one sign or "
                "depend on each other: no gain keeps the signal. Initialize it by itself"
            )
            return replace(weight, trouble=why)
        return replace(weight, target=grown[0])
    if not grown and all(degrees[name] == 0 for name in large):
        scales = [name for name, degree in degrees.items() if degree == 1]
        if not scales:
            return replace(weight, left=VOID)
        return replace(weight, target=scales[0], direction=True)
    names = ", ".join(weight.parameters)
    why = (
        f"{weight.label} is computed from {names} in a way that is not proportional to one of "
        "them: it cannot be set to a wanted size. Initialize it by itself"
    )
    return replace(weight, trouble=why)


def _depends(used: UsedWeight, name: str) -> bool:
    """Whether independent centred entries of a parameter make others of the weight in use."""
    parameter = used.parameters[name]
    source = torch.Generator().manual_seed(0)
    drawn = torch.randn(parameter.shape, generator=source).to(parameter)
    with torch.no_grad():
        weight = used.compute({name: drawn}).detach()
    if weight.dim() < 2 or not weight.is_floating_point():
        return False
    rows = weight.double().flatten(1)
    square, count = float(rows.square().mean()), rows.numel()
    if square == 0 or count < 64:
        return False
    one_sided = float(rows.mean()) ** 2 > (0.1 + 20 / count) * square
    sums = float(rows.sum(1).square().mean()) / (rows.shape[1] * square)
    return one_sided or sums > 3 + 20 / rows.shape[0] ** 0.5


def _is_column(parameter: nn.Parameter) -> bool:
    """Whether it is a vector along one axis, such as the lengths of weight norm."""
    return parameter.numel() == max(parameter.shape, default=0)
