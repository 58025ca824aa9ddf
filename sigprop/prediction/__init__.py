"""Predict any model: second moments of activations and gradients from its graph.

How to use it: ``prediction = sigprop.predict(model, x)``; print it, ask ``prediction["layer"].q``,
take ``prediction.records()``, draw it with ``sigprop.plots.prediction``.

The files: ``entry.py``: the one call. ``run.py``: a model on the way to its moments, also while the
laws of its weights are being decided. ``inputs.py``: examples and shapes. ``translate.py``: a
recorded model as the calls that the rules of ``sigprop.theory.network`` read, with ``laws.py`` (the
moments of weights), ``materialize.py`` (of models without values), ``planned.py`` (of a plan) and
``norms.py`` (normalizations by hand). ``measured.py``: what no rule predicts. ``readout.py`` and
``result.py``: what comes back.
"""

from typing import TYPE_CHECKING

from sigprop._lazy import misspelled
from sigprop.prediction.entry import predict
from sigprop.prediction.result import NodePrediction, Prediction

__all__ = ["NodePrediction", "Prediction", "predict"]

if not TYPE_CHECKING:
    __getattr__ = misspelled(__name__, __all__)
