"""Who made which part of a tensor's memory: in-place writes, slices written, views read later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sigprop.reading.steps import Step

Owner = Step | Tensor
"""A step, or a constant tensor."""
Write = Callable[[Tensor, int], Any]
"""Puts a number where a write reaches."""


@dataclass(slots=True, eq=False)
class Painting:
    """Who made each entry of a storage.

    Attributes:
        map: int32, one number an entry.
        owners: by their number in the map.
        times: when each began to own what it does, by its number.
        places: the tensor that each was written through as a whole, by its number; None: none.
    """

    map: Tensor
    owners: list[Owner]
    times: list[int]
    places: list[Tensor | None]

    def region(self, tensor: Tensor) -> Tensor:
        """The entries of the map that a tensor stands on."""
        return self.map.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@dataclass(slots=True, eq=False)
class StorageOwners:
    """One storage: who made it, and, once parts were written, a map of who made each entry.

    Attributes:
        held: a tensor in it, so that its identity stays its own.
        base: who made all of it last.
        whole: the tensor whose write covered all of it last.
        since: clock of that write; 0: it was made so.
        last: clock of the last write; 0: none.
        painting: who made which part since; None: ``base`` made all.
        past: every owner that it ever had, those overwritten too.
    """

    held: Tensor
    base: Owner
    whole: Tensor | None = None
    since: int = 0
    last: int = 0
    painting: Painting | None = None
    past: tuple[Owner, ...] = ()

    def paint(self, written: Tensor, owner: Owner, write: Write | None = None) -> None:
        """Give the region of a tensor to an owner, or only what a write replayed on it reaches."""
        self.past = (*self.past, self.base, owner)
        if write is None and covers(written):
            self.base, self.whole, self.since, self.painting = owner, written, self.last, None
            return
        if self.painting is None:
            entries = self.held.untyped_storage().nbytes() // self.held.element_size()
            where = torch.device("cpu") if self.held.is_meta else self.held.device
            blank = torch.zeros(entries, dtype=torch.int32, device=where)
            self.painting = Painting(blank, [self.base], [self.since], [self.whole])
        painting = self.painting
        painting.owners.append(owner)
        painting.times.append(self.last)
        painting.places.append(written if write is None else None)
        number = len(painting.owners) - 1
        if write is None:
            painting.region(written).fill_(number)
        else:
            write(painting.region(written), number)

    def parts(self, tensor: Tensor) -> list[tuple[Owner, float]]:
        """Who made the entries of a tensor, each with its share."""
        if self.painting is None:
            return [(self.base, 1.0)]
        numbers, counts = torch.unique(self.painting.region(tensor), return_counts=True)
        total = max(int(counts.sum()), 1)
        return [
            (self.painting.owners[number], count / total)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        ]

    def overwritten(self) -> list[Owner]:
        """Who made entries once and has none left; autograd may know a write of theirs still."""
        if self.painting is None:
            left = {id(self.base)}
        else:
            owners = self.painting.owners
            left = {id(owners[number]) for number in torch.unique(self.painting.map).tolist()}
        return [owner for owner in self.past if id(owner) not in left]

    def map_of(self, tensor: Tensor) -> Tensor:
        """Who made each entry of a tensor: places in what ``parts`` returns."""
        assert self.painting is not None
        found: Tensor = torch.unique(self.painting.region(tensor), return_inverse=True)[1]
        return found.to("cpu", torch.int32)

    def stands_at(self, tensor: Tensor) -> bool:
        """Whether a tensor made by one owner is all that this one made, entry for entry."""
        if self.painting is None:
            return self.whole is None or same_place(self.whole, tensor)
        if not tensor.numel():
            return False
        place = self.painting.places[int(self.painting.region(tensor).flatten()[0])]
        return place is not None and same_place(place, tensor)

    def written_since(self, tensor: Tensor, time: int) -> bool:
        """Whether entries that a tensor stands on were written later than a time."""
        if self.last <= time:
            return False
        if self.painting is None:
            return True
        numbers = torch.unique(self.painting.region(tensor)).tolist()
        return any(self.painting.times[number] > time for number in numbers)


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
        address: int = torch._C._storage_address(tensor)  # type: ignore[attr-defined]
        return address
    except (NotImplementedError, RuntimeError):  # sparse, nested, wrapped by a transform
        return None
