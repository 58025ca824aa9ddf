"""The one way to read a model: what its data meets, written down as one graph.

``front.py``: ``read``, ``record``, ``trace``. ``operations.py``: what each torch callable does, one
row each. ``running.py``: a run on an example, under the mode of ``recorder.py``, with ``memory.py``
and ``writing.py`` (who made which part of a tensor); ``verify.py``: that nothing was missed.
``tracer.py``: torch.fx, without an example. Both write ``steps.py``; ``build.py`` makes the graph
of them, with ``rules.py`` (one step) and ``expressions.py`` (steps that together are one thing).
``used.py``: the weight that is used. ``layers.py``, ``calling.py``: torch's layers, calling models.
"""

from sigprop.reading.front import read, record, trace
from sigprop.reading.used import Reading, UsedWeight

__all__ = ["Reading", "UsedWeight", "read", "record", "trace"]
