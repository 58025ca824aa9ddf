"""The monitor itself: when a step ends, what is kept of it, and what is said."""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from sigprop.checking.findings import Finding, by_problem, in_words
from sigprop.checks import FloatArray, count, real_array
from sigprop.measurement.hooks import every_module_called
from sigprop.measurement.layer_statistics import Observation
from sigprop.measurement.observed_pass import ObservedPass
from sigprop.measurement.observer import Watch
from sigprop.monitoring.findings import MonitorWarning, Thresholds, findings
from sigprop.monitoring.hooks import (
    Called,
    ForwardHook,
    LossScale,
    check_watchable,
    in_backward,
    on_stack,
)
from sigprop.monitoring.report import report
from sigprop.monitoring.state import read_state
from sigprop.monitoring.text import (
    COMPILED_IN_PLACE,
    NOTHING_SEEN,
    PASSED_OVER,
    SECOND_ORDER,
    UNSEEN,
    closed,
    shown,
)
from sigprop.monitoring.writers import Sink
from sigprop.reading.calling import described, named_modules, read_pattern, some, unwrapped
from sigprop.records import Row
from sigprop.results import Result, Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLIND = 3
"""Steps of one optimizer without a forward pass that is seen, until the monitor says so."""

_INSIDE = frozenset(("sigprop", "torch", "contextlib"))
"""Packages whose lines a warning does not name."""
_CLAIMS = threading.RLock()


class Monitor(Result):
    """Made by :func:`monitor`, whose arguments it takes; prints as the newest report with advice.

    Attributes:
        model: what is watched.
        every: steps from one report to the next.
        steps: steps that have ended.
        attached: whether it is watching.
        notes: what it could not see, in words.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int,
        *,
        include: str | None,
        sinks: Sequence[Sink],
        thresholds: Thresholds,
        loss_scale: Any,
        training_only: bool,
        warn: bool,
        keep: int | None,
    ) -> None:
        check_watchable(model)
        if not isinstance(thresholds, Thresholds):
            raise TypeError(f"thresholds must be Thresholds(...); got {described(thresholds)}.")
        self.model, self.every = model, count("every", every)
        self.thresholds, self.steps = thresholds, 0
        self.notes: list[str] = []
        self._pattern = read_pattern("include", include)
        self._sinks, self._loss_scale = tuple(sinks), LossScale(loss_scale)
        self._training_only, self._warn = bool(training_only), bool(warn)
        self._keep = None if keep is None else count("keep", keep)
        self._root = unwrapped(model)
        self._reports: list[list[Row]] = []
        self._last_fired: dict[str, Tensor] = {}
        self._warned: set[tuple[str, str]] = set()
        self._handles: list[RemovableHandle] = []
        self._open = ExitStack()
        self._spent: list[RemovableHandle] = []
        self._parameters: list[nn.Parameter] = []
        """As they stand between passes, in which others may stand in for them."""
        self._frame: FrameType | None = None
        self._thread = self._nested = 0
        self._observing = False
        self._seen: Observation | None = None
        self._passes, self._due = 0, False
        self._optimizers: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._blind: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._versions: int | None = None

    # Attaching

    @property
    def attached(self) -> bool:
        """Whether it is watching."""
        return bool(self._handles)

    def attach(self) -> Monitor:
        """Start (again) to watch; what was seen before is kept.

        Raises:
            RuntimeError: it is watching already.
            ValueError: the model was compiled in place.
        """
        if self.attached:
            raise RuntimeError("this monitor is attached already; detach() it first.")
        if getattr(self.model, "_compiled_call_impl", None) is not None:
            raise ValueError(COMPILED_IN_PLACE)
        if (note := closed(self._root)) and note not in self.notes:
            self.notes.append(note)
        self._optimizers.clear()
        self._passes, self._versions = 0, None
        self._parameters = list(self.model.parameters())
        hook = ForwardHook(self)
        self._handles = [
            self.model.register_forward_pre_hook(hook, with_kwargs=True),
            register_optimizer_step_pre_hook(Called(self, Monitor._ours)),
            register_optimizer_step_post_hook(Called(self, Monitor._stepped)),
        ]
        return self

    def detach(self) -> None:
        """Take every hook off; a step under way is reported as far as it got. Twice does no harm.

        Every number seen stays, and :meth:`attach` goes on from here.
        """
        if not self.attached:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._close_pass()
        self._remove_spent()
        if self._passes:
            self._end_step()
        for sink in self._sinks:
            close = getattr(sink, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Monitor:
        return self if self.attached else self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.detach()
            return
        try:  # the error under way is what counts
            self.detach()
        except Exception as another:
            error.add_note(f"The monitor's last report failed: {another!r}")

    # Steps

    def step(self) -> None:
        """Say that a step has ended, where no optimizer does (weights changed by hand).

        Does nothing if no forward pass has been seen since the last end of a step.

        Raises:
            RuntimeError: it is not attached.
        """
        if not self.attached:
            raise RuntimeError("this monitor is detached; attach() it before step().")
        if self._passes:
            self._end_step()

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Watch the parts of the model computing, where the model itself is never called.

        For instance a container whose parts are called one by one. Calls of the model itself inside
        are part of it.

        Raises:
            RuntimeError: it is not attached.

        Example:
            >>> import sigprop
            >>> parts = nn.ModuleDict({"encoder": nn.Linear(3, 2), "decoder": nn.Linear(2, 3)})
            >>> with sigprop.monitor(parts, warn=False) as mon, mon.observe():
            ...     out = parts["decoder"](parts["encoder"](torch.ones(1, 3)).relu())
            >>> [row["name"] for row in mon.records()]
            ['encoder', 'decoder']
        """
        if not self.attached:
            raise RuntimeError("this monitor is detached; attach() it before observe().")
        with ExitStack() as stack:
            if self._begin_pass():
                stack.enter_context(self._watched((), inside=False))
                self._open.push(stack.pop_all())
            self._observing, self._thread = True, threading.get_ident()
            try:
                yield
            finally:
                self._close_pass()

    def claim(self, now: FrameType) -> bool:
        """Whether a call that starts is a pass to look at; then it is the one under way.

        One pass is looked at at a time, whatever other threads call. One that an interrupt broke
        off is ended first.
        """
        with _CLAIMS:
            mine = self._thread == threading.get_ident()
            if self._frame is not None and mine and not on_stack(self._frame, now):
                self._close_pass()
            if self._frame is not None or self._observing or not self._begin_pass():
                return False
            self._frame, self._thread = now, threading.get_ident()
            return True

    def _close_pass(self) -> None:
        """End the pass under way; one of another thread ends there: its mode is that thread's."""
        under_way = self._frame is not None or self._observing
        if under_way and self._thread != threading.get_ident():
            return
        opened, self._open = self._open, ExitStack()
        try:
            opened.close()
        finally:  # only now may another thread begin a pass
            self._frame, self._observing, self._nested = None, False, 0

    def _remove_spent(self) -> None:
        """Take hooks off that a failed pass has left."""
        while self._spent:
            self._spent.pop().remove()

    def _begin_pass(self) -> bool:
        """Count a pass that starts; whether it is to be looked at."""
        if self._training_only and not (self._root.training and torch.is_grad_enabled()):
            return False
        if self._due:
            self._end_step()
        if not any(self._optimizers.values()):
            self._end_step_by_hand()
        self._passes += 1
        self._blind.clear()
        return self.steps % self.every == 0

    def _watched(self, inputs: Any, *, inside: bool) -> ExitStack:
        if self._seen is None:
            self._seen = Observation(self.steps, self._loss_scale.first())
        self._seen.runs.watch(self._parameters)
        with ExitStack() as opening:
            opening.enter_context(every_module_called())
            watching = ObservedPass(self._root, self._seen, Watch(self._watches, self._watches))
            opening.enter_context(watching.watching(inputs, inside=inside))
            return opening.pop_all()

    def _watches(self, name: str) -> bool:
        return self._pattern is None or self._pattern.search(name) is not None

    def _end_step_by_hand(self) -> None:
        """Where no optimizer steps, a step ends when parameters have been written to."""
        versions = sum(p._version for p in self._parameters if not p.is_inference())
        if self._versions is not None and versions != self._versions and self._passes:
            self._end_step()
        self._versions = versions

    def _ours(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer holds a parameter of the model; remembers it."""
        ours = self._optimizers.get(optimizer)
        if ours is None:
            held = {id(p) for p in self.model.parameters()}
            ours = any(id(p) in held for g in optimizer.param_groups for p in g["params"])
            self._optimizers[optimizer] = ours
        return ours

    def _stepped(self, optimizer: Optimizer) -> None:
        """An optimizer, of this model or of another one, has stepped."""
        if not self._ours(optimizer):
            return
        if self._passes:
            if in_backward():  # an optimizer a parameter: the other gradients are still to come
                self._due = True
            else:
                self._end_step()
            return
        self._blind[optimizer] = self._blind.get(optimizer, 0) + 1
        if self._blind[optimizer] == BLIND:
            self._say("unseen", UNSEEN)

    def _end_step(self) -> None:
        seen, self._seen = self._seen, None
        self._passes, self._due = 0, False
        number, self.steps = self.steps, self.steps + 1
        self._parameters = list(self.model.parameters())
        if seen is None:
            return
        seen.close()
        seen = seen.now()  # a pass of another thread may be under way
        with torch.no_grad():
            rows = report(seen, self._last_fired, self._cutoff(number), self._loss_scale.now())
        if not rows:
            self._say("nothing", self._nothing_seen())
            return
        if seen.passed_over:
            self._say("passed over", PASSED_OVER.format(kinds=some(sorted(seen.passed_over))))
        if seen.runs.second_order:
            self._say("second order", SECOND_ORDER)
        recent = [*self._reports[1 - self.thresholds.window :], rows]
        recent = recent[-self.thresholds.window :]
        found = findings(recent, self.thresholds)
        for row in rows:
            row["finding"] = "; ".join(f.problem for f in found if f.name == row["name"])
        self._reports.append(rows)
        if self._keep is not None:
            del self._reports[: -max(self._keep, self.thresholds.window)]
        for sink in self._sinks:
            sink(rows)
        self._warn_of([finding for finding in found if finding.level != "note"], number)

    def _warn_of(self, found: Sequence[Finding], step: int) -> None:
        """One warning for each problem, of the layers that have not been warned of."""
        new = [f for f in found if (f.name, f.problem) not in self._warned]
        self._warned |= {(f.name, f.problem) for f in new}
        for together in by_problem(new) if self._warn else ():
            warnings.warn(
                f"step {step}: {in_words(together)}", MonitorWarning, stacklevel=_of_user()
            )

    def _cutoff(self, number: int) -> int:
        """The step of the oldest report that still counts for dead units."""
        before = self._reports[1 - self.thresholds.window :] if self.thresholds.window > 1 else []
        return before[0][0]["step"] if before else number

    def _nothing_seen(self) -> str:
        names = [name for name, _ in named_modules(self._root)]
        pattern = "" if self._pattern is None else f" for include={self._pattern.pattern!r}"
        return NOTHING_SEEN.format(pattern=pattern, names=some(names))

    def _say(self, problem: str, text: str) -> None:
        """A note about the monitor's own sight, once."""
        if ("", problem) in self._warned:
            return
        self._warned.add(("", problem))
        self.notes.append(text)
        if self._warn:
            warnings.warn(text, MonitorWarning, stacklevel=_of_user())

    # What was seen

    def records(self) -> list[Row]:
        """One flat row for each layer and reported step: the fields of :class:`LayerReport`."""
        kept = self._reports if self._keep is None else self._reports[-self._keep :]
        return [dict(row) for rows in kept for row in rows]

    def findings(self) -> list[Finding]:
        """What is wrong in the newest report, with advice."""
        return findings(self._reports[-self.thresholds.window :], self.thresholds)

    def last_fired(self, name: str) -> FloatArray:
        """For each unit of a layer the last reported step in which it fired; −1: in none.

        Raises:
            KeyError: no layer of that name has been reported.
        """
        if name not in self._last_fired:
            raise KeyError(f"no layer {name!r}; reported: {', '.join(self._last_fired) or 'none'}.")
        return real_array("last_fired", self._last_fired[name].cpu().numpy())

    def _shown(self) -> Shown:
        return shown(self, self._reports[-1] if self._reports else [])

    def _picture(self) -> Figure | None:
        from sigprop.plots import monitor

        return monitor(self) if self._reports else None

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Steps, reports and last-fired steps as plain data and tensors, for ``torch.save``."""
        return {
            "version": 1,
            "steps": self.steps,
            "reports": [[dict(row) for row in rows] for rows in self._reports],
            "last_fired": {name: steps.cpu() for name, steps in self._last_fired.items()},
            "warned": sorted(list(pair) for pair in self._warned),
            "notes": list(self.notes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken.

        Raises:
            TypeError, ValueError: not the state of a monitor; then nothing has been changed.
        """
        read = read_state(state)
        if self._seen is not None:
            self._seen.close()
        self._seen, self._passes, self._due, self._versions = None, 0, False, None
        self.steps, self._reports, self._last_fired = read.steps, read.reports, read.last_fired
        self._warned, self.notes = read.warned, read.notes


def _of_user() -> int:
    """The ``stacklevel`` of a warning that names the line of the user's that led here."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    return level
