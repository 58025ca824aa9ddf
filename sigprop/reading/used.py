"""The weight that is used: what a linear map multiplies by, as a function of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from sigprop.graph import Graph
from sigprop.reading.meanings import Meaning
from sigprop.reading.steps import Step

FACTORS = (1.0, 2.0, 4.0)


@dataclass(frozen=True, eq=False)
class UsedWeight:
    """The weight of one weight node of a reading.

    Attributes:
        parameters: the parameters it is computed from, by their names in the model; empty: it is
            constant.
        compute: the weight in use, from values for those parameters (those not given: as they are).
        owner: (module, attribute) where the layer itself holds the weight: a parameter, one that is
            parametrized or under ``weight_norm``; None where the model computes it in its code.
        path: path of that module in the model.
        bias: name of the parameter that the map adds as it is; "": none.
    """

    parameters: Mapping[str, nn.Parameter]
    compute: Callable[[Mapping[str, Tensor]], Tensor]
    owner: tuple[nn.Module, str] | None = None
    path: str = ""
    bias: str = ""

    @cached_property
    def value(self) -> Tensor:
        """The weight in use now, without gradient."""
        with torch.no_grad():
            return self.compute({}).detach()

    def degree(self, name: str) -> float | None:
        """How the weight in use grows with one parameter: times c^degree where that is times c.

        1: it can be set through it; 0: the parameter's scale is void (standardized, a direction);
        None: neither a power, nor certain.
        """
        here = _drawn(self.parameters[name])
        with torch.no_grad():
            given = {name: here}
            if not bool(torch.count_nonzero(self.compute(given))):  # a gain of zero hides it
                given |= {n: _drawn(p) for n, p in self.parameters.items() if n != name}
            values = [self.compute({**given, name: here * factor}).detach() for factor in FACTORS]
        sizes = [float(torch.linalg.vector_norm(value, dtype=torch.float64)) for value in values]
        if not all(0 < size < math.inf for size in sizes):
            return None
        grown = math.log(sizes[1] / sizes[0], FACTORS[1] / FACTORS[0])
        degree = min((1.0, 0.0, 0.5, 2.0, -1.0), key=lambda known: abs(known - grown))
        wanted = [values[0] * (factor / FACTORS[0]) ** degree for factor in FACTORS]
        same = all(_close(a, b) for a, b in zip(values[1:], wanted[1:], strict=True))
        return float(degree) if same else None


@dataclass(frozen=True, eq=False)
class Reading:
    """A model read.

    Attributes:
        graph: what its data meets.
        weights: for each weight node the weight that it uses.
        cuts: nodes whose value left as a number (``.item()``): what that enters counts as
            constant, so the graph does not say that it depends on them.
        steps: for each node but the output the step that it is (of several: the last).
        meanings: for each of these nodes what the step is to the signal.
    """

    graph: Graph
    weights: Mapping[str, UsedWeight]
    cuts: tuple[str, ...] = ()
    steps: Mapping[str, Step] = field(default_factory=dict)
    meanings: Mapping[str, Meaning] = field(default_factory=dict)


def _drawn(parameter: Tensor) -> Tensor:
    """A parameter's values at mean square one, where no ε counts; standard normal if all are 0."""
    here = parameter.detach()
    size = float(torch.linalg.vector_norm(here, dtype=torch.float64)) / max(here.numel(), 1) ** 0.5
    if size > 0:
        scaled: Tensor = here / size
        return scaled
    return torch.randn(here.shape, generator=torch.Generator().manual_seed(0)).to(here)


def _close(found: Tensor, wanted: Tensor) -> bool:
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    return bool(torch.allclose(found, wanted, rtol=1e-3, atol=1e-5 * size))
