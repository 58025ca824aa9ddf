"""The inputs of analyses and the command line: real digits, Gaussian noise, a user's file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.checks import FloatArray, count, real_array

KINDS = ("digits", "gaussian")


def load_inputs(source: str, batch: int, *, seed: int = 0, features: int = 64) -> FloatArray:
    """Return a batch of inputs, shape (batch, features), drawn without replacement.

    Args:
        source: ``"digits"`` (the handwritten digits that ship with scikit-learn: 8 × 8 pixels, 64
            features, scaled to [0, 1]), ``"gaussian"`` (standard normal, ``features`` of them), or
            the path of a ``.npy`` file or of a ``.pt`` file holding one tensor; what is not
            two-dimensional is flattened to (inputs, features).
        batch: number of inputs wanted.
        seed: of the choice of inputs.
        features: number of features of Gaussian inputs.

    Raises:
        ValueError: an unknown source, a file that is no array of finite numbers, or fewer inputs in
            it than wanted.
        TypeError: a file whose numbers are not real.
        FileNotFoundError: no such file.
        ModuleNotFoundError: scikit-learn is missing.

    Example:
        >>> load_inputs("gaussian", 4, features=10).shape
        (4, 10)
    """
    batch = count("batch", batch)
    rng = np.random.default_rng([count("seed", seed, minimum=0), 1])
    if source == "gaussian":
        return rng.standard_normal((batch, count("features", features)))
    values = digits()[0] if source == "digits" else _from_file(Path(source))
    if len(values) < batch:
        raise ValueError(f"{source} holds {len(values)} inputs; asked for {batch}; take fewer.")
    return values[rng.choice(len(values), batch, replace=False)]


def digits() -> tuple[FloatArray, np.ndarray]:
    """The 1,797 handwritten digits of scikit-learn: images (1797, 64) in [0, 1] and labels (1797,).

    Raises:
        ModuleNotFoundError: scikit-learn is missing; the message says how to get it.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the handwritten digits ship with scikit-learn, which is not installed: "
            "pip install 'sigprop[digits]', or use Gaussian inputs (--input gaussian)."
        ) from error
    images, labels = load_digits(return_X_y=True)
    return images / 16.0, labels


def _from_file(path: Path) -> FloatArray:
    if path.suffix not in (".npy", ".pt"):
        near = difflib.get_close_matches(path.name.lower(), KINDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown input {str(path)!r}; allowed: {', '.join(KINDS)}, or a .npy or .pt file."
            f"{hint}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no input file {str(path)!r}.")
    values = real_array(str(path), _npy(path) if path.suffix == ".npy" else _pt(path))
    if values.ndim < 2:
        raise ValueError(
            f"{path} must hold (inputs, features); got an array of shape {values.shape}."
        )
    return values.reshape(len(values), -1)


def _npy(path: Path) -> Any:
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error


def _pt(path: Path) -> Any:
    import torch

    try:
        values = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # what rubbish raises is anything, IndexError too
        raise ValueError(
            f"{path} must hold one tensor and nothing else (torch.save(tensor, path)); "
            "torch could not read it as weights only."
        ) from error
    if not isinstance(values, torch.Tensor):
        raise ValueError(
            f"{path} must hold one tensor; got {type(values).__name__}. "
            "Save the inputs alone: torch.save(tensor, path)."
        )
    return values
