"""The arguments of an initialization, read and checked: for all layers, or by patterns of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sigprop.activations import Activation, as_activation
from sigprop.checks import one_of, real_array, real_number
from sigprop.graph import Slopes
from sigprop.init.aim import Aim
from sigprop.init.decided import Stated
from sigprop.init.distributions import DISTRIBUTIONS
from sigprop.init.gains import Criterion, exact_gain, leaky_gain, shown
from sigprop.reading.call_records import slopes_of
from sigprop.reading.calling import described, flatten, is_mask, read_pattern, some
from sigprop.reading.layers import RANDOM_MODULES, module_slopes, tensor_slopes
from sigprop.theory.gains import BACKWARD, KINDS
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

    def check(
        self, names: Iterable[str], included: Callable[[str], bool] = lambda name: True
    ) -> None:
        """Refuse a name that two patterns match, and a pattern that matches nothing that is set.

        Args:
            names: of all weight layers.
            included: whether one is, by ``include`` and ``skip``.

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
            met = [name for name in names if pattern.search(name)]
            if not any(map(included, met)):
                raise ValueError(
                    f"the pattern {pattern.pattern!r} of {self.argument}= names only layers that "
                    f"include= or skip= leaves out: {some(map(repr, met))}."
                )


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
        criterion: what the gains are to hold.
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
        aim: what the prediction is to bring about; None: the graph alone decides.
    """

    criterion: Criterion
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
    aim: Aim | None = None

    @property
    def leaky(self) -> bool:
        """Whether it is ``kaiming_leaky_init``."""
        return self.criterion.kind == "leaky"

    @property
    def all_given(self) -> bool:
        """Whether every layer's gain is given, so that the model need not be read."""
        return any(given.whole is not None for given in (self.alpha, self.gain, self.activation))

    @property
    def ways(self) -> str:
        """What to pass where the model cannot be read."""
        return "alpha= or gain=" if self.leaky else "activation= or gain="

    @property
    def mirrored(self) -> bool:
        """Whether weights are mirrored."""
        return self.distribution == "mirrored"

    @property
    def named(self) -> tuple[ByName[Any], ...]:
        """The arguments that may go by name."""
        return self.alpha, self.gain, self.activation

    def included(self, name: str) -> bool:
        """Whether ``include`` and ``skip`` leave a layer in."""
        if self.include is not None and not self.include.search(name):
            return False
        return self.skip is None or not self.skip.search(name)

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
        if slopes is not None and self.criterion.kind != "unit_variance":
            number = exact_gain(slopes, self.criterion)
        else:
            criterion = self.criterion
            number = theory_gain(
                record, kind=criterion.kind, q=criterion.q, bias_std=criterion.bias_std
            )
        return Stated(number, slopes, shown(record), "activation given")


def slopes_request(
    alpha: Any, gain: Any, mode: str, distribution: str, bias_std: float, **more: Any
) -> Request:
    """The arguments of :func:`kaiming_leaky_init`, read and checked.

    Raises:
        TypeError, ValueError: not numbers, out of range, unknown words.
    """
    distribution = _word("distribution", distribution, DISTRIBUTIONS)
    for value in alpha.values() if isinstance(alpha, Mapping) else (alpha,):
        if distribution == "mirrored" and isinstance(value, RANDOM_MODULES):
            raise ValueError(
                f"distribution 'mirrored' needs fixed slopes, but {type(value).__name__} draws "
                "them at random. Use another distribution."
            )
    bias_std = real_number("bias_std", bias_std, minimum=0)
    return Request(
        Criterion(bias_std=bias_std),
        ByName.of("alpha", alpha, _given_slopes),
        ByName.of("gain", gain, _given_gain),
        ByName("activation"),
        _word("mode", mode, ("fan_in", "fan_out")),
        distribution,
        bias_std,
        **_options(**more),
    )


def criterion_request(
    activation: Any,
    gain: Any,
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
    kind = _word("kind", kind, KINDS, also=BACKWARD)
    distribution = _word("distribution", distribution, DISTRIBUTIONS)
    bias_std = real_number("bias_std", bias_std, minimum=0)
    if distribution == "mirrored" and kind == "unit_variance":
        raise ValueError(
            "distribution 'mirrored' has a gain of its own, √2/|1+α|, and not that of kind "
            "'unit_variance'. Use another distribution."
        )
    if distribution == "mirrored" and gain is not None:
        raise ValueError(
            "distribution 'mirrored' has a gain of its own, √2/|1+α|; leave gain= out, or use "
            "another distribution."
        )
    if q0 is not None:
        q0 = real_number("q0", q0, above=0)
        given = [value for value in (activation, gain) if value is not None]
        whole = any(not isinstance(value, Mapping) for value in given)
        if kind == "critical" or whole or distribution == "mirrored":
            raise ValueError(
                "q0 sets the input layer of a model that is read so that q¹ = q; that makes no "
                "sense with kind 'critical' (it has its own q*), one activation= or gain= for all "
                "layers, or 'mirrored'."
            )
    criterion = Criterion(kind, real_number("q", q, above=0), bias_std, q0)
    _ = criterion.without_bias  # refused here, in words, if the bias alone exceeds q
    return Request(
        criterion,
        ByName("alpha"),
        ByName.of("gain", gain, _given_gain),
        ByName.of("activation", activation, _given_activation),
        _word("mode", mode, ("fan_in", "fan_out")),
        distribution,
        bias_std,
        **_options(**more),
    )


def aim_request(
    aim: Aim, q: float, distribution: str | None, *, example: Any, **more: Any
) -> Request:
    """The arguments of :func:`initialize` with a target, read and checked.

    Raises:
        TypeError, ValueError: no example, out of range, unknown words.
    """
    if example is None:
        raise ValueError(
            f"target {aim.target!r} is decided by what really enters each layer; give an example "
            "of the input: initialize(model, x, target=…)."
        )
    if distribution is None:
        distribution = "orthogonal" if aim.target == "critical" else "normal"
    if _spelled(distribution, DISTRIBUTIONS) == "mirrored":
        raise ValueError(
            "distribution 'mirrored' has a gain of its own, √2/|1+α|: leave distribution= out "
            "(target='critical' mirrors the leaky family where that fits), or give kind='critical'."
        )
    request = criterion_request(
        None, None, "forward", q, None, "fan_in", distribution, 0.0, example=example, **more
    )
    return replace(request, aim=aim)


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
    _check_example(example)
    return {
        "example": example,
        "strict": strict,
        "frozen": frozen,
        "include": _one_pattern("include", include),
        "skip": _one_pattern("skip", skip),
    }


def _one_pattern(name: str, given: Any) -> re.Pattern[str] | None:
    """A regular expression; of a list of them it is said how to give several."""
    if isinstance(given, list | tuple | set):
        several = "|".join(map(str, given)) or "0|4"
        raise TypeError(
            f"{name} must be one regular expression as text; got {described(given)}; "
            f"for several: {several!r}."
        )
    return read_pattern(name, given)


def _check_example(example: Any) -> None:
    """Refuse an example on which nothing can be measured.

    Raises:
        ValueError: naming what is empty, not finite or zero.
    """
    parts = [
        (name, tensor) for name, tensor in _parts("the example", example) if _has_values(tensor)
    ]
    if not parts:
        return
    if not any(tensor.numel() for _, tensor in parts):
        raise ValueError(f"{parts[0][0]} is empty: nothing can be measured on it.")
    for name, tensor in parts:
        if bool(torch.isnan(tensor).any()):
            raise ValueError(f"{name} holds NaN: nothing can be measured on it.")
        if bool(torch.isinf(tensor).any()) and not is_mask(tensor):
            raise ValueError(f"{name} holds infinite entries: nothing can be measured on it.")
    if all(_is_real(tensor) and not bool(torch.count_nonzero(tensor)) for _, tensor in parts):
        raise ValueError(f"{parts[0][0]} is all zeros: nothing can be measured on it.")


def _parts(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of an example, with the place that it stands at."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _parts(f"{name}[{key!r}]", entry)
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _parts(f"{name}[{i}]" if len(value) > 1 else name, entry)
    else:
        yield from ((name, tensor) for tensor in flatten(value))


def _has_values(tensor: Tensor) -> bool:
    return not (tensor.is_meta or tensor.is_quantized) and tensor.layout is torch.strided


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _word(
    name: str, value: Any, allowed: Iterable[str], *, also: Mapping[str, str] | None = None
) -> str:
    """One of the allowed words, however it is capitalized."""
    words = list(allowed)
    return one_of(name, _spelled(value, words), words, also=also)


def _spelled(value: Any, words: Iterable[str]) -> Any:
    """A text as the one word that it is but for capital letters; else as it is."""
    if not isinstance(value, str):
        return value
    met = [word for word in words if word.lower() == value.lower()]
    return met[0] if len(met) == 1 else value


def _given_gain(gain: Any) -> float:
    return real_number("gain", gain, above=0)


def _given_activation(activation: Any) -> Activation:
    try:
        return as_activation(activation)
    except TypeError as error:
        if callable(activation):
            raise
        raise TypeError(
            f"{error} An input to run the model on goes into example= (tensors; a tuple or a dict "
            "of several)."
        ) from None


def _given_slopes(alpha: Any) -> Slopes:
    if isinstance(alpha, nn.Module):
        return module_slopes(alpha)
    shape = tuple(getattr(alpha, "shape", ()))
    if len(shape) > 1:
        raise _too_many(shape)
    if isinstance(alpha, list | tuple) and any(isinstance(entry, Tensor) for entry in alpha):
        inner = next(tuple(entry.shape) for entry in alpha if isinstance(entry, Tensor))
        if inner:
            raise _too_many((len(alpha), *inner))
    if isinstance(alpha, Tensor):
        if not alpha.is_floating_point():
            raise TypeError(f"alpha must be real numbers; got a tensor of {alpha.dtype}.")
        values = real_array("alpha", tensor_slopes(alpha))
    else:
        values = real_array("alpha", alpha)
    if values.ndim > 1:
        raise _too_many(values.shape)
    flat = tuple(values.reshape(-1).tolist())
    return flat[:1] if len(set(flat)) == 1 else flat


def _too_many(shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"alpha has shape {shape}; it must be one number or one per channel. To run the model on "
        "an input pass example=."
    )
