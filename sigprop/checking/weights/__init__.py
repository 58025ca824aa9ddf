"""The verdict about the weights: three questions a layer, one p-value a question.

``judging.py`` asks; ``verdicts.py``: what is said. ``rows.py`` keeps what enters the weights while
a model runs, ``layouts.py`` reads a linear map as a product, ``second_run.py`` runs few samples
backward. ``facts.py``: what is known of each weight, ``laws.py``: which law it has. ``scale.py``,
``direction.py``, ``off_span.py``: the three tests, with ``shapes.py``, ``chi_squares.py`` and
``quadratic.py`` for their tails.
"""

from sigprop.checking.weights.judging import judge
from sigprop.checking.weights.rows import RowsWitness
from sigprop.checking.weights.second_run import Backward, look_back
from sigprop.checking.weights.verdicts import LayerVerdict, Named, Question, Verdicts

__all__ = [
    "Backward",
    "LayerVerdict",
    "Named",
    "Question",
    "RowsWitness",
    "Verdicts",
    "judge",
    "look_back",
]
