"""What is known of the weights of a model before they are judged: one record a weight node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sigprop.graph import Graph, Node
from sigprop.measurement.structure import structure
from sigprop.prediction.laws import copies
from sigprop.reading.used import Reading, UsedWeight

SAMPLE = 2**18
"""Entries of a weight that its kurtosis is taken from."""
_ON_THE_WAY = frozenset(("passage", "dropout", "scale", "shift", "normalization"))
"""Kinds behind which a branch still ends in the same sum."""


@dataclass(frozen=True, eq=False)
class Facts:
    """One weight, one table of an embedding, or one matrix of a recurrent layer.

    Attributes:
        name: of its node.
        family: of layers that are drawn alike: operation, name of the parameter, role.
        tail: the last word of its path that is no number: ``"fc1"``.
        value: the weight in use.
        fan_in: terms that an output sums; 0: not known.
        fans: (fan_in, fan_out) as ``torch.nn.init`` counts them, of the parameter.
        structure: see :func:`sigprop.measurement.structure.structure`.
        count: of its entries.
        mean_square: of them.
        kurtosis: of them.
        sixth: their sixth moment, at mean square one.
        computed: names of the parameters it is computed from, where it is none of them as it is.
        first: the node that uses the same numbers earlier; "": this is their first use.
        again: whether they are used later, too.
        entry: whether it meets an input as it is.
        constant: whether no parameter is behind it.
        hidden: units of the recurrent layer whose matrix it is; 0: it is none.
    """

    name: str
    family: tuple[str, str, str]
    tail: str
    value: Tensor
    fan_in: float
    fans: tuple[float, float]
    structure: str
    count: int
    mean_square: float
    kurtosis: float
    sixth: float
    computed: tuple[str, ...] = ()
    first: str = ""
    again: bool = False
    entry: bool = False
    constant: bool = False
    hidden: int = 0

    @property
    def gain(self) -> float:
        """√(fan_in · mean w²)."""
        return math.sqrt(self.fan_in * self.mean_square)

    @property
    def drawn(self) -> bool:
        """Whether its entries may be independent draws of one law that were not used before."""
        bound = self.structure or self.computed or self.first or self.constant
        return not bound and self.count > 0


def facts_of(reading: Reading) -> tuple[list[Facts], list[Facts]]:
    """The weights and the tables of a model, in the order of the data."""
    graph, uses = reading.graph, _Uses(reading)
    weights = [_weight(node, reading, uses) for node in graph.of_kind("weight")]
    tables = [_table(node, reading) for node in graph.of_kind("embedding")]
    return weights, [table for table in tables if table is not None]


def _weight(node: Node, reading: Reading, uses: _Uses) -> Facts:
    used = reading.weights[node.name]
    assert node.weight is not None
    value, names = _plain(used.value), tuple(used.parameters)
    as_it_is = node.weight.direct or _is_multiple(value, used)
    whole = used.parameters[names[0]] if as_it_is and len(names) == 1 else value
    attribute = names[0].rpartition(".")[2] if names else ""
    first, again = uses.of(node.name)
    moments = _moments(value)
    return Facts(
        node.name,
        (node.operation, "" if attribute.isdigit() else attribute, role(reading.graph, node.name)),
        tail_of(node.name),
        value,
        node.weight.fans[0] if node.weight.fans else 0.0,
        _torch_fans(whole.shape),
        structure(value) if moments[0] else "",
        *moments,
        () if as_it_is else names,
        first,
        again,
        _is_entry(reading.graph, node),
        not names,
    )


def _is_multiple(value: Tensor, used: UsedWeight) -> bool:
    """Whether a weight is one parameter, entry by entry, times a number."""
    parameter = next(iter(used.parameters.values()), None)
    if value.is_meta or not value.numel():
        return False
    if len(used.parameters) != 1 or parameter is None or parameter.shape != value.shape:
        return False
    entries, value = parameter.detach().flatten().to(value), value.flatten()
    largest = int(entries.abs().argmax())
    if not torch.allclose(value, entries * (value[largest] / entries[largest]), rtol=1e-4):
        return False
    return used.degree(next(iter(used.parameters))) == 1.0


def _is_entry(graph: Graph, node: Node) -> bool:
    """Whether only passages stand between a node and the inputs."""
    stack = list(node.inputs)
    while stack:
        before = graph.by_name[stack.pop()]
        if before.kind not in ("input", "passage"):
            return False
        stack += before.inputs
    return True


def _table(node: Node, reading: Reading) -> Facts | None:
    """The table of an embedding, without the rows that are zero."""
    operand = reading.meanings[node.name].operand
    if not isinstance(operand, nn.Parameter) or operand.dim() != 2 or operand.is_meta:
        return None
    value = _plain(operand)
    rows = value[(value != 0).any(1)]
    moments = _moments(rows)
    family = (node.operation, "table", "")
    known = structure(rows) if rows.numel() else "zero"
    fans = _torch_fans(value.shape)
    return Facts(node.name, family, tail_of(node.name), value, 0.0, fans, known, *moments)


def facts_of_matrix(
    name: str, value: Tensor, family: tuple[str, str, str], tail: str, hidden: int, first: str
) -> Facts:
    """A matrix of a recurrent layer; the arguments are those of the record."""
    value = _plain(value)
    moments = _moments(value)
    known = structure(value) if moments[0] else ""
    fans = _torch_fans(value.shape)
    return Facts(
        name, family, tail, value, fans[0], fans, known, *moments, first=first, hidden=hidden
    )


def role(graph: Graph, name: str) -> str:
    """``"branch end"``: what leaves a node enters a sum as it is; ``"head"``: it is the output."""
    stack, found = list(graph.users[name]), ""
    while stack:
        node = stack.pop()
        if node.kind == "sum":
            return "branch end"
        found = "head" if node.kind == "output" else found
        stack += graph.users[node.name] if node.kind in _ON_THE_WAY else []
    return found


class _Uses:
    """Who uses the same numbers as whom: one tensor, parts of one, or copies."""

    def __init__(self, reading: Reading) -> None:
        self.first: dict[str, str] = {}
        self.again: set[str] = set()
        parameters = {n: p for used in reading.weights.values() for n, p in used.parameters.items()}
        earlier = copies(parameters)
        self._seen: dict[str, list[tuple[int, tuple[int, int], str]]] = {}
        for node in reading.graph.nodes:
            if node.kind == "embedding":
                names, room = node.parameters, (0, 0)
            elif node.kind == "weight":
                used = reading.weights[node.name]
                names = tuple(earlier.get(n, n) for n in used.parameters)
                copied = any(n in earlier for n in used.parameters)
                before = (other for name in names for _, _, other in self._seen.get(name, ()))
                if copied and not any(_same(reading, other, used.value) for other in before):
                    names, copied = tuple(used.parameters), False  # other weights are made of them
                room = (0, 0) if copied else _room(used.value)
            else:
                continue
            if other := self._met(names, room):
                self.first[node.name] = other
                self.again.add(other)
            for name in names:
                use = (reading.graph.place[node.name], room, node.name)
                self._seen.setdefault(name, []).append(use)

    def _met(self, names: Sequence[str], room: tuple[int, int]) -> str:
        """The earliest use of the same numbers, "" if there is none."""
        found = []
        for name in names:
            uses = self._seen.get(name, ())
            found += [next((use for use in uses if not _beside(room, use[1])), None)]
        return min((use for use in found if use is not None), default=(0, room, ""))[2]

    def of(self, name: str) -> tuple[str, bool]:
        """The first use of the numbers of a node ("" if that is it), and whether more follow."""
        return self.first.get(name, ""), name in self.again


def _same(reading: Reading, name: str, value: Tensor) -> bool:
    """Whether a node uses the same numbers."""
    other = reading.weights.get(name)
    return other is None or torch.equal(other.value, value)  # None: a table, used as a weight


def _beside(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two parts of a parameter have no memory in common."""
    (a, b), (c, d) = one, other
    return bool(b and d and (b <= c or d <= a))


def _room(value: Tensor) -> tuple[int, int]:
    """The memory that a tensor takes; (0, 0): not in one piece."""
    if value.is_meta or not (value.is_contiguous() or value.mT.is_contiguous()):
        return (0, 0)
    start = value.data_ptr()
    return start, start + value.numel() * value.element_size()


def _plain(value: Tensor) -> Tensor:
    """The entries as they are read: dense, in float32 at least."""
    value = value.detach()
    if value.layout is not torch.strided:
        value = value.to_dense()
    return value.float() if value.is_floating_point() and value.itemsize < 4 else value


def _moments(value: Tensor) -> tuple[int, float, float, float]:
    """Number and mean square of the entries, their fourth and sixth moments at mean square one.

    The number is 0 where there is nothing to test: no values, complex ones.
    """
    entries = value.flatten()
    if not entries.numel() or value.is_meta:
        return 0, 0.0, 3.0, 15.0
    if not value.is_floating_point():
        size = entries.abs().double().square().mean()
        return 0, float(size), 3.0, 15.0
    norm = float(torch.linalg.vector_norm(entries, dtype=torch.float64))
    square = norm**2 / entries.numel()
    if not 0 < square < math.inf:
        return entries.numel(), square, 3.0, 15.0
    some = entries[:: -(-entries.numel() // SAMPLE)].double() / math.sqrt(square)
    squares = some.square_()
    moments = float(squares.mean()), float((squares**2).mean()), float((squares**3).mean())
    return entries.numel(), square, moments[1] / moments[0] ** 2, moments[2] / moments[0] ** 3


def _torch_fans(shape: Sequence[int]) -> tuple[float, float]:
    """As ``torch.nn.init`` counts them: by the shape alone."""
    if len(shape) < 2:
        return (0.0, 0.0)
    taps = math.prod(shape[2:])
    return float(shape[1] * taps), float(shape[0] * taps)


def tail_of(name: str) -> str:
    """The last word of a path that is no number."""
    words = [word for word in name.partition("#")[0].split(".") if not word.isdigit()]
    return words[-1] if words else ""
