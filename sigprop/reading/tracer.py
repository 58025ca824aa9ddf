"""A model read without an example: its data followed by ``torch.fx``."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from sigprop.reading.calling import as_found, attributes_kept, unwrapped
from sigprop.reading.layers import CONVOLUTIONS, TRANSPOSED, WEIGHT_LAYERS, is_whole
from sigprop.reading.operations import MODULES, Operation, find, of_module
from sigprop.reading.recorder import Recorder
from sigprop.reading.running import record_steps
from sigprop.reading.steps import Step, call, mapped, steps_in, takes_signal, tensors_in

_ADVICE = (
    "Pass alpha= or gain= (to initialize: activation=) to set every weight layer without reading "
    "the model."
)
_PARTS = frozenset(("getitem", "narrow", "select", "chunk", "split", "unbind", "diagonal"))
"""Passages that hand on a part: a write into one is not a write of the whole."""


class Tracer(fx.Tracer):
    """Sees torch's layers and activations with slopes of their own as one step, and no hooks."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one step."""
        if is_whole(m) or isinstance(m, WEIGHT_LAYERS) or of_module(m) is not None:
            return True
        if any(cls in MODULES for cls in type(m).__mro__):  # with a forward of its own
            return False
        return bool(super().is_leaf_module(m, module_qualified_name))

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Give data to the arguments that are data; the others keep their defaults."""
        root = self.root
        names = data_arguments(root)
        data = [self.create_proxy("placeholder", name, (), {}) for name in names]
        kinds = inspect.signature(root.forward).parameters
        by_name = [kinds[name].kind is inspect.Parameter.KEYWORD_ONLY for name in names]

        def run(model: Any, *values: Any) -> Any:
            pairs = list(zip(names, values, by_name, strict=True))
            keywords = {name: value for name, value, keyword in pairs if keyword}
            return model.forward(*(v for _, v, keyword in pairs if not keyword), **keywords)

        return run, [root, *data]

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Step into a module without running the hooks that others have put on it."""
        own = forward if self.is_leaf_module(m, self.path_of_module(m)) else m.forward
        return super().call_module(m, own, args, kwargs)


def trace_steps(model: nn.Module) -> tuple[list[Step], list[Step]]:
    """Follow the data through a model; its steps, and those that the output is made of.

    Raises:
        ValueError: ``forward`` cannot be followed; the message carries torch.fx's reason.
    """
    model = unwrapped(model)
    if is_whole(model) or of_module(model) is not None or isinstance(model, WEIGHT_LAYERS):
        return _lone(model)
    with attributes_kept(model.modules()):
        try:
            tracer = Tracer()
            graph = tracer.trace(model)
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"cannot follow the data through {type(model).__name__} with torch.fx: {reason}. "
                f"Give an example of its input (example=), so that it is run instead. {_ADVICE}"
            ) from error
        return _Follower(model).followed(graph)


def _lone(model: nn.Module) -> tuple[list[Step], list[Step]]:
    follower = _Follower(nn.ModuleList([model]))
    start = Step("input", label="x")
    follower.steps.append(start)
    follower.module(model, "", (start,), {})
    return follower.steps, follower.steps[-1:]


def data_arguments(model: nn.Module) -> list[str]:
    """The arguments of ``forward`` that are data: those without a default.

    Where every argument has one, the first is data all the same (``input_ids=None``).

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, ids=None, mask=None, flag=True, **more): ...
        >>> data_arguments(Net()), data_arguments(nn.ReLU())
        (['ids'], ['input'])
    """
    arguments = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    data = [p.name for p in arguments if p.default is p.empty]
    return data or [p.name for p in arguments[:1]]


class _Follower:
    """From the nodes of torch.fx to steps."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps: list[Step] = []
        self.values: dict[fx.Node, Any] = {}
        self.now: dict[Step, Step] = {}
        self.sources: dict[int, Step] = {}

    def followed(self, graph: fx.Graph) -> tuple[list[Step], list[Step]]:
        """Steps in order, and those of the output."""
        ends: list[Step] = []
        for node in graph.nodes:
            if node.op == "output":
                ends = list(steps_in(self._value(node.args)))
            else:
                self.values[node] = self._follow(node)
        return self.steps, ends

    def _value(self, value: Any) -> Any:
        """Arguments with the steps (or constants) that their nodes stand for now."""
        if isinstance(value, fx.Node):
            found = self.values[value]
            return mapped(found, self._now)
        if isinstance(value, tuple | list):
            return type(value)(self._value(entry) for entry in value)
        if isinstance(value, dict):
            return {key: self._value(entry) for key, entry in value.items()}
        if isinstance(value, slice):
            return slice(*(self._value(v) for v in (value.start, value.stop, value.step)))
        return value

    def _now(self, value: Any) -> Any:
        """What a step is after all that was written into it."""
        while isinstance(value, Step) and value in self.now:
            value = self.now[value]
        return value

    def _follow(self, node: fx.Node) -> Any:
        path = path_of(node)
        if node.op == "placeholder":
            return self._add(Step("input", label=str(node.target)))
        if node.op == "get_attr":
            home, _, name = str(node.target).rpartition(".")
            return getattr(self.model.get_submodule(home), name)
        args, kwargs = self._value(tuple(node.args)), self._value(dict(node.kwargs))
        if node.op == "call_module":
            home = str(node.target)
            return self.module(self.model.get_submodule(home), home, args, kwargs)
        func, facts = called(node)
        return self._function(func, args[:1] if facts else args, kwargs, path)

    def _function(self, func: Any, args: Any, kwargs: Any, path: str) -> Any:
        if isinstance(func, type):  # a named tuple or a dataclass of what is returned
            return [*args, *kwargs.values()]
        if func is operator.getitem and isinstance(args[0], tuple | list):
            return args[0][args[1]]
        if not _has_steps_or_parameters((args, kwargs)):
            return func(*args, **kwargs)  # constants alone
        step = self._add(call(func, self._from_source(func, args), kwargs, path=path))
        if writes(func, kwargs):
            self._written(kwargs.get("out", args[0] if args else None), step)
        return step

    def module(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        """A module that is one step, or one whose steps are those of a run by itself."""
        row = of_module(module)
        if is_whole(module):
            step = Step("module", module, tuple(args), dict(kwargs), path, type(module).__name__)
            step.data = tuple(s for s in steps_in((args, kwargs)) if not s.constant)
            return self._add(step)
        if row is not None and row.kind not in ("recurrent", "attention"):
            return self._layer(module, row, path, args, kwargs)
        alone = self._run_alone(module, path, args, kwargs)
        if alone is not None:
            return alone
        held = (*args, list(module.parameters()))
        step = Step("call", type(module).__name__, held, dict(kwargs), path, row=row)
        step.data = tuple(s for s in steps_in((args, kwargs)) if not s.constant)
        step.layer = type(module).__name__
        return self._add(step)

    def _layer(self, module: nn.Module, row: Operation, path: str, args: Any, kwargs: Any) -> Step:
        """A module of torch as the call of the function that it is there for."""
        given = {
            name: self._held(module, path, name) for name in row.arguments if _has(module, name)
        }
        if row.name in ("batch_norm", "instance_norm"):
            evaluated = not module.training and getattr(module, "running_mean", None) is not None
            given["training" if row.name == "batch_norm" else "use_input_stats"] = not evaluated
        if "inplace" in vars(module):
            given["inplace"] = module.inplace
        args = self._from_source(row.calls[0], args)
        step = call(row.calls[0], args, {**given, **kwargs}, path=path)
        step.layer = next(c.__name__ for c in type(module).__mro__ if MODULES.get(c) is row)
        self._add(step)
        if given.get("inplace"):
            self._written(args[0], step)
        return step

    def _from_source(self, func: Any, args: Any) -> Any:
        """A constant that a layer takes for its signal as a step of its own."""
        if takes_signal(func) is None or not args:
            return args
        first = args[0]
        if isinstance(first, Step) and not first.constant:
            return args
        step = self.sources.setdefault(id(first), Step("source", args=(first,)))
        if step not in self.steps:
            self._add(step)
        return (step, *args[1:])

    def _held(self, module: nn.Module, path: str, name: str) -> Any:
        """An attribute of a layer; one that is computed from parameters as the steps of that."""
        hook = next((h for h in module._forward_pre_hooks.values() if _computes(h, name)), None)
        if hook is None and not parametrize.is_parametrized(module, name):
            return getattr(module, name)
        recorder = Recorder([p for p in module.parameters() if not is_lazy(p)])
        compute: Any = getattr(hook, "compute_weight", None)
        with as_found(module.modules()), torch.no_grad(), recorder:
            made = getattr(module, name) if compute is None else compute(module)
        owner = recorder.read(made)
        for step in recorder.steps:
            step.path = f"{path}.parametrizations.{name}".lstrip(".")
            self._add(step)
        return owner

    def _run_alone(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        """Run one layer on numbers of its own, and put its steps in place of it."""
        examples = _examples(module, args)
        if examples is None:
            return None
        steps = [a for a in args if isinstance(a, Step)]
        distinct = list(dict.fromkeys(steps))
        tensors = {step: examples.clone() for step in distinct}
        run = [tensors[a] if isinstance(a, Step) else a for a in args]
        flags = {k: v for k, v in kwargs.items() if not isinstance(v, Step | Tensor)}
        try:
            recorder, ends = record_steps(_Alone(module, run, flags), tuple(tensors.values()))
        except Exception:
            return None
        swap: dict[Step, Step] = {}
        inputs = [s for s in recorder.steps if s.what == "input"]
        swap.update(zip(inputs, distinct, strict=False))
        for step in recorder.steps:
            if step.what == "input":
                continue
            self._renew(step, swap, path)
            self._add(step)
        found = [swap.get(end, end) for end in ends]
        if isinstance(module, nn.MultiheadAttention):
            return (*found, None)[:2]
        return found[0] if found else None

    def _renew(self, step: Step, swap: Mapping[Step, Step], path: str) -> None:
        def renewed(value: Any) -> Any:
            return swap.get(value, value) if isinstance(value, Step) else value

        step.args = mapped(step.args, renewed)
        step.kwargs = mapped(step.kwargs, renewed)
        step.data = tuple(dict.fromkeys(swap.get(s, s) for s in step.data))
        inner = step.path.removeprefix("module").lstrip(".")
        step.path = f"{path}.{inner}".strip(".")
        if not step.constant:
            step.shape, step.signal = None, None if step.signal else step.signal

    def _add(self, step: Step) -> Step:
        self.steps.append(step)
        return step

    def _written(self, target: Any, step: Step) -> None:
        """What was written in place is, from now on, what the write made of it."""
        if not step.constant and not isinstance(target, Step):
            raise ValueError(
                f"data is written into a tensor that is none in {step.path or 'forward'!r} "
                f"({step.row.name if step.row else step.func}), which cannot be followed without "
                "an example. Give one (example=)."
            )
        if not isinstance(target, Step):
            return
        self.now[target] = step
        source = target
        while source.row is not None and source.row.kind == "passage" and source.args:
            if source.row.name in _PARTS:
                raise ValueError(
                    f"a part of a tensor is written in place in {step.path or 'forward'!r} "
                    f"({step.row.name if step.row else step.func}), which cannot be followed "
                    "without an example. Give one (example=)."
                )
            if not isinstance(source.args[0], Step):
                break
            source = source.args[0]
            self.now[source] = step


class _Alone(nn.Module):
    """One layer, called on given arguments where its inputs stand."""

    def __init__(self, module: nn.Module, args: list[Any], flags: dict[str, Any]) -> None:
        super().__init__()
        self.module, self.args, self.flags = module, args, flags
        self.tensors = list(dict.fromkeys(a for a in args if isinstance(a, Tensor)))

    def forward(self, *inputs: Tensor) -> Any:
        """Call the layer with the inputs in the places of its tensors."""
        places = {id(old): new for old, new in zip(self.tensors, inputs, strict=True)}
        args = [places.get(id(a), a) for a in self.args]
        return self.module(*args, **self.flags)


def _examples(module: nn.Module, args: Any) -> Tensor | None:
    """A small input of the right size for a layer, None if that cannot be told."""
    if any(isinstance(a, Tensor) for a in args):
        return None
    attention = next((m for m in module.modules() if isinstance(m, nn.MultiheadAttention)), None)
    if attention is not None:
        return torch.randn(4, 2, attention.embed_dim)
    if isinstance(module, nn.Linear):
        return torch.randn(2, module.in_features)
    if not isinstance(module, CONVOLUTIONS + TRANSPOSED):
        return None
    kernel = zip(module.dilation, module.kernel_size, strict=True)
    reach = [4 if isinstance(module, TRANSPOSED) else 4 + d * (k - 1) for d, k in kernel]
    return torch.randn(2, module.in_channels, *reach)


def called(node: fx.Node) -> tuple[Any, bool]:
    """The callable of a function or method node, and whether it is a property's getter."""
    if node.op == "call_method":
        return getattr(torch.Tensor, str(node.target), node.target), False
    if node.target is getattr:
        name = str(node.args[1])
        return getattr(getattr(torch.Tensor, name, None), "__get__", name), True
    return node.target, False


def path_of(node: fx.Node) -> str:
    """The path of the innermost module that a node stands in."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return str(path)


def _has(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute, without computing it."""
    return parametrize.is_parametrized(module, name) or hasattr(module, name)


def _computes(hook: Any, name: str) -> bool:
    return isinstance(hook, WeightNorm) and hook.name == name


def _has_steps_or_parameters(value: Any) -> bool:
    known = any(True for _ in steps_in(value))
    return known or any(isinstance(t, nn.Parameter) for t in tensors_in(value))


def writes(func: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call writes in place, or into ``out``."""
    name = getattr(func, "__name__", "")
    if kwargs.get("inplace") or kwargs.get("out") is not None:
        return True
    if name.startswith("_foreach_"):
        return name.endswith("_")
    if find(func) is None:
        return False
    if getattr(func, "__module__", "") == "_operator":
        return name in ("iadd", "isub", "imul", "itruediv", "ipow", "setitem")
    return name.endswith("_") and not name.startswith("__")


__all__ = ["Tracer", "called", "data_arguments", "path_of", "trace_steps", "writes"]
