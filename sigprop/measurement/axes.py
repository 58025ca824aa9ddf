"""The axes of units: known from the layer that made a tensor, followed through what comes after.

Axes are counted from the end, so that a batch axis that is there or not changes nothing. Reshaping
may split the units over several axes (the heads of attention) or put them beside places in one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sigprop.reading.operations import Operation
from sigprop.reading.steps import Step

Axes = tuple[int, ...]

LAST: Axes = (-1,)
_RESHAPED = frozenset(("reshape", "view", "flatten", "unflatten", "ravel", "reshape_as", "view_as"))
_REDUCING = frozenset(
    (
        "mean", "nanmean", "sum", "nansum", "prod", "amax", "amin", "std", "var", "norm",
        "vector_norm", "logsumexp", "median", "nanmedian", "quantile", "nanquantile", "mode",
        "kthvalue", "max", "min",
    )
)  # fmt: skip
_PER_CHANNEL = frozenset(("batch_norm", "instance_norm", "group_norm"))
_LAST_MADE = frozenset(("embedding", "recurrent", "attention"))
"""Kinds that make a tensor whose last axis counts units."""


def of_weight(step: Step, name: str, out: Tensor) -> Axes:
    """The axes of units of what a linear map made.

    Args:
        step: the call, a :class:`Step` where a signal stands.
        name: of its row.
        out: what it made.
    """
    if name.startswith("conv"):
        return (-1 - int(name[-2]),)
    if name == "linear":
        return LAST
    if name == "einsum":
        return _of_einsum(step, out)
    place = 1 if name in ("addmm", "baddbmm") else 0
    left = step.args[place] if len(step.args) > place else step.kwargs.get("input")
    right = step.args[place + 1] if len(step.args) > place + 1 else step.kwargs.get("other")
    turned = not isinstance(left, Step) or left.constant
    weight = left if turned else right
    dims = weight.dim() if isinstance(weight, Tensor) else len(getattr(weight, "shape", None) or ())
    if dims == 1:
        return ()
    own = (-2,) if turned and out.dim() > 1 else LAST
    if not isinstance(weight, Tensor):
        return own
    batch = (a for a in range(-dims, -2) if -a <= out.dim() and weight.shape[a] > 1)
    return (*batch, *own)


def _of_einsum(step: Step, out: Tensor) -> Axes:
    """The labels of the result that the weight has: maps beside each other have units each."""
    equation, operands = str(step.args[0]).replace(" ", ""), list(step.args[1:])
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    taken, arrow, made = equation.partition("->")
    labels = taken.split(",")
    if not arrow:
        both = taken.replace(",", "")
        made = "".join(c for c in sorted(both) if both.count(c) == 1)
    if len(labels) != 2 or len(operands) != 2:
        return LAST
    at = next((i for i, o in enumerate(operands) if not isinstance(o, Step) or o.constant), 0)
    own = set(labels[at].replace(".", ""))
    shown = made.replace("...", "." * (out.dim() - len(made.replace(".", ""))))
    return tuple(i - len(shown) for i, label in enumerate(shown) if label in own) or LAST


def after(
    row: Operation | None,
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    taken: Tensor,
    axes: Axes | None,
    out: Tensor,
) -> Axes | None:
    """The axes of units of what a function made of a tensor; None: not known.

    Args:
        row: of the function.
        func: the function.
        args: it was called with.
        kwargs: likewise.
        taken: the signal it was given; its first one.
        axes: those of ``taken``.
        out: one of the tensors that it made.
    """
    name, kind = ("", "") if row is None else (row.name, row.kind)
    if name in _PER_CHANNEL and out.dim() > 1:
        return (1 - out.dim(),)
    if kind in _LAST_MADE and axes is None:
        return LAST
    if axes is None:
        return LAST if name in ("layer_norm", "rms_norm") else None
    units = math.prod(taken.shape[axis] for axis in axes)
    if units == 1 and out.dim() != taken.dim():
        return ()
    if name == "stack":
        return _stacked(args, kwargs, taken, axes)
    if name in _RESHAPED:
        return reshaped(tuple(taken.shape), tuple(out.shape), axes)
    if kind == "passage" and (found := _of_view(func, args, kwargs, taken, axes)) is not None:
        return found
    if name == "unfold":  # places of images beside each other; of one axis it is a view
        return (-2,)
    if kind == "passage" and out.dim() != taken.dim():
        return _of_copy(func, args, kwargs, taken, axes)
    if name in _REDUCING and out.dim() < taken.dim():
        return _reduced(name, args, kwargs, taken, axes)
    if out.dim() == taken.dim() or kind in ("sum", "product", "scale", "shift", "selection"):
        return axes if all(-axis <= out.dim() for axis in axes) else None
    return None


def _of_view(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], taken: Tensor, axes: Axes
) -> Axes | None:
    """Where the units went in a view: along which axes one moves in memory; None: no view."""
    marks = torch.empty(_unit_sizes(taken, axes), device="meta").expand(taken.shape)
    seen = _called_on(marks, func, args, kwargs, taken)
    if seen is None or not _share(seen, marks):
        return None
    strides = list(zip(seen.shape, seen.stride(), strict=True))
    return tuple(i - seen.dim() for i, (n, step) in enumerate(strides) if n > 1 and step)


def _of_copy(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], taken: Tensor, axes: Axes
) -> Axes | None:
    """Where the units went in a copy: along which axes their numbers differ; None: not known."""
    sizes = _unit_sizes(taken, axes)
    marks = torch.arange(math.prod(sizes), device=taken.device).view(sizes).expand(taken.shape)
    seen = _called_on(marks, func, args, kwargs, taken)
    if seen is None or not seen.numel():
        return None
    firsts = [seen.narrow(dim, 0, 1) for dim in range(seen.dim())]
    return tuple(d - seen.dim() for d, first in enumerate(firsts) if bool((seen != first).any()))


def _unit_sizes(taken: Tensor, axes: Axes) -> list[int]:
    """The shape of one number for each unit, that spreads over a tensor without a copy."""
    return [n if a - taken.dim() in axes else 1 for a, n in enumerate(taken.shape)]


def _called_on(
    marks: Tensor, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], taken: Tensor
) -> Tensor | None:
    """What a function makes of marks in place of its first argument; of several parts the first.

    None where it does not take them. Any function that hands entries on may come here, and each
    refuses in its own way what is not the tensor it was written for: an index on another device, a
    dtype, a property of floating-point numbers. Then the axes are not known, which is an answer.
    """
    if not args or args[0] is not taken:
        return None
    try:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            seen = func(marks, *args[1:], **kwargs)
    except (RuntimeError, NotImplementedError, TypeError, IndexError, AttributeError):
        return None
    seen = seen[0] if isinstance(seen, tuple | list) and seen else seen
    return seen if isinstance(seen, Tensor) else None


def _stacked(
    args: Sequence[Any], kwargs: Mapping[str, Any], taken: Tensor, axes: Axes
) -> Axes | None:
    """The axes with a new one put in."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if not isinstance(dim, int):
        return None
    place = dim % (taken.dim() + 1)
    return tuple(axis if axis + taken.dim() >= place else axis - 1 for axis in axes)


def _share(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors stand in the same memory."""
    return bool(first.untyped_storage()._cdata == second.untyped_storage()._cdata)


def reshaped(before: Sequence[int], now: Sequence[int], axes: Axes) -> Axes | None:
    """Where the units are after a reshape: the axes of the result that hold entries of theirs.

    Example:
        >>> reshaped((8, 16, 4, 4), (8, 256), (-3,)), reshaped((2, 9, 12), (18, 12), (-1,))
        ((-1,), (-1,))
        >>> reshaped((2, 9, 12), (2, 9, 3, 4), (-1,)), reshaped((8, 16), (8, 16, 1, 1), (-1,))
        ((-2, -1), (-3,))
    """
    found: set[int] = set()
    i = j = 0
    while i < len(before) and j < len(now):
        left, right = [i], [j]
        while (a := math.prod(before[k] for k in left)) != (b := math.prod(now[k] for k in right)):
            if (a < b and left[-1] + 1 == len(before)) or (a > b and right[-1] + 1 == len(now)):
                return None
            if a < b:
                left.append(left[-1] + 1)
            else:
                right.append(right[-1] + 1)
        if any(k - len(before) in axes for k in left):
            found |= {k - len(now) for k in right}
        i, j = left[-1] + 1, right[-1] + 1
    return tuple(sorted(found)) or None


def _reduced(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], taken: Tensor, axes: Axes
) -> Axes | None:
    """The axes that are left when others are summed over."""
    place = 2 if "quantile" in name else 1
    dims = kwargs.get("dim", kwargs.get("axis", args[place] if len(args) > place else None))
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, tuple | list) or not all(isinstance(d, int) for d in dims):
        return None
    gone = {d % taken.dim() - taken.dim() for d in dims}
    kept = [a for a in axes if a not in gone]
    return tuple(a + sum(a < g for g in gone) for a in kept) or None
