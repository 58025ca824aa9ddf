"""What the walk over a graph takes and returns for each weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sigprop.graph import Graph, Moments, Node, Slopes
from sigprop.init.behind import activations_behind, key_of
from sigprop.init.gains import Criterion
from sigprop.init.rule_context import Factors
from sigprop.init.signals import SignalMoments

NOTHING = Moments(0.0, 0.0)


@dataclass(frozen=True)
class Held:
    """A weight that stays as it is.

    Attributes:
        square: mean square of an entry times fan_in: its gain².
        bias: moments of the bias added with it.
    """

    square: float
    bias: Moments = NOTHING


@dataclass(frozen=True)
class Stated:
    """A weight whose gain is stated by the user."""

    gain: float
    alpha: Slopes | None = None
    activation: str = ""
    reason: str = ""


class Decided(NamedTuple):
    """What the walk says of one use of a weight.

    Attributes:
        gain: g; of a held weight its own.
        reason: what decides it, in words.
        makers: the nodes that do; of a layer at the input those that it feeds.
        alpha: the slope(s) behind it, None if unused.
        given: of a stated gain: the activation in words.
        raw: whether raw input feeds it.
        void: whether a normalization undoes its scale.
        free: whether nothing decides: a normalization undoes it, or it is fed by zeros.
        change: of a held weight: what comes out, as a multiple of the level.
        growth: what a small relative error of a second moment has become behind it.
        guesses: what was guessed on the way to it, in words.
        trouble: why there is no gain: a sentence on the layer, and advice is to follow.
        outside: whether the trouble is an activation outside the leaky family.
        bracket: the interval searched, where a gain that does not exist is the trouble.
    """

    gain: float
    reason: str = ""
    makers: tuple[Node, ...] = ()
    alpha: Slopes | None = None
    given: str = ""
    raw: bool = False
    void: bool = False
    free: bool = False
    change: float = 1.0
    growth: float = 1.0
    guesses: tuple[str, ...] = ()
    trouble: str = ""
    outside: bool = False
    bracket: tuple[float, float] | None = None

    @property
    def activation(self) -> str:
        """The activations behind it in words."""
        return self.given or activations_behind(self.makers)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two uses with the same activations behind them."""
        return key_of(self.makers)


class WeightOutput(NamedTuple):
    """What leaves a weight."""

    q: float
    mean: float
    level: float
    known: bool = False
    growth: float = 1.0


@dataclass(frozen=True)
class Levels:
    """The walk's result: by node, the signal that leaves it; by weight node, what was decided."""

    graph: Graph
    criterion: Criterion
    signals: Mapping[str, SignalMoments]
    weights: Mapping[str, Decided]
    factors: Mapping[str, Factors]
