"""What is wrong in a network, in words, with what to do: the vocabulary of check and monitor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sigprop.results import Result

SHOWN = 4
"""Layers named in a sentence."""

Level = Literal["note", "warning", "unhealthy"]


@dataclass(frozen=True)
class Finding(Result):
    """Something to be said of a layer.

    Attributes:
        name: the layer, or the block.
        problem: in a word or two; a layer is warned of once for each.
        detail: the numbers.
        advice: what to do.
        level: ``"note"``: good to know; ``"warning"``: likely to cost something; ``"unhealthy"``:
            this net is not fit to be trained as it is.
    """

    name: str
    problem: str
    detail: str
    advice: str
    level: Level = "warning"

    def __str__(self) -> str:
        return in_words([self])


def in_words(found: Sequence[Finding]) -> str:
    """Findings of one problem: what it is, where, and what to do.

    Example:
        >>> dead = [Finding(f"fc{i}", "dying", "all units are dead", "Use PReLU.") for i in (1, 2)]
        >>> in_words(dead)
        'dying: fc1: all units are dead; fc2: all units are dead. Use PReLU.'
    """
    where = [f"{finding.name}: {finding.detail}" for finding in found[:SHOWN]]
    where += [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return f"{found[0].problem}: {'; '.join(where)}. {found[0].advice}"


def by_problem(found: Sequence[Finding]) -> list[list[Finding]]:
    """The findings of each problem together."""
    problems = dict.fromkeys(finding.problem for finding in found)
    return [[finding for finding in found if finding.problem == name] for name in problems]
