"""Functions of autograd that users write: whether what they send back is their derivative.

A quantization that passes gradients straight through, or a reversed gradient, has a gradient that
no step inside tells. One that computes a derivative by itself, to save memory, has that of its
steps. Which of the two it is is tried where it has saved what entered it; else it counts as the
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sigprop.reading.steps import CannotReplay, Step, replay, taken_by


def mark(function: Any, last: Step, made: Tensor, functions: Mapping[Any, Step]) -> None:
    """Mark the steps inside a function of autograd whose gradient is no derivative of them.

    Args:
        function: the node of autograd.
        last: the step that made what it returned.
        made: that.
        functions: the step behind each node of autograd that is known.
    """
    user = getattr(function, "_forward_cls", None)
    if user is None or user.__module__.partition(".")[0] == "torch":
        return
    before = [node for node, _ in function.next_functions if node is not None]
    sources = [functions.get(n, getattr(n, "variable", None)) for n in before]
    if _is_derivative(user, function, last, made, sources):
        return
    inside, todo = {last}, [last]
    while todo:
        for step in taken_by(todo.pop())[0]:
            if step.what == "call" and step not in inside and step not in sources:
                inside.add(step)
                todo.append(step)
    for step in inside:
        step.own_gradient = True


def _is_derivative(user: Any, function: Any, last: Step, made: Tensor, sources: list[Any]) -> bool:
    """Whether its gradient is that of its steps, by what it saved; False: not known."""
    try:
        saved = [t for t in function.saved_tensors if t is not None and t.is_floating_point()]
    except RuntimeError:  # written to since
        return False
    if len(sources) != 1 or sources[0] is None:
        return False
    (source,) = sources
    for entered in saved:
        try:
            with torch.enable_grad():
                leaf = entered.detach().clone().requires_grad_()
                out = replay(last, {source if isinstance(source, Step) else id(source): leaf})
                if out.shape != made.shape or not torch.equal(out, made):
                    continue
                sent = torch.linspace(-1, 2, out.numel()).reshape(out.shape).to(out)
                (want,) = torch.autograd.grad(out, leaf, sent)
            with torch.no_grad():
                own = user.backward(function, sent)
        except (CannotReplay, RuntimeError, TypeError, AttributeError):
            continue
        own = next((g for g in (own if isinstance(own, tuple) else (own,)) if g is not None), None)
        if isinstance(own, Tensor) and own.shape == want.shape:
            return torch.allclose(own, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
    return False
