"""What ``check`` returns: one record for each weight layer, findings, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sigprop.checking.findings import Finding
from sigprop.checking.html import as_html
from sigprop.checking.page import as_page
from sigprop.checking.profile import profile
from sigprop.checking.text import as_text
from sigprop.checking.weights import LayerVerdict
from sigprop.measurement.nodes import NodeStatistics
from sigprop.prediction.result import Prediction
from sigprop.records import Row, write_text
from sigprop.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerCheck(Result):
    """One weight layer at its first use: predicted, measured, judged.

    Attributes:
        name: of its node in the graph, as ``predict`` and ``measure_nodes`` name it.
        operation: what it does: ``"Linear"``, ``"conv2d"``.
        shape: of its weight.
        block: the block of a residual stream that it stands in, by the node where the block joins
            the stream; "" outside.
        q_predicted: mean square of what leaves it, by the law of its weights; None where nothing
            is predicted (a model with NaN).
        q: the same, measured.
        gradient_predicted: mean square of the gradient there; None where none arrives.
        gradient: the same, measured.
        weight_gradient_predicted: mean square of the gradient of its weight; None likewise.
        weight_gradient: the same, measured.
        law: of its weights, recognized: ``"torch default"``, ``"kaiming normal, fan_in"``,
            ``"N(0, 0.02)"``, ``"orthogonal"``, ``"zero"``, ``"unknown"``; ``"as planned"``.
        gain: effective gain, √(fan_in · mean w²).
        p_scale: of "its weights have the variance of this law"; None where it cannot be asked.
        p_direction: of "its weights do not know their input"; None likewise.
        p_backward: of "its weights do not know their gradient"; None likewise.
        note: why a p-value is missing, or what else is to be said of the law.
        parameters: that its weight is computed from, by name, joined by ", ".
    """

    name: str
    operation: str
    shape: tuple[int, ...]
    block: str
    q_predicted: float | None
    q: float
    gradient_predicted: float | None
    gradient: float | None
    weight_gradient_predicted: float | None
    weight_gradient: float | None
    law: str
    gain: float
    p_scale: float | None = None
    p_direction: float | None = None
    p_backward: float | None = None
    note: str = ""
    parameters: str = ""


@dataclass(frozen=True)
class CheckReport(Result):
    """Theory against one model, forward and backward.

    Attributes:
        layers: one :class:`LayerCheck` for each weight layer, in the order of the data.
        findings: what is to be said, the worst first.
        p_scale: one p-value for the scale of all weights; None: it cannot be asked of any.
        p_direction: one for their direction, forward; None likewise.
        p_backward: one for their direction, backward; None likewise.
        level: false alarms that the naming of layers allows.
        prediction: of every node; None: there is none, a finding says why.
        measured: at every node.
        model: its class.
        tables: laws of the tables of embeddings, by their names.
        recurrent: laws and p-values of the matrices within recurrent layers, by the names of their
            parameters; their scale alone is tested.
    """

    layers: tuple[LayerCheck, ...]
    findings: tuple[Finding, ...]
    p_scale: float | None
    p_direction: float | None
    p_backward: float | None
    level: float
    prediction: Prediction | None = field(repr=False)
    measured: NodeStatistics = field(repr=False)
    model: str = "model"
    tables: Mapping[str, str] = field(default_factory=dict)
    recurrent: tuple[LayerVerdict, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether no finding says ``"unhealthy"``."""
        return all(finding.level != "unhealthy" for finding in self.findings)

    def assert_healthy(self) -> None:
        """For a test of your own.

        Raises:
            AssertionError: the findings that make the net unhealthy, in words.
        """
        sick = [finding for finding in self.findings if finding.level == "unhealthy"]
        assert not sick, "\n".join(map(str, sick))

    def records(self) -> list[Row]:
        """One flat row a weight layer."""
        return [asdict(layer) for layer in self.layers]

    def profile(self) -> list[Row]:
        """Signal and gradient by depth: a flat row for each weight layer and each block's end."""
        return profile(self)

    def to_html(self, path: str | Path) -> Path:
        """Write one page that needs nothing else: findings, profile, layers.

        The file is written as a whole, or not at all.
        """
        return write_text(as_page(self), path)

    def __str__(self) -> str:
        return as_text(self)

    def _html(self) -> list[str]:
        return as_html(self)

    def _picture(self) -> Figure | None:
        from sigprop.plots import check

        return check(self) if self.layers else None
