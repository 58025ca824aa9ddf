"""Floating-point types by name: the one way to read an argument ``dtype``."""

from __future__ import annotations

from typing import TypeAlias, overload

import torch

from sigprop.checks import one_of, shown

DType: TypeAlias = torch.dtype | str
"""What an argument ``dtype`` may be."""

FLOATING = ("float32", "float64", "bfloat16", "float16")
_ALSO = {"float": "float32", "double": "float64", "half": "float16"}  # torch's other names


@overload
def floating_dtype(dtype: None) -> None: ...
@overload
def floating_dtype(dtype: DType) -> torch.dtype: ...
def floating_dtype(dtype: DType | None) -> torch.dtype | None:
    """The torch dtype meant by itself or by its name; None stays None.

    Raises:
        TypeError: neither, or not a floating-point type.
        ValueError: an unknown name.

    Example:
        >>> floating_dtype("bfloat16"), floating_dtype("torch.float64")
        (torch.bfloat16, torch.float64)
    """
    if isinstance(dtype, str):
        name = dtype.removeprefix("torch.")
        dtype = getattr(torch, one_of("dtype", _ALSO.get(name, name), FLOATING))
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(
            f"dtype must be a floating-point torch dtype or its name ({', '.join(FLOATING)}); "
            f"got {shown(dtype)}."
        )
    return dtype
