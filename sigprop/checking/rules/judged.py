"""What the p-values of the weights name: gains off their law, weights that know their signals."""

from __future__ import annotations

from collections.abc import Iterator

from sigprop.checking import words
from sigprop.checking.evidence import Evidence
from sigprop.checking.findings import Finding, Level
from sigprop.checking.limits import Limits
from sigprop.checking.weights import Named, Question
from sigprop.records import p_text

_PROBLEM: dict[Question, str] = {
    "scale": words.OFF_LAW,
    "direction": words.KNOWS_INPUT,
    "backward": words.KNOWS_GRADIENT,
}
_ADVICE: dict[Question, str] = {
    "scale": words.LAW,
    "direction": words.ALIGNED,
    "backward": words.ALIGNED,
}


def named(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Layers whose p-values are too small; of a net that has learned these are notes."""
    verdicts = evidence.verdicts
    if verdicts is None:
        return
    learned = has_learned(evidence, limits)
    for each in verdicts.named:
        level: Level = "note" if learned else "warning"
        detail = f"{each.detail} ({p_text(each.p)})"
        yield Finding(each.name, _PROBLEM[each.question], detail, _ADVICE[each.question], level)


def has_learned(evidence: Evidence, limits: Limits) -> bool:
    """Whether so many layers know their input that the net must have been trained."""
    verdicts = evidence.verdicts
    if verdicts is None:
        return False
    asked = [layer for layer in verdicts.layers if layer.p_direction is not None]
    aligned = [each for each in verdicts.named if _aligned(each)]
    return len(aligned) > 1 and len(aligned) >= limits.learned * len(asked)


def _aligned(named: Named) -> bool:
    return named.question == "direction"
