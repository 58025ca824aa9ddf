"""The arguments of an initialization, read and checked: for all layers, or by patterns of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from sigprop.activations import Activation, as_activation
from sigprop.checks import one_of, real_array, real_number
from sigprop.graph import Slopes
from sigprop.init.aims import Aim, exact_gain, leaky_gain, shown
from sigprop.init.decided import Stated
from sigprop.init.distributions import DISTRIBUTIONS
from sigprop.reading.call_records import slopes_of
from sigprop.reading.calling import described, read_pattern
from sigprop.reading.layers import RANDOM_MODULES, module_slopes, tensor_slopes
from sigprop.theory.gains import KINDS
from sigprop.theory.gains import gain as theory_gain

T = TypeVar("T")


@dataclass(frozen=True)
class ByName(Generic[T]):
    """A value for every layer, or one for each pattern that its name is searched for.

    Attributes:
        argument: what the user calls it.
        whole: the value for every layer; None: none is given.
        patterns: the others, each with its value.
    """

    argument: str
    whole: T | None = None
    patterns: tuple[tuple[re.Pattern[str], T], ...] = ()

    @classmethod
    def of(cls, argument: str, given: Any, read: Callable[[Any], T]) -> ByName[T]:
        """Read an argument: a value, or a dict from regular expressions to values."""
        if given is None:
            return cls(argument)
        if not isinstance(given, Mapping):
            return cls(argument, read(given))
        if not given:
            raise ValueError(f"{argument}={{}} names no layer; leave it out or give a pattern.")
        patterns = []
        for text, value in given.items():
            pattern = read_pattern(f"a pattern of {argument}", text)
            if pattern is None:
                raise TypeError(f"a pattern of {argument} must be text; got None.")
            patterns.append((pattern, read(value)))
        return cls(argument, None, tuple(patterns))

    @property
    def given(self) -> bool:
        """Whether anything is."""
        return self.whole is not None or bool(self.patterns)

    def at(self, name: str) -> T | None:
        """The value for a layer."""
        for pattern, value in self.patterns:
            if pattern.search(name):
                return value
        return self.whole

    def check(self, names: Iterable[str]) -> None:
        """Refuse a name that two patterns match, and a pattern that matches nothing.

        Raises:
            ValueError: naming both, or it.
        """
        if not self.patterns:
            return
        names = list(names)
        for name in names:
            met = [pattern.pattern for pattern, _ in self.patterns if pattern.search(name)]
            if len(met) > 1:
                raise ValueError(
                    f"weight layer {name!r} is matched by two patterns of {self.argument}=: "
                    f"{met[0]!r} and {met[1]!r}. Make one of them narrower."
                )
        for pattern, _ in self.patterns:
            must_match(self.argument, pattern, names)


def must_match(argument: str, pattern: re.Pattern[str] | None, names: Iterable[str]) -> None:
    """Refuse a pattern that matches no name.

    Raises:
        ValueError: naming it and some names.
    """
    if pattern is None:
        return
    names = list(names)
    if not any(pattern.search(name) for name in names):
        shown_names = ", ".join(repr(name) for name in names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(
            f"the pattern {pattern.pattern!r} of {argument}= matches no weight layer; "
            f"they are {shown_names}{more}."
        )


@dataclass(frozen=True)
class Request:
    """The arguments of an initialization, read and checked.

    Attributes:
        aim: what the gains are to hold.
        alpha: slopes that are given.
        gain: gains that are given.
        activation: activations that are given.
        mode: which fan.
        distribution: which law.
        bias_std: of the biases.
        example: of the input; None: the model is traced.
        strict: whether what cannot be set is refused; else it is listed.
        frozen: whether weights that take no gradient are set too.
        include: pattern of the layers that are set; None: all.
        skip: pattern of those that are not.
    """

    aim: Aim
    alpha: ByName[Slopes]
    gain: ByName[float]
    activation: ByName[Activation]
    mode: str
    distribution: str
    bias_std: float
    example: Any = None
    strict: bool = True
    frozen: bool = False
    include: re.Pattern[str] | None = None
    skip: re.Pattern[str] | None = None

    @property
    def leaky(self) -> bool:
        """Whether it is ``kaiming_leaky_init``."""
        return self.aim.kind == "leaky"

    @property
    def all_given(self) -> bool:
        """Whether every layer's gain is given, so that the model need not be read."""
        return any(given.whole is not None for given in (self.alpha, self.gain, self.activation))

    @property
    def ways(self) -> str:
        """What to pass where the model cannot be read."""
        return "alpha= or gain=" if self.leaky else "activation="

    @property
    def mirrored(self) -> bool:
        """Whether weights are mirrored."""
        return self.distribution == "mirrored"

    @property
    def named(self) -> tuple[ByName[Any], ...]:
        """The arguments that may go by name."""
        return self.alpha, self.gain, self.activation

    @cached_property
    def states(self) -> bool:
        """Whether anything is given, for all layers or by name."""
        return any(given.given for given in self.named)

    def stated(self, name: str) -> Stated | None:
        """What is given for a layer; None: it is read from the model."""
        if not self.states:
            return None
        alpha, gain = self.alpha.at(name), self.gain.at(name)
        record = self.activation.at(name)
        if gain is not None:
            return Stated(gain, alpha, reason="gain given")
        if alpha is not None:
            return Stated(leaky_gain(alpha), alpha, reason="alpha given")
        if record is None:
            return None
        slopes = slopes_of(record)
        if slopes is not None and self.aim.kind != "unit_variance":
            number = exact_gain(slopes, self.aim)
        else:
            aim = self.aim
            number = theory_gain(record, aim.kind, q=aim.q, bias_std=aim.bias_std)
        return Stated(number, slopes, shown(record), "activation given")


def slopes_request(
    alpha: Any, gain: Any, mode: str, distribution: str, bias_std: float, **more: Any
) -> Request:
    """The arguments of :func:`kaiming_leaky_init`, read and checked.

    Raises:
        TypeError, ValueError: not numbers, out of range, unknown words.
    """
    for value in alpha.values() if isinstance(alpha, Mapping) else (alpha,):
        if distribution == "mirrored" and isinstance(value, RANDOM_MODULES):
            raise ValueError(
                f"distribution 'mirrored' needs fixed slopes, but {type(value).__name__} draws "
                "them at random. Use another distribution."
            )
    bias_std = real_number("bias_std", bias_std, minimum=0)
    return Request(
        Aim(bias_std=bias_std),
        ByName.of("alpha", alpha, _given_slopes),
        ByName.of("gain", gain, lambda value: real_number("gain", value, above=0)),
        ByName("activation"),
        one_of("mode", mode, ("fan_in", "fan_out")),
        one_of("distribution", distribution, DISTRIBUTIONS),
        bias_std,
        **_options(**more),
    )


def aimed_request(
    activation: Any,
    kind: str,
    q: float,
    q0: float | None,
    mode: str,
    distribution: str,
    bias_std: float,
    **more: Any,
) -> Request:
    """The arguments of :func:`initialize`, read and checked.

    Raises:
        TypeError, ValueError: not numbers, no activation, out of range, unknown words.
    """
    kind = one_of("kind", kind, KINDS)
    distribution = one_of("distribution", distribution, DISTRIBUTIONS)
    bias_std = real_number("bias_std", bias_std, minimum=0)
    if distribution == "mirrored" and kind == "unit_variance":
        raise ValueError(
            "distribution 'mirrored' has a gain of its own, √2/|1+α|, and not that of kind "
            "'unit_variance'. Use another distribution."
        )
    if q0 is not None:
        q0 = real_number("q0", q0, above=0)
        whole = activation is not None and not isinstance(activation, Mapping)
        if kind == "critical" or whole or distribution == "mirrored":
            raise ValueError(
                "q0 sets the input layer of a model that is read so that q¹ = q; that makes no "
                "sense with kind 'critical' (it has its own q*), activation= or 'mirrored'."
            )
    aim = Aim(kind, real_number("q", q, above=0), bias_std, q0)
    _ = aim.without_bias  # refused here, in words, if the bias alone exceeds q
    return Request(
        aim,
        ByName("alpha"),
        ByName("gain"),
        ByName.of("activation", activation, as_activation),
        one_of("mode", mode, ("fan_in", "fan_out")),
        distribution,
        bias_std,
        **_options(**more),
    )


def _options(
    *,
    example: Any = None,
    strict: bool = True,
    frozen: bool = False,
    include: str | None = None,
    skip: str | None = None,
) -> dict[str, Any]:
    for name, value in (("strict", strict), ("frozen", frozen)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False; got {described(value)}.")
    return {
        "example": example,
        "strict": strict,
        "frozen": frozen,
        "include": read_pattern("include", include),
        "skip": read_pattern("skip", skip),
    }


def _given_slopes(alpha: Any) -> Slopes:
    if isinstance(alpha, nn.Module):
        return module_slopes(alpha)
    if isinstance(alpha, Tensor):
        if not alpha.is_floating_point():
            raise TypeError(f"alpha must be real numbers; got a tensor of {alpha.dtype}.")
        values = real_array("alpha", tensor_slopes(alpha))
    else:
        values = real_array("alpha", alpha)
    if values.ndim > 1:
        raise ValueError(
            f"alpha must be one number or one per channel; got an array of shape {values.shape}."
        )
    flat = tuple(values.reshape(-1).tolist())
    return flat[:1] if len(set(flat)) == 1 else flat
