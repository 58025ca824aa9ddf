"""A model run once on an example, under the recorder, and given back as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import filterfalse
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.hooks import RemovableHandle

from sigprop.reading.calling import (
    as_found,
    attributes_kept,
    collector_waits,
    flatten,
    labelled,
    named_modules,
    uncompiled,
)
from sigprop.reading.calling import call as call_model
from sigprop.reading.layers import can_be_whole, is_whole
from sigprop.reading.memory import storage_id
from sigprop.reading.recorder import Recorder, refuse_operator, transformed
from sigprop.reading.steps import HOLD_NONE, Step, data_of
from sigprop.reading.tensors import outputs_of, replaced, tensors_of
from sigprop.reading.verify import verify
from sigprop.reading.witness import Witness

_UNTOUCHED = torch._C.DisableTorchFunction


@contextmanager
def recording(recorder: Recorder, paths: Mapping[nn.Module, str]) -> Iterator[None]:
    """Hooks that say in which module a step stands; they come off on any exit."""
    with ExitStack() as on:
        on.enter_context(uncompiled())
        hooks = Hooks(recorder, paths)
        for handle in hooks.register():
            on.callback(handle.remove)
        on.enter_context(torch.enable_grad())
        on.enter_context(recorder)
        yield


class Hooks:
    """What runs before and after each module that is called in the thread that records."""

    def __init__(self, recorder: Recorder, paths: Mapping[nn.Module, str]) -> None:
        self.recorder, self.paths = recorder, paths
        self.thread = get_ident()

    def register(self) -> list[RemovableHandle]:
        """Hooks for all modules at once, and one for each that is a single step."""
        kinds = {kind for kind in set(map(type, self.paths)) if can_be_whole(kind)}
        whole = [m for m in self.paths if type(m) in kinds and is_whole(m)]
        return [
            register_module_forward_pre_hook(self.enter),
            *(
                m.register_forward_pre_hook(self.begin, with_kwargs=True, prepend=True)
                for m in whole
            ),
            register_module_forward_hook(self.leave, always_call=True),
        ]

    def enter(self, module: nn.Module, args: Any) -> None:
        """Say in which module what follows stands."""
        path = self.paths.get(module)
        if path is not None and get_ident() == self.thread:
            self.recorder.stack.append((path, module))
            if self.recorder.blind:
                self.recorder.blind += 1

    def begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Look away while a module that is a single step computes."""
        recorder = self.recorder
        path = self.paths.get(module)
        if recorder.blind or transformed() is not None:
            return
        if path is None or get_ident() != self.thread:
            return
        with _UNTOUCHED():
            recorder.clock += 1
            read = {id(t): recorder.read(t) for t in tensors_of(args, kwargs)}
            given = replaced(tuple(args), read), replaced(dict(kwargs), read)
            step = Step("module", module, *given, path=path, layer=type(module).__name__)
            step.data = data_of((step.args, step.kwargs))
        recorder.blind = 1
        recorder.stack[-1] = (path, step)  # type: ignore[assignment]

    def leave(self, module: nn.Module, inputs: Any, out: Any) -> None:
        """Give what a module returned to whoever made it."""
        path = self.paths.get(module)
        if path is None or get_ident() != self.thread:
            return
        recorder = self.recorder
        if recorder.stack[-1][1] is not module and isinstance(module, torch.jit.ScriptModule):
            recorder.stack.append((path, module))  # not told when it was entered
        _, top = recorder.stack.pop()
        if recorder.blind > 1:
            recorder.blind -= 1
        elif recorder.blind and isinstance(top, Step):
            recorder.blind = 0
            with _UNTOUCHED():
                recorder.clock += 1
                outputs = outputs_of(out)
                recorder._add(top, outputs[0][0] if outputs else None)
                for tensor, place in outputs:
                    recorder.bind(tensor, top, place)
        elif not (isinstance(out, Tensor) and id(out) in recorder.values) and transformed() is None:
            with _UNTOUCHED():
                _made_by_nobody(recorder, path, module, inputs, out)


def _made_by_nobody(
    recorder: Recorder, path: str, module: nn.Module, inputs: Any, out: Any
) -> None:
    """Give what a module returned and no function seen has made to the module as a whole."""
    for tensor in flatten(out):
        known = id(tensor) in recorder.values or id(tensor) in recorder.constants
        known = known or storage_id(tensor) in recorder.stored
        known = known or tensor.grad_fn in recorder.functions
        if known or not tensor.is_floating_point():
            continue
        recorder.clock += 1
        made, leaves = recorder._behind(tensor.grad_fn)
        made += recorder.lost
        owners = map(recorder.read, flatten(inputs))
        taken = [o for o in owners if isinstance(o, Step) and not o.constant]
        if made and not isinstance(module, torch.jit.ScriptModule):
            taken = made
        if taken:
            leaves = leaves or list(module.parameters())
            step = Step("unseen", args=(*dict.fromkeys((*made, *taken)), *leaves), path=path)
            step.data = data_of(step.args)
            step.label = f"made inside {type(module).__name__} where nothing could be seen"
            recorder._add(step, tensor)
            recorder.bind(tensor, step)


_TABLES = frozenset(vars(nn.Module()))
"""What every module has: its parameters, modules, hooks."""


@collector_waits()
def record_steps(
    model: nn.Module,
    inputs: Any,
    kwargs: Any = None,
    *,
    measure: bool = False,
    witness: Witness | None = None,
) -> tuple[Recorder, list[Step]]:
    """Run a model once on an example; the steps, and those that the output is made of.

    Everything is given back as it was: parameters, buffers, attributes, random states, gradients.
    """
    paths = {module: path for path, module in named_modules(model)}
    parameters = _parameters(paths)
    recorder = Recorder(parameters.values(), measure=measure, witness=witness)
    witness = witness or Witness()
    for module in paths:
        _remember(module, recorder.constants)
    with as_found(paths, flatten((inputs, kwargs))), attributes_kept(paths):
        copies, named_copies = witness.inputs(inputs), witness.inputs(kwargs or {})
        for label, tensor in (*labelled(model, copies), *labelled(model, named_copies)):
            step = Step("input", label=label)
            recorder._add(step, tensor, new=False)
            recorder.bind(tensor, step)
        try:
            with recording(recorder, paths):
                out = (
                    model(*copies, **named_copies)
                    if kwargs is not None
                    else call_model(model, copies)
                )
                with _UNTOUCHED():
                    recorder.clock += 1
                    ends = [(recorder.read(tensor), tensor.grad_fn) for tensor in flatten(out)]
            witness.returned(out)
        except Exception as error:
            if type(error).__module__.startswith("torch._dynamo"):  # compiled whatever we say
                met = re.search(r"Higher Order Operator: (\S+)", str(error))
                refuse_operator(met[1] if met else "a function that torch.compile must compile")
            raise
        finally:
            recorder.restore()
    found = [(end, function) for end, function in ends if isinstance(end, Step)]
    names = {id(parameter): name for name, parameter in reversed(parameters.items())}

    def _known(leaf: Tensor) -> str | Step | None:
        value = recorder.values.get(id(leaf))
        made = value.step if value is not None and isinstance(value.step, Step) else None
        return names.get(id(leaf)) or made

    verify(recorder, found, _known)
    return recorder, [end for end, _ in found]


def _parameters(paths: Mapping[nn.Module, str]) -> dict[str, Tensor]:
    """Every parameter by name.

    Raises:
        ValueError: they are elsewhere, or no numbers; it names the module.
    """
    found: dict[str, Tensor] = {}
    quantized = {k for k in set(map(type, paths)) if k.__module__.startswith(_QUANTIZED)}
    for module, path in paths.items():
        if type(module) in quantized:
            raise ValueError(
                f"{path or type(module).__name__!r} is quantized ({type(module).__name__}): its "
                "weights are no numbers to read; record the model before it is converted."
            )
        for name, tensor in module._parameters.items():
            if type(tensor) is not nn.Parameter:
                if tensor is None or isinstance(tensor, nn.UninitializedParameter):
                    continue
                if is_traceable_wrapper_subclass(tensor):
                    raise ValueError(
                        f"the parameters of {path or type(module).__name__!r} are "
                        f"{type(tensor).__name__}s, of which this process holds a part; record "
                        "the model before it is sharded."
                    )
            found[f"{path}.{name}" if path else name] = tensor
    return found


_QUANTIZED = ("torch.ao.nn.quantized", "torch.nn.quantized")


def _remember(module: nn.Module, constants: dict[int, Tensor]) -> None:
    """The tensors that a module holds besides its parameters are constants."""
    held = module.__dict__
    for name in filterfalse(_TABLES.__contains__, held):
        if type(held[name]) not in HOLD_NONE:
            constants.update((id(tensor), tensor) for tensor in tensors_of(held[name]))
    for buffer in module._buffers.values():
        if buffer is not None:
            constants[id(buffer)] = buffer
