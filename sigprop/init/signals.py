"""What is known of the signal at one place of a network, before any weight is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sigprop.activations import Activation
from sigprop.graph import Node, Slopes


class Trouble(NamedTuple):
    """Why the second moment of a signal is not known.

    Attributes:
        node: where that begins.
        why: a clause on the node: ``"whose effect on the signal is not known"``.
        what: words before the node, if it needs any.
        bracket: the interval searched, where a gain that does not exist is the reason.
    """

    node: Node
    why: str
    what: str = ""
    bracket: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"{self.what}{self.node}, {self.why}"


class Bent(NamedTuple):
    """A signal that is a function of one Gaussian: factor·φ(u) + shift.

    Attributes:
        node: the activation.
        record: φ; None: it is not known as a function any more.
        q: second moment of u.
        mean: mean of u.
        growth: of u, as of a signal.
        factor: constant factor since.
        shift: constant added since.
    """

    node: Node
    record: Activation | None
    q: float
    mean: float
    growth: float = 0.0
    factor: float = 1.0
    shift: float = 0.0


class SignalMoments(NamedTuple):
    """What is known of the signal at one place.

    Attributes:
        q: second moment.
        mean: mean over its entries.
        level: the second moment that the weight layers in this part of the network keep; None:
            none stands before.
        known: whether the units of q are known. Else they are those in which the weight layers fed
            by the raw input come out at their level.
        raw: whether no weight stands before it.
        stated: of raw data, whether q was stated or measured.
        growth: what a small relative error of a second moment before has become.
        origins: the weights and inputs that it is a function of, no other weight between.
        makers: the nodes that decide what a weight layer gets: names.
        slopes: where it is one leaky activation of a signal at its level, and nothing else: its
            slopes; (1.0,): a signal at its level.
        bent: where it is a function of one Gaussian signal.
        uneven: whether its units have been multiplied by different constants.
        outside: an activation outside the leaky family that it goes through.
        point: of ``kind="critical"``: the activation whose fixed point it needs.
        guesses: names of the nodes on the way, no weight between, whose effect was guessed.
        basis: those on whose guess the level rests, weights between or not.
        units: entries along the axis of units, None if not known.
        trouble: why q is not known; None: it is.
    """

    q: float
    mean: float = 0.0
    level: float | None = None
    known: bool = False
    raw: bool = False
    stated: bool = False
    growth: float = 0.0
    origins: frozenset[str] = frozenset()
    makers: tuple[str, ...] = ()
    slopes: Slopes | None = None
    bent: Bent | None = None
    uneven: bool = False
    outside: Node | None = None
    point: Activation | None = None
    guesses: frozenset[str] = frozenset()
    basis: frozenset[str] = frozenset()
    units: int | None = None
    trouble: Trouble | None = None


def scaled(signal: SignalMoments, square: float, mean: float) -> SignalMoments:
    """Multiplied by something constant of that mean square and mean."""
    if square == 1 and mean == 1:
        return signal
    bent, plain = signal.bent, abs(square - mean**2) <= 1e-12 * square
    if bent is not None:
        bent = (
            bent._replace(factor=bent.factor * mean, shift=bent.shift * mean)
            if plain
            else bent._replace(record=None)
        )
    same = square == 1 and signal.slopes == (1.0,)
    return signal._replace(
        q=signal.q * square,
        mean=signal.mean * mean,
        slopes=signal.slopes if same or (mean in (1, -1) and square == 1) else None,
        bent=bent,
        uneven=signal.uneven or not plain,
    )


def shifted(signal: SignalMoments, mean: float, square: float) -> SignalMoments:
    """Plus something constant of that mean and mean square."""
    if square == 0:
        return signal
    q = signal.q + 2 * signal.mean * mean + square
    bent = signal.bent
    if bent is not None:
        plain = abs(square - mean**2) <= 1e-12 * square
        bent = bent._replace(shift=bent.shift + mean) if plain else bent._replace(record=None)
    growth = signal.growth * signal.q / q if q > 0 else signal.growth
    return signal._replace(q=q, mean=signal.mean + mean, slopes=None, bent=bent, growth=growth)


def merged(
    signals: Sequence[SignalMoments], *, q: float, mean: float, growth: float
) -> SignalMoments:
    """What several signals together have, with moments computed elsewhere."""
    origins: frozenset[str] = frozenset().union(*(s.origins for s in signals))
    makers = tuple(dict.fromkeys(name for s in signals for name in s.makers))
    return SignalMoments(
        q,
        mean,
        level=None,
        known=all(s.known for s in signals),
        raw=all(s.raw for s in signals),
        stated=all(s.stated for s in signals),
        growth=growth,
        origins=origins,
        makers=makers,
        outside=next((s.outside for s in signals if s.outside is not None), None),
        point=next((s.point for s in signals if s.point is not None), None),
        guesses=frozenset().union(*(s.guesses for s in signals)),
        basis=frozenset().union(*(s.basis for s in signals)),
        units=next((s.units for s in signals if s.units is not None), None),
        trouble=next((s.trouble for s in signals if s.trouble is not None), None),
    )


def shared_level(signals: Sequence[SignalMoments], weights: Sequence[float]) -> float | None:
    """The level of a mixture: each part stands to it as it stands to its own, on the whole.

    1/level is the mean of the parts' 1/level, weighted by the second moment that each brings; parts
    without a level are left out.
    """
    parts = [(w * s.q, s.level) for s, w in zip(signals, weights, strict=True) if s.level]
    if not parts:
        return None
    if len({level for _, level in parts}) == 1:
        return parts[0][1]
    whole = sum(q for q, _ in parts)
    inverse = sum(q / level for q, level in parts)
    return whole / inverse if inverse > 0 else parts[0][1]
