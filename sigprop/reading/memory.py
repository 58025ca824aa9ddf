"""Who made which part of a tensor's memory: in-place writes, slices written, views read later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sigprop.reading.steps import Step

Owner = Step | Tensor
"""A step, or a constant tensor."""
Write = Callable[[Tensor, int], Any]
"""Puts a number where a write reaches."""


@dataclass(slots=True, eq=False)
class StorageOwners:
    """One storage: who made it, and, once parts were written, a map of who made each entry.

    Attributes:
        held: a tensor in it, so that its identity stays its own.
        base: who made it first.
        last: clock of the last write; 0: none.
        whole: the tensor whose write covered all of it last.
        owners: owners by their number in the map.
        times: when each began to own what it does, by its number.
        places: the tensor that each was written through as a whole, by its number; None: none.
        map: int32, one number an entry; None: ``base`` made all.
        past: every owner that it ever had, those overwritten too.
    """

    held: Tensor
    base: Owner
    last: int = 0
    whole: Tensor | None = None
    owners: list[Owner] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    places: list[Tensor | None] = field(default_factory=list)
    map: Tensor | None = None
    past: list[Owner] = field(default_factory=list)

    def paint(self, written: Tensor, owner: Owner, write: Write | None = None) -> None:
        """Give the region of a tensor to an owner, or only what a write replayed on it reaches."""
        self.past += [self.base, owner]
        if write is None and covers(written):
            self.base, self.whole, self.map = owner, written, None
            self.owners, self.times = [], [self.last]
            return
        if self.map is None:
            entries = self.held.untyped_storage().nbytes() // self.held.element_size()
            self.map = torch.zeros(entries, dtype=torch.int32, device=self.held.device)
            self.owners, self.times, self.places = [self.base], self.times or [0], [self.whole]
        self.owners.append(owner)
        self.times.append(self.last)
        self.places.append(written if write is None else None)
        number = len(self.owners) - 1
        if write is None:
            self.region(written).fill_(number)
        else:
            write(self.region(written), number)

    def region(self, tensor: Tensor) -> Tensor:
        """The entries of the map that a tensor stands on."""
        assert self.map is not None
        return self.map.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def parts(self, tensor: Tensor) -> list[tuple[Owner, float]]:
        """Who made the entries of a tensor, each with its share."""
        if self.map is None:
            return [(self.base, 1.0)]
        numbers, counts = torch.unique(self.region(tensor), return_counts=True)
        total = max(int(counts.sum()), 1)
        return [
            (self.owners[number], count / total)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        ]

    def stands_at(self, tensor: Tensor) -> bool:
        """Whether a tensor made by one owner is all that this one made, entry for entry."""
        if self.map is None:
            return self.whole is None or same_place(self.whole, tensor)
        place = self.places[int(self.region(tensor).flatten()[0])] if tensor.numel() else None
        return place is not None and same_place(place, tensor)

    def written_since(self, tensor: Tensor, time: int) -> bool:
        """Whether entries that a tensor stands on were written later than a time."""
        if self.last <= time:
            return False
        if self.map is None:
            return True
        return any(
            self.times[number] > time for number in torch.unique(self.region(tensor)).tolist()
        )


def covers(tensor: Tensor) -> bool:
    """Whether a tensor stands on every entry of its storage, each once."""
    if tensor.numel() * tensor.element_size() != tensor.untyped_storage().nbytes():
        return False
    reach = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return reach == tensor.numel()


def same_place(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one storage are the same view of it."""
    return (
        first.shape == second.shape
        and first.stride() == second.stride()
        and first.storage_offset() == second.storage_offset()
    )


def storage_id(tensor: Tensor) -> int | None:
    """The identity of a tensor's storage; None where it has none of its own."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, nested, wrapped by a transform
        return None
