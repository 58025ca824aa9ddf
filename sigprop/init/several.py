"""Rules of what joins signals: sums, concatenations, products. They are taken for independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sigprop.activations import activation
from sigprop.graph import Node
from sigprop.init.responses import respond
from sigprop.init.rule_context import UNKNOWN
from sigprop.init.signals import SignalMoments, merged, shared_level

if TYPE_CHECKING:
    from sigprop.init.rule_context import Result, Rules


def add(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """Second moments add, and twice the product of the means."""
    if len(signals) == 1:
        return signals[0], (1.0,)
    clash = _two_points(signals)
    if clash is not None:
        return rules.unknown(node, signals, clash)
    sign = -1.0 if node.operation in ("sub", "rsub") else 1.0
    tied = _tied(signals)
    if tied:
        found = rules.by_example(node, signals)
        if found is not None:
            return found[0], (1.0,) * len(signals)
    means = [s.mean for s in signals]
    means[1:] = [sign * mean for mean in means[1:]]
    crossed = (
        0.0 if rules.criterion.kind == "critical" else sum(means) ** 2 - sum(m * m for m in means)
    )
    q = sum(s.q for s in signals) + crossed
    growth = sum(s.q * s.growth for s in signals) / q if q > 0 else 0.0
    whole = merged(signals, q=q, mean=sum(means), growth=growth)
    whole = whole._replace(level=shared_level(signals, [1.0] * len(signals)))
    if tied:
        whole = rules.guessed(node, whole, "adds signals that depend on each other")
    return whole, (1.0,) * len(signals)


def concatenation(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """The mean of the second moments by shares; a part may be constant."""
    if len(signals) == 1 and not (node.shares and node.constant):
        return signals[0], (1.0,)
    clash = _two_points(signals)
    if clash is not None:
        return rules.unknown(node, signals, clash)
    shares, counted = node.shares, list(signals)
    rest = 1 - sum(shares) if shares else 0.0
    if not shares:
        if not all(s.raw for s in signals):
            counted = [s for s in signals if s.known or not s.raw]  # their units are not known
        sizes = [s.units for s in counted if s.units is not None]
        same = all(math.isclose(s.q, counted[0].q, rel_tol=1e-6) for s in counted)
        if len(sizes) == len(counted):
            shares = tuple(size / sum(sizes) for size in sizes)
        elif same:
            shares = tuple(1 / len(counted) for _ in counted)
        else:
            why = "whose parts have different second moments and sizes that are not known"
            return rules.unknown(node, signals, why)
    back = shares if len(shares) == len(signals) else (1 / len(signals),) * len(signals)
    pairs = list(zip(shares, counted, strict=True))
    q = sum(share * s.q for share, s in pairs)
    mean = sum(share * s.mean for share, s in pairs)
    if rest > 1e-9:  # the part that is constant
        if node.constant is None:
            return rules.unknown(node, signals, "of which one part has no value yet")
        q, mean = q + rest * node.constant.q, mean + rest * node.constant.mean
    growth = sum(share * s.q * s.growth for share, s in pairs) / q if q > 0 else 0.0
    slopes = counted[0].slopes
    kinds = {(s.slopes, s.q, s.mean) for s in counted}
    if len(kinds) > 1 or rest > 1e-9:
        slopes = None
    elif slopes is not None:
        q, mean = counted[0].q, counted[0].mean
    whole = merged(signals, q=q, mean=mean, growth=growth)
    bent = next((s.bent for s in counted if s.bent is not None), None)
    return whole._replace(
        known=all(s.known for s in counted),
        makers=tuple(dict.fromkeys(name for s in counted for name in s.makers)),
        level=shared_level(counted, shares),
        units=None if any(s.units is None for s in signals) else sum(s.units or 0 for s in signals),
        slopes=slopes,
        bent=None if bent is None else bent._replace(record=None),
    ), tuple(back)


def product(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """The product of the second moments, where their units are known."""
    what = "a product of two signals, "
    if rules.criterion.kind == "critical":
        return rules.unknown(node, signals, "which has no critical gain", what)
    if node.operation == "glu" and len(signals) == 1:
        return _gated(rules, node, signals[0])
    powers = [1.0] * len(signals)
    if node.operation == "div":
        powers[1:] = [-1.0] * (len(signals) - 1)
    plain = node.operation == "mul" and len(signals) > 1 and not _tied(signals)
    if not all(s.known for s in signals):
        why = (
            "and the second moments at which they stand are not known, as nothing before fixes them"
        )
        return rules.unknown(node, signals, why, what)
    if not plain:
        found = rules.by_example(node, signals, powers=powers)
        if found is None:
            why = "whose second moment depends on more than theirs and was not measured"
            return rules.unknown(node, signals, why, what)
        whole, factors = found
    else:
        q, mean = math.prod(s.q for s in signals), math.prod(s.mean for s in signals)
        whole = merged(signals, q=q, mean=mean, growth=sum(s.growth for s in signals))
        factors = tuple(q / s.q if s.q > 0 else None for s in signals)
    levels = [s.level for s in signals if s.level is not None]
    level = math.prod(levels) ** (1 / len(levels)) if levels else None
    guesses = whole.guesses | whole.basis  # a product needs the very level
    return whole._replace(level=level, makers=(node.name,), outside=None, guesses=guesses), factors


def _gated(rules: Rules, node: Node, signal: SignalMoments) -> Result:
    """One half times the sigmoid of the other."""
    what = "a product of two signals, "
    if not signal.known:
        why = "and the second moment at which they stand is not known, as nothing before fixes it"
        return rules.unknown(node, [signal], why, what)
    gate = respond(activation("sigmoid"), signal.q, signal.mean)
    if gate is None:
        return rules.unknown(node, [signal], UNKNOWN, what)
    out = merged(
        [signal],
        q=signal.q * gate.q,
        mean=signal.mean * gate.mean,
        growth=signal.growth * (1 + gate.growth),
    )
    factor = (gate.q + signal.q * gate.slope) / 2
    guesses = out.guesses | out.basis
    return out._replace(level=signal.level, makers=(node.name,), outside=None, guesses=guesses), (
        factor,
    )


def _two_points(signals: Sequence[SignalMoments]) -> str | None:
    """Why no one critical gain fits signals, if none does."""
    points = [s.point for s in signals if s.point is not None]
    keys = {(p.row, tuple(sorted(p.parameters.items()))) if p.row else id(p) for p in points}
    if len(keys) < 2:
        return None
    names = " and ".join(dict.fromkeys(p.name for p in points))
    return f"where branches with different critical gains meet: {names}"


def _tied(signals: Sequence[SignalMoments]) -> bool:
    """Whether any two are functions of one input, or of what one weight puts out."""
    return len(frozenset().union(*(s.origins for s in signals))) < sum(
        len(s.origins) for s in signals
    )
