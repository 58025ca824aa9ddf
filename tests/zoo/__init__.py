"""Small rebuilds of real architectures, each spelt as real code bases spell it."""

from tests.zoo import (
    audio,
    convnets,
    generative,
    language,
    mobile,
    others,
    own_layers,
    points,
    residual,
    sequences,
    synthesis,
    t5,
    vision_transformers,
)
from tests.zoo.entry import Entry

ZOO: tuple[Entry, ...] = tuple(
    entry
    for module in (
        convnets,
        residual,
        mobile,
        own_layers,
        generative,
        synthesis,
        audio,
        vision_transformers,
        language,
        t5,
        sequences,
        points,
        others,
    )
    for entry in module.ENTRIES
)

__all__ = ["ZOO", "Entry"]
