"""What the rules of two nodes next to each other tell one another, beside second moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Told:
    """What the rule of one node tells that of the node before or behind it.

    Attributes:
        node: the name of the node whose tensor it is told of; of any other it says nothing.
        what: it.
    """

    node: str
    what: Any
