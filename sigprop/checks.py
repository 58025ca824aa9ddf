"""Checks of arguments, worded alike everywhere: real, finite, in range."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigprop._lazy import did_you_mean

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Progress: TypeAlias = Callable[[int, int | None], object]
"""What an argument ``progress`` is: called with what is done and the total (None: not known)."""

P = ParamSpec("P")
R = TypeVar("R")

TORCH_NAMES = {
    "a": "alpha",
    "negative_slope": "alpha",
    "param": "alpha",
    "nonlinearity": "activation",
}
"""Names that ``torch.nn`` has for arguments, and ours."""

_MEANT = {
    "seed": ("generator", " For a seed, give generator=torch.Generator().manual_seed(seed)."),
    "rng": ("generator", " Give generator=torch.Generator().manual_seed(seed)."),
    "x": ("example", " An input to run the model on goes into example=."),
}
"""Arguments of other functions here → the one that serves, where there is it, and how."""

NO_SLOPE = (
    " The slope of ReLU is 0, that of nn.LeakyReLU(a) is a; activations by name go into gain(…), "
    "MeanField(…) and validate(activation=…)."
)
"""What is said of an activation that is given as alpha."""


def real_array(
    name: str,
    value: ArrayLike,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    allow_infinite: bool = False,
) -> FloatArray:
    """Return ``value`` as a float64 array, or say what is wrong with it.

    Args:
        name: the argument's name, for the message.
        value: a number or an array of any shape (not empty).
        minimum: smallest allowed value, inclusive.
        above: largest forbidden value: every entry must exceed it.
        maximum: largest allowed value, inclusive.
        below: smallest forbidden value: every entry must stay under it.
        allow_infinite: whether ±inf may stand in the array.

    Raises:
        TypeError: not real numbers (complex, text, None, booleans).
        ValueError: empty, NaN, infinite or out of range.

    Example:
        >>> real_array("q", [1, 2], minimum=0)
        array([1., 2.])
    """
    array = _as_array(name, value)
    if array.dtype.kind not in "fiu":
        hint = NO_SLOPE if name == "alpha" and (isinstance(value, str) or callable(value)) else ""
        raise TypeError(f"{name} must be real numbers; got {shown(value)} ({array.dtype}).{hint}")
    if array.size == 0:
        raise ValueError(f"{name} is empty; give at least one number.")
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        if np.isnan(numbers).any():
            raise ValueError(f"{name} contains NaN; every entry must be a number.")
        if not allow_infinite:
            raise ValueError(f"{name} contains an infinite entry; every entry must be finite.")
    limits = [
        (limit, sign, breaks)
        for limit, sign, breaks in (
            (minimum, ">=", operator.lt),
            (above, ">", operator.le),
            (maximum, "<=", operator.gt),
            (below, "<", operator.ge),
        )
        if limit is not None
    ]
    wrong = [breaks(numbers, limit) for limit, _, breaks in limits]
    if any(part.any() for part in wrong):
        wanted = " and ".join(f"{sign} {_digits(limit)}" for limit, sign, _ in limits)
        first = _digits(numbers[np.logical_or.reduce(wrong)][0])
        raise ValueError(f"{name} must be {wanted}; got {first}.")
    return numbers


def real_number(name: str, value: Any, **limits: Any) -> float:
    """Return ``value`` as a float: a single real number within the limits of :func:`real_array`.

    Example:
        >>> real_number("gain", 1.5, above=0)
        1.5
    """
    array = real_array(name, value, **limits)
    if array.ndim != 0:
        raise ValueError(f"{name} must be one number; got an array of shape {array.shape}.")
    return float(array)


def count(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return ``value`` as an int of at least ``minimum``.

    Raises:
        TypeError: not an integer (a float, a bool, text).
        ValueError: too small.

    Example:
        >>> count("depth", 3)
        3
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer >= {minimum}; got {shown(value)}.") from None
    if number < minimum:
        raise ValueError(f"{name} must be >= {minimum}; got {number}.")
    return number


def counts(name: str, value: ArrayLike) -> IntArray:
    """Return ``value`` as an int64 array of whole numbers of at least 1, of any shape.

    Raises:
        TypeError: not integers.
        ValueError: empty, or an entry below 1.

    Example:
        >>> counts("width", [3, 5])
        array([3, 5])
    """
    numbers = np.asarray(value)
    if numbers.size == 0:
        raise ValueError(f"{name} is empty; give at least one integer.")
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers >= 1; got {value!r} ({numbers.dtype}).")
    if (numbers < 1).any():
        raise ValueError(f"{name} must be >= 1; got {numbers.min()}.")
    return numbers.astype(np.int64)


def one_of(
    name: str, value: Any, allowed: Iterable[str], *, also: Mapping[str, str] | None = None
) -> str:
    """Return ``value`` if it is one of the allowed words, else name the nearest ones.

    Args:
        name: the argument's name, for the message.
        value: a word.
        allowed: the words.
        also: words of others → the allowed word that they mean, to be suggested.

    Raises:
        ValueError: not one of them.

    Example:
        >>> one_of("mode", "fan_in", ["fan_in", "fan_out"])
        'fan_in'
    """
    words = list(allowed)
    if isinstance(value, str) and value in words:
        return value
    meant = (also or {}).get(str(value).lower())
    hint = f" Did you mean {meant!r}?" if meant else did_you_mean(str(value), words)
    raise ValueError(f"unknown {name} {shown(value)}; allowed: {', '.join(words)}.{hint}")


def torch_names(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function take the names that torch has for its arguments, and say what others may mean.

    Raises:
        TypeError: from the function: one argument under two names, or a name that it has not; the
            message names the nearest.

    Example:
        >>> @torch_names
        ... def double(alpha):
        ...     return 2 * alpha
        >>> double(0.1) == double(negative_slope=0.1) == double(a=0.1)
        True
        >>> double(alfa=1)
        Traceback (most recent call last):
        TypeError: double has no argument 'alfa'. Did you mean 'alpha'?
    """
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    name = function.__name__

    def own(key: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        found = TORCH_NAMES.get(key, key)
        if key in parameters:
            return key
        if found in parameters:
            same = [k for k in kwargs if k != key and TORCH_NAMES.get(k, k) == found]
            if same or list(parameters).index(found) < len(args):
                raise TypeError(
                    f"{name} was given {found} twice: {key}= is torch's name of it. Leave one out."
                )
            return found
        if takes_all:
            return key
        hint = did_you_mean(key, parameters) or f" It takes {', '.join(parameters)}."
        if key in _MEANT and _MEANT[key][0] in parameters:
            hint = _MEANT[key][1]
        if found == "activation":
            hint = " It is of leaky ReLU; gain(…), initialize(…), validate(…) take activation=."
        raise TypeError(f"{name} has no argument {key!r}.{hint}")

    def named(*args: P.args, **kwargs: P.kwargs) -> R:
        if not kwargs.keys() <= parameters.keys():
            read = {own(key, args, kwargs): value for key, value in kwargs.items()}
            return function(*args, **read)  # type: ignore[arg-type]
        return function(*args, **kwargs)

    # In the globals of the function itself: doctest skips what has others.
    there = FunctionType(named.__code__, function.__globals__, name, None, named.__closure__)
    return wraps(function)(there)


def _as_array(name: str, value: Any) -> NDArray[Any]:
    if hasattr(value, "detach") and hasattr(value, "is_floating_point"):
        value = value.detach().cpu()  # a torch tensor: numpy has no bfloat16, and no gradient
        value = (value.double() if value.is_floating_point() else value).numpy()
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} must be numbers in rows of equal length; got {shown(value)}."
        ) from None


def _digits(number: float) -> str:
    """As short as it can be without becoming another number: 1.0000001 is not 1."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


def shown(value: Any) -> str:
    """A value in a message, in at most 60 characters.

    Example:
        >>> shown([1, 2])
        '[1, 2]'
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
