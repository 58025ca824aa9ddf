"""Signals and gradients through depth: they vanish, explode, become all the same, surprise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from sigprop.checking import words
from sigprop.checking.evidence import Evidence
from sigprop.checking.findings import Finding, Level
from sigprop.checking.limits import Limits
from sigprop.checking.rules.judged import has_learned
from sigprop.checking.rules.stream import blocks, layer_scale
from sigprop.graph import BY_DATA, Graph, Node

MAKES = ("weight", "sum", "embedding", "recurrent")
"""Kinds of nodes whose signals are compared."""
LAST = 3
"""Layers at the end that tell whether samples have become all the same."""


@dataclass(frozen=True)
class Course:
    """A quantity at some layers in the order of the data, all of it above 0.

    Attributes:
        names: of the layers.
        sizes: the quantity.
        normalized: whether a normalization stands on the way.
    """

    names: tuple[str, ...]
    sizes: tuple[float, ...]
    normalized: bool

    @property
    def change(self) -> float:
        """Decades from the first to the last."""
        return math.log10(self.sizes[-1] / self.sizes[0]) if len(self.sizes) > 1 else 0.0

    @property
    def range(self) -> float:
        """Decades between the largest and the smallest."""
        return math.log10(max(self.sizes) / min(self.sizes)) if self.sizes else 0.0

    def in_words(self, what: str, backward: bool) -> str:
        """From where to where, by how much, and a layer at a time."""
        first, last = (-1, 0) if backward else (0, -1)
        layers = max(len(self.sizes) - 1, 1)
        factor = self.sizes[last] / self.sizes[first]
        return (
            f"{what} goes from {self.sizes[first]:.2g} at {self.names[first]} to "
            f"{self.sizes[last]:.2g} at {self.names[last]}: a factor of {factor:.2g}, "
            f"{factor ** (1 / layers):.3g} a layer over {layers} layers"
        )


def signal(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Signals that vanish or explode between the first layer and the last before the head."""
    for trunk in evidence.trunks:
        gone = _gone(evidence, trunk)
        if gone:
            detail = f"all that leaves {gone} is exactly 0"
            yield Finding(gone, words.SIGNAL_VANISHES, detail, words.CRITICAL, "unhealthy")
            continue
        for part in _between_norms(evidence, trunk):
            course = _course(evidence, {name: evidence.q(name) for name in part})
            level = _level(course, limits.signal, limits.signal_range, limits.warned)
            if level is not None:
                down = _down(course)
                problem = words.SIGNAL_VANISHES if down else words.SIGNAL_EXPLODES
                detail = course.in_words("its mean square", backward=False)
                yield Finding(course.names[-1], problem, detail, _advice(evidence, course), level)


def gradient(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Gradients that vanish or explode between the last layer and the first."""
    for trunk in evidence.trunks:
        sizes = {name: _total(evidence, name) for name in _layers(evidence, trunk)}
        course = _course(evidence, sizes)
        down = not _down(course)
        most = _most(evidence, course, down, limits) + _let_through(evidence)
        level = _level(course, most, max(limits.gradient_range, most), limits.warned)
        if level is not None:
            problem = words.GRADIENT_VANISHES if down else words.GRADIENT_EXPLODES
            detail = course.in_words("its sum of squares", backward=True)
            yield Finding(course.names[0], problem, detail, _advice(evidence, course), level)


def collapse(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Samples that the last layers do not tell apart.

    Recurrent layers of default weights start with states that are mostly their biases, the more so
    the more of them stand behind each other. They learn all the same, so where they are what makes
    the samples alike it is a warning.
    """
    ends = _last_layers(evidence)
    apart = [evidence.signals[name].decorrelation for name in ends if name in evidence.signals]
    known = [value for value in apart if value is not None]
    given = [
        seen.decorrelation
        for node in evidence.graph.nodes
        if not node.inputs and (seen := evidence.signals.get(node.name)) is not None
        if seen.decorrelation is not None
    ]
    at_first = 0.0 if evidence.blank else max(given, default=1.0)
    meant = 10 ** -_let_through(evidence)
    if known and at_first < limits.decorrelation_warned:
        detail = f"1 − c (c: their cosine) is {at_first:.2g} between the samples that were given"
        advice = "Check the model on samples that differ, such as a batch of your data."
        yield Finding("input", words.COLLAPSE, detail, advice, "note")
    elif known and (left := median(known)) < limits.decorrelation_warned * meant:
        states = (evidence.signals.get(n.name) for n in evidence.graph.of_kind("recurrent"))
        known_states = (seen.decorrelation for seen in states if seen is not None)
        gated = any(d is not None and d < limits.decorrelation_warned * meant for d in known_states)
        sick = left < limits.decorrelation * meant and not gated
        level: Level = "unhealthy" if sick else "warning"
        detail = (
            f"1 − c (c: their cosine) is {left:.2g} between samples (median of the last "
            f"{len(known)} layers): the net gives all inputs the same output; at its input it was "
            f"{at_first:.2g}"
        )
        advice = words.GATES if gated else words.CRITICAL
        yield Finding(ends[-1], words.COLLAPSE, detail, advice, level)


def off_prediction(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """The first layer whose signal is far off what its weights' law predicts."""
    gates = _gates(evidence.graph)
    named = () if evidence.verdicts is None else evidence.verdicts.named
    sizes = {n.name: 2 * math.log(n.ratio) for n in named if n.question == "scale" and n.ratio}
    for node in evidence.graph.nodes:
        forecast, seen = evidence.predicted.get(node.name), evidence.measured[node.name].q
        if node.kind not in MAKES or forecast is None or forecast.note or not seen:
            continue
        if node.name in gates:  # of few, alike values: their mean square scatters
            continue
        if not (0 < forecast.q < math.inf and seen < math.inf):
            continue
        off = math.log(seen / forecast.q)
        if abs(off - sizes.get(node.name, 0.0)) <= math.log(limits.off) < abs(off):
            return  # it is named for the size of its weights
        if abs(off) > math.log(limits.off) + 4 * forecast.scatter:
            detail = (
                f"its mean square is {seen:.3g}, {math.exp(off):.2g} times the {forecast.q:.3g} "
                "that the law of the weights predicts"
            )
            advice = (
                "Its weights know their input (they are trained, copied or aligned), or its inputs "
                "are not the kind predicted from; sigprop.predict(model, x, weights='actual') "
                "predicts this very net."
            )
            yield Finding(node.name, words.OFF, detail, advice, "warning")
            return


def output(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """What linear heads put out is large before anything has been learned."""
    if has_learned(evidence, limits):
        return
    for head in dict.fromkeys(_heads(evidence)):
        q, mean = evidence.q(head.name), evidence.mean(head.name)
        if q is not None and mean is not None and limits.output < q - mean**2 < math.inf:
            detail = f"its mean square about its mean is {q - mean**2:.3g}"
            yield Finding(head.name, words.LARGE_OUTPUT, detail, words.OUTPUT, "warning")


def _heads(evidence: Evidence) -> Iterator[Node]:
    """Layers whose output leaves the model as it is, or in another shape."""
    for end in evidence.graph.of_kind("output"):
        waiting = [evidence.graph.by_name[name] for name in end.inputs]
        while waiting:
            node = waiting.pop()
            if node.kind == "passage":
                waiting += [evidence.graph.by_name[name] for name in node.inputs]
            elif _is_layer(node):
                yield node


def _advice(evidence: Evidence, course: Course) -> str:
    """What to do: along a residual stream its branches are the lever."""
    joins = {block.join for stream in evidence.streams for block in stream.blocks}
    return words.BRANCHES if len(joins & set(course.names)) > 1 else words.CRITICAL


def _layers(evidence: Evidence, trunk: Sequence[str]) -> list[str]:
    """The nodes of a trunk that are compared: all that make a signal, up to the last activation."""
    nodes = [evidence.graph.by_name[name] for name in trunk]
    found = [node.name for node in nodes if _makes(evidence, node)]
    return found if len(found) < 3 else found[:-1]


def _most(evidence: Evidence, course: Course, down: bool, limits: Limits) -> float:
    """The decades that a gradient may change by."""
    if not course.normalized:
        return limits.gradient_vanishes if down else limits.gradient_explodes
    joins = {block.join for block in blocks(evidence)} & set(course.names)
    residual = len(joins) >= len(course.names) / 4
    return limits.gradient_residual if residual else limits.gradient_normalized


def _makes(evidence: Evidence, node: Node) -> bool:
    """Whether a node makes a signal: no map by constants, as of random Fourier features; no logits.

    Masks are added to logits: their size says nothing of the signal.
    """
    fixed = node.kind == "weight" and not evidence.reading.weights[node.name].parameters
    masked = node.kind == "sum" and _is_logits(evidence, node)
    return (node.kind in MAKES or _is_layer(node)) and not fixed and not masked


def _is_layer(node: Node) -> bool:
    """Whether it is a layer: a weight, or an operation whose kernel is a signal."""
    return node.kind == "weight" or (node.kind == "product" and node.operation in BY_DATA)


def _is_logits(evidence: Evidence, node: Node) -> bool:
    """Whether a softmax is all that uses a signal."""
    users = evidence.graph.users[node.name]
    while len(users) == 1 and users[0].kind in ("passage", "shift", "scale", "sum"):
        users = evidence.graph.users[users[0].name]
    return bool(users) and all(user.kind == "softmax" for user in users)


def _let_through(evidence: Evidence) -> float:
    """Decades of gradient that the smallest layer scale holds back where all goes through it.

    As from a class token, which hears of the image by the branches alone.
    """
    scales = [scale for block in blocks(evidence) if (scale := layer_scale(evidence, block))]
    return -2 * math.log10(min(scales, default=1.0))


def _between_norms(evidence: Evidence, trunk: Sequence[str]) -> Iterator[list[str]]:
    """The layers of a trunk, anew behind each normalization on it."""
    layers = set(_layers(evidence, trunk))
    part: list[str] = []
    for name in trunk:
        if evidence.graph.by_name[name].kind == "normalization":
            yield part
            part = []
        elif name in layers:
            part.append(name)
    yield part


def _course(evidence: Evidence, sizes: Mapping[str, float | None]) -> Course:
    known = {name: size for name, size in sizes.items() if size and math.isfinite(size)}
    names = tuple(known)
    places = [evidence.graph.place[name] for name in names]
    between = evidence.graph.nodes[places[0] : places[-1]] if places else ()
    normalized = any(node.kind == "normalization" for node in between)
    return Course(names, tuple(known.values()), normalized)


def _total(evidence: Evidence, name: str) -> float | None:
    """The sum of squares of a gradient."""
    square, shape = evidence.gradient(name), evidence.graph.by_name[name].shape
    return None if square is None or shape is None else square * math.prod(shape)


def _level(course: Course, change: float, range_: float, warned: float) -> Level | None:
    worst = max(abs(course.change) / change, course.range / range_)
    return "unhealthy" if worst > 1 else "warning" if worst > warned else None


def _down(course: Course) -> bool:
    """Whether the course falls, from the first to the last or where it spans most."""
    if not course.sizes or abs(course.change) > course.range / 2:
        return course.change < 0
    return course.sizes.index(max(course.sizes)) < course.sizes.index(min(course.sizes))


def _gone(evidence: Evidence, trunk: Sequence[str]) -> str:
    """The first node of a trunk that makes zeros of a signal, a head's apart; "" if none does."""
    for name in trunk:
        node = evidence.graph.by_name[name]
        given = any(evidence.q(before) for before in node.inputs)
        if given and evidence.q(name) == 0:
            return name if evidence.leads_to(node.name, "weight") else ""
    return ""


def _last_layers(evidence: Evidence) -> list[str]:
    """The last weight layers before the head; what only makes gates is left out."""
    gates = _gates(evidence.graph)
    weights = [node for node in evidence.graph.of_kind("weight") if node.name not in gates]
    before = [n.name for n in weights if evidence.leads_to(n.name, "weight")]
    return before[-LAST:] or [n.name for n in weights][-LAST:]


def _gates(graph: Graph) -> set[str]:
    """The nodes of which all that comes, up to a product, multiplies another signal."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        users = graph.users[node.name]
        towards = len(users) == 1 and users[0].kind in _TOWARDS_A_GATE and users[0].name in found
        if towards or (users and all(user.kind == "product" for user in users)):
            found.add(node.name)
    return found


_TOWARDS_A_GATE = frozenset(("activation", "passage", "shift", "softmax", "weight"))
