"""Rebuilds of real architectures at their own initialization: none is called unhealthy.

No limit was set on them.
"""

from __future__ import annotations

import pytest

from sigprop.checking.evidence import evidence
from sigprop.checking.rules import find
from tests.checking.nets import built
from tests.zoo import ZOO


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_a_sound_architecture_is_not_called_unhealthy(entry):
    found = find(evidence(built(entry.build), entry.inputs(), forecast=False, judged=False))
    assert not [str(f) for f in found if f.level == "unhealthy"]
