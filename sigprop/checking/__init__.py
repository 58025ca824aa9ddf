"""Your model against theory: predicted and measured, judged, with findings and remedies.

The verdict about the weights: ``judging.py``: three questions a layer, one p-value a question;
``verdicts.py``: what is said. ``rows.py`` keeps what enters the weights while a model runs,
``layouts.py`` reads a linear map as a product, ``second_run.py`` runs few samples backward.
``facts.py``: what is known of each weight, ``structure.py``: weights that are no independent
numbers, ``laws.py``: which law they have. ``scale.py``, ``direction.py``, ``off_span.py``: the
three tests, with ``shapes.py``, ``chi_squares.py`` and ``quadratic.py`` for their tails.
"""

from sigprop.checking.findings import Finding, Level
from sigprop.checking.judging import judge
from sigprop.checking.result import CheckReport, LayerCheck
from sigprop.checking.rows import RowsWitness
from sigprop.checking.second_run import look_back
from sigprop.checking.verdicts import LayerVerdict, Verdicts

__all__ = [
    "CheckReport",
    "Finding",
    "LayerCheck",
    "LayerVerdict",
    "Level",
    "RowsWitness",
    "Verdicts",
    "judge",
    "look_back",
]
