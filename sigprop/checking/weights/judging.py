"""``judge``: three questions about each weight of a model, and one p-value for each question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sigprop.checking.weights.direction import Answer, direction
from sigprop.checking.weights.facts import Facts, facts_of
from sigprop.checking.weights.laws import WeightLaw, gains_of, laws_of
from sigprop.checking.weights.off_span import off_span
from sigprop.checking.weights.rows import LayerRows, RowsWitness
from sigprop.checking.weights.scale import against_family, exactly, scale
from sigprop.checking.weights.second_run import Backward
from sigprop.checking.weights.shapes import cumulants_of
from sigprop.checking.weights.verdicts import (
    LIKE_IT,
    SAID,
    LayerVerdict,
    Named,
    Question,
    Verdicts,
    one_for_all,
)
from sigprop.checking.weights.within import within_recurrent
from sigprop.checks import real_number
from sigprop.measurement.nodes import NodeStatistics
from sigprop.prediction.planned import Plan, computed_from, planned_laws
from sigprop.reading.used import Reading
from sigprop.validation.judge import sidak, two_sided

NOTHING_TO_TEST = ("zero", "constant", "identity", "equal rows", "mirrored", "not finite")
"""Structures that leave no direction to test."""
EXACT = ("orthogonal", "mirrored")
"""Structures whose mean square is exactly what a plan says."""


def judge(
    statistics: NodeStatistics,
    rows: RowsWitness,
    plan: Plan | None = None,
    level: float = 0.01,
    backward: Backward | None = None,
) -> Verdicts:
    """Ask three questions about each weight of a model, at its first use.

    Of the matrices within recurrent layers the first alone is asked.

    *Scale*: do its weights have the variance of their law? Of the plan, or recognized from a menu.
    *Direction*: do they know their input? *Backward*: do they know their gradient? The last two
    need no law but its kurtosis. Under a right initialization each p-value is uniform, and so is
    that of the model.

    Args:
        statistics: of one run of the model.
        rows: the witness of the same run.
        plan: of ``sigprop.init``: the standard deviation of each layer that it sets.
        level: probability that a right model has a layer named, for each question.
        backward: a second run with few samples, of :func:`look_back`; None: no backward test.

    Returns:
        Laws, gains and p-values; a p-value is None where its question cannot be asked, and the note
        of the layer says why.

    Example:
        >>> from torch import nn
        >>> from sigprop.checking.weights import RowsWitness, look_back
        >>> from sigprop.measurement.nodes import watched_nodes
        >>> _ = torch.manual_seed(0)
        >>> model, x = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 64)), torch.eye(64)
        >>> seen, (rows,) = watched_nodes(model, (x,), {}, lambda: [RowsWitness()])
        >>> found = judge(seen, rows, backward=look_back(model, (x,), {}))
        >>> [layer.law for layer in found.layers], found.named
        (['torch default', 'torch default'], ())

    Raises:
        ValueError: a plan of another model, a level outside (0, 1).
    """
    level = real_number("level", level, above=0, below=1)
    reading = statistics.reading
    weights, tables = facts_of(reading)
    inner = within_recurrent(reading)
    planned = _planned(reading, plan)
    laws = laws_of([*weights, *inner], gains_of(reading.graph), planned)
    asked = _Asked(reading, rows, backward, laws)
    scales = _scales([*weights, *inner], laws, planned)
    answers: dict[str, dict[Question, Answer]] = {
        layer.name: {
            "scale": scales[layer.name],
            "direction": asked.direction(layer),
            "backward": asked.backward_of(layer),
        }
        for layer in weights
    }
    answers |= {layer.name: {"scale": scales[layer.name]} for layer in inner}
    layers = tuple(_verdict(layer, laws, answers[layer.name]) for layer in weights)
    recurrent = tuple(_verdict(layer, laws, answers[layer.name]) for layer in inner)
    whole = (*layers, *recurrent)
    return Verdicts(
        layers,
        tuple(LayerVerdict(t.name, _table_law(t), math.sqrt(t.mean_square)) for t in tables),
        one_for_all([layer.p_scale for layer in whole if layer.counted]),
        one_for_all([layer.p_direction for layer in layers]),
        one_for_all([layer.p_backward for layer in layers]),
        tuple(_named(whole, answers, level)),
        level,
        recurrent,
    )


def _planned(reading: Reading, plan: Plan | None) -> dict[str, float]:
    """The standard deviation that a plan gives each weight node that it sets."""
    by_parameter = planned_laws(reading, plan)
    found = {
        node: by_parameter.get(computed_from(used.parameters))
        for node, used in reading.weights.items()
    }
    return {node: draw.std for node, draw in found.items() if draw is not None and draw.std > 0}


def _scales(
    weights: Sequence[Facts], laws: dict[str, WeightLaw], planned: dict[str, float]
) -> dict[str, Answer]:
    """The answer to the first question for each layer."""
    found = {}
    unknown: dict[object, list[Facts]] = {}
    for layer in weights:
        law = laws.get(layer.name)
        if law is None and layer.structure in EXACT and layer.name in planned:
            found[layer.name] = exactly(layer, planned[layer.name])
        elif law is None:
            found[layer.name] = Answer(note=_void(layer))
        elif law.known:
            found[layer.name] = scale(layer, law)
        else:
            unknown.setdefault((layer.family, layer.entry), []).append(layer)
    for family in unknown.values():
        found |= {x.name: a for x, a in zip(family, against_family(family), strict=True)}
    return found


def _void(layer: Facts) -> str:
    """Why the scale of a layer cannot be asked."""
    if layer.first:
        return f"has the weights of {layer.first!r}, where they are tested"
    if layer.constant:
        return "no parameter of the model"
    if layer.computed and not layer.structure:
        return f"computed from {', '.join(layer.computed)}, so its scale is void"
    if layer.value.is_meta:
        return "it has no values"
    return "" if layer.structure else "no real numbers"


@dataclass
class _Asked:
    """The questions that need a run."""

    reading: Reading
    rows: RowsWitness
    backward: Backward | None
    laws: dict[str, WeightLaw] = field(default_factory=dict)

    def _cumulants(self, layer: Facts) -> tuple[float, float]:
        """Of the law of the weights; of the weights themselves where none is known."""
        law = self.laws.get(layer.name)
        if law is not None and law.known:
            return law.shape.cumulants
        return cumulants_of(layer.kurtosis, layer.sixth)

    def _refused(self, layer: Facts) -> str | None:
        """Why a layer is not asked at all; "": it has said so already."""
        nothing = layer.structure in NOTHING_TO_TEST or not layer.count
        return "" if nothing or layer.first or layer.constant else None

    def direction(self, layer: Facts) -> Answer:
        """Forward."""
        refused = self._refused(layer)
        if refused is not None:
            return Answer(note=refused)
        step = self.reading.steps[layer.name]
        found = self.rows.found.get(step)
        if found is None:
            return Answer(note=self.rows.missing.get(step, "its rows are not read"))
        with torch.no_grad():
            weight = _arranged(layer, found)
            orthogonal = layer.structure == "orthogonal"
            if orthogonal and found.layout.turned:
                return Answer(note="orthogonal by its inputs: no law is known")
            return direction(found.rows, weight, self._cumulants(layer), orthogonal)

    def backward_of(self, layer: Facts) -> Answer:
        """Backward."""
        if self.backward is None or self._refused(layer) is not None:
            return Answer()
        if self.backward.reason:
            return Answer(note=self.backward.reason)
        if layer.again:
            return Answer(note="its gradient meets it again")
        if layer.computed or layer.structure:
            return Answer(note="its weights are bound to each other: no law backward is known")
        assert self.backward.statistics is not None and self.backward.rows is not None
        step = self.backward.statistics.reading.steps.get(layer.name)
        found = None if step is None else self.backward.rows.found.get(step)
        if found is None or found.gradient is None:
            missing = self.backward.rows.missing
            why = (
                "no gradient was seen"
                if step is None
                else missing.get(step, "no gradient was seen")
            )
            return Answer(note=why)
        with torch.no_grad():
            weight = _arranged(layer, found)
            return off_span(found.rows, weight, found.gradient, self._cumulants(layer))


def _arranged(layer: Facts, found: LayerRows) -> torch.Tensor:
    """The weight as its layout has it, in the precision and at the place of the rows."""
    return found.layout.weight(layer.value.detach()).to(found.rows)


def _verdict(
    layer: Facts, laws: dict[str, WeightLaw], answers: dict[Question, Answer]
) -> LayerVerdict:
    law = laws.get(layer.name)
    notes = [f"{q}: {a.note}" for q, a in answers.items() if a.note]
    first = answers["scale"].note
    if law is None and first:  # it goes for all three questions
        notes[0] = first
    p = {question: _p(answer) for question, answer in answers.items()}
    return LayerVerdict(
        layer.name,
        _words(layer, law),
        layer.gain,
        p["scale"],
        p.get("direction"),
        p.get("backward"),
        "; ".join(notes),
        None if law is None else law.std,
        counted=law is not None and law.known,
    )


def _words(layer: Facts, law: WeightLaw | None) -> str:
    if law is not None:
        return law.words
    if layer.first:
        return "shared"
    if layer.structure == "orthogonal":
        return f"orthogonal, gain {_orthogonal_gain(layer):.4g}"
    if layer.structure == "constant":
        return f"constant {float(layer.value.flatten()[0]):.4g}"
    if layer.structure:
        return layer.structure
    if layer.constant:
        return "no parameter"
    if layer.value.is_complex():
        return "complex"
    return "computed" if layer.computed else "unknown"


def _orthogonal_gain(layer: Facts) -> float:
    """The factor of a matrix whose shorter side is orthonormal."""
    rows = layer.value.shape[0]
    return math.sqrt(layer.mean_square * max(rows, layer.count // rows))


def _table_law(layer: Facts) -> str:
    if layer.structure:
        return _words(layer, None)
    return laws_of([layer])[layer.name].words


def _p(answer: Answer) -> float | None:
    return None if answer.score is None else float(two_sided(answer.score))


def _named(
    layers: Sequence[LayerVerdict], answers: dict[str, dict[Question, Answer]], level: float
) -> list[Named]:
    """Layers whose p-value is below the level divided among those that were asked."""
    found = []
    for question in SAID:
        asked = [(layer, getattr(layer, f"p_{question}")) for layer in layers]
        tested = [(layer, p) for layer, p in asked if p is not None]
        for layer, p in tested:
            if sidak([p] + [1.0] * (len(tested) - 1)) < level:
                ratio = answers[layer.name][question].ratio
                detail = SAID[question].format(ratio, "its law" if layer.counted else LIKE_IT)
                found.append(Named(layer.name, question, p, ratio, detail))
    return found
