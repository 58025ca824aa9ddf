"""A user's model, by what makes it: ``package.module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


def made(name: str, seed: int | None = None) -> Any:
    """What the factory of this name returns, called without arguments; or the model of this name.

    The present folder is on the path while it runs (and the folder of a file).

    Args:
        name: ``package.module:function`` or ``file.py:function``.
        seed: of what the factory draws, whatever was drawn before; see :func:`seeded`.

    Raises:
        ValueError: nothing of that name, or whatever goes wrong in the user's code, with its place.

    Example:
        >>> made("collections:OrderedDict")
        OrderedDict()
    """
    with on_the_path(*folders(name)):
        factory = named(name, "factory")
        if not isinstance(factory, type) and hasattr(factory, "named_parameters"):
            return factory  # a model that is there already
        if not callable(factory):
            return factory
        if seed is not None:
            _seed(seed)
        try:
            return factory()
        except (Exception, SystemExit) as error:
            raise _blamed(name, error) from error


def named(name: str, what: str) -> Any:
    """What has this name, its module imported; its folder is on the path already.

    Args:
        name: ``package.module:function`` or ``file.py:function``.
        what: it is to be, for the message.

    Raises:
        ValueError: nothing of that name, or whatever goes wrong in the user's code, with its place.

    Example:
        >>> named("math:sqrt", "function")(4)
        2.0
    """
    home, _, attribute = name.rpartition(":")
    if not home or not attribute:
        raise ValueError(
            f"{name!r} names no {what}; write package.module:function or file.py:function."
        )
    if home.endswith(".py") and not Path(home).is_file():
        raise ValueError(f"there is no file {home!r} to take {attribute!r} from.")
    try:
        module = _from_file(Path(home)) if home.endswith(".py") else importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name and (home == error.name or home.startswith(f"{error.name}.")):
            raise ValueError(
                f"there is no module {error.name!r} here ({Path.cwd()}); write "
                "package.module:function or file.py:function."
            ) from None
        raise _blamed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _blamed(name, error) from error
    if not hasattr(module, attribute):
        own = (k for k, v in vars(module).items() if _home(v) == module.__name__)
        near = ", ".join(key for key in own if not key.startswith("_")) or "no functions"
        raise ValueError(f"{home} has no {attribute!r}; it has {near}.")
    return getattr(module, attribute)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What torch, numpy and Python draw inside is a function of the seed; their states stay."""
    import numpy as np
    import torch

    own, old = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        _seed(seed)
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(old)  # noqa: NPY002


def _seed(seed: int) -> None:
    import numpy as np
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def _home(value: Any) -> str:
    return str(getattr(value, "__module__", "")) if callable(value) else ""


def _from_file(file: Path) -> ModuleType:
    name = f"_sigprop_factory_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # a .py file always has them
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _blamed(name: str, error: BaseException) -> ValueError:
    """What went wrong in the user's own code, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}, line {error.lineno})"
    return ValueError(f"{name} raises {type(error).__name__}: {error}{place}")


def folders(name: str) -> list[Path]:
    """Folders from which ``package.module:function`` or ``file.py:function`` is imported."""
    home = name.rpartition(":")[0]
    return [Path.cwd(), *([Path(home).resolve().parent] if home.endswith(".py") else [])]


@contextmanager
def on_the_path(*folders: Path) -> Iterator[None]:
    """Modules of these folders can be imported inside."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders if str(folder) not in before]
    try:
        yield
    finally:
        sys.path[:] = before
