"""What an initialization is to hold, and the gain of one activation for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sigprop.activations import Activation
from sigprop.graph import Slopes
from sigprop.theory.fixed_points import NoSolution
from sigprop.theory.leaky import g_star


@dataclass(frozen=True)
class Criterion:
    """What the gains are to hold; see :func:`sigprop.initialize`.

    Attributes:
        kind: ``"forward"``, ``"critical"``, ``"unit_variance"``; ``"leaky"``: as
            ``kaiming_leaky_init``, the second moment that comes, whatever it is.
        q: second moment of the pre-activations.
        bias_std: of the biases.
        q0: second moment of the inputs, if the input layer is to bring it to q.
    """

    kind: str = "leaky"
    q: float = 1.0
    bias_std: float = 0.0
    q0: float | None = None

    @property
    def bias(self) -> float:
        """The second moment of the biases, as far as the gain makes room for it."""
        return 0.0 if self.kind in ("leaky", "critical") else self.bias_std**2

    @property
    def without_bias(self) -> float:
        """What the weights add to q beside the bias.

        Raises:
            NoSolution: the bias alone exceeds q.
        """
        rest = self.q - self.bias
        if rest <= 0:
            raise NoSolution(
                f"no gain keeps q = {self.q:g} with bias_std = {self.bias_std:g}: the bias alone "
                f"adds {self.bias_std**2:g}. Take bias_std below {math.sqrt(self.q):g}."
            )
        return rest


def shown(record: Activation) -> str:
    """An activation in words: its name and what parameters it has.

    Example:
        >>> from sigprop.activations import activation
        >>> shown(activation("leaky_relu", alpha=0.2)), shown(activation("gelu"))
        ('leaky_relu(alpha=0.2)', 'gelu')
    """
    parts = [
        f"{name}={len(value)} values" if isinstance(value, tuple) else f"{name}={value:.4g}"
        for name, value in record.parameters.items()
    ]
    return record.name + (f"({', '.join(parts)})" if parts else "")


@lru_cache(maxsize=256)
def leaky_gain(alpha: Slopes) -> float:
    """g* of one slope, or of one per channel."""
    return float(g_star(np.array(alpha), channel_axis=0))


def exact_gain(alpha: Slopes, criterion: Criterion) -> float:
    """The gain after slopes that meet a signal as a weight layer leaves it: g*, less the bias."""
    gain = leaky_gain(alpha)
    return gain if criterion.bias == 0 else gain * math.sqrt(criterion.without_bias / criterion.q)
