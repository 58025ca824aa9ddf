"""Who made each tensor, as it is now: what was made, written, viewed, or never seen."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.reading.memory import Owner, StorageOwners, storage_id
from sigprop.reading.operations import find
from sigprop.reading.own_gradients import mark
from sigprop.reading.steps import Step, call, data_of, taken_by
from sigprop.reading.tensors import SIGNAL_TYPES, version
from sigprop.reading.witness import Witness, is_plain, moments
from sigprop.reading.writing import left_by

_ITEM = find(operator.getitem)


@dataclass(slots=True, eq=False)
class KnownTensor:
    """A tensor that was met: who made it, when, and how autograd knew it then."""

    tensor: Tensor
    step: Owner
    place: int | None
    clock: int
    grad_fn: Any
    version: int


class TensorOwners:
    """What is known of the tensors of one run; the recorder tells it what happens to them.

    Attributes:
        measure: whether the moments of what each step made are taken.
        witness: who looks on, too.
        steps: what was met, in order.
        functions: the step behind each of autograd's nodes that is known.
        made: each step with autograd's node of what it made.
        lost: steps whose data went where nothing is seen: into numpy, into ``vmap``.
        read_again: tensors read after a write: their step, autograd's node, whose that was
            known to be, and all who wrote.
        replaced: steps whose result was overwritten where autograd does not see it.
        values: each tensor that a step made.
        stored: of each storage that was met the first tensor in it, and who made that.
        memory: those storages that were written or looked into, with who made which part.
        own: the storages of the parameters, by the identity of the parameter.
        constants: tensors made of nothing that is data.
        exposed: memory that numpy has seen, with what it held.
        stack: the modules under way, with their paths.
        clock: goes on with each call.
        written: the clock of the last write anywhere; 0: none.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        measure: bool = False,
        witness: Witness | None = None,
    ) -> None:
        super().__init__()
        self.measure, self.witness = measure, witness
        self.steps: list[Step] = []
        self.functions: dict[Any, Step] = {}
        self.made: list[tuple[Step, Any]] = []
        self.lost: dict[Step, None] = {}
        self.read_again: list[tuple[Step, Any, Step | None, Sequence[Owner]]] = []
        self.replaced: set[Step] = set()
        self.values: dict[int, KnownTensor] = {}
        self.stored: dict[int | None, tuple[Tensor, Owner]] = {}
        self.memory: dict[int | None, StorageOwners] = {}
        self.own: dict[int, int | None] = {}
        self.constants: dict[int, Tensor] = {}
        self.exposed: dict[int | None, tuple[Tensor, Tensor]] = {}
        self.stack: list[tuple[str, nn.Module | None]] = [("", None)]
        self.clock = self.written = 0
        for parameter in parameters:
            key = self.own[id(parameter)] = storage_id(parameter)
            if key is not None:
                self.stored.setdefault(key, (parameter, parameter))

    def _add(self, step: Step, made: Tensor | None, *, new: bool = True) -> None:
        """Write down a step with what it made."""
        self.steps.append(step)
        if made is None:
            return
        if new and (function := made.grad_fn) is not None:
            self.made.append((step, function))
        step.shape = tuple(made.shape)
        step.signal, step.complex = SIGNAL_TYPES[made.dtype]
        if self.measure or self.witness is not None:
            self._look(step, made)

    def _look(self, step: Step, made: Tensor) -> None:
        """Look at what a step made, where that is asked for."""
        if step.signal and not step.constant and is_plain(made):
            if self.measure:
                step.measured = moments(made)
            if self.witness is not None:
                self.witness.made(step, made)

    # Reading

    def read(self, tensor: Tensor) -> Owner:
        """Who made a tensor as it is now: a step, or the tensor itself, a constant."""
        own = id(tensor) in self.own
        if own and not (self.written and self._last_write(self.own[id(tensor)])):
            return tensor
        value = self.values.get(id(tensor))
        storage = None
        if value is None or self.written > value.clock or self.exposed:
            key = storage_id(tensor)
            storage = self._storage(key)
            if self.exposed and self._written_by_others(key):
                return self._unseen(tensor, "written where nothing could be seen")
        if value is not None:
            if storage is not None and storage.last > value.clock:
                if storage.written_since(tensor, value.clock):
                    return self._painted(tensor, storage)
                value.clock, value.version = self.clock, version(tensor)  # beside it
            if value.version != version(tensor):
                return self._unseen(tensor, "written where nothing could be seen")
            function = tensor.grad_fn
            if function is not value.grad_fn and isinstance(value.step, Step):
                self.functions[function] = value.step  # an autograd.Function round it
                mark(function, value.step, tensor, self.functions)
                value.grad_fn = function
            return value.step if value.place is None else self._of(value)
        if storage is not None and (storage.last or not own):
            return self._painted(tensor, storage)
        lost = self.lost and not own and id(tensor) not in self.constants
        if tensor.grad_fn is not None or lost:
            return self._unseen(tensor, "made where nothing could be seen")
        return tensor

    def _of(self, value: KnownTensor) -> Owner:
        """Who made a tensor: of several made together, the step that takes this one."""
        if value.place is None or not isinstance(value.step, Step):
            return value.step
        made = value.step
        data = () if made.constant else (made,)
        item = Step("call", operator.getitem, (made, value.place), {}, made.path, "", data)
        item.row = _ITEM
        self._add(item, value.tensor, new=False)
        value.step, value.place = item, None
        return item

    def _written_by_others(self, key: int | None) -> bool:
        """Whether memory that numpy has seen is no longer what it was."""
        if key not in self.exposed:
            return False
        tensor, before = self.exposed[key]
        same = torch.equal(tensor.detach(), before)
        if not same:
            del self.exposed[key]
        return not same

    def _maker(self, tensor: Tensor) -> Owner:
        """Who made a tensor that is about to be overwritten."""
        value = self.values.get(id(tensor))
        if value is not None:
            return value.step
        storage = self._storage(storage_id(tensor))
        return tensor if storage is None else storage.base

    def _painted(self, tensor: Tensor, storage: StorageOwners) -> Owner:
        """A tensor read after parts of its storage were written, or a view made unseen."""
        found = storage.parts(tensor)
        owner = found[0][0]
        self.replaced |= {o for o in storage.overwritten() if isinstance(o, Step)}
        if len(found) > 1:
            shares = tuple(share for _, share in found)
            step = Step("join", args=tuple(o for o, _ in found), path=self.stack[-1][0])
            step.shares, step.made_by = shares, storage.map_of(tensor)
            step.data = data_of(step.args)
        elif not storage.stands_at(tensor):
            step = call(torch.Tensor.view_as, (owner, tensor.detach()), {})
            step.path = self.stack[-1][0]
        else:
            step = owner  # type: ignore[assignment]
        self._replace(tensor, step, tensor.grad_fn)
        self._again(tensor, step)
        if step is not owner:
            self._add(step, tensor, new=False)
        self.bind(tensor, step)
        return step

    def _again(self, tensor: Tensor, owner: Owner) -> None:
        """Have a tensor that was written into held against all who wrote into its storage."""
        function = tensor.grad_fn
        if function is not None and isinstance(owner, Step):
            storage = self.memory.get(storage_id(tensor))
            past = () if storage is None else storage.past
            self.read_again.append((owner, function, self.functions.get(function), past))

    def _replace(self, tensor: Tensor, owner: Owner, function: Any) -> None:
        """Remember whose result a tensor was, if autograd takes it for that still."""
        value = self.values.get(id(tensor))
        if value is not None and value.step is not owner and value.grad_fn is function:
            self.replaced |= {value.step} if isinstance(value.step, Step) else set()

    # What autograd alone has seen

    def _unseen(self, tensor: Tensor, why: str) -> Step:
        """A tensor of unknown make: what autograd knows to be behind it goes into it."""
        made, parameters = self._behind(tensor.grad_fn)
        made = list(dict.fromkeys((*made, *self.lost)))
        step = Step("unseen", args=(*made, *parameters), path=self.stack[-1][0], label=why)
        step.data = tuple(s for s in made if not s.constant)
        before = self.functions.get(tensor.grad_fn)
        self.replaced |= {before} if before is not None else set()
        self._add(step, tensor, new=before is None)
        self.bind(tensor, step)
        return step

    def _add_hidden(self, step: Step, outputs: list[tuple[Tensor, int | None]]) -> None:
        """Give an unknown function also what autograd knows it to have taken."""
        steps, tensors = taken_by(step)
        own = {*map(id, steps), *map(id, tensors)}
        for tensor, _ in outputs:
            made, leaves = self._behind(tensor.grad_fn)
            more = tuple(o for o in (*made, *leaves) if id(o) not in own)
            step.args += more
            own |= {*map(id, more)}
        step.data = data_of((step.args, step.kwargs))

    def _behind(self, function: Any) -> tuple[list[Step], list[Tensor]]:
        """The nearest known steps behind a node of autograd, and the leaves met on the way."""
        made: dict[Step, None] = {}
        leaves: list[Tensor] = []
        seen, stack = set(), [function]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in self.functions:
                made[self.functions[node]] = None
            elif hasattr(node, "variable"):
                leaves.append(node.variable)
            else:
                stack += [n for n, _ in node.next_functions]
        return list(made), leaves

    # Making and writing

    def bind(self, tensor: Tensor, owner: Owner, place: int | None = None) -> None:
        """Say who made a tensor."""
        function = tensor.grad_fn
        if function is not None and isinstance(owner, Step) and owner.what != "join":
            self.functions.setdefault(function, owner)
            base = tensor._base
            if base is not None and base.grad_fn is not None and id(base) not in self.values:
                self.functions.setdefault(base.grad_fn, owner)
        self.values[id(tensor)] = KnownTensor(
            tensor, owner, place, self.clock, function, version(tensor)
        )
        key = storage_id(tensor)
        if key is not None and key not in self.stored:
            self.stored[key] = _viewed(owner, key) or (tensor, owner)

    def _storage(self, key: int | None) -> StorageOwners | None:
        """A storage that was met, to be written or looked into."""
        if key in self.stored and key not in self.memory:
            first, owner = self.stored[key]
            self.memory[key] = StorageOwners(first, owner, first)
        return self.memory.get(key)

    def _last_write(self, key: int | None) -> int:
        """The clock of the last write into a storage; 0: none."""
        storage = self.memory.get(key)
        return 0 if storage is None else storage.last

    def _write(
        self,
        tensor: Tensor,
        step: Step,
        name: str,
        args: Any,
        kwargs: Any,
        read: Mapping[int, Owner],
    ) -> None:
        """A tensor was written by a function of that name: its memory is another's now."""
        key = storage_id(tensor)
        owner, write = left_by(step, tensor, name, args, kwargs, read)
        if key is not None:
            self.stored.setdefault(key, (tensor, read.get(id(tensor), tensor)))
            storage = self._storage(key)
            assert storage is not None
            storage.last = self.written = self.clock
            storage.paint(tensor, owner, write)
            if write is not None:
                self.values.pop(id(tensor), None)
                self.clock += 1
                storage.last = self.written = self.clock
                return
        self.bind(tensor, owner)

    def _forget(self, written: Tensor) -> None:
        """A constant was written with constants alone."""
        storage = self._storage(storage_id(written))
        if storage is not None and id(written) not in self.own:
            storage.last = self.written = self.clock
            storage.paint(written, written)

    def _partly_written(self, tensor: Tensor) -> StorageOwners | None:
        """The storage of a tensor, if parts of it were made by others."""
        storage = self.memory.get(storage_id(tensor))
        return storage if storage is not None and storage.painting is not None else None


def _viewed(owner: Owner, key: int) -> tuple[Tensor, Owner] | None:
    """The constant that a step hands on a view of: data only lends its shape."""
    if not isinstance(owner, Step) or owner.row is None or owner.row.kind != "passage":
        return None
    first = owner.args[0] if owner.args else None
    if not isinstance(first, Tensor) or storage_id(first) != key:
        return None
    return first, first
