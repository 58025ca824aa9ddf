"""What an activation is to the toolkit: one frozen record."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import ArrayLike

from sigprop.checks import FloatArray, real_array
from sigprop.closed_form import Kernels

if TYPE_CHECKING:
    from torch import nn

Parameter = float | tuple[float, ...]
Function = Callable[[FloatArray], FloatArray]
Kind = Literal["function", "mixture", "random", "maxout"]


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation φ with everything the theory asks of it. ``record(x)`` is φ(x), checked.

    Attributes:
        name: the name users type.
        f: φ, vectorised numpy, float64, without warnings for |x| up to 1e150.
        df: φ′ almost everywhere; at a kink the one-sided value that torch's gradient takes.
        parameters: by name; numbers, or one number per channel.
        breakpoints: where φ, φ′ or φ″ jumps, in increasing order.
        jumps: φ(b+) − φ(b−) at each breakpoint.
        source: key(s) into ``references.REFERENCES``, separated by "; ".
        torch_path: the torch module that computes it; empty: none.
        torch_arguments: keyword arguments of that module.
        kernels: closed forms of its Gaussian integrals, None if none is known.
        kind: what law a unit obeys.
            ``"function"``: φ of one Gaussian; ``f`` and ``df`` say all.
            ``"mixture"``: units of a layer have different fixed slopes (PReLU per channel);
            integrals are averages over the units.
            ``"random"``: slopes are drawn anew at every forward pass.
            ``"maxout"``: a unit is the largest of k Gaussians.
            Except for a function, ``kernels`` is complete (the fourth moment of a maxout of more
            than two maps apart) and is to be used; ``f`` and ``df`` are those of the mean slope
            (maxout: they refuse).
        given: for ``"random"`` with one slope per forward pass: slope → the record of the pass with
            that slope. There ``kernels`` are averages over passes, and a map averaged over slopes
            is not the map of any pass; the law of a deep net needs ``given``.
        df_error: error of ``df`` relative to the size of φ′; 0 for an exact one.
        row: the row of the table it comes from; empty: none.
        features: of a callable: ends of panels about what is narrow beside its distance from 0.
    """

    name: str
    f: Function
    df: Function
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    breakpoints: tuple[float, ...] = ()
    jumps: tuple[float, ...] = ()
    source: str = ""
    torch_path: str = ""
    torch_arguments: Mapping[str, Any] = field(default_factory=dict)
    kernels: Kernels | None = None
    kind: Kind = "function"
    given: Callable[[float], Activation] | None = None
    df_error: float = 0.0
    row: str = ""
    features: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.jumps) != len(self.breakpoints):
            raise ValueError(
                f"activation {self.name!r} has {len(self.breakpoints)} breakpoints and "
                f"{len(self.jumps)} jumps; give one jump per breakpoint (0 at a mere kink)."
            )
        for name in ("parameters", "torch_arguments"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __call__(self, x: ArrayLike) -> FloatArray:
        """φ(x) for real numbers of any shape: the numpy twin of the torch module.

        Raises:
            TypeError: not real numbers.
            ValueError: NaN or empty.
        """
        return self.f(real_array("x", x, allow_infinite=True))

    def module(self) -> nn.Module:
        """A fresh torch module that computes it (parameters at the values of the record).

        Raises:
            TypeError: no torch module is known for it.
        """
        if not self.torch_path:
            raise TypeError(f"no torch module is known for activation {self.name!r}.")
        home, _, name = self.torch_path.rpartition(".")
        made: nn.Module = getattr(importlib.import_module(home), name)(**self.torch_arguments)
        alpha = self.parameters.get("alpha")
        if name == "PReLU" and isinstance(alpha, tuple):
            torch = importlib.import_module(home.partition(".")[0])
            weight: Any = made.weight
            with torch.no_grad():
                weight.copy_(torch.tensor(alpha, dtype=torch.float64))
        return made
