"""What a front end writes down: the calls of torch functions, on steps and on constant tensors."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sigprop.graph import Moments
from sigprop.reading.operations import ROWS, WHOLE, Operation, find

What = Literal["call", "input", "source", "join", "module", "unseen"]


@dataclass(eq=False, slots=True, repr=False)
class Step:
    """One call, or a place where data enters.

    Attributes:
        what: ``"call"`` of a function; ``"input"``; ``"source"``: a constant that a layer takes for
            its signal (a learnt image, a class token); ``"join"``: a tensor read after parts of it
            were written, by what each part holds; ``"module"``: a module as a whole; ``"unseen"``:
            made where nothing could be seen.
        func: the function called (a module's whole call: the module).
        args: its arguments; where a tensor stood: the step that made it, or the constant itself.
        kwargs: likewise.
        path: of the innermost module that called it.
        layer: class of that module, if the step is what the module is there for.
        data: the steps among its arguments that carry data, in order, each once.
        shape: of what it returned; None: not a tensor, or not known.
        signal: whether it returned floating-point (or complex) numbers; None: not known.
        complex: whether these were complex.
        written: whether it wrote into its first argument.
        shares: of a join: the share of each argument.
        made_by: of a join: the place of the argument that each entry is of.
        measured: moments of what it returned.
        label: name of an input.
        row: of the table of operations.
        own_gradient: whether it stands in a function of autograd that sends another gradient back.
    """

    what: What
    func: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    layer: str = ""
    data: tuple[Step, ...] = ()
    shape: tuple[int, ...] | None = None
    signal: bool | None = None
    complex: bool = False
    written: bool = False
    shares: tuple[float, ...] = ()
    made_by: Tensor | None = None
    measured: Moments | None = None
    label: str = ""
    row: Operation | None = None
    own_gradient: bool = False

    @property
    def constant(self) -> bool:
        """Whether no data enters it, or none leaves it."""
        if self.row is not None and self.row.kind == "constant":
            return True
        return not self.data and self.what not in ("input", "source", "unseen")

    def __repr__(self) -> str:
        """Return what it is, without the steps before it."""
        what = self.row.name if self.row is not None else getattr(self.func, "__name__", "")
        return f"Step({self.what!r}, {what or self.label!r}, path={self.path!r})"

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place, or by its name."""
        if len(self.args) > place:
            return self.args[place]
        return self.kwargs.get(name, default)


def call(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], **more: Any) -> Step:
    """The step of a call; what carries data is read from its arguments."""
    straight = REFLECTED.get(getattr(func, "__name__", ""))
    if straight is not None and len(args) == 2 and not {*kwargs} - {"alpha"}:
        func, args = straight, (args[1], args[0])
    row = more.pop("row", None) or find(func)
    data = more.pop("data", None)
    step = Step("call", func, tuple(args), dict(kwargs), row=row, **more)
    if step.row is not None and step.row.name in WHOLE and getattr(step.args[0], "signal", False):
        step.row = ROWS["trunc"]
    step.data = data_of((args, kwargs)) if data is None else data
    return step


def taken_apart(steps: Sequence[Step]) -> list[Step]:
    """The steps with several operations in one taken apart into products and sums.

    ``addcmul`` and ``addcdiv``; c − x as −x + c; x + α·y; ``addmm`` of a signal as a product added.
    """
    apart: list[Step] = []
    for step in steps:
        first = _part_of(step)
        if first is not None:
            part, args = first
            part.path, part.signal = step.path, step.signal
            apart.append(part)
            step.func, step.args, step.kwargs = operator.add, args(part), {}
            step.row, step.data = ROWS["add"], data_of(step.args)
        apart.append(step)
    return apart


def _part_of(step: Step) -> tuple[Step, Callable[[Step], tuple[Any, ...]]] | None:
    """The part of a step that comes before its sum, and the arguments of that sum."""
    name, args = getattr(step.func, "__name__", "").strip("_"), step.args
    product = {"addcmul": operator.mul, "addcdiv": operator.truediv}.get(name)
    if product is not None and len(args) == 3 and not step.kwargs:
        return call(product, args[1:], {}), lambda part: (args[0], part)
    if name == "addmm" and len(args) == 3 and not step.kwargs and _is_step(args[0]):
        return call(torch.matmul, args[1:], {}), lambda part: (args[0], part)
    if step.row is None or step.row.name not in ("add", "sub") or len(args) != 2:
        return None
    alpha = step.kwargs.get("alpha", 1)
    if alpha != 1 and set(step.kwargs) == {"alpha"}:
        sign = -1 if step.row.name == "sub" else 1
        return call(operator.mul, (args[1], sign * alpha), {}), lambda part: (args[0], part)
    turned = step.row.name == "sub" and not step.kwargs and step.data == args[1:]
    turned = turned and not step.written
    if turned and args[0] is not args[1]:
        part = call(torch.neg, args[1:], {})
        part.shape = args[1].shape
        return part, lambda part: (part, args[0])
    return None


def _is_step(value: Any) -> bool:
    return isinstance(value, Step) and not value.constant


REFLECTED = {
    "rsub": operator.sub,
    "__rsub__": operator.sub,
    "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv,
    "__rpow__": operator.pow,
    "__rmatmul__": operator.matmul,
}
"""What stands for an operator whose left side does not know it, with its sides in order."""


def takes_signal(func: Any) -> Operation | None:
    """The row of a layer whose first argument is a signal whatever it is, None for the others."""
    row = find(func)
    return row if row is not None and row.kind == "weight" and "bias" in row.arguments else None


def data_of(value: Any) -> tuple[Step, ...]:
    """The steps in nested arguments that carry data, each once."""
    return tuple(dict.fromkeys(step for step in steps_in(value) if not step.constant))


def parts(value: Any) -> tuple[list[Step], list[Tensor]]:
    """Every step and every constant tensor in nested arguments."""
    steps: list[Step] = []
    tensors: list[Tensor] = []
    _take_apart((value,), steps, tensors)
    return steps, tensors


def taken_by(step: Step) -> tuple[list[Step], list[Tensor]]:
    """Every step and every constant tensor among the arguments of a step."""
    steps: list[Step] = []
    tensors: list[Tensor] = []
    _take_apart(step.args, steps, tensors)
    if step.kwargs:
        _take_apart(step.kwargs.values(), steps, tensors)
    return steps, tensors


HOLD_NONE = frozenset((bool, int, float, str, type(None)))
"""Types of what holds no tensors: asked for first, as asking whether it is a tensor costs more."""
NESTED = (tuple, list, dict, slice)
"""What steps and tensors are looked for in."""


def _take_apart(values: Iterable[Any], steps: list[Step], tensors: list[Tensor]) -> None:
    for each in values:
        if isinstance(each, Step):
            steps.append(each)
        elif type(each) in HOLD_NONE:
            continue
        elif isinstance(each, Tensor):
            tensors.append(each)
        elif isinstance(each, NESTED):
            _take_apart(entries_of(each), steps, tensors)


def entries_of(value: Any) -> Iterable[Any]:
    """What a tuple, list, dict or slice holds."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, slice):
        return (value.start, value.stop, value.step)
    return value  # type: ignore[no-any-return]


def steps_in(value: Any) -> list[Step]:
    """Every step in nested arguments."""
    return parts(value)[0]


def tensors_in(value: Any) -> list[Tensor]:
    """Every constant tensor in nested arguments."""
    return parts(value)[1]


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested arguments with each step and tensor replaced."""
    if type(value) in HOLD_NONE:
        return value
    if isinstance(value, (Step, Tensor)):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(entry, change) for entry in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(entry, change) for entry in value)
    if isinstance(value, Mapping):
        return {key: mapped(entry, change) for key, entry in value.items()}
    if isinstance(value, slice):
        return slice(*(mapped(v, change) for v in (value.start, value.stop, value.step)))
    return value


class CannotReplay(Exception):
    """A step cannot be computed from what is given."""


def replay(
    step: Step,
    given: Mapping[Any, Tensor],
    *,
    dtype: torch.dtype | None = None,
    scalars: bool = False,
) -> Any:
    """What a step returns, from values for some steps and constants.

    Args:
        step: to compute.
        given: values by step, or by ``id`` of a constant tensor.
        dtype: floating-point constants are cast to it, on the CPU; None: as they are.
        scalars: whether constants whose entries are all the same count as one number.

    Raises:
        CannotReplay: it depends on data that is not given, or on something without a function.
    """
    values: dict[int, Any] = {}

    def constant(tensor: Tensor) -> Tensor:
        tensor = given[id(tensor)] if id(tensor) in given else tensor.detach()
        if (
            scalars
            and tensor.dim()
            and tensor.numel()
            and bool((tensor == tensor.flatten()[0]).all())
        ):
            tensor = tensor.flatten()[0]
        if dtype is None:
            return tensor
        return tensor.to("cpu", dtype) if tensor.is_floating_point() else tensor.cpu()

    def value(thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return constant(thing)
        if thing in given:
            return given[thing]
        return values[id(thing)]

    for each in behind(step, given):
        values[id(each)] = _run(each, value, dtype)
    return value(step)


def nearest(
    steps: Iterable[Step],
    stops: Callable[[Step], bool],
    before: Callable[[Step], Sequence[Step]] = lambda step: step.data,
) -> list[Step]:
    """The first steps that stop a walk back from some, these among them; each once, in order."""
    found: list[Step] = []
    todo, seen = list(steps)[::-1], set[Step]()
    while todo:
        step = todo.pop()
        if step in seen:
            continue
        seen.add(step)
        if stops(step):
            found.append(step)
        else:
            todo += before(step)[::-1]
    return found


def behind(step: Step, given: Mapping[Any, Any] = {}) -> list[Step]:
    """The steps that a step is computed from, those given left out, each after its own."""
    order: list[Step] = []
    seen: set[int] = set()
    stack = [(step, False)]
    while stack:
        each, done = stack.pop()
        if done:
            order.append(each)
        elif id(each) not in seen and each not in given:
            seen.add(id(each))
            stack.append((each, True))
            stack += [(s, False) for s in taken_by(each)[0]]
    return order


def _run(step: Step, value: Callable[[Any], Any], dtype: torch.dtype | None) -> Any:
    if step.what != "call":
        raise CannotReplay(f"{step.label or step.what} has no function of its own")
    args, kwargs = (mapped(part, value) for part in (step.args, step.kwargs))
    func = step.func
    if step.written or kwargs.get("inplace"):
        args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
        kwargs = {k: v.clone() if k == "out" else v for k, v in kwargs.items()}
    if dtype is not None:
        kwargs = {k: dtype if _floating(v) else v for k, v in kwargs.items() if k != "device"}
        args = tuple(dtype if _floating(a) else a for a in args)
        func = _AS_DTYPE.get(getattr(func, "__name__", ""), func)
        if isinstance(func, functools.partial):
            func, args = functools.partial(func, dtype=dtype), args[:1]
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled() and "out" not in kwargs):
            out = func(*args, **kwargs)  # autograd knows no ``out=``
    except Exception as error:
        raise CannotReplay(f"{getattr(func, '__name__', func)}: {error}") from error
    return args[0] if step.written and out is None else out


def _floating(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value.is_floating_point


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype)


_AS_DTYPE: dict[str, Any] = dict.fromkeys(
    ("float", "double", "half", "bfloat16", "cpu", "cuda", "type_as"), functools.partial(_to)
)
"""Casts, which in a replay keep to its own dtype."""
