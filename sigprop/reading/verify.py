"""That the recorder missed nothing: what it wrote down, held against what autograd knows.

Three checks together. At each read (in ``owners.py``) a tensor must be what it was when it was
made, else it is named as unseen. Here: the parameters behind the output by autograd are behind it
in the graph; and what autograd knows to be right behind a step is among the step's own arguments.
Both are linear in the size of the graph, and blind where there is no gradient: under
``torch.no_grad``, in a frozen model, behind integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from sigprop.reading.steps import Step, taken_by

Known = Callable[[Tensor], str | Step | None]


class Written(Protocol):
    """What a recorder knows; see :class:`sigprop.reading.recorder.Recorder`."""

    made: list[tuple[Step, Any]]
    read_again: list[tuple[Step, Any, Step | None, Sequence[Any]]]
    functions: dict[Any, Step]
    replaced: set[Step]


def verify(written: Written, ends: Iterable[tuple[Step, Any]], known: Known) -> None:
    """Hold the steps against autograd.

    Args:
        written: what was written down.
        ends: the steps of the output, with autograd's nodes.
        known: of a leaf: the name of a parameter, or the step that made it; None: neither.

    Raises:
        RuntimeError: an edge is missing; the message names it.
    """
    ends = list(ends)
    checked = _Check(written, known)
    for step, function in written.made:
        checked.edges(step, function)
    if checked.follows(ends):
        return
    for step, function, known_as, past in written.read_again:
        checked.edges_again(step, function, known_as, past)
    past_owners = [owner for *_, past in written.read_again for owner in past]
    steps = [step for step, _ in ends] + [o for o in past_owners if isinstance(o, Step)]
    behind = checked.leaves([*steps, *written.replaced])
    for leaf in checked.nodes.leaves(function for _, function in ends):
        name = known(leaf)
        if isinstance(name, str) and id(leaf) not in behind:
            raise RuntimeError(
                f"the recorded graph is not complete: by autograd the output depends on parameter "
                f"{name!r}, in the graph it does not. {_ADVICE}"
            )


_ADVICE = (
    "Please report the model; until then, read it without an example (torch.fx), or pass alpha= or "
    "gain= (to initialize: activation=)."
)


class _Check:
    """The steps with what each takes.

    Attributes:
        held: autograd's nodes behind which all is an argument of their step.
    """

    def __init__(self, written: Written, known: Known) -> None:
        self.written = written
        self.functions, self.replaced = written.functions, written.replaced
        self.known = known
        self.with_function = {step for step, _ in written.made}
        self.held: dict[Any, Step] = {}
        self.parts, self.nodes = Parts(), Nodes()

    def edges(
        self, step: Step, function: Any, arguments: tuple[set[Step], set[int]] | None = None
    ) -> None:
        """Whether what autograd knows right behind a step is among its arguments."""
        if self._is_direct(function, step):
            return
        direct = {*map(id, step.args)}
        through = partial(self._is_taken_by, step)
        for met in _nearest(function, self.nodes, self.functions, through):
            if id(met) in direct or self._takes(step, met):
                continue
            own, constants = arguments = arguments or self.arguments(step)
            if isinstance(met, Tensor) and id(met) in constants:
                continue
            found = met if isinstance(met, Step) else self.known(met)
            if isinstance(found, Step) and (found in own or found in self.replaced):
                continue
            missing = f"the result of {_words(found)}" if isinstance(found, Step) else repr(found)
            raise RuntimeError(
                f"the recorded graph is not complete: by autograd {_words(step)} takes {missing}, "
                f"which is not among its arguments. {_ADVICE}"
            )

    def _is_direct(self, function: Any, step: Step) -> bool:
        """Whether all that autograd knows right behind a node is an argument, itself.

        Or an argument of one that autograd does not know, as an item of several tensors. Most steps
        are so: they are done with here.
        """
        known_step = self.functions.get
        direct, whole = {*map(id, step.args)}, False
        if step.kwargs:
            direct.update(map(id, step.kwargs.values()))
        stack, own, seen = function.next_functions, [function], set()
        while stack:
            inside: list[Any] = []
            for node, _ in stack:
                if node is None:
                    continue
                met: Any = known_step(node)
                if met is None or met is step:  # what it made may be a view of what it computed
                    if node in seen:
                        continue
                    seen.add(node)
                    behind = node.next_functions
                    if met is step:
                        own.append(node)
                    elif not behind:
                        met = getattr(node, "variable", None)
                    if met is None or met is step:
                        inside += behind
                        continue
                if id(met) not in direct:
                    if whole:
                        return False
                    direct, whole = self._at_hand(step), True
                    if id(met) not in direct:
                        return False
            stack = inside
        self.held.update(dict.fromkeys(own, step))
        return True

    def follows(self, ends: Iterable[tuple[Step, Any]]) -> bool:
        """Whether each leaf behind the output is behind it in the graph, by the edges alone.

        It is where every node that is known to be of a step is one behind which all was held.
        """
        if self.written.read_again or self.replaced or self.functions != self.held:
            return False
        return all(f is None or self.held.get(f) is step for step, f in ends)

    def _at_hand(self, step: Step) -> set[int]:
        """Identities of what a step takes, itself or through what autograd does not know."""
        taken, constants = taken_by(step)
        found = {*map(id, taken), *map(id, constants)}
        for each in taken:
            if each not in self.with_function:
                more, others = taken_by(each)
                found.update(map(id, more), map(id, others))
        return found

    def _takes(self, step: Step, met: Step | Tensor) -> bool:
        """Whether a step takes something itself, or through one that autograd does not know."""
        taken, held = self.parts[step]
        if isinstance(met, Tensor):
            return id(met) in held
        if met is step or met in taken:
            return True
        return any(met in self.parts[s][0] for s in taken if s not in self.with_function)

    def _is_taken_by(self, step: Step, other: Step) -> bool:
        return step in self.parts[other][0]

    def edges_again(
        self, step: Step, function: Any, known_as: Step | None, past: Iterable[Any]
    ) -> None:
        """The same of a tensor read after writes, which takes all who ever wrote into it."""
        own: set[Step] = {step}
        constants = {id(owner) for owner in past}
        writers = [owner for owner in past if isinstance(owner, Step)]
        taking = step.what == "join" or step.written
        for each in [step] * taking + [w for w in writers if w.written]:
            more, others = self.arguments(each)
            own, constants = own | more, constants | others
        own |= {*writers}
        if known_as not in own | self.replaced:
            self.edges(step, function, (own, constants))

    def arguments(self, step: Step) -> tuple[set[Step], set[int]]:
        """The steps and constants that a step takes.

        Through what autograd does not know, through what was written part by part, through the
        items of what returns several tensors, and, where a view was written, through the view.
        """
        own: set[Step] = set()
        constants: set[int] = set()
        stack = [step]
        while stack:
            each = stack.pop()
            own.add(each)
            steps, more = self.parts[each]
            constants |= more
            for taken in steps:
                if taken in own:
                    continue
                own.add(taken)
                passage = taken.row is not None and taken.row.kind == "passage"
                item = passage and len(taken.args) > 1 and isinstance(taken.args[1], int)
                part = (each.what == "join" and taken.written) or (step.written and passage)
                transparent = taken.what == "join" or item or part
                if transparent or taken not in self.with_function:
                    stack.append(taken)
        return own, constants

    def leaves(self, steps: list[Step]) -> set[int]:
        """Identities of every constant tensor behind steps."""
        seen: set[Step] = set()
        found: set[int] = set()
        while steps:
            step = steps.pop()
            if step not in seen:
                seen.add(step)
                before, constants = self.parts[step]
                found |= constants
                steps += before
        return found


class Parts(dict[Step, tuple[list[Step], set[int]]]):
    """The steps among the arguments of each step, and the identities of the constants."""

    def __missing__(self, step: Step) -> tuple[list[Step], set[int]]:
        steps, tensors = taken_by(step)
        constants = {id(tensor) for tensor in tensors}
        if isinstance(step.func, nn.Module):
            constants |= {id(p) for p in step.func.parameters()}
        self[step] = steps, constants
        return steps, constants


class Nodes(dict[Any, tuple[Tensor | None, list[Any]]]):
    """Of each of autograd's nodes the leaf that it leads to, or the nodes right behind it."""

    def __missing__(self, node: Any) -> tuple[Tensor | None, list[Any]]:
        behind = [n for n, _ in node.next_functions if n is not None]
        leaf = None if behind else getattr(node, "variable", None)
        self[node] = leaf, behind
        return leaf, behind

    def leaves(self, functions: Iterable[Any]) -> Iterator[Tensor]:
        """Every leaf behind some nodes."""
        seen: set[Any] = set()
        stack = [function for function in functions if function is not None]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                leaf, behind = self[node]
                if leaf is not None:
                    yield leaf
                stack += behind


def _nearest(
    function: Any, nodes: Nodes, functions: Mapping[Any, Step], through: Callable[[Step], bool]
) -> Iterator[Step | Tensor]:
    """The known steps and the leaves right behind a node of autograd; through some steps."""
    seen = {function}
    stack = nodes[function][1].copy()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        step = functions.get(node)
        if step is not None and not through(step):
            yield step
            continue
        leaf, behind = nodes[node]
        if leaf is not None:
            yield leaf
        stack += behind


def _words(step: Step) -> str:
    what = step.row.name if step.row is not None else getattr(step.func, "__name__", step.what)
    return f"{what!r} in {step.path or 'the model itself'!r}"
