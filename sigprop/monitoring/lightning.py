"""The monitor as a callback of Lightning; an optional extra."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Any

from sigprop.monitoring.monitors import Monitor
from sigprop.monitoring.watch import monitor
from sigprop.records import Row

HOMES = ("lightning.pytorch", "pytorch_lightning")


def lightning_callback(every: int = 50, **options: Any) -> Any:
    """A Lightning callback that monitors the module while it is fitted.

    Numbers go to the trainer's loggers, named ``layer/field``, besides what ``log`` and ``to`` ask
    for. The forward pass is whatever ``training_step`` computes. The state is saved in Lightning's
    own checkpoints. The monitor itself is the callback's attribute ``monitor``.

    Args:
        every: steps from one report to the next.
        options: the other arguments of :func:`sigprop.monitor`.

    Returns:
        The callback, for ``Trainer(callbacks=[...])``.

    Raises:
        ModuleNotFoundError: neither ``lightning`` nor ``pytorch_lightning`` is installed.
    """
    return _class()(every, options)


def _class() -> type[Any]:
    base: Any = _callback_class()

    class MonitorCallback(base):  # type: ignore[misc]
        """Attaches when fitting starts, detaches on any end."""

        def __init__(self, every: int, options: dict[str, Any]) -> None:
            super().__init__()
            self._every, self._options = every, options
            self.monitor: Monitor | None = None
            self._state: dict[str, Any] | None = None
            self._seeing = ExitStack()

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            to = self._options.get("to")
            several = list(to) if isinstance(to, list | tuple) else [] if to is None else [to]

            def to_loggers(rows: list[Row]) -> None:
                numbers = _numbers(rows)
                for logger in trainer.loggers:
                    logger.log_metrics(numbers, step=rows[0]["step"])

            options = {**self._options, "to": [*several, to_loggers]}
            self.monitor = monitor(pl_module, self._every, **options)
            if self._state is not None:
                self.monitor.load_state_dict(self._state)

        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            if self.monitor is not None and self.monitor.attached:
                self._seeing.close()
                self._seeing.enter_context(self.monitor.observe())

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            self._seeing.close()

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            self._seeing.close()

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            self._end()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._end()

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self._end()

        def state_dict(self) -> dict[str, Any]:
            return {} if self.monitor is None else self.monitor.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._state = state_dict or None
            if self.monitor is not None and self._state is not None:
                self.monitor.load_state_dict(self._state)

        def _end(self) -> None:
            self._seeing.close()
            if self.monitor is not None:
                self.monitor.detach()

    return MonitorCallback


def _callback_class() -> type[Any]:
    for home in HOMES:
        try:
            return importlib.import_module(home).Callback  # type: ignore[no-any-return]
        except ModuleNotFoundError as error:
            if error.name is None or not home.startswith(error.name):
                raise
    raise ModuleNotFoundError(
        "the Lightning callback needs Lightning, which is not installed: pip install lightning "
        "(or pytorch_lightning). Without it use 'with sigprop.monitor(model) as mon:'."
    )


def _numbers(rows: list[Row]) -> dict[str, float]:
    from sigprop.monitoring.writers import Scalars

    found: dict[str, float] = {}

    class _Keep:
        def log(self, numbers: dict[str, float], step: int) -> None:
            found.update(numbers)

    Scalars(_Keep())(rows)
    return found
