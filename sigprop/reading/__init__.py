"""The one way to read a model: what its data meets, written down as one graph.

How to use it: ``record(model, *inputs)`` runs a model once and returns its graph, ``trace(model)``
follows it by torch.fx without an input. ``read(model, example)`` returns the graph with the weight
that is used at each weight node. ``graph.nodes`` have a name, a kind, inputs, slopes and weights.

An activation of your own is read as a leaky one if it has a method ``slopes()`` that returns the
negative slopes in use, one or one per channel; ``set_slopes(values)`` lets ``sigprop.init_slopes``
and ``sigprop.project_slopes`` set them. Nothing else is asked of it.

    >>> import torch
    >>> from torch import nn
    >>> from sigprop.reading import trace
    >>> class Mine(nn.Module):
    ...     def slopes(self):
    ...         return torch.tensor(0.1)
    ...     def forward(self, z):
    ...         return torch.where(z > 0, z, 0.1 * z)
    >>> trace(nn.Sequential(nn.Linear(3, 8), Mine(), nn.Linear(8, 2))).nodes[2].alpha
    (0.1...,)

The files:

``front.py``: ``read``, ``record``, ``trace``. ``operations.py``: what each torch callable does, one
row each. ``running.py``: a run on an example, under the mode of ``recorder.py``, with
``tensors.py`` (what a call takes and returns), ``owners.py``, ``memory.py`` and ``writing.py`` (who
made which part of a tensor); ``witness.py``: who looks on; ``verify.py``: that nothing was missed.
``tracer.py``: torch.fx, without an example. Both write ``steps.py``; ``build.py`` makes the graph
of them, with ``rules.py`` (one step) and ``expressions.py`` (steps that together are one thing).
``used.py``: the weight that is used. ``layers.py``, ``calling.py``: torch's layers, calling models.
"""

from sigprop.reading.front import read, record, trace
from sigprop.reading.used import Reading, UsedWeight

__all__ = ["Reading", "UsedWeight", "read", "record", "trace"]
