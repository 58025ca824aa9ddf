"""Session-wide rules: the ledger of false alarms, GPU tests skip by name, random numbers by name.

torch's random numbers are those of the name of each test, so that none fails in one run of many.
"""

import gc
import signal
import zlib
from typing import Any

import pytest

from tests import stat

gc.disable()  # until all is imported and collected, nothing of which becomes garbage


def pytest_collection_finish() -> None:
    """What has been collected stays: the collector need not go through it again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    sent = getattr(session.config, "workeroutput", None)  # one process of several
    if sent is not None:
        sent["ledger"] = {name: entry.false_alarm for name, entry in stat.LEDGER.items()}
    if sum(entry.false_alarm for entry in stat.LEDGER.values()) > stat.BUDGET:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """The ledger of a process that ran a part of the tests, added to that of all."""
    for name, rate in getattr(node, "workeroutput", {}).get("ledger", {}).items():
        stat.LEDGER[name] = stat.Entry(name, rate, 0)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Ctrl-C reaches the tests of it, also where a shell runs them in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small nets run fastest on one thread, and do not fight over cores with anything else."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def figures_closed():
    """Every figure that a test opens is closed after it."""
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture
def undrawn(monkeypatch):
    """Commands write no pictures, which take the time of everything else together."""

    def write_figure(figure, path):
        import matplotlib.pyplot as plt

        plt.close(figure)
        path.write_text("a picture")
        return path

    for home in ("validate", "regions", "theory"):
        monkeypatch.setattr(f"sigprop.cli.{home}.write_figure", write_figure)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    spent = sum(entry.false_alarm for entry in stat.LEDGER.values())
    verdict = "within" if spent <= stat.BUDGET else "OVER"
    terminalreporter.write_line(
        f"{len(stat.LEDGER)} statistical checks, false-alarm ledger {spent:.1e} "
        f"({verdict} the budget of {stat.BUDGET:.0e})"
    )


@pytest.fixture(autouse=True)
def random_numbers(request):
    """A state of torch's own for each test, the same in each run."""
    import torch

    torch.default_generator.manual_seed(zlib.crc32(request.node.nodeid.encode()))
