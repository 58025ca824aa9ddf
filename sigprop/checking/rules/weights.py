"""Weights and parameters: never drawn, copied, zero on purpose, void, without a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sigprop.checking import words
from sigprop.checking.evidence import Evidence
from sigprop.checking.findings import Finding, Level
from sigprop.checking.limits import Limits
from sigprop.graph import Node

DENORMAL = 1e-30
"""Weights all below this were never drawn: they are what was in the memory."""
FEW = 16
"""Entries below which equal ones are no wonder."""
VALUES = 8
"""A weight of fewer different values is a pattern, an identity or a mask; two such may agree."""


@dataclass(frozen=True, eq=False)
class _Used:
    """The weight of a node at its first use; of a recurrent layer one of its matrices."""

    node: Node
    value: Tensor
    name: str

    @property
    def advice(self) -> str:
        """How to draw it anew."""
        return words.RESET if self.node.kind == "recurrent" else words.FRESH


def not_finite(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Parameters, or signals behind a layer, that are NaN or infinite."""
    for name, parameter in evidence.parameters.items():
        count = 0 if parameter.is_meta else int((~parameter.detach().isfinite()).sum())
        if count:
            detail = f"{count} of {parameter.numel()} entries are NaN or infinite"
            yield Finding(name, words.NON_FINITE, detail, words.FRESH, "unhealthy")
            return  # all behind it is broken as well
    for node in evidence.graph.nodes:
        seen = evidence.signals.get(node.name)
        if node.kind in _SOLID and seen is not None and seen.nonfinite:
            before = [n for n in node.inputs if n in evidence.signals]
            largest = max((evidence.signals[n].high for n in before), default=math.nan)
            detail = f"{seen.nonfinite} entries are NaN or infinite in {seen.dtype}"
            detail += f"; what enters reaches {largest:.2g}" if math.isfinite(largest) else ""
            advice = f"{words.FRESH} If numbers are too large for {seen.dtype}, use bfloat16."
            yield Finding(node.name, words.NON_FINITE, detail, advice, "unhealthy")
            return


def not_drawn(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Weights that are constant, denormal, or whose units are all equal."""
    for used in _weights(evidence):
        fault = _fault(used.value)
        if fault:
            yield Finding(used.name, words.NOT_INITIALIZED, fault, used.advice, "unhealthy")


def zero(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Weights that are all 0: on purpose at a head or at the end of a branch, else a fault."""
    ends = {end for stream in evidence.streams for block in stream.blocks for end in block.ends}
    for used in _weights(evidence):
        name = used.node.name
        if bool(torch.count_nonzero(used.value)) or name in ends:
            continue
        if used.node.kind == "recurrent":
            detail = "its weights are all 0: the gates do not see what it multiplies"
            yield Finding(used.name, words.NOT_INITIALIZED, detail, used.advice, "unhealthy")
        elif not evidence.leads_to(name, "weight"):
            detail = "its weights are 0: nothing before it gets a gradient at the first step"
            advice = "Nothing needs to be done if that is meant; the head learns first."
            yield Finding(name, words.ZERO_HEAD, detail, advice, "note")
        elif _is_added_or_gates(evidence, name):
            detail = "its weights are 0: what it adds or multiplies is constant at the start"
            advice = "Nothing needs to be done if that is meant."
            yield Finding(name, words.ZERO_BRANCH, detail, advice, "note")
        else:
            detail = "its weights are all 0: no signal and no gradient passes"
            yield Finding(name, words.NOT_INITIALIZED, detail, words.FRESH, "unhealthy")


def copies(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Layers whose weights are equal entry by entry without being one parameter."""
    groups: dict[tuple[tuple[int, ...], float, float], list[_Used]] = {}
    for used in _weights(evidence):
        value = used.value
        if value.numel() >= FEW and bool(value.isfinite().all()):
            marks = value.double().flatten()
            key = float(marks.sum()), float(marks @ _line(marks))
            groups.setdefault((tuple(value.shape), *key), []).append(used)
    levels: tuple[Level, ...] = ("unhealthy", "warning")
    for level in levels:
        found = [same for group in groups.values() if (same := _same(group, level == "unhealthy"))]
        if found:
            detail = f"the same numbers stand in {_shown([u.name for u in found[0][1:]])}"
            detail += f"; so it is with {len(found) - 1} more weights" if len(found) > 1 else ""
            detail += (
                "; they take the same input, so they stay equal in training"
                if level == "unhealthy"
                else "; copy.deepcopy does that"
            )
            yield Finding(found[0][0].name, words.COPIES, detail, found[0][0].advice, level)


def no_gradient(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Parameters that no gradient reaches; with exact zeros behind a zero weight as a note."""
    if evidence.unmeasured:
        return
    squares = evidence.measured.parameters
    trained = {n: p for n, p in evidence.parameters.items() if p.requires_grad and n in squares}
    without = [name for name in trained if squares[name] is None]
    nothing = [name for name in trained if squares[name] == 0 and not evidence.blank]
    lost = sum(trained[name].numel() for name in without)
    total = max(sum(parameter.numel() for parameter in trained.values()), 1)
    if without:
        level: Level = "unhealthy" if lost > limits.unreached * total else "warning"
        detail = (
            f"nothing that leaves the model depends on {_shown(without)} "
            f"({_counted(without)}), or it is detached on the way"
        )
        advice = (
            "Use them, take them out, or freeze them with requires_grad=False; look for .detach(), "
            ".item() and torch.no_grad()."
        )
        yield Finding(without[0], words.NO_GRADIENT, detail, advice, level)
    if nothing:
        explained = bool(_zero_on_the_way(evidence))
        lost = sum(trained[name].numel() for name in nothing)
        level = "unhealthy" if lost > limits.unreached * total else "warning"
        detail = f"the gradient of {_shown(nothing)} is exactly 0 ({_counted(nothing)})"
        detail += "; a weight behind is 0" if explained else ""
        advice = (
            "Nothing needs to be done if the zeros behind are meant: they learn first."
            if explained
            else "Look for dead units, saturated gates or a product with 0 behind them; a bias "
            "that a difference or a normalization takes away can go."
        )
        level = "note" if explained else level
        yield Finding(nothing[0], words.NO_GRADIENT, detail, advice, level)


def _counted(names: list[str]) -> str:
    return f"{len(names)} parameter{'' if len(names) == 1 else 's'}"


def not_judged(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """What could not be asked of this model, with the reason."""
    if evidence.unmeasured and not evidence.meta:
        advice = (
            "Check the model that the loss is taken from: its scores, before argmax or detach()."
        )
        yield Finding("output", words.NO_GRADIENT, evidence.unmeasured, advice, "warning")
    elif evidence.unmeasured:
        detail = f"{evidence.unmeasured}: all findings are from the prediction"
        advice = "Check it again when it has its values: model.to_empty(device=...) and initialize."
        yield Finding("input", words.NOT_JUDGED, detail, advice, "note")
    unseen = _unseen(evidence)
    if unseen:
        detail = f"where {_shown(unseen)} ({len(unseen)} parameters) are used is not seen"
        advice = (
            "Check the model before torch.jit.script or an export turns it into something that "
            "runs outside of Python."
        )
        yield Finding(unseen[0], words.NOT_JUDGED, detail, advice, "warning")
    told: set[tuple[str, ...]] = set()
    judged = {each.name for each in evidence.verdicts.recurrent} if evidence.verdicts else set()
    for node in evidence.graph.of_kind("recurrent"):
        if node.parameters in told:
            continue  # the same one, called again
        told.add(node.parameters)
        sized = judged.intersection(node.parameters)
        size = "their size" if sized else "not their size, as some of them are computed"
        detail = (
            f"the {len(node.parameters)} parameters within this {node.layer or node.operation} are "
            f"no layers here: whether they were drawn is looked at, what leaves it, and {size}; "
            "whether they know their inputs is not"
        )
        advice = "Look at its gates by hand; sigprop.initialize leaves them alone, too."
        yield Finding(node.name, words.NOT_JUDGED, detail, advice, "note")
    if evidence.unpredicted:
        detail = f"there is no prediction: {evidence.unpredicted}"
        advice = "All findings are from the measurement."
        yield Finding("input", words.NOT_JUDGED, detail, advice, "note")


def _unseen(evidence: Evidence) -> list[str]:
    """Parameters that a gradient reaches from a part of the model that is not seen."""
    if not any(node.operation == "unseen" for node in evidence.graph.of_kind("opaque")):
        return []
    nodes = (node for node in evidence.graph.nodes if node.operation != "unseen")
    met = {name for node in nodes for name in node.parameters}
    squares = evidence.measured.parameters
    return [n for n in evidence.parameters if squares.get(n) is not None and n not in met]


def void_scale(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Weights and scales straight before a normalization, which undoes their size."""
    found = [
        node.name
        for node in evidence.graph.nodes
        if node.kind == "weight" or (node.kind == "scale" and node.parameters)
        if _is_normed(evidence, node.name)
    ]
    if found:
        detail = f"a normalization undoes the scale of {_shown(found)}"
        advice = (
            "Nothing needs to be done: the size of these weights sets how fast they learn, not the "
            "signal; a bias before batch normalization is void and can go."
        )
        yield Finding(found[0], words.VOID_SCALE, detail, advice, "note")


_SOLID = frozenset(
    ("weight", "normalization", "attention", "recurrent", "embedding", "activation", "pooling")
)
"""Kinds whose numbers are finite in a sound net; sums and selections hold masks of −∞."""


def _weights(evidence: Evidence) -> Iterator[_Used]:
    """Weights of at least two axes that are trained, each parameter at its first use."""
    met: set[str] = set()
    for node in evidence.graph.of_kind("weight"):
        used = evidence.reading.weights[node.name]
        trained = [n for n, p in used.parameters.items() if p.requires_grad]
        if not trained or met.issuperset(trained):
            continue
        met.update(trained)
        value = used.value
        value = torch.view_as_real(value) if value.is_complex() else value
        if value.dim() > 1 and value.numel() >= FEW and not value.is_meta:
            yield _Used(node, value, node.name)
    for node in evidence.graph.of_kind("recurrent"):
        for name in node.parameters:
            parameter = evidence.parameters.get(name)
            if parameter is None or name in met or not parameter.requires_grad:
                continue
            met.add(name)
            if parameter.dim() > 1 and parameter.numel() >= FEW and not parameter.is_meta:
                yield _Used(node, parameter.detach(), name)


def _fault(value: Tensor) -> str:
    """What is wrong with a weight that is not all 0; "" if nothing is."""
    low, high = (float(end) for end in value.aminmax())
    size = max(abs(low), abs(high))
    if not math.isfinite(size) or size == 0:
        return ""
    if size < DENORMAL:
        return f"its largest entry is {size:.2g}: what stood in the memory, not weights"
    if low == high:
        return f"all its entries are {high:g}: its units stay equal in training"
    for axis, what in ((0, "rows"), (1, "columns")):
        first = value.narrow(axis, 0, 1)
        if value.shape[axis] > 1 and bool((value == first).all()):
            return f"its {value.shape[axis]} {what} are equal: its units stay equal in training"
    return ""


def _same(group: Sequence[_Used], beside: bool) -> list[_Used]:
    """Those equal to the first, if they are no pattern; take the same input, or do not."""
    same = [used for used in group if torch.equal(used.value, group[0].value)]
    if len(same) < 2 or len(torch.unique(same[0].value)) <= VALUES:
        return []
    inputs = {used.node.inputs for used in same}
    return same if (len(inputs) < len(same)) == beside else []


def _line(values: Tensor) -> Tensor:
    return torch.linspace(1.0, 2.0, len(values), dtype=values.dtype, device=values.device)


def _is_added_or_gates(evidence: Evidence, name: str) -> bool:
    """Whether what leaves a layer is only added to another signal or multiplied with it."""
    ends = {user.kind for user in _next(evidence, name)}
    return bool(ends) and ends <= {"sum", "product", "opaque"}


def _next(evidence: Evidence, name: str) -> Iterator[Node]:
    """What uses a signal, past what hands it on or acts on it entry by entry."""
    for user in evidence.graph.users[name]:
        if user.kind in ("passage", "scale", "shift", "dropout", "activation", "normalization"):
            yield from _next(evidence, user.name)
        else:
            yield user


def _zero_on_the_way(evidence: Evidence) -> bool:
    """Whether some weight or scale is 0 on purpose."""
    scales = (n.constant for n in evidence.graph.nodes if n.kind in ("scale", "normalization"))
    if any(constant is not None and constant.q == 0 for constant in scales):
        return True
    return any(not bool(torch.count_nonzero(used.value)) for used in _weights(evidence))


def _is_normed(evidence: Evidence, name: str) -> bool:
    """Whether all that uses a signal normalizes it."""
    users = evidence.graph.users[name]
    while len(users) == 1 and users[0].kind == "passage":
        users = evidence.graph.users[users[0].name]
    return bool(users) and all(user.kind == "normalization" for user in users)


def _shown(names: Sequence[str]) -> str:
    few = ", ".join(names[:3])
    return few if len(names) <= 3 else f"{few} and {len(names) - 3} more"
