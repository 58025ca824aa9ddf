"""The tensors that are written: a weight or bias, however it is held, checked before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_LAZY = (nn.UninitializedParameter, nn.UninitializedBuffer)

Fill = Callable[[Tensor], object]
Writer = Callable[[Fill], None]
Memory = tuple[torch.device, int, int, torch.Size, tuple[int, ...]]


class Writable(NamedTuple):
    """A tensor to be written.

    Attributes:
        label: how messages call it.
        shape: of the tensor.
        held: the parameters behind it (one, or those of its parametrization).
        write: takes a function that fills a tensor, and puts the result in place.
        memory: device, address, offset, shape and strides of the first of ``held``.
    """

    label: str
    shape: tuple[int, ...]
    held: tuple[Tensor, ...]
    write: Writer
    memory: Memory


def writable_of(label: str, shape: torch.Size, held: Sequence[Tensor], write: Writer) -> Writable:
    """A tensor to be written, held by some parameters."""
    first = held[0]
    address, offset = first.untyped_storage().data_ptr(), int(first.storage_offset())
    memory = first.device, address, offset, first.shape, first.stride()
    return Writable(label, tuple(shape), tuple(held), write, memory)


def writable_tensor(tensor: Tensor, label: str) -> Writable:
    """A bare tensor to be written.

    Raises:
        TypeError: integers, complex numbers, quantized or another dtype that cannot be drawn.
        ValueError: no values to write, or memory that cannot be written entry by entry.
    """
    _check(tensor, label)

    def write(fill: Fill) -> None:
        fill(tensor)

    return writable_of(label, tensor.shape, (tensor,), write)


def writable_layer(
    module: nn.Module, attribute: str, label: str, trial: Fill | None = None
) -> Writable:
    """A layer's ``weight`` or ``bias`` to be written: a parameter, parametrized or weight-normed.

    Args:
        module: the layer.
        attribute: ``"weight"`` or ``"bias"``.
        label: how messages call the tensor.
        trial: fills a tensor as it will be filled, without touching any shared generator. A
            parametrized tensor is tried on a copy of the layer and must come back as it was set.

    Raises:
        TypeError, ValueError: it cannot be set; the message says why.
    """
    parameter = module._parameters.get(attribute)
    if parameter is not None:
        return writable_tensor(parameter, label)
    if parametrize.is_parametrized(module, attribute):
        return _writable_parametrized(module, attribute, label, trial or _no_fill)
    hook = next(
        (
            hook
            for hook in module._forward_pre_hooks.values()
            if isinstance(hook, WeightNorm) and hook.name == attribute
        ),
        None,
    )
    if hook is not None:
        return _writable_weight_norm(module, hook, label)
    others = ", ".join(name for name in (*module._parameters, *module._buffers) if "_" in name)
    raise ValueError(
        f"{label} is not a parameter of its layer"
        + (f"; it is computed from {others}" if others else "")
        + ". What is written into it would be lost. Initialize first and apply pruning or spectral "
        "normalization after (prune.remove, remove_spectral_norm undo them)."
    )


def writable_computed(
    parameter: Tensor, label: str, compute: Callable[[], Tensor], std: float, *, drawn: bool
) -> Writable:
    """A weight to be written that is computed from a parameter, proportional to it.

    Args:
        parameter: what is written.
        label: how messages call the weight.
        compute: the weight in use.
        std: root mean square that the weight in use is to have.
        drawn: whether the parameter is drawn; else it is only multiplied.
    """
    _check(parameter, label)

    def write(fill: Fill) -> None:
        if drawn:
            fill(parameter)
        elif not bool(torch.count_nonzero(parameter)):
            parameter.fill_(1.0)
        size = float(compute().detach().double().square().mean().sqrt())
        if size > 0:
            parameter.mul_(std / size)

    return writable_of(label, parameter.shape, (parameter,), write)


def refuse_overlaps(writables: Iterable[Writable]) -> None:
    """Refuse different tensors that share memory: drawing the later would spoil the earlier.

    Raises:
        ValueError: naming both.
    """
    spans = sorted({s.memory: s for s in writables}.values(), key=lambda s: s.memory[1:3])
    for place, writable in enumerate(spans):
        _, address, start, *_ = writable.memory
        for after in range(place + 1, len(spans)):
            other = spans[after]
            device, other_address, other_start, *_ = other.memory
            if other_address != address or other_start >= start + _reach(writable.held[0]):
                break
            if writable.memory[0] == device and _meet(writable.held[0], other.held[0]):
                raise ValueError(
                    f"{writable.label} and {other.label} share memory but are not the same "
                    "tensor (one is a view into the other); drawing the second would spoil the "
                    "first. Give each its own memory with .clone(), or initialize one by itself."
                )


def _meet(first: Tensor, second: Tensor) -> bool:
    """Whether two views of one storage have an entry in common."""
    size = max(view.storage_offset() + _reach(view) for view in (first, second))
    marks = torch.zeros(size, dtype=torch.bool)
    marks.as_strided(first.shape, first.stride(), first.storage_offset()).fill_(True)
    return bool(marks.as_strided(second.shape, second.stride(), second.storage_offset()).any())


def _reach(tensor: Tensor) -> int:
    """How many places of the storage a tensor spans."""
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def _writable_parametrized(module: nn.Module, attribute: str, label: str, trial: Fill) -> Writable:
    parts = cast(nn.ModuleDict, module.parametrizations)[attribute]
    names = " and ".join(type(part).__name__.lstrip("_") for part in parts.children())
    originals = tuple(parts.parameters())
    for original in originals:
        _check(original, label)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        wanted = getattr(twin, attribute).detach().clone()
        trial(wanted)
        try:
            setattr(twin, attribute, wanted)
            found = getattr(twin, attribute)
            close = torch.allclose(found.double(), wanted.double(), rtol=0.02, atol=1e-6)
        except Exception as error:
            raise ValueError(
                f"{label} is parametrized by {names}, which cannot be set to given values: {error} "
                "Initialize first and parametrize after."
            ) from error
    if not close:
        raise ValueError(
            f"{label} is parametrized by {names}, which changes the values it is set to: the "
            "weight in use would not have the wanted gain. Initialize first and parametrize after."
        )

    def write(fill: Fill) -> None:
        new = torch.empty_like(wanted)
        fill(new)
        setattr(module, attribute, new)

    return writable_of(label, wanted.shape, originals, write)


def _writable_weight_norm(module: nn.Module, hook: WeightNorm, label: str) -> Writable:
    direction = module._parameters[hook.name + "_v"]
    length = module._parameters[hook.name + "_g"]
    assert direction is not None and length is not None
    _check(direction, label)

    def write(fill: Fill) -> None:
        fill(direction)
        length.copy_(torch.norm_except_dim(direction, 2, hook.dim))
        setattr(module, hook.name, hook.compute_weight(module))

    return writable_of(label, direction.shape, (direction, length), write)


def _check(tensor: Tensor, label: str) -> None:
    if type(tensor) is not nn.Parameter and isinstance(tensor, _LAZY):
        raise ValueError(
            f"{label} is lazy and has no shape yet; run one batch through the model first."
        )
    if tensor.is_quantized or tensor.dtype not in _DTYPES:
        raise TypeError(
            f"{label} has dtype {tensor.dtype}; allowed: {', '.join(map(str, _DTYPES))}. "
            + (
                "Leave it as it is with skip= or strict=False."
                if tensor.is_complex()
                else "Initialize before converting."
            )
        )
    if tensor.is_meta:
        raise ValueError(
            f"{label} is on the meta device and has no memory; materialize the model first "
            "with module.to_empty(device='cpu')."
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{label} is {tensor.layout}; only dense (strided) tensors can be drawn.")
    if tensor.is_inference():
        raise ValueError(
            f"{label} was made under torch.inference_mode() and cannot be written or trained; "
            "build the model outside it."
        )
    if tensor.numel() == 0:
        raise ValueError(
            f"{label} is empty (shape {tuple(tensor.shape)}); there is nothing to draw."
        )
    if _overlaps_itself(tensor):
        raise ValueError(
            f"{label} has several entries on one place in memory (shape {tuple(tensor.shape)}, "
            f"strides {tensor.stride()}): an expanded or overlapping view. Call .clone() first."
        )


def _overlaps_itself(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return False
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach += (size - 1) * stride
    return False


def _no_fill(tensor: Tensor) -> None:
    return None
