"""What ``predict`` returns: one record for each node of the model's graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from sigprop.records import Row
from sigprop.results import Result, Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class NodePrediction(Result):
    """What is predicted of the tensor that leaves one node; moments are over all its entries.

    Attributes:
        name: of the node, as in the graph that ``reading.record`` writes.
        operation: what it does: ``"linear"``, ``"add"``; of a layer its class.
        shape: of the tensor.
        q: mean square.
        mean: mean.
        sample_correlation: correlation of an entry with that of another sample, NaN for one sample.
        place_correlation: correlation of an entry with that at another place of the same channel,
            NaN where there are no places.
        gradient: mean square of the gradient of the loss, for a loss whose gradient at each output
            has mean square 1; None where no gradient arrives.
        weight_gradient: mean square of the gradient of its weight; None if it has none.
        scatter: standard deviation of log q from net to net, to first order in 1/width: right to
            some 20 %, and up to a third too small for a mean over many samples where the
            activation is not scale-invariant. 0 behind a normalization.
        note: why it is measured and not predicted; "" if it is predicted.
        parameters: that its weight is computed from, by name, joined by ", "; "" if it has none.
        kind: its part in the flow, see :data:`sigprop.graph.vocabulary.KINDS`.
    """

    name: str
    operation: str
    shape: tuple[int, ...]
    q: float
    mean: float
    sample_correlation: float
    place_correlation: float
    gradient: float | None
    weight_gradient: float | None
    scatter: float
    note: str = ""
    parameters: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Prediction(Result):
    """The nodes of a model in the order of the data.

    Prints as a table, without the reshapes and copies that hand on what stands above them.

    Attributes:
        nodes: one :class:`NodePrediction` each.
        parameters: the mean square of the gradient of each parameter that one is predicted for.
        inputs: names of the nodes that data enters by.
        measured: nodes that no rule predicts, with the reason: they are measured on the example,
            and what follows is predicted from there on.
        not_back: nodes whose gradient no rule takes further, with the reason; measured likewise.
        notes: what holds for this example only.
    """

    nodes: tuple[NodePrediction, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    measured: Mapping[str, str] = field(default_factory=dict)
    not_back: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[NodePrediction]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __contains__(self, name: object) -> bool:
        return any(node.name == name for node in self.nodes)

    def __getitem__(self, key: int | str) -> NodePrediction:
        """A node by position or by name."""
        if isinstance(key, int):
            if not -len(self.nodes) <= key < len(self.nodes):
                raise IndexError(f"no node {key}: {len(self.nodes)} are predicted.")
            return self.nodes[key]
        for node in self.nodes:
            if node.name == key:
                return node
        near = [node.name for node in self.nodes if key and key in node.name]
        names = near or [node.name for node in self.nodes]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise KeyError(f"no node {key!r}; {'near it' if near else 'predicted'}: {shown}")

    def records(self) -> list[Row]:
        """One flat row a node."""
        return [asdict(node) for node in self.nodes]

    def _shown(self) -> Shown:
        columns = {
            "name": "", "operation": "", "q": ".4g", "mean": ".3g", "samples": ".3f",
            "places": ".3f", "gradient": ".4g", "weight gradient": ".4g",
        }  # fmt: skip
        rows: list[Row] = []
        known: set[tuple[object, ...]] = set()
        for node in self.nodes:
            values = tuple("" if v is None else f"{v:.9g}" for v in _moments(node))
            if node.kind == "passage" and not node.note and values in known:
                continue
            known.add(values)
            rows.append({
                "name": node.name, "operation": node.operation, "q": node.q, "mean": node.mean,
                "samples": _near(node.sample_correlation), "places": _near(node.place_correlation),
                "gradient": node.gradient, "weight gradient": node.weight_gradient,
            })  # fmt: skip
        for key in ("samples", "places", "gradient", "weight gradient"):
            if all(row[key] is None or math.isnan(row[key]) for row in rows):
                del columns[key]
        folded = len(self.nodes) - len(rows)
        lines = (
            [f"{folded} nodes hand on what stands above (reshape, slice, copy); records() has all"]
            if folded
            else []
        )
        lines += [f"measured, not predicted: {name}: {why}" for name, why in self.measured.items()]
        lines += [
            f"gradient measured, not predicted: {name}: {why}"
            for name, why in self.not_back.items()
            if name not in self.measured
        ]
        return Shown((), rows, columns, [*lines, *self.notes])

    def _picture(self) -> Figure:
        from sigprop.plots import prediction

        return prediction(self)


def _moments(node: NodePrediction) -> tuple[float | None, ...]:
    return node.q, node.mean, node.gradient


def _near(correlation: float) -> float:
    """To three digits, without the sign of a zero."""
    return round(correlation, 3) + 0.0
