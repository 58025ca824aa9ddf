"""A mode under which every torch function that the data of a model meets is written down."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sigprop.reading.layers import layer_of
from sigprop.reading.memory import Owner, StorageOwners, storage_id
from sigprop.reading.steps import Step, call, data_of, steps_in, tensors_in
from sigprop.reading.witness import Witness, is_plain, moments
from sigprop.reading.writing import Traits, left_by, traits, writes

_ITEM = operator.getitem


@dataclass(slots=True, eq=False)
class KnownTensor:
    """A tensor that was met: who made it, when, and how autograd knew it then."""

    tensor: Tensor
    step: Owner
    place: int | None
    clock: int
    grad_fn: Any
    version: int


class Recorder(TorchFunctionMode):
    """Writes down what one thread computes.

    Attributes:
        steps: what was met, in order.
        functions: the step behind each of autograd's nodes that is known.
        made: each step with autograd's node of what it made.
        lost: steps whose data went where nothing is seen: into numpy, into ``vmap``.
        read_again: tensors read after a write: their step, autograd's node, whose that was
            known to be, and all who wrote.
        cuts: steps whose value left as a number (``.item()``): what comes of it is not seen.
        exposed: memory that numpy has seen, with what it held.
        replaced: steps whose result was overwritten where autograd does not see it.
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
        self.read_again: list[tuple[Step, Any, Step | None, list[Owner]]] = []
        self.replaced: set[Step] = set()
        self.values: dict[int, KnownTensor] = {}
        self.memory: dict[int, StorageOwners] = {}
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        self.stack: list[tuple[str, nn.Module | None]] = [("", None)]
        self.constants: dict[int, Tensor] = {}
        self.sources: dict[int, Step] = {}
        self.lost: dict[Step, None] = {}
        self.cuts: dict[Step, None] = {}
        self.exposed: dict[int | None, tuple[Tensor, Tensor]] = {}
        self.clock = 0
        self.blind = 0
        self.own: dict[int, StorageOwners] = {}
        self._homes: dict[int | None, Tensor] = {}
        for parameter in parameters:
            key = storage_id(parameter)
            self._homes[key] = parameter
            storage = StorageOwners(parameter, parameter, whole=parameter)
            if key is not None:
                storage = self.memory.setdefault(key, storage)
            self.own[id(parameter)] = storage

    # The mode

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the function and write it down."""
        kwargs = kwargs or {}
        if self.blind:
            return func(*args, **kwargs)
        known = traits(func)
        if known.body is not None:
            with self:
                return known.body(*args, **kwargs)
        found = tensors_of(*args, kwargs) if kwargs else tensors_of(*args)
        if transformed() is not None:  # inside vmap, grad, jvp: tensors are wrapped
            self._lose(found)
            return func(*args, **kwargs)
        if known.leaves:
            self._lose(found, exposed=True)
        elif known.number:
            self._cut(found)
        elif self.lost and not found and any(type(a).__module__ == "numpy" for a in args):
            return func(*args, **kwargs)  # back from numpy: no constant
        if known.row is None and isinstance(func, torch._ops.HigherOrderOperator):
            refuse_operator(func.__name__)
        writing = known.writes or (bool(kwargs) and writes(kwargs))
        still = known.constant and not writing and not (known.cast and is_float(found))
        if not found or still:
            return self._constant(func(*args, **kwargs))
        return self._called(func, args, kwargs, known, found, writing)

    def _called(
        self, func: Any, args: Any, kwargs: Any, known: Traits, found: list[Tensor], writing: bool
    ) -> Any:
        self.clock += 1
        read: dict[int, Owner] = {}
        for tensor in found[1:] if known.overwrites else found:
            read[id(tensor)] = self.read(tensor)
        if known.overwrites:
            read.setdefault(id(found[0]), self._maker(found[0]))
        data = [owner for owner in read.values() if isinstance(owner, Step)]
        if not data and not any(id(owner) in self.own for owner in read.values()):
            if not known.layer or not args:
                out = func(*args, **kwargs)
                if writing:
                    self._forget(found[0])
                return self._constant(out)
            read[id(found[0])] = self._source(found[0], found[0])
        elif known.layer and args and not is_data(read[id(found[0])]):
            read[id(found[0])] = self._source(read[id(found[0])], found[0])
        if writing or known.row is None or "max_norm" in kwargs:
            self._before_a_write(found, kwargs.get("out", args[0] if args else None), read)
        before = versions(found)
        out = func(*args, **kwargs)
        if known.sets_data:  # x.data = y
            self._replace(args[0], read.get(id(args[1]), args[1]), args[0].grad_fn)
            self.bind(args[0], read.get(id(args[1]), args[1]))
            return out
        after = versions(found)
        written: list[Tensor] = []
        if after != before:
            written = [t for t, v, w in zip(found, before, after, strict=True) if v != w]
        elif writing and before[0] is None:
            written = found[:1]
        if written and known.statistics:
            written = [t for t in written if isinstance(read[id(t)], Step)]
        fresh = [(t, i) for t, i in outputs_of(out) if id(t) not in read]
        if fresh or written:
            step = self._step(func, args, kwargs, read, known)
            self._made(step, fresh, written, args, kwargs, known, read)
        return out

    def _step(
        self, func: Any, args: Any, kwargs: Any, read: Mapping[int, Owner], known: Traits
    ) -> Step:
        """The step of a call, where it stands."""
        given = tuple([replaced(v, read) if isinstance(v, _HOLDING) else v for v in args])
        named = {key: replaced(value, read) for key, value in kwargs.items()} if kwargs else {}
        data = tuple([o for o in read.values() if isinstance(o, Step) and not o.constant])
        if known.straight:
            step = Step("call", func, given, named, data=data, row=known.row)
        else:
            step = call(func, given, named, row=known.row, data=data)
        step.path, module = self.stack[-1]
        step.layer = layer_of(module, step.row)
        return step

    def _made(
        self,
        step: Step,
        fresh: list[tuple[Tensor, int | None]],
        written: list[Tensor],
        args: Any,
        kwargs: Any,
        known: Traits,
        read: Mapping[int, Owner],
    ) -> None:
        """Write down a step with what it made and what it wrote."""
        if known.row is None:
            self._add_hidden(step, fresh)
        step.written = bool(written)
        through_view = bool(written) and written[0]._is_view()
        new = not (through_view or known.overwrites)
        for tensor in written:  # where autograd is off it takes a tensor for what it was
            value = self.values.get(id(tensor))
            unseen = value is not None and value.grad_fn is tensor.grad_fn
            if unseen and tensor.grad_fn is not None:
                self._replace(tensor, step, tensor.grad_fn)
                new = False
        self._add(step, fresh[0][0] if fresh else written[0], new=new)
        for tensor in written:
            self._write(tensor, step, known, args, kwargs, read)
            if not known.overwrites:
                self._again(tensor, step)
        passage = known.row is not None and known.row.kind == "passage"
        for tensor, place in fresh:
            storage = self._partly_written(tensor) if passage else None
            if storage is None:
                self.bind(tensor, step, place)
            else:
                self._painted(tensor, storage)

    def _before_a_write(self, found: list[Tensor], target: Any, read: dict[int, Owner]) -> None:
        """Keep what is about to be overwritten: parameters, and a constant as it was before."""
        for tensor in found:
            home = self._homes.get(storage_id(tensor))
            if home is not None and id(home) not in self.saved:
                self.saved[id(home)] = (home, home.detach().clone())
        held = isinstance(target, Tensor) and read.get(id(target)) is target
        if held and id(target) not in self.own:
            read[id(target)] = target.detach().clone()

    def _partly_written(self, tensor: Tensor) -> StorageOwners | None:
        """The storage of a tensor, if parts of it were made by others."""
        storage = self.memory.get(storage_id(tensor) or 0)
        return storage if storage is not None and storage.map is not None else None

    def _add(self, step: Step, made: Tensor | None, *, new: bool = True) -> None:
        self.steps.append(step)
        if made is None:
            return
        if new and made.grad_fn is not None:
            self.made.append((step, made.grad_fn))
        step.shape = tuple(made.shape)
        step.signal = made.is_floating_point() or made.is_complex()
        self._look(step, made)

    def _look(self, step: Step, made: Tensor) -> None:
        """Look at what a step made, where that is asked for."""
        if step.signal and not step.constant and is_plain(made):
            if self.measure:
                step.measured = moments(made)
            if self.witness is not None:
                self.witness.made(step, made)

    def _constant(self, out: Any) -> Any:
        """Remember what was made of nothing that is data."""
        if isinstance(out, Tensor):
            self.constants[id(out)] = out
        return out

    def _cut(self, tensors: Iterable[Tensor]) -> None:
        """Remember whose value leaves as a number of Python."""
        for tensor in tensors:
            owner = self.read(tensor) if id(tensor) in self.values else tensor
            if is_data(owner):
                self.cuts[owner] = None  # type: ignore[index]

    def _lose(self, tensors: Iterable[Tensor], *, exposed: bool = False) -> None:
        """Remember what data goes out of sight, and what it was, where it may be written there."""
        for tensor in tensors:
            while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                tensor = torch._C._functorch.get_unwrapped(tensor)
            if id(tensor) in self.values or storage_id(tensor) in self.memory:
                owner = self.read(tensor)
                if isinstance(owner, Step) and not owner.constant:
                    self.lost[owner] = None
                    if exposed:
                        self.exposed[storage_id(tensor)] = (tensor, tensor.detach().clone())

    def _source(self, owner: Owner, tensor: Tensor) -> Step:
        """A constant that a layer takes for its signal: data that the model holds itself."""
        if id(owner) not in self.sources:
            step = Step("source", args=(owner,), path=self.stack[-1][0])
            step.shape = tuple(owner.shape) if owner.shape is not None else None
            step.signal = True
            self.steps.append(step)
            self.sources[id(owner)] = step
            self._look(step, tensor)
        return self.sources[id(owner)]

    # What a tensor is

    def read(self, tensor: Tensor) -> Owner:
        """Who made a tensor as it is now: a step, or the tensor itself, a constant."""
        own = self.own.get(id(tensor))
        if own is not None and not own.last:
            return tensor
        value = self.values.get(id(tensor))
        key = storage_id(tensor)
        storage = self.memory.get(key) if key is not None else None
        if self.exposed and self._written_by_others(key):
            return self._unseen(tensor, "written where nothing could be seen")
        if value is not None:
            if storage is not None and storage.last > value.clock:
                if storage.written_since(tensor, value.clock):
                    return self._painted(tensor, storage)
                value.clock, value.version = self.clock, _version(tensor) or 0  # beside it
            if value.version != (_version(tensor) or 0):
                return self._unseen(tensor, "written where nothing could be seen")
            if tensor.grad_fn is not value.grad_fn and isinstance(value.step, Step):
                self.functions[tensor.grad_fn] = value.step  # an autograd.Function round it
                value.grad_fn = tensor.grad_fn
            return self._of(value)
        if storage is not None and (storage.last or id(tensor) not in self.own):
            return self._painted(tensor, storage)
        lost = self.lost and not (id(tensor) in self.own or id(tensor) in self.constants)
        if tensor.grad_fn is not None or lost:
            return self._unseen(tensor, "made where nothing could be seen")
        return tensor

    def _written_by_others(self, key: int | None) -> bool:
        """Whether memory that numpy has seen is no longer what it was."""
        if key not in self.exposed:
            return False
        tensor, before = self.exposed[key]
        same = torch.equal(tensor.detach(), before)
        if not same:
            del self.exposed[key]
        return not same

    def bind(self, tensor: Tensor, owner: Owner, place: int | None = None) -> None:
        """Say who made a tensor."""
        function = tensor.grad_fn
        if function is not None and isinstance(owner, Step) and owner.what != "join":
            self.functions.setdefault(function, owner)
            base = tensor._base if tensor._is_view() else None
            if base is not None and base.grad_fn is not None and id(base) not in self.values:
                self.functions.setdefault(base.grad_fn, owner)
        self.values[id(tensor)] = KnownTensor(
            tensor, owner, place, self.clock, function, _version(tensor) or 0
        )
        self._stored(tensor, owner)

    def _maker(self, tensor: Tensor) -> Owner:
        """Who made a tensor that is about to be overwritten."""
        value = self.values.get(id(tensor))
        key = storage_id(tensor)
        if value is not None:
            return value.step
        storage = self.memory.get(key) if key is not None else None
        return tensor if storage is None else storage.base

    def _of(self, value: KnownTensor) -> Owner:
        if value.place is None or not isinstance(value.step, Step):
            return value.step
        item = call(_ITEM, (value.step, value.place), {}, path=value.step.path)
        self._add(item, value.tensor, new=False)
        value.step, value.place = item, None
        return item

    def _stored(self, tensor: Tensor, owner: Owner) -> None:
        key = storage_id(tensor)
        if key is not None and key not in self.memory:
            self.memory[key] = StorageOwners(tensor, owner, whole=tensor)

    def _painted(self, tensor: Tensor, storage: StorageOwners) -> Owner:
        """A tensor read after parts of its storage were written, or a view made unseen."""
        parts = storage.parts(tensor)
        owner = parts[0][0]
        if len(parts) > 1:
            shares = tuple(share for _, share in parts)
            step = Step("join", args=tuple(o for o, _ in parts), path=self.stack[-1][0])
            step.shares = shares
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
            key = storage_id(tensor)
            past = list(self.memory[key].past) if key in self.memory else []
            self.read_again.append((owner, function, self.functions.get(function), past))

    def _replace(self, tensor: Tensor, owner: Owner, function: Any) -> None:
        """Remember whose result a tensor was, if autograd takes it for that still."""
        value = self.values.get(id(tensor))
        if value is not None and value.step is not owner and value.grad_fn is function:
            self.replaced |= {value.step} if isinstance(value.step, Step) else set()

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
        own = {*map(id, steps_in((step.args, step.kwargs)))}
        own |= {*map(id, tensors_in((step.args, step.kwargs)))}
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

    # Writing

    def _write(
        self,
        tensor: Tensor,
        step: Step,
        known: Traits,
        args: Any,
        kwargs: Any,
        read: Mapping[int, Owner],
    ) -> None:
        """A tensor was written: its memory is another's now."""
        key = storage_id(tensor)
        owner, write = left_by(step, tensor, known.name, args, kwargs, read)
        if key is not None:
            self._stored(tensor, read.get(id(tensor), tensor))
            storage = self.memory[key]
            storage.last = self.clock
            storage.paint(tensor, owner, write)
            if write is not None:
                self.values.pop(id(tensor), None)
                self.clock += 1
                storage.last = self.clock
                return
        self.bind(tensor, owner)

    def _forget(self, written: Tensor) -> None:
        """A constant was written with constants alone."""
        key = storage_id(written)
        if key in self.memory and id(written) not in self.own:
            self.memory[key].last = self.clock
            self.memory[key].paint(written, written)

    def restore(self) -> None:
        """Put back the parameters that were written."""
        with torch.no_grad():
            for home, value in self.saved.values():
                if not torch.equal(home, value):
                    home.data.copy_(value)


def is_data(owner: Owner) -> bool:
    """Whether data comes from it."""
    return isinstance(owner, Step) and not owner.constant


def is_float(found: list[Tensor]) -> bool:
    """Whether the first of some tensors holds floating-point numbers."""
    return bool(found) and found[0].is_floating_point()


transformed = torch._C._functorch.peek_interpreter_stack
"""The transform of ``torch.func`` at work, None outside of them."""


def versions(tensors: list[Tensor]) -> list[int | None]:
    """How often each tensor was written; None: made in inference mode, not counted."""
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:
        return [_version(tensor) for tensor in tensors]


def _version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except RuntimeError:
        return None


def tensors_of(*values: Any) -> list[Tensor]:
    """Every tensor in nested lists, tuples, mappings and slices."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, _NESTED):
            if isinstance(value, dict):
                value = value.values()
            elif isinstance(value, slice):
                value = (value.start, value.stop, value.step)
            found += tensors_of(*value)
    return found


_NESTED = (tuple, list, dict, slice)
_HOLDING = (Tensor, *_NESTED)


def outputs_of(out: Any) -> list[tuple[Tensor, int | None]]:
    """The tensors of what a function returned, with their places where there are several."""
    if isinstance(out, Tensor):
        return [(out, None)]
    if isinstance(out, list | tuple):
        return [(t, place) for place, entry in enumerate(out) for t, _ in outputs_of(entry)]
    return []


def replaced(value: Any, read: Mapping[int, Owner]) -> Any:
    """Nested arguments with the owner of each tensor in its place."""
    if isinstance(value, Tensor):
        return read[id(value)]
    if not isinstance(value, _NESTED):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(v, read) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(replaced(v, read) for v in value)
    if isinstance(value, dict):
        return {k: replaced(v, read) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(replaced(v, read) for v in (value.start, value.stop, value.step)))
    return value


def refuse_operator(name: str) -> None:
    """Functions that take functions: what those do to the signal cannot be seen.

    Raises:
        ValueError: naming it; ``flex_attention`` alone is let through, as one opaque step.
    """
    if not name.startswith("flex_attention"):
        raise ValueError(
            f"the model calls {name}, which hides what it computes, so it cannot be recorded; "
            "write it with Python's own control flow to have it read."
        )
