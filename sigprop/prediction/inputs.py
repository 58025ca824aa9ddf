"""What a model is predicted on: an example, or shapes from which one is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.reading.calling import described, flatten
from sigprop.reading.failures import instead_of

_SEED = 0x73696770  # no seed that weights are drawn with: the two would not be independent


def example_of(model: nn.Module, x: Any) -> tuple[Any, set[int]]:
    """An example to call the model with, and ids of the tensors that are drawn: N(0, 1).

    A tensor, tuple or dict of tensors is taken as it is. A shape is a tensor of standard normal
    numbers; a (shape, dtype) of whole numbers is drawn below the smallest table of embeddings. Two
    of the same shape hold different numbers.

    Raises:
        TypeError: neither.
        ValueError: a shape that is none.
    """
    drawn: set[int] = set()
    if x is None:
        raise TypeError(
            f"predict needs an example or a shape to call {type(model).__name__} with; give "
            "x=(batch, features), a tensor, or a dict of them by argument name."
        )
    return _made(model, x, drawn, torch.Generator().manual_seed(_SEED)), drawn


def shapes_drawn(model: nn.Module, x: Any) -> Any:
    """An example as it is; of shapes alone, numbers drawn for them."""
    shapes = isinstance(x, tuple | Mapping) and not any(True for _ in flatten(x))
    return example_of(model, x)[0] if shapes else x


def _made(model: nn.Module, x: Any, drawn: set[int], source: torch.Generator) -> Any:
    if isinstance(x, Tensor):
        return x
    if _is_shape(x):
        return _drawn(model, tuple(x), _dtype_of(model), drawn, source)
    if _is_typed(x):
        return _drawn(model, tuple(x[0]), x[1], drawn, source)
    if isinstance(x, Mapping):
        return {key: _made(model, value, drawn, source) for key, value in x.items()}
    if isinstance(x, tuple | list):
        return tuple(_made(model, value, drawn, source) for value in x)
    if any(True for _ in flatten(x)) or isinstance(x, bool | int | float | str):
        return x
    raise TypeError(
        f"x must be a tensor, a shape, a (shape, dtype), or a tuple or dict of these; got "
        f"{described(x)}. Give {instead_of(x)}."
    )


def _dtype_of(model: nn.Module) -> torch.dtype:
    """That of the model's first real parameter, else torch's default."""
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.get_default_dtype())


def _is_shape(x: Any) -> bool:
    whole = isinstance(x, tuple | list | torch.Size) and len(x) > 0
    return whole and all(isinstance(n, int) and not isinstance(n, bool) for n in x)


def _is_typed(x: Any) -> bool:
    return isinstance(x, Sequence) and len(x) == 2 and _is_shape(x[0]) and _is_dtype(x[1])


def _is_dtype(value: Any) -> bool:
    return isinstance(value, torch.dtype)


def _drawn(
    model: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    drawn: set[int],
    source: torch.Generator,
) -> Tensor:
    if any(n < 1 for n in shape):
        raise ValueError(f"a shape has sizes of at least 1; got {shape}.")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if dtype.is_floating_point:
        made = torch.randn(shape, generator=source).to(dtype)
        made = made.to(device)
        drawn.add(id(made))
        return made
    if dtype.is_complex:
        raise ValueError("complex inputs are not predicted; give real ones.")
    return tokens(model, shape, dtype, source).to(device)


def tokens(
    model: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    source: torch.Generator | None = None,
) -> Tensor:
    """Whole numbers below the smallest table of embeddings; of truth values true."""
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    source = source or torch.Generator().manual_seed(_SEED)
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    return torch.randint(min(sizes, default=2), shape, generator=source, dtype=dtype)
