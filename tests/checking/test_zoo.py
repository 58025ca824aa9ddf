"""Rebuilds of real architectures at their own initialization: none is called unhealthy.

No limit was set on them.
"""

from __future__ import annotations

import pytest

from sigprop.checking.evidence import Evidence, measured
from sigprop.checking.rules import find
from sigprop.reading.calling import flatten
from tests.checking.nets import built
from tests.zoo import ZOO, Entry


def examined(entry: Entry) -> Evidence:
    model, inputs = built(entry.build), entry.inputs()
    batch = next((t.shape[0] for t in flatten(inputs) if t.dim()), 1)
    nodes, signals, unmeasured = measured(model, inputs, batch)
    parameters = dict(model.named_parameters())
    return Evidence(nodes, signals, None, parameters, "", unmeasured, batch)


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_a_sound_architecture_is_not_called_unhealthy(entry):
    found = find(examined(entry))
    assert not [str(f) for f in found if f.level == "unhealthy"]
