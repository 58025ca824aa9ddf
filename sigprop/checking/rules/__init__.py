"""The table of rules: each looks at the evidence and says what it finds. The place to add one.

``flow``: through depth; ``stream``: residual streams; ``units``: activations and attention;
``weights``: parameters; ``judged``: what p-values name; ``precision``: floating-point formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sigprop.checking.evidence import Evidence
from sigprop.checking.findings import Finding
from sigprop.checking.limits import Limits
from sigprop.checking.rules import flow, judged, precision, stream, units, weights

Rule = Callable[[Evidence, Limits], Iterable[Finding]]

RULES: tuple[Rule, ...] = (
    weights.not_drawn,
    weights.zero,
    flow.signal,
    flow.gradient,
    stream.growth,
    flow.collapse,
    units.dead,
    units.saturated,
    units.attention,
    weights.no_gradient,
    weights.copies,
    judged.named,
    precision.in_use,
    stream.branches,
    flow.off_prediction,
    flow.output,
    weights.not_judged,
    weights.void_scale,
    precision.forecast,
    precision.gradients,
)
"""In the order in which findings of one level are told: causes before effects."""

_WORST = ("unhealthy", "warning", "note")


def find(evidence: Evidence, limits: Limits | None = None) -> tuple[Finding, ...]:
    """All that is to be said of a model, the worst first.

    Args:
        evidence: what was predicted and measured.
        limits: where findings begin; None: the usual ones.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sigprop.checking.evidence import evidence
        >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        ...                     nn.Linear(64, 8))
        >>> _ = nn.init.constant_(net[2].weight, 0.1)
        >>> found = find(evidence(net, (32, 64)))
        >>> found[0].name, found[0].problem, found[0].level
        ('2', 'not initialized', 'unhealthy')
    """
    limits = limits or Limits()
    broken = tuple(weights.not_finite(evidence, limits))
    if broken:  # nothing else that is said of NaN would mean anything
        return broken
    found = [finding for rule in RULES for finding in rule(evidence, limits)]
    return worst_first(found)


def worst_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by their level, else in their order."""
    return tuple(sorted(found, key=lambda each: _WORST.index(each.level)))
