"""Residual streams: blocks that double them, and branches that add next to nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from sigprop.checking import words
from sigprop.checking.evidence import Evidence
from sigprop.checking.findings import Finding, Level
from sigprop.checking.limits import Limits
from sigprop.graph.streams import Block

FEW = 4
"""Blocks below which no growth a block is judged."""
TINY = 1e-2
"""A constant scale below this is a layer scale that is meant to be small."""


def growth(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Streams that blocks multiply: by this factor a block, and by that in all."""
    for stream in evidence.streams:
        before, after = evidence.q(stream.start), evidence.q(stream.end)
        count = len(stream.blocks)
        if count < FEW or not before or not after or not math.isfinite(before * after):
            continue
        total = after / before
        each = total ** (1 / count)
        if each < limits.block_growth or total < math.sqrt(limits.stream_growth):
            continue
        level: Level = "unhealthy" if total > limits.stream_growth else "warning"
        detail = (
            f"each of {count} blocks multiplies its mean square by {each:.3g}, from "
            f"{stream.start} to {stream.end} by {total:.2g}"
        )
        yield Finding(stream.end, words.STREAM_EXPLODES, detail, words.BRANCHES, level)


def branches(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Branches that add nothing, or next to nothing: by a zero, by a layer scale, or for no reason.

    Those of one reason are one finding.
    """
    silent: list[tuple[Block, float]] = []
    scaled: list[tuple[Block, float]] = []
    zeros: list[Block] = []
    for block in blocks(evidence):
        share, smallest = _share(evidence, block), _smallest_scale(evidence, block)
        if share is None:
            continue
        if share == 0 and smallest == 0:
            zeros.append(block)
        elif (scale := layer_scale(evidence, block)) is not None:
            scaled.append((block, scale))
        elif share < limits.branch:
            silent.append((block, share))
    if zeros:
        detail = f"the branch adds 0 to the stream ({_of(len(zeros), evidence)})"
        advice = "Nothing needs to be done: the block is the identity until it learns."
        yield Finding(zeros[0].join, words.ZERO_BRANCH, detail, advice, "note")
    if scaled:
        detail = f"the branch is multiplied by {scaled[0][1]:.2g} ({_of(len(scaled), evidence)})"
        advice = "Nothing needs to be done: the scale grows as it learns; it slows the first steps."
        yield Finding(scaled[0][0].join, words.LAYER_SCALE, detail, advice, "note")
    for block, share in silent:
        detail = f"the branch is {share:.2g} of the mean square of the stream that it is added to"
        end = f" Its end is {block.ends[-1]}." if block.ends else ""
        yield Finding(block.join, words.SILENT_BRANCH, detail, words.BRANCHES + end, "warning")


def blocks(evidence: Evidence) -> Iterator[Block]:
    """The blocks of all residual streams."""
    return (block for stream in evidence.streams for block in stream.blocks)


def layer_scale(evidence: Evidence, block: Block) -> float | None:
    """The small constant that multiplies a branch; None: there is none, or it is not small."""
    smallest = _smallest_scale(evidence, block)
    return smallest if smallest is not None and 0 < smallest < TINY else None


def _of(count: int, evidence: Evidence) -> str:
    return f"{count} of {sum(1 for _ in blocks(evidence))} blocks"


def _share(evidence: Evidence, block: Block) -> float | None:
    """Mean square of what a branch adds, over that of the stream before it."""
    inside = set(block.branch)
    added = [n for n in evidence.graph.by_name[block.join].inputs if n in inside]
    sizes = [evidence.q(name) for name in added]
    before = evidence.q(block.before)
    if any(evidence.graph.by_name[n].kind == "dropout" and evidence.q(n) == 0 for n in inside):
        return None  # left out for now, as stochastic depth does
    if not sizes or not before or any(size is None for size in sizes):
        return None
    return sum(size for size in sizes if size is not None) / before


def _smallest_scale(evidence: Evidence, block: Block) -> float | None:
    """The size of the smallest parameter that multiplies a branch; None: there is none.

    A learnt scale and a normalization's γ by their size, a weight at the end as 0 or 1.
    """
    found: list[float] = []
    for name in block.branch:
        node = evidence.graph.by_name[name]
        if node.kind == "weight" and name in block.ends:
            value = evidence.reading.weights[name].value
            found.append(float(value.is_meta or bool(torch.count_nonzero(value))))
        elif node.kind in ("scale", "normalization") and node.parameters and node.constant:
            found.append(math.sqrt(node.constant.q))
    return min(found, default=None)
