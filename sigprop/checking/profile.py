"""The profile of a model: signal and gradient by depth, at weight layers and along its stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sigprop.records import Row

if TYPE_CHECKING:
    from sigprop.checking.result import CheckReport, LayerCheck
    from sigprop.graph import Graph

GROUPS = 4
"""Groups that names are told apart by, about."""


def profile(report: CheckReport) -> list[Row]:
    """One flat row for each weight layer and each place where a block joins the stream.

    In the order of the data, with ``kind`` (``"layer"`` or ``"stream"``), what is predicted and
    measured there, ``label``, the group of modules that begins here, and in ``found`` the problems
    that a warning or worse names here.
    """
    joined = dict.fromkeys(layer.block for layer in report.layers if layer.block)
    rows = [*map(_layer, report.layers), *(_stream(report, name) for name in joined)]
    order = {node.name: place for place, node in enumerate(report.measured.nodes)}
    rows.sort(key=lambda row: order.get(row["name"], len(order)))
    found = found_at(report, [row["name"] for row in rows])
    for row, label in zip(rows, _labels([row["name"] for row in rows]), strict=True):
        row |= {"label": label, "found": "; ".join(found.get(row["name"], ()))}
    return rows


def found_at(report: CheckReport, names: Sequence[str]) -> dict[str, list[str]]:
    """The problems that findings name at some places, notes left out.

    A finding is of the place of its name; of the place that uses the parameter of its name, or is
    alone inside the module of its name; or of the nearest place upstream of the node of its name.
    """
    graph, found = report.measured.graph, dict[str, list[str]]()
    aliases = _aliases(graph, names)
    for finding in report.findings:
        place = aliases.get(finding.name) or _upstream(graph, finding.name, names)
        if place and finding.level != "note":
            problems = found.setdefault(place, [])
            problems += [finding.problem] if finding.problem not in problems else []
    return found


def _aliases(graph: Graph, names: Sequence[str]) -> dict[str, str]:
    """Other names of places: of their parameters, and of modules that no other place is in."""
    modules: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            modules.setdefault(".".join(parts[:depth]), []).append(name)
    aliases = {module: inside[0] for module, inside in modules.items() if len(inside) == 1}
    for node in reversed(graph.of_kind("weight")):
        if node.weight and node.name in names:
            aliases.update(dict.fromkeys(node.weight.parameters, node.name))
    return aliases | {name: name for name in names}


def _upstream(graph: Graph, name: str, names: Sequence[str]) -> str:
    """The nearest place that data passes on its way to a node; "" for none."""
    nearest = {name: None} if name in graph.by_name else {}
    while nearest:
        for each in nearest:
            if each in names:
                return each
        nearest = {before: None for each in nearest for before in graph.by_name[each].inputs}
    return ""


def _layer(layer: LayerCheck) -> Row:
    return {
        "name": layer.name, "kind": "layer", "operation": layer.operation, "block": layer.block,
        "q_predicted": layer.q_predicted, "q": layer.q,
        "gradient_predicted": layer.gradient_predicted, "gradient": layer.gradient,
    }  # fmt: skip


def _stream(report: CheckReport, name: str) -> Row:
    """The stream where a block joins it."""
    seen = report.measured.by_name.get(name)
    node = next((node for node in report.prediction or () if node.name == name), None)
    return {
        "name": name, "kind": "stream", "operation": "residual stream", "block": name,
        "q_predicted": node.q if node else None, "q": seen.q if seen else None,
        "gradient_predicted": node.gradient if node else None,
        "gradient": seen.gradient if seen else None,
    }  # fmt: skip


def _labels(names: Sequence[str]) -> list[str]:
    """At the first name of each group of modules the group, else ""."""
    groups = list(names)
    for depth in range(1, 6):
        groups = [".".join(name.split("#")[0].split(".")[:depth]) for name in names]
        if len(set(groups)) >= min(GROUPS, len(set(names))):
            break
    first = {group: place for place, group in reversed(list(enumerate(groups)))}
    return [group if first[group] == place else "" for place, group in enumerate(groups)]
