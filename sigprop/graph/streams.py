"""Residual streams of a graph: a signal that blocks add to, from end to end.

A sum is the join of a residual block where one term is the stream, carried on without a weight, and
the others come from the same stream through weights. A shortcut with weights of its own (and no
activation) also counts, where all that reaches the join comes from one node. Concatenations make no
residual stream.

Source: he2016 (blocks, pre- and post-activation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property

from sigprop.graph.network import Graph, Node
from sigprop.graph.vocabulary import Kind

CARRIES: frozenset[Kind] = frozenset(
    ("passage", "scale", "shift", "dropout", "pooling", "normalization")
)
"""Kinds through which a stream is carried past a branch."""
_CHAIN = CARRIES | frozenset[Kind](("weight", "concatenation"))  # one with zeros
_ACTS: frozenset[Kind] = frozenset(("activation", "normalization"))
_NO_SIGNAL: frozenset[Kind] = frozenset(("constant", "comparison"))
_ENDS_THROUGH = CARRIES - {"pooling"} | frozenset[Kind](("sum",))


@dataclass(frozen=True)
class Block:
    """One residual block: ``join = before + branch``.

    Attributes:
        join: the sum (of several terms: the last sum).
        before: the node of the stream that the branch starts from.
        branch: nodes of the branch, or of all branches that join here, in order.
        ends: weights whose output reaches the join with no activation or weight between.
        last: what makes the branch: ends, and where it does not end in a weight an activation, a
            product or another node.
        weights: all weights of the branch.
        shortcut: weights that the stream itself goes through on its way to the join.
        pre_norm: whether every path of the branch meets a normalization before its first weight.
        end_norm: whether a normalization stands between an end and the join.
        behind: activations and normalizations that act on the stream behind the join.
    """

    join: str
    before: str
    branch: tuple[str, ...]
    ends: tuple[str, ...]
    last: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    shortcut: tuple[str, ...] = ()
    pre_norm: bool = False
    end_norm: bool = False
    behind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stream:
    """A residual stream: its blocks in order.

    Attributes:
        blocks: in order; the first starts where the stream does.
    """

    blocks: tuple[Block, ...]

    @property
    def start(self) -> str:
        """The node that the stream starts from."""
        return self.blocks[0].before

    @property
    def end(self) -> str:
        """The last join."""
        return self.blocks[-1].join

    @property
    def post(self) -> bool:
        """Whether an activation or a normalization acts on the stream behind its joins."""
        return any(block.behind for block in self.blocks)


def streams(graph: Graph) -> tuple[Stream, ...]:
    """The residual streams of a graph, in the order of their first joins.

    Weights between two blocks (a stage that changes the width) do not end a stream. A stream that
    lies within a branch of another is a stream of its own.

    Args:
        graph: of a model.

    Example:
        >>> graph = Graph((
        ...     Node("x", "input", "input"),
        ...     Node("a", "weight", "linear", ("x",)),
        ...     Node("relu", "activation", "relu", ("a",)),
        ...     Node("b", "weight", "linear", ("relu",)),
        ...     Node("sum", "sum", "add", ("x", "b")),
        ... ))
        >>> (stream,) = streams(graph)
        >>> (block,) = stream.blocks
        >>> block.join, block.before, block.branch, block.ends
        ('sum', 'x', ('a', 'relu', 'b'), ('b',))
    """
    return _Search(graph).run()


@dataclass(frozen=True)
class _Join:
    """A join as it is found: the fork, the nodes carried past, the terms of the branch.

    ``others``: joins of other streams that the branch starts at, where two streams read each other.
    """

    join: str
    before: str
    carried: tuple[str, ...]
    terms: tuple[str, ...]
    merged: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Search:
    graph: Graph

    def run(self) -> tuple[Stream, ...]:
        joins: dict[str, _Join] = {}
        for node in self.graph.of_kind("sum"):
            found = self._join(node)
            if found is None:
                continue
            for inner in found.merged:  # a part of this one: x + a(x) + b(x)
                joins.pop(inner, None)
            joins[node.name] = found
        joins = {n: each for n, each in joins.items() if self._weights(self._branch(each))}
        goes_on = {each.before for each in joins.values()} | {
            name for name, each in joins.items() if each.before in joins
        }
        sound: dict[str, _Join] = {}
        for name, found in joins.items():  # what lies in a branch comes first
            each = self._from_others(found, sound, goes_on)
            if self._is_sound(each, sound):
                sound[name] = each
        return tuple(self._chained(sound))

    # What reaches what

    @cached_property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """The signals that enter each node."""
        kinds = {node.name: node.kind for node in self.graph.nodes}
        return {
            node.name: tuple(
                dict.fromkeys(n for n in node.inputs if kinds[n] not in _NO_SIGNAL)
            )
            for node in self.graph.nodes
        }  # fmt: skip

    @cached_property
    def users(self) -> dict[str, list[str]]:
        """The nodes that each signal enters."""
        found: dict[str, list[str]] = {node.name: [] for node in self.graph.nodes}
        for name, inputs in self.inputs.items():
            for before in inputs:
                found[before].append(name)
        return found

    @cached_property
    def before(self) -> dict[str, int]:
        """The nodes that each depends on, itself among them, as the bits of a number."""
        found: dict[str, int] = {}
        for node in self.graph.nodes:
            bits = 1 << self.graph.place[node.name]
            for name in self.inputs[node.name]:
                bits |= found[name]
            found[node.name] = bits
        return found

    def depends(self, name: str, on: str) -> bool:
        """Whether one node depends on another, or is it."""
        return bool(self.before[name] >> self.graph.place[on] & 1)

    # One join

    def _join(self, node: Node) -> _Join | None:
        terms = self.inputs[node.name]
        merged: tuple[str, ...] = ()
        while True:
            found = self._fork(node.name, terms)
            if found is not None:
                before, skip, carried = found
                rest = tuple(term for term in terms if term != skip)
                return _Join(node.name, before, carried, rest, merged)
            inner = [t for t in terms if self._is(t, "sum") and len(self.users[t]) == 1]
            if not inner:
                return None
            terms = tuple(
                each for t in terms for each in (self.inputs[t] if t in inner else (t,))
            )  # fmt: skip
            merged = (*merged, *inner)

    def _fork(self, join: str, terms: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]] | None:
        """The fork, the term that is the stream, and the nodes that carry it: fewest weights."""
        found: list[tuple[int, str, str, tuple[str, ...]]] = []
        for term in terms:
            others = [other for other in terms if other != term]
            for chain in self._carried(term):
                name = chain[-1]
                if others and all(o != name and self.depends(o, name) for o in others):
                    carried = chain[:-1]
                    found.append((len(self._weights(carried)), name, term, carried))
                    break
                if self._is(name, "weight") and len(self._weights(chain)) > 2:
                    break
        if not found:
            return None
        fewest = min(weights for weights, *_ in found)
        best = [each for each in found if each[0] == fewest]
        if len(best) > 1:
            return None
        (_, before, term, carried) = best[0]
        if fewest and not self._alone(join, before, term, terms, carried):
            return None
        return before, term, carried

    def _carried(self, term: str) -> Iterator[tuple[str, ...]]:
        """The chains backwards from a term: each node as long as one signal is carried on."""
        chain: tuple[str, ...] = (term,)
        while True:
            yield chain
            node = self.graph.by_name[chain[-1]]
            inputs = self.inputs[node.name]
            if node.kind not in _CHAIN or len(inputs) != 1:
                return
            chain = (*chain, inputs[0])

    def _alone(
        self, join: str, before: str, term: str, terms: tuple[str, ...], carried: tuple[str, ...]
    ) -> bool:
        """Whether a shortcut with weights is one: all comes from one node, weights are its own."""
        branch = self._between(before, [t for t in terms if t != term], carried)
        shared = self._parameters(carried) & self._parameters(branch)
        bent = any(self._is(name, "activation") for name in branch)
        ends = {self.graph.by_name[name].kind for name in self._last(terms, set(branch))}
        added = bool(ends) and ends <= {"weight", "activation"}
        return bent and added and not shared and self._dominates(before, join)

    def _dominates(self, before: str, join: str) -> bool:
        """Whether every way from the entries to a join goes through a node."""
        free: dict[str, bool] = {}
        for node in self.graph.nodes[: self.graph.place[join] + 1]:
            inputs = self.inputs[node.name]
            entry = not inputs and node.kind not in _NO_SIGNAL
            free[node.name] = node.name != before and (entry or any(free[n] for n in inputs))
        return not free[join]

    # What a block is made of

    def _between(
        self, before: str, terms: Iterable[str], carried: Iterable[str]
    ) -> tuple[str, ...]:
        """The nodes that come from a fork and lead to the terms of a branch."""
        bits = 0
        for term in terms:
            bits |= self.before[term]
        beside = {before, *carried}
        start = self.graph.place[before]
        names = (node.name for node in self.graph.nodes[start:])
        return tuple(
            name for name in names
            if bits >> self.graph.place[name] & 1
            and name not in beside and self.depends(name, before)
        )  # fmt: skip

    def _branch(self, join: _Join) -> tuple[str, ...]:
        found = self._between(join.before, join.terms, join.carried)
        if not join.others:
            return found
        bits = 0
        for other in join.others:
            bits |= self.before[other]
        return tuple(name for name in found if not bits >> self.graph.place[name] & 1)

    def _from_others(
        self, join: _Join, joins: dict[str, _Join], goes_on: AbstractSet[str]
    ) -> _Join:
        """The join, its branch cut where it reads streams of several blocks from outside of it."""
        branch = self._branch(join)
        own = {join.before, *join.carried, *branch}
        others = tuple(n for n in branch if n in joins and joins[n].before not in own)
        cut = replace(join, others=others)
        made = set(self._branch(cut))
        fresh = bool(self._weights(made)) and all(term in made for term in join.terms)
        rows = goes_on >= {join.join, *others}
        return cut if fresh and rows and not self._weights(join.carried) else join

    def _is_sound(self, join: _Join, joins: dict[str, _Join]) -> bool:
        """Whether the blocks within the branch are of its own, none past a weighted shortcut."""
        branch = self._branch(join)
        inner = [joins[name] for name in branch if name in joins]
        if self._weights(join.carried):
            return not inner
        own = {join.before, *join.carried, *branch}
        return all(each.before in own for each in inner)

    def _block(self, join: _Join, behind: tuple[str, ...], others: AbstractSet[str]) -> Block:
        branch = self._branch(join)
        passed: list[str] = []
        made = self._last(join.terms, set(branch), passed, others)
        last = tuple(sorted(made, key=self.graph.place.__getitem__))
        normed = any(self._is(name, "normalization") for name in passed)
        return Block(
            join.join, join.before, branch, self._weights(last), last, self._weights(branch),
            self._weights(reversed(join.carried)), self._is_pre_norm(join, branch), normed, behind,
        )  # fmt: skip

    def _last(
        self,
        terms: Iterable[str],
        branch: set[str],
        passed: list[str] | None = None,
        joins: AbstractSet[str] = frozenset(),
    ) -> set[str]:
        """The nodes of a branch that make what is added; ``passed``: those it is handed on by.

        The join of another block makes it itself.
        """
        found, waiting = set[str](), list(terms)
        while waiting:
            name = waiting.pop()
            if name not in branch:
                continue
            if name in joins or self.graph.by_name[name].kind not in _ENDS_THROUGH:
                found.add(name)
                continue
            waiting += self.inputs[name]
            if passed is not None:
                passed.append(name)
        return found

    def _is_pre_norm(self, join: _Join, branch: tuple[str, ...]) -> bool:
        """Whether no weight of the branch sees the stream as it is."""
        raw = {join.before}
        for name in branch:
            node = self.graph.by_name[name]
            if node.kind == "normalization" or raw.isdisjoint(self.inputs[name]):
                continue
            if node.kind == "weight":
                return False
            raw.add(name)
        return True

    # Blocks in a row

    def _chained(self, joins: dict[str, _Join]) -> Iterator[Stream]:
        around = self._around(joins)
        before = {name: self._previous(each, joins) for name, each in joins.items()}
        rows: list[list[tuple[str, tuple[str, ...]]]] = []
        row_of: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        for name in joins:
            previous, way = before[name]
            row = row_of.get(previous, [])
            if row and row[-1][0] == previous and around[previous] == around[name]:
                row.append((name, way))
            else:
                row = [(name, ())]
                rows.append(row)
            row_of[name] = row
        for row in rows:
            yield Stream(tuple(self._blocks(joins, row)))

    def _blocks(
        self, joins: dict[str, _Join], row: list[tuple[str, tuple[str, ...]]]
    ) -> Iterator[Block]:
        found = [joins[name] for name, _ in row]
        ways = [self._acting(way) for _, way in row[1:]]
        plain = [
            way for way, b in zip(ways, found[1:], strict=True) if not self._weights(b.carried)
        ]
        post = any(plain) if plain else not self._starts_acting(found[0])
        ways.append(self._acts_next(found[-1].join))
        for join, way in zip(found, ways, strict=True):
            yield self._block(join, way if post else (), joins.keys() - {join.join, *join.merged})

    def _around(self, joins: dict[str, _Join]) -> dict[str, str]:
        """The join of the innermost block in whose branch each join lies; "" if in none."""
        found = dict.fromkeys(joins, "")
        for name, each in reversed(list(joins.items())):
            found.update((inner, name) for inner in self._branch(each) if inner in joins)
        return found

    def _previous(self, join: _Join, joins: dict[str, _Join]) -> tuple[str, tuple[str, ...]]:
        """The join that a block follows, and the nodes between: "" if none."""
        name, way = join.before, list[str]()
        while name not in joins:
            inputs = self.inputs[name]
            way.append(name)
            if len(inputs) == 1:
                name = inputs[0]
                continue
            both = [each for each in joins if all(self.depends(n, each) for n in inputs)]
            return (both[-1], ()) if inputs and both else ("", ())
        return name, tuple(reversed(way))

    def _acting(self, way: tuple[str, ...]) -> tuple[str, ...]:
        """What acts on a stream itself: not what stands around a weight between two blocks."""
        if self._weights(way):
            return ()
        return tuple(name for name in way if self.graph.by_name[name].kind in _ACTS)

    def _starts_acting(self, join: _Join) -> bool:
        """Whether the branch starts with a normalization or an activation."""
        first = [n for n in self._branch(join) if join.before in self.inputs[n]]
        return bool(first) and all(self.graph.by_name[n].kind in _ACTS for n in first)

    def _acts_next(self, name: str) -> tuple[str, ...]:
        """Activations and normalizations straight behind a node, where nothing else uses it."""
        found: list[str] = []
        while len(self.users[name]) == 1:
            (name,) = self.users[name]
            kind = self.graph.by_name[name].kind
            if kind in _ACTS:
                found.append(name)
            elif kind not in CARRIES:
                break
        return tuple(found)

    # Small words

    def _is(self, name: str, kind: Kind) -> bool:
        return self.graph.by_name[name].kind == kind

    def _weights(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if self._is(name, "weight"))

    def _parameters(self, names: Iterable[str]) -> set[str]:
        weights = (self.graph.by_name[name].weight for name in names)
        return {name for weight in weights if weight is not None for name in weight.parameters}
