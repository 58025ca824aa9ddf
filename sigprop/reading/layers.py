"""What the toolkit knows about torch's own layers: fans of weights, slopes of activations."""

from __future__ import annotations

import math

import torch
from torch import nn

from sigprop.graph import Slopes, weight_fans
from sigprop.nn.rectifiers import ConstrainedPReLU, RandomLeakyReLU
from sigprop.reading.operations import MODULES, Operation

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHT_LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
RANDOM_MODULES = (nn.RReLU, RandomLeakyReLU)
LEAKY_MODULES = (nn.ReLU, nn.LeakyReLU, nn.PReLU, ConstrainedPReLU, *RANDOM_MODULES)
_OURS = ("sigprop.nn.elementwise", "sigprop.nn.rectifiers")


def home_of_forward(module: nn.Module) -> str:
    """The Python module in which a module's forward is written; "" if it has one of its own.

    Example:
        >>> home_of_forward(nn.ReLU())
        'torch.nn.modules.activation'
    """
    if "forward" in vars(module):
        return ""
    classes = (vars(cls) for cls in type(module).__mro__)  # type(m).forward of a script raises
    forward = next((held["forward"] for held in classes if "forward" in held), None)
    return str(getattr(forward, "__module__", ""))


def has_slopes(module: nn.Module) -> bool:
    """Whether a module is a leaky activation by the protocol: it has a method ``slopes()``.

    ``slopes()`` returns the negative slopes in use, one or one per channel; ``set_slopes(values)``
    sets them. Nothing else is asked of a user's own module.
    """
    if not callable(getattr(type(module), "slopes", None)):
        return False
    return not any(isinstance(inner, WEIGHT_LAYERS) for inner in module.modules())


def is_whole(module: nn.Module) -> bool:
    """Whether a module is one step of the data: it has slopes, or is an activation of ours."""
    kind = type(module)
    return can_be_whole(kind) and (kind.forward.__module__ in _OURS or has_slopes(module))


def can_be_whole(kind: type[nn.Module]) -> bool:
    """Whether a module of a class can be one step; some hold layers, and then are none."""
    if issubclass(kind, torch.jit.ScriptModule):
        return False
    return kind.forward.__module__ in _OURS or callable(getattr(kind, "slopes", None))


_LAYERS: dict[type, tuple[str, Operation | None]] = {}


def layer_of(module: nn.Module | None, row: Operation | None) -> str:
    """The class of a module if an operation is what it is there for; else "".

    Example:
        >>> from sigprop.reading.operations import ROWS
        >>> layer_of(nn.ReLU6(), ROWS["hardtanh"]), layer_of(nn.Linear(2, 2), ROWS["relu"])
        ('ReLU6', '')
    """
    if row is None:
        return ""
    cls = type(module)
    if cls not in _LAYERS:
        base = next((base for base in cls.__mro__ if base in MODULES), None)
        _LAYERS[cls] = ("", None) if base is None else (base.__name__, MODULES[base])
    name, own = _LAYERS[cls]
    if own is row:
        return name
    return name if own is not None and own.kind == row.kind == "activation" else ""


def fans(
    module_or_tensor: nn.Module | torch.Tensor, *, shape: tuple[int, ...] = ()
) -> tuple[float, float]:
    """Return (fan_in, fan_out): the terms summed per output entry, and per input entry.

    Right for transposed, grouped and strided convolutions too, where ``torch.nn.init`` is not (it
    sees only the weight): measured in the interior, away from zero padding, and averaged over the
    positions of a stride. A bare tensor is read as (out, in, *kernel).

    Args:
        module_or_tensor: a Linear, Conv1–3d or ConvTranspose1–3d, or a weight of >= 2 dimensions.
        shape: the shape of the weight where the layer's own cannot be read without running it.

    Raises:
        TypeError: neither of these.
        ValueError: a tensor of fewer than two dimensions.

    Example:
        >>> fans(nn.Linear(100, 400))
        (100.0, 400.0)
        >>> fans(nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2))
        (16.0, 48.0)
    """
    if isinstance(module_or_tensor, torch.Tensor):
        return weight_fans(tuple(module_or_tensor.shape))
    if not isinstance(module_or_tensor, WEIGHT_LAYERS):
        raise TypeError(
            f"fans takes a weight tensor or one of {', '.join(c.__name__ for c in WEIGHT_LAYERS)}; "
            f"got {type(module_or_tensor).__name__}."
        )
    shape = shape or tuple(module_or_tensor.weight.shape)
    if isinstance(module_or_tensor, nn.Linear):
        return weight_fans(shape)
    return weight_fans(
        shape,
        stride=module_or_tensor.stride,
        groups=module_or_tensor.groups,
        transposed=isinstance(module_or_tensor, TRANSPOSED),
    )


def random_slope(lower: float, upper: float) -> Slopes:
    """The slope that stands for α ~ U(lower, upper): √(E α²), as the mean of α² enters the gain.

    Example:
        >>> random_slope(0.0, 0.3)
        (0.173205...,)
    """
    return (math.sqrt((lower * lower + lower * upper + upper * upper) / 3),)


def module_slopes(module: nn.Module) -> Slopes:
    """The negative slope(s) of a module of the leaky ReLU family (random ones: while training).

    Raises:
        TypeError: another module.
        ValueError: a PReLU whose slopes have no values yet (meta device).

    Example:
        >>> module_slopes(nn.PReLU())
        (0.25,)
    """
    if isinstance(module, nn.ReLU):
        return (0.0,)
    if isinstance(module, nn.LeakyReLU):
        return (float(module.negative_slope),)
    if isinstance(module, RANDOM_MODULES):
        return random_slope(module.lower, module.upper)
    if isinstance(module, nn.PReLU):
        return tensor_slopes(module.weight)
    if has_slopes(module):
        slopes = module.slopes()  # type: ignore[operator]
        return tensor_slopes(torch.as_tensor(slopes, dtype=torch.float64))
    raise TypeError(
        f"{type(module).__name__} has no negative slope to read; slopes are read from "
        f"{', '.join(c.__name__ for c in LEAKY_MODULES)}. Give alpha as a number."
    )


def tensor_slopes(slopes: torch.Tensor) -> Slopes:
    """Slopes held by a tensor, as a tuple; one number if all are the same.

    Raises:
        ValueError: on the meta device, where there are no values.
    """
    if slopes.is_meta:
        raise ValueError(
            "the slopes are on the meta device and have no values; materialize them first "
            "(module.to_empty(device='cpu'), then fill them) or give alpha as a number."
        )
    values = tuple(slopes.detach().double().flatten().tolist())
    return values[:1] if len(set(values)) == 1 else values
