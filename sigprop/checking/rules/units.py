"""Units that are dead or saturated, and attention that looks at one place or at all alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtr

from sigprop.activations import Activation
from sigprop.checking import words
from sigprop.checking.evidence import Evidence
from sigprop.checking.findings import Finding, Level
from sigprop.checking.limits import Limits
from sigprop.checking.signals import SignalStatistics
from sigprop.checks import FloatArray
from sigprop.graph import Node
from sigprop.reading.steps import CannotReplay, Step, replay

MANY = 8
"""Units below which no share of a layer is judged."""
PLACES = 4.0
"""Places that attention must have to choose from."""
_NEAR, _FAR = np.linspace(-50.0, 50.0, 8001), np.geomspace(50.0, 1e4, 50)[1:]
_GRID = np.concatenate([-_FAR[::-1], _NEAR, _FAR])
_STEEP, _USUAL = np.abs(_GRID) <= 3.0, np.abs(_GRID) <= 1.0
MASKED = -1e9
"""What is below stands for −∞: an accumulator of a maximum before its first number, a mask."""


@dataclass(frozen=True)
class Flat:
    """Where an activation is flat: below ``left`` and above ``right``."""

    left: float
    right: float

    @property
    def two_sided(self) -> bool:
        """Whether it is flat on both sides."""
        return self.left > -math.inf and self.right < math.inf

    @property
    def anywhere(self) -> bool:
        """Whether it is flat on any side."""
        return self.left > -math.inf or self.right < math.inf


NOWHERE = Flat(-math.inf, math.inf)


def dead(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Units that are flat for all data, against the half that geometry gives if all is alike."""
    for node, seen in _activations(evidence):
        flat = flat_parts(evidence.reading.steps[node.name], node.activation, limits.dead_flat)
        if seen.unit_low is None or seen.unit_high is None or len(seen.unit_low) < MANY:
            continue
        if not flat.anywhere or seen.unit_high.max() < MASKED:
            continue
        silent = (seen.unit_high <= flat.left) | (seen.unit_low >= flat.right)
        share, units = float(silent.mean()), len(silent)
        expected = silent_by_chance(_unlike(evidence, node.inputs[0], seen), evidence.batch)
        spread = math.sqrt(expected * (1 - expected) / units)
        if share <= max(expected + 4 * spread, limits.dead / 2):
            continue
        level: Level = "unhealthy" if share > limits.dead else "warning"
        detail = (
            f"{round(share * units)} of {units} units are flat for all of the data and get no "
            f"gradient; {100 * expected:.3g} % would be by chance"
        )
        advice = f"{words.REVIVE}, start with biases at 0, or center the input."
        yield Finding(node.name, words.DYING, detail, advice, level)


def saturated(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Entries at which a two-sided activation is flat."""
    for node, seen in _activations(evidence):
        flat = flat_parts(evidence.reading.steps[node.name], node.activation, limits.flat)
        if not flat.two_sided or not seen.entries.size:
            continue
        share = float(np.mean((seen.entries <= flat.left) | (seen.entries >= flat.right)))
        by_nature = 0.5 if min(-flat.left, flat.right) < limits.flat else 0.0  # as ReLU6
        if share > by_nature + (1 - by_nature) * limits.saturated:
            detail = (
                f"at {100 * share:.3g} % of the entries {node.operation} has less than "
                f"{100 * limits.flat:g} % of its steepest slope"
            )
            advice = (
                'Make what enters it smaller: sigprop.initialize(model, x, target="critical") '
                "keeps it where the activation is steep."
            )
            yield Finding(node.name, words.SATURATED, detail, advice, "unhealthy")


def attention(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Attention that looks at one place only; or at all alike, as at every healthy start."""
    uniform: list[tuple[str, float]] = []
    for node in evidence.graph.nodes:
        seen = evidence.signals.get(node.name)
        if seen is None or seen.entropy is None or seen.places < PLACES:
            continue
        if node.kind == "softmax" and not _weighs(evidence, node):
            continue
        if seen.entropy > limits.uniform:
            uniform.append((node.name, seen.entropy))
        elif seen.entropy < limits.entropy_warned:
            level: Level = "unhealthy" if seen.entropy < limits.entropy else "warning"
            detail = (
                f"the entropy of a row is {seen.entropy:.2g} of that of uniform attention over "
                f"{seen.places:.3g} places"
            )
            advice = (
                "Make queries and keys smaller: scale the product by 1/√d, normalize both, or "
                "initialize with sigprop.initialize(model, x)."
            )
            yield Finding(node.name, words.ONE_HOT, detail, advice, level)
    if uniform:
        name, entropy = min(uniform, key=lambda each: each[1])
        detail = f"the entropy of a row is {entropy:.3g} or more of the largest"
        detail += f" ({len(uniform)} attention layers)" if len(uniform) > 1 else ""
        advice = "Nothing needs to be done: most transformers start so, and sharpen as they learn."
        yield Finding(name, words.UNIFORM, detail, advice, "note")


def _unlike(evidence: Evidence, name: str, seen: SignalStatistics) -> float | None:
    """1 − c of two samples without the mean that all units have in common."""
    m = evidence.measured[name]
    if seen.decorrelation is None or m.q is None or m.mean is None or m.q <= m.mean**2:
        return None
    return seen.decorrelation * m.q / (m.q - m.mean**2)


def silent_by_chance(decorrelation: float | None, samples: int) -> float:
    """The share of units that are negative for all samples if their means are 0.

    P(all √c u + √(1−c) vᵢ < 0) with independent normal numbers; at most a half, as where c → 1.

    Example:
        >>> round(silent_by_chance(1.0, 2), 6), round(silent_by_chance(1e-9, 64), 2)
        (0.25, 0.5)
    """
    if samples < 2 or decorrelation is None:
        return 0.5
    c = min(max(1 - decorrelation, 0.0), 1 - 1e-12)
    u = np.linspace(-8.0, 8.0, 2001)
    each = ndtr(-np.sqrt(c) * u / np.sqrt(1 - c)) ** samples
    density = np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    return float(np.sum(each * density) * (u[1] - u[0]))


def flat_parts(step: Step, record: Activation | None, share: float) -> Flat:
    """Where the activation of a step has less than a share of its steepest slope within ±1.

    One that is flat there is held against its steepest slope within ±3.
    """
    if record is not None and record.kind != "function":
        return NOWHERE
    if record is not None:
        return _flat_record(record, share)
    slopes = _replayed(step)
    return NOWHERE if slopes is None else _flat(slopes, share)


@lru_cache(maxsize=256)
def _flat_record(record: Activation, share: float) -> Flat:
    with np.errstate(all="ignore"):
        return _flat(record.df(_GRID), share)


def _flat(slopes: FloatArray, share: float) -> Flat:
    """The edges of the flat parts that begin beyond ±50."""
    if not np.isfinite(slopes[_STEEP]).all():
        return NOWHERE
    size = np.abs(np.nan_to_num(slopes, nan=math.inf))
    steepest = size[_USUAL].max() or size[_STEEP].max()
    steep = np.flatnonzero(size >= share * steepest)
    if not steepest or not len(steep):
        return NOWHERE
    first, last = steep[0], steep[-1]
    left = float(_GRID[first - 1]) if _GRID[first] > -50 else -math.inf
    right = float(_GRID[last + 1]) if _GRID[last] < 50 else math.inf
    return Flat(left, right)


def _replayed(step: Step) -> FloatArray | None:
    """The slopes of an elementwise function of one signal that no record is known of."""
    if len(step.data) != 1:
        return None
    x = torch.as_tensor(_GRID).requires_grad_()
    try:
        with torch.enable_grad():
            out = replay(step, {step.data[0]: x}, dtype=torch.float64, scalars=True)
        if not isinstance(out, torch.Tensor) or out.shape != x.shape or not out.requires_grad:
            return None
        (slopes,) = torch.autograd.grad(out.sum(), x)
    except (CannotReplay, RuntimeError):
        return None
    found: FloatArray = slopes.numpy()
    return found


def _activations(evidence: Evidence) -> Iterator[tuple[Node, SignalStatistics]]:
    """Activations of trained layers, with what enters them."""
    for node in evidence.graph.of_kind("activation"):
        seen = evidence.signals.get(node.inputs[0]) if len(node.inputs) == 1 else None
        if seen is not None and not seen.nonfinite:
            yield node, seen


def _weighs(evidence: Evidence, node: Node) -> bool:
    """Whether a softmax weighs another signal: it is attention."""
    users = evidence.graph.users[node.name]
    while len(users) == 1 and users[0].kind in ("passage", "dropout"):
        users = evidence.graph.users[users[0].name]
    return any(user.kind == "product" and user.operation in _MATRIX for user in users)


_MATRIX = frozenset(("matmul", "bmm", "einsum", "baddbmm", "mm"))
