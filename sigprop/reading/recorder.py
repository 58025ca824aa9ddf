"""A mode under which every torch function that the data of a model meets is written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sigprop.reading.layers import layer_of
from sigprop.reading.memory import Owner, storage_id
from sigprop.reading.owners import TensorOwners
from sigprop.reading.steps import Step, call
from sigprop.reading.tensors import (
    is_float,
    outputs_of,
    replaced,
    tensors_of,
    versions,
)
from sigprop.reading.witness import Witness, is_plain
from sigprop.reading.writing import Traits, traits, writes


class Recorder(TensorOwners, TorchFunctionMode):
    """Writes down what one thread computes.

    Attributes:
        cuts: steps whose value left as a number (``.item()``): what comes of it is not seen.
        saved: parameters that were written, with what they held.
        sources: the step of each constant that a layer takes for its signal.
        origins: of constants whose numbers are made of data (indices, bins): by ``id``, the steps.
        blind: modules under way that are one step together.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        measure: bool = False,
        witness: Witness | None = None,
    ) -> None:
        parameters = list(parameters)
        super().__init__(parameters, measure=measure, witness=witness)
        self.cuts: dict[Step, None] = {}
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        self.sources: dict[int, Step] = {}
        self.origins: dict[int, tuple[Step, ...]] = {}
        self.blind = 0
        self._parameters = parameters

    @cached_property
    def _homes(self) -> dict[int | None, Tensor]:
        """The parameters by their storages, as they stand before the first write."""
        return {storage_id(parameter): parameter for parameter in self._parameters}

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
        found = tensors_of(*args, *kwargs.values()) if kwargs else tensors_of(*args)
        if transformed() is not None:  # inside vmap, grad, jvp: tensors are wrapped
            self._lose(found)
            return func(*args, **kwargs)
        if known.usual and found and not kwargs:
            return self._called(func, args, kwargs, known, found, False)
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
        if not found:
            return self._constant(func(*args, **kwargs))
        if still:
            out = self._constant(func(*args, **kwargs))
            if isinstance(out, Tensor) and not known.lends:
                self._trace_back(out, found)
            return out
        return self._called(func, args, kwargs, known, found, writing)

    def _called(
        self, func: Any, args: Any, kwargs: Any, known: Traits, found: list[Tensor], writing: bool
    ) -> Any:
        """Run a function on tensors that may be data; write down what it made and wrote."""
        self.clock += 1
        read: dict[int, Owner] = {}
        for tensor in found[1:] if known.overwrites else found:
            untouched = not self.written and id(tensor) in self.own
            read[id(tensor)] = tensor if untouched else self.read(tensor)
        if known.overwrites:
            read.setdefault(id(found[0]), self._maker(found[0]))
        data = tuple([o for o in read.values() if isinstance(o, Step) and not o.constant])
        if not data and not any(isinstance(o, Step) or id(o) in self.own for o in read.values()):
            if not known.layer or not args:
                out = func(*args, **kwargs)
                if writing:
                    self._forget(found[0])
                if self.origins and isinstance(out, Tensor):
                    self._trace_back(out, found)
                return self._constant(out)
            read[id(found[0])] = found[0]
        if known.layer and args and not (data and data[0] is read[id(found[0])]):
            source = read[id(found[0])] = self._source(read[id(found[0])], found[0])
            data = (source, *data)
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
        fresh: list[tuple[Tensor, int | None]] = []
        if isinstance(out, Tensor):
            if id(out) not in read:
                fresh.append((out, None))
        else:
            fresh += [(t, i) for t, i in outputs_of(out) if id(t) not in read]
        if fresh or written:
            step = self._step(func, args, kwargs, read, known, data)
            if known.row is None:
                self._add_hidden(step, fresh)
            if written:
                self._wrote(step, fresh, written, known, args, kwargs, read)
            else:
                self._add(step, fresh[0][0], new=not known.overwrites)
            for tensor, place in fresh:
                if self.written and known.passage and (partly := self._partly_written(tensor)):
                    self._painted(tensor, partly)
                else:
                    self.bind(tensor, step, place)
        return out

    def _step(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        read: Mapping[int, Owner],
        known: Traits,
        data: tuple[Step, ...],
    ) -> Step:
        """The step of a call, where it stands."""
        given = tuple([read[id(v)] if id(v) in read else replaced(v, read) for v in args])
        named = {key: replaced(value, read) for key, value in kwargs.items()} if kwargs else {}
        path, module = self.stack[-1]
        if known.straight:
            layer = layer_of(module, known.row)
            return Step("call", func, given, named, path, layer, data, row=known.row)
        step = call(func, given, named, row=known.row, data=data, path=path)
        step.layer = layer_of(module, step.row)
        return step

    def _wrote(
        self,
        step: Step,
        fresh: list[tuple[Tensor, int | None]],
        written: list[Tensor],
        known: Traits,
        args: Any,
        kwargs: Any,
        read: Mapping[int, Owner],
    ) -> None:
        """Write down a step that wrote, and give the memory that it wrote to it."""
        step.written = True
        new = not (written[0]._is_view() or known.overwrites)
        for tensor in written:  # where autograd is off it takes a tensor for what it was
            value = self.values.get(id(tensor))
            unseen = value is not None and value.grad_fn is tensor.grad_fn
            if unseen and tensor.grad_fn is not None:
                self._replace(tensor, step, tensor.grad_fn)
                new = False
        self._add(step, fresh[0][0] if fresh else written[0], new=new)
        for tensor in written:
            self._write(tensor, step, known.name, args, kwargs, read)
            if not known.overwrites:
                self._again(tensor, step)

    def _before_a_write(self, found: list[Tensor], target: Any, read: dict[int, Owner]) -> None:
        """Keep what is about to be overwritten: parameters, and a constant as it was before."""
        for tensor in found:
            home = self._homes.get(storage_id(tensor))
            if home is not None and id(home) not in self.saved:
                self.saved[id(home)] = (home, home.detach().clone())
        held = isinstance(target, Tensor) and read.get(id(target)) is target
        if held and id(target) not in self.own:
            read[id(target)] = target.detach().clone()

    def _constant(self, out: Any) -> Any:
        """Remember what was made of nothing that is data."""
        if isinstance(out, Tensor):
            self.constants[id(out)] = out
        return out

    def _trace_back(self, out: Tensor, found: Iterable[Tensor]) -> None:
        """Remember the data that the numbers of a constant are made of."""
        behind: dict[Step, None] = {}
        for tensor in found:
            owner = self.read(tensor) if id(tensor) in self.values else tensor
            if isinstance(owner, Step) and not owner.constant:
                behind[owner] = None
            behind |= dict.fromkeys(self.origins.get(id(owner), ()))
        if behind:
            self.origins[id(out)] = tuple(behind)

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
            if id(tensor) in self.values or storage_id(tensor) in self.stored:
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

    def restore(self) -> None:
        """Put back the parameters that were written."""
        with torch.no_grad():
            for home, value in self.saved.values():
                if not (is_plain(home) and torch.equal(home, value)):
                    home.data.copy_(value)


def is_data(owner: Owner) -> bool:
    """Whether data comes from it."""
    return isinstance(owner, Step) and not owner.constant


transformed = torch._C._functorch.peek_interpreter_stack
"""The transform of ``torch.func`` at work, None outside of them."""


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
