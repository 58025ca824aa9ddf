"""From steps to a graph: meanings, names, edges, and the weights that are used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sigprop.graph import Graph, Node
from sigprop.reading.expressions import join_up
from sigprop.reading.meanings import Meaning
from sigprop.reading.rules import meaning
from sigprop.reading.steps import Step, behind, replay, steps_in, taken_apart, taken_by, tensors_in
from sigprop.reading.used import Reading, UsedWeight


def build(
    model: nn.Module, steps: Sequence[Step], outputs: Sequence[Step], cuts: Sequence[Step] = ()
) -> Reading:
    """The graph of what was written down, and its weights.

    Args:
        model: what was read.
        steps: in order.
        outputs: steps that the output is made of.
        cuts: steps whose value left as a number of Python.
    """
    meanings = {step: meaning(step) for step in taken_apart(steps) if not step.constant}
    meanings = join_up(meanings)
    kept = _needed(meanings, [*outputs, *cuts])
    owners = Owners(model)
    nodes: dict[Step, Node] = {}
    weights: dict[str, UsedWeight] = {}
    names = _Names()
    for step, found in meanings.items():
        if step not in kept:
            continue
        node = _node(step, found, nodes, names, owners)
        if found.kind == "weight":
            used = owners.used(found)
            weights[node.name] = used
            node = replace(node, weight=owners.weight(found, used))
        nodes[step] = node
    ends = tuple(dict.fromkeys(nodes[step].name for step in outputs if step in nodes))
    output = Node(names.of("output"), "output", "output", ends)
    left = tuple(dict.fromkeys(nodes[step].name for step in cuts if step in nodes))
    return Reading(
        Graph((*nodes.values(), output)),
        weights,
        left,
        {node.name: step for step, node in nodes.items()},
        {node.name: meanings[step] for step, node in nodes.items()},
    )


def _needed(meanings: Mapping[Step, Meaning], outputs: Sequence[Step]) -> set[Step]:
    """Steps behind what leaves or behind a weight, and all inputs."""
    kept = {s for s, found in meanings.items() if found.kind in ("input", "weight")}
    kept |= {s for s in outputs if s in meanings}
    for step in reversed(list(meanings)):
        if step in kept:
            kept |= {before for before in meanings[step].inputs if before in meanings}
    return kept


def _node(
    step: Step,
    found: Meaning,
    nodes: Mapping[Step, Node],
    names: _Names,
    owners: Owners,
) -> Node:
    layer = step.layer if not found.activation or step.row is None or step.layer else ""
    inputs = tuple(dict.fromkeys(nodes[before].name for before in found.inputs if before in nodes))
    if step.what == "input":
        name = names.of(step.label or "x")
    elif step.what == "source":
        name = names.of((*owners.names(step.args), f"{step.path}.constant".lstrip("."))[0])
    elif layer and step.path:
        name = names.of(step.path)
    else:
        name = names.of(f"{step.path}.{found.operation}".lstrip("."))
    inside = found.inside or (step,)
    taken: list[Any] = [(s.args, s.kwargs) for s in inside]
    taken += [list(s.func.parameters()) for s in inside if s.what == "module"]
    shares = found.shares if len(found.shares) == len(inputs) else ()
    return Node(
        name,
        found.kind,
        found.operation,
        inputs,
        module=step.path,
        layer=layer,
        parameters=() if found.kind == "weight" else owners.names(taken),
        shape=step.shape,
        alpha=found.alpha,
        activation=found.activation,
        constant=found.constant,
        rate=found.rate,
        shares=shares,
        measured=step.measured,
    )


class _Names:
    """Names that stand once."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def of(self, name: str) -> str:
        """A name, with the number of its call from the second on."""
        self.calls[name] += 1
        count = self.calls[name]
        return name if count == 1 else f"{name}#{count}"


_REPEATING = frozenset(
    ("expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile", "expand_copy")
)
"""Passages after which one entry stands in several places."""


class Owners:
    """Whose the parameters are."""

    def __init__(self, model: nn.Module) -> None:
        self.named = dict(model.named_parameters())
        self.parameters = {id(parameter): name for name, parameter in self.named.items()}
        self.modules = dict(model.named_modules())

    def names(self, value: Any) -> tuple[str, ...]:
        """Names of the parameters that enter nested arguments, through constant steps too."""
        tensors = dict.fromkeys(id(tensor) for tensor in tensors_in(value))
        seen: set[Step] = set()
        stack = [step for step in steps_in(value) if step.constant]
        while stack:
            step = stack.pop()
            if step in seen or step.data:  # what only lends a shape is data
                continue
            seen.add(step)
            steps, constants = taken_by(step)
            tensors.update((id(tensor), None) for tensor in constants)
            stack += [s for s in steps if s.constant]
        return tuple(self.parameters[key] for key in tensors if key in self.parameters)

    def used(self, found: Meaning) -> UsedWeight:
        """The weight of a linear map, as a function of parameters."""
        operand = found.operand
        names = self.names([operand])
        parameters = {name: self.named[name] for name in names}

        def compute(given: Mapping[str, Tensor]) -> Tensor:
            if isinstance(operand, Tensor):
                return given.get(names[0], operand) if names else operand
            assert isinstance(operand, Step)
            values = {id(parameters[name]): value for name, value in given.items()}
            made: Tensor = replay(operand, values)
            return made

        bias = self.names([found.bias])
        owner, path = self._owner(operand, names)
        return UsedWeight(
            parameters,
            compute,
            owner,
            path,
            bias[0] if isinstance(found.bias, Tensor) and bias else "",
        )

    def weight(self, found: Meaning, used: UsedWeight) -> Any:
        """The weight of a node, with what it is computed from."""
        assert found.weight is not None
        steps = behind(found.operand) if isinstance(found.operand, Step) else []
        direct = all(
            s.row is not None and s.row.kind == "passage" and s.row.name not in _REPEATING
            for s in steps
        )
        return replace(
            found.weight,
            parameters=tuple(used.parameters),
            direct=direct and len(used.parameters) == 1,
        )

    def _owner(
        self, operand: Any, names: Sequence[str]
    ) -> tuple[tuple[nn.Module, str] | None, str]:
        """The layer and the attribute that hold the weight as it is used, if some do."""
        if not names:
            return None, ""
        path, _, attribute = names[0].rpartition(".")
        if isinstance(operand, Tensor):
            return (self.modules[path], attribute), path
        home, _, rest = f".{names[0]}".partition(".parametrizations.")
        if rest:
            path, attribute = home.lstrip("."), rest.partition(".")[0]
            inside = f"{path}.parametrizations.{attribute}".lstrip(".")
            computed = operand.path.startswith(inside)
        else:
            attribute = attribute.removesuffix("_g").removesuffix("_v")
            computed = getattr(operand.func, "__name__", "") == "_weight_norm"
        return ((self.modules[path], attribute), path) if computed else (None, "")
