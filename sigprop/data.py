"""The inputs of analyses and the command line: real digits, Gaussian noise, a user's files."""

from __future__ import annotations

import difflib
import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.checks import FloatArray, count, one_of, real_array

KINDS = ("digits", "gaussian")
SPLITS = {"train": "train", "test": "t10k"}
_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def load_inputs(source: str, batch: int, *, seed: int = 0, features: int = 64) -> FloatArray:
    """Return a batch of inputs, shape (batch, features), drawn without replacement.

    Args:
        source: ``"digits"`` (the handwritten digits that ship with scikit-learn: 8 × 8 pixels, 64
            features, scaled to [0, 1]), ``"gaussian"`` (standard normal, ``features`` of them), or
            the path of a ``.npy`` file, of a ``.pt`` file holding one tensor, or of the folder of
            MNIST's IDX files (see :func:`mnist`); what is not two-dimensional is flattened to
            (inputs, features).
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


def mnist(folder: str | Path, split: str = "train") -> tuple[FloatArray, np.ndarray]:
    """MNIST from its IDX files in a folder: images (N, pixels) in [0, 1] and labels (N,).

    The files have the names under which they are handed out, ``train-images-idx3-ubyte``,
    ``train-labels-idx1-ubyte``, ``t10k-…``, each plain or ``.gz``; data sets of the same form
    (Fashion-MNIST, KMNIST) are read as well.

    Args:
        folder: where the files are.
        split: ``"train"`` or ``"test"``.

    Raises:
        ValueError: an unknown split, a damaged file, or images and labels that do not belong
            together.
        FileNotFoundError: no such folder or file.
    """
    prefix = SPLITS[one_of("split", split, SPLITS)]
    images = read_idx(_in_folder(Path(folder), f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_in_folder(Path(folder), f"{prefix}-labels-idx1-ubyte"))
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{folder} must hold images (N, rows, columns) of bytes and labels (N,); got images "
            f"{images.shape} of {images.dtype} and labels {labels.shape}."
        )
    if images.size == 0:
        raise ValueError(f"{folder} holds no images; give a folder with at least one.")
    return images.reshape(len(images), -1) / 255.0, labels.astype(np.int64)


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file, the format of MNIST; plain or compressed (``.gz``).

    Four bytes 0, 0, type and number of axes; the length of each axis as a big-endian 32-bit
    number; then the entries, big-endian, the last axis fastest.

    Args:
        path: the file.

    Returns:
        An array of the file's type (native byte order).

    Raises:
        ValueError: not an IDX file, cut short, or longer than it says.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no IDX file {str(path)!r}.")
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged .gz file: {error}") from error
    kind = _IDX_TYPES.get(content[2]) if len(content) >= 4 and content[:2] == b"\0\0" else None
    if kind is None:
        raise ValueError(
            f"{path} is not an IDX file: it must start with two zero bytes and a type byte, one of "
            f"{', '.join(map(str, _IDX_TYPES))}; got {list(content[:4])}."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} ends within its {start} bytes of header. Download it again.")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    wanted = start + math.prod(shape) * np.dtype(kind).itemsize
    if len(content) != wanted:
        raise ValueError(
            f"{path} says it holds an array of shape {shape}, {wanted} bytes in all; "
            f"it has {len(content)}. Download it again."
        )
    values = np.frombuffer(content, kind, offset=start).reshape(shape)
    return values.astype(values.dtype.newbyteorder("="))


def _in_folder(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}.")
    for ending in ("", ".gz"):
        if (folder / (name + ending)).is_file():
            return folder / (name + ending)
    raise FileNotFoundError(f"{folder} holds neither {name} nor {name}.gz.")


def _from_file(path: Path) -> FloatArray:
    if path.is_dir():
        return mnist(path)[0]
    if path.suffix not in (".npy", ".pt"):
        near = difflib.get_close_matches(path.name.lower(), KINDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown input {str(path)!r}; allowed: {', '.join(KINDS)}, a .npy or .pt file, "
            f"or a folder of MNIST.{hint}"
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
