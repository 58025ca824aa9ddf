"""Where findings begin."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sigprop.checks import real_number


@dataclass(frozen=True)
class Limits:
    """Where a finding begins to be a warning, and where a net is unhealthy.

    Decades are of mean squares; gradients are compared by their sums of squares. What a net with
    normalization layers may do is another matter: sound ones span five decades of gradients.

    Attributes:
        signal: decades between the first and the last layer, from which a signal is lost.
        signal_range: decades between the largest and the smallest signal of all layers.
        gradient_explodes: decades by which a gradient grows on its way to the first layer, where no
            normalization stands on the way.
        gradient_vanishes: by which it shrinks: torch's own weights cost most of a decade a layer,
            and AlexNet, with seven of them, is trained.
        gradient_normalized: both, where a normalization stands on the way.
        gradient_residual: both, where one does and at least a quarter of the layers are joins of a
            residual stream: 8.5 decades in ResNet-152, 8.4 in a ConvMixer of 32 blocks.
        gradient_range: as ``signal_range``, of gradients.
        warned: the share of these at which a warning is given.
        block_growth: factor a block at which a residual stream explodes ...
        stream_growth: ... if it has grown by this factor in all.
        decorrelation: 1 − c of two samples at the last layers, below which they are all the same.
        decorrelation_warned: the same for a warning.
        dead: share of units of a layer that are flat for all data; half of it for a warning, if
            that is more than chance.
        saturated: share of entries at which a two-sided activation is flat.
        flat: a slope below this share of the steepest one is flat for one entry ...
        dead_flat: ... and below this one for a unit that is dead.
        entropy: of attention, over that of uniform attention.
        entropy_warned: the same for a warning.
        uniform: above it attention is noted to be uniform.
        branch: share of the stream below which a branch is silent.
        underflow: share of entries below the smallest normal number, or lost; in formats that are
            not in use for a note.
        underflow_warned: the same for a warning.
        off: factor between measured and predicted, beside four times the predicted scatter.
        output: mean square of what the last layers put out, about their mean, from which a warning
            is given if the net has not learned.
        learned: share of the layers whose weights know their input, from which the net has learned.
        unreached: share of the weights that get no gradient at all.

    Raises:
        TypeError, ValueError: not a number, or not above 0.
    """

    signal: float = 4.0
    signal_range: float = 8.0
    gradient_explodes: float = 3.0
    gradient_vanishes: float = 6.0
    gradient_normalized: float = 8.0
    gradient_residual: float = 12.0
    gradient_range: float = 10.0
    warned: float = 0.75
    block_growth: float = 1.7
    stream_growth: float = 1e4
    decorrelation: float = 1e-3
    decorrelation_warned: float = 1e-2
    dead: float = 0.9
    saturated: float = 0.5
    flat: float = 0.05
    dead_flat: float = 1e-3
    entropy: float = 0.05
    entropy_warned: float = 0.2
    uniform: float = 0.95
    branch: float = 1e-8
    underflow: float = 0.5
    underflow_warned: float = 0.05
    off: float = 4.0
    output: float = 25.0
    learned: float = 0.3
    unreached: float = 0.5

    def __post_init__(self) -> None:
        for each in fields(self):
            real_number(each.name, getattr(self, each.name), above=0)
