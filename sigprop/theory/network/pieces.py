"""Two slices, or two concatenations, taken together: the covariance of what they take or hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sigprop.theory.network.calls import Call, CannotPredict
from sigprop.theory.network.concatenation import parts_of, places_of_parts
from sigprop.theory.network.divisions import reshaped
from sigprop.theory.network.layout import cuts_of
from sigprop.theory.network.sides import picked, plus_pair
from sigprop.theory.network.state import SignalState

if TYPE_CHECKING:
    from sigprop.theory.network.covariance import Covariances

Together = tuple[bool, "SignalState | None"]
"""Whether a rule for two calls says anything, and what; None: 0."""
NOT: Together = (False, None)

_WORDS = """
alike: reshape view flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes movedim
alike: t T mT expand expand_as broadcast_to mean roll flip fliplr flipud
slice: getitem select narrow index_select
split: chunk split split_with_sizes unsafe_chunk unsafe_split unsafe_split_with_sizes unbind
"""
LAYOUT = {
    name: line.split(":")[0]
    for line in _WORDS.strip().splitlines()
    for name in line.split()[1:]
}  # fmt: skip
"""What is followed on both sides at once, by the name of the operation."""


JOINS = ("cat", "stack")


def slice_of(all_: Covariances, call: Call) -> tuple[str, tuple[tuple[int, np.ndarray], ...]]:
    """The node that a slice is of, and what of which dimensions it takes."""
    before = call.inputs[0]
    if isinstance(all_.states.get(before), tuple):
        split = all_.calls[before]
        if LAYOUT.get(split.operation) != "split":
            raise CannotPredict("an item of several tensors")
        dim, sizes, _ = parts_of(all_.context(split))
        start = sum(sizes[: int(call.args[1])])
        return split.inputs[0], ((dim, np.arange(start, start + sizes[int(call.args[1])])),)
    return before, tuple(cuts_of(all_.context(call)))


def two_slices(all_: Covariances, one: Call, two: Call) -> Together:
    """What two slices of alike places take."""
    (x, plan), (y, other) = slice_of(all_, one), slice_of(all_, two)
    fit = [d for d, _ in plan] == [d for d, _ in other] and all(
        len(i) == len(j) for (_, i), (_, j) in zip(plan, other, strict=False)
    )
    if not fit or one.shape != two.shape or all_.state(x).shape != all_.state(y).shape:
        return NOT
    found = all_.of(x, y)
    if found is None:
        return True, None
    for (dim, i), (_, j) in zip(plan, other, strict=True):
        found = picked(found, dim, i, j)
    return True, reshaped(found, one.shape or ())


def two_joins(all_: Covariances, one: Call, two: Call) -> Together:
    """Each part of one with each part of the other, of which only pairs of one shape are known."""
    (dim, left), (other, right) = (
        places_of_parts(call, lambda name: all_.state(name).shape) for call in (one, two)
    )
    if one.shape is None or one.shape != two.shape or dim != other:
        return NOT
    total: SignalState | None = None
    for x, i in left:
        for y, j in right:
            if all_.state(x).shape != all_.state(y).shape or one.operation != two.operation:
                continue
            pair = all_.of(x, y)
            if pair is None:
                continue
            shape = (*one.shape[:dim], len(i), *one.shape[dim + 1 :])
            placed = picked(reshaped(pair, shape), dim, i, j, one.shape[dim])
            total = plus_pair(total, placed)
    return True, total
