"""Whether two signals that meet are made of the same entries of one signal.

Each number of x·1[x ≥ max x] or x·softmax(x) depends on the entry of x that stands at its place,
by both factors. No covariance tells how: the rules of products and masks take their factors for
independent, and refuse such ones. Behind a weight, or among other entries (a slice, a mean), two
signals are independent enough.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from typing import NamedTuple

from sigprop.theory.network.calls import Call

_BY_ENTRY = ("activation", "sum", "shift", "product", "scale", "comparison", "softmax",
             "normalization", "dropout", "selection", "passage")  # fmt: skip
"""Kinds of which an entry depends on the entry at its place before others."""
_MOVES = """
getitem chunk split split_with_sizes unsafe_chunk unsafe_split unsafe_split_with_sizes unbind select
narrow index index_select gather take take_along_dim masked_select tensor_split hsplit vsplit dsplit
diagonal diag diag_embed diagflat roll flip fliplr flipud rot90 unfold as_strided pixel_shuffle
pixel_unshuffle channel_shuffle native_channel_shuffle slice_copy diagonal_copy select_copy
unbind_copy glu
"""
"""Operations that take other entries, although their kind does not say so."""
_FRESH = ("weight", "attention", "recurrent", "embedding")
"""Kinds that hold weights, whether or not a rule predicts them."""
_ELSEWHERE = frozenset(_MOVES.split())


class Met(NamedTuple):
    """Where two signals come from.

    Attributes:
        node: that both are made of.
        through: a node on the way that no rule predicts, "" if there is none.
    """

    node: str
    through: str


class Ancestry:
    """What the nodes of one network are made of, entry by entry.

    Args:
        calls: of the network, in order.
        unpredicted: the nodes that no rule predicts, as far as they are known.
    """

    def __init__(self, calls: Mapping[str, Call], unpredicted: Collection[str]) -> None:
        self.calls, self.unpredicted = calls, unpredicted
        self.names = list(calls)
        self.place = {name: place for place, name in enumerate(calls)}

    def of(self, one: str, two: str) -> Met | None:
        """The last node that both are made of, entry by entry; None: there is none.

        The later of all nodes that are met is followed first, so that it ends where one of the two
        has nothing left that the other could meet.
        """
        sides: dict[str, set[int]] = {one: {0}}
        sides.setdefault(two, set()).add(1)
        through: dict[str, str] = {}
        waiting = [-self.place[name] for name in sides if name in self.place]
        heapq.heapify(waiting)
        left = {0: 1, 1: 1}
        while waiting and all(left.values()):
            name = self.names[-heapq.heappop(waiting)]
            if len(sides[name]) == 2:
                return Met(name, through.get(name, ""))
            (side,) = sides[name]
            left[side] -= 1
            for before in self._before(name):
                if before not in self.place:
                    continue
                known = sides.setdefault(before, set())
                if not known:
                    heapq.heappush(waiting, -self.place[before])
                if side not in known:
                    left[side] += 1
                    known.add(side)
                on_the_way = name if name in self.unpredicted else through.get(name, "")
                if on_the_way:
                    through[before] = on_the_way
        return None

    def meetings(self, name: str) -> list[str]:
        """The nodes at which what a node sends back by its inputs meets again, the last first.

        Those that are reached by ways that come from other inputs of it, with no weight between.
        The later of all nodes is followed first, until all ways that are left come from the same.
        """
        waiting: dict[str, list[frozenset[int]]] = {}
        for place, before in enumerate(dict.fromkeys(self.calls[name].inputs)):
            if before in self.place:
                waiting[before] = [frozenset((place,))]
        found: list[str] = []
        while len(set().union(*waiting.values())) > 1:
            last = max(waiting, key=self.place.__getitem__)
            ways = waiting.pop(last)
            if len(set(ways)) > 1:
                found.append(last)
            for before in self._passes(last):
                if before in self.place:
                    waiting.setdefault(before, []).append(frozenset().union(*ways))
        return found

    def _passes(self, name: str) -> tuple[str, ...]:
        """The nodes that a node sends its gradient to, where it holds no weight."""
        call = self.calls[name]
        return () if call.kind in _FRESH or call.operation == "detach" else call.inputs

    def _before(self, name: str) -> tuple[str, ...]:
        """The nodes whose entries a node is made of, place by place."""
        call = self.calls[name]
        if name in self.unpredicted:
            return () if call.kind in _FRESH else call.inputs
        by_entry = call.kind in _BY_ENTRY and call.operation not in _ELSEWHERE
        return call.inputs if by_entry else ()
