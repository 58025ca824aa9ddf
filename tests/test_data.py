"""Inputs: real digits, Gaussian noise, files, and what is wrong with a file."""

import gzip
import struct
import sys

import numpy as np
import pytest
import torch

from sigprop.data import digits, load_inputs, mnist, read_idx


def test_digits_are_the_real_ones():
    images, labels = digits()
    assert images.shape == (1797, 64) and labels.shape == (1797,)
    assert images.min() == 0 and images.max() == 1
    batch = load_inputs("digits", 50, seed=3)
    rows = {row.tobytes() for row in images}
    assert all(row.tobytes() in rows for row in batch)
    assert len(np.unique(batch, axis=0)) == 50  # without replacement
    assert len(load_inputs("digits", 1797)) == 1797


@pytest.mark.parametrize("source", ["digits", "gaussian"])
def test_the_seed_decides(source):
    assert np.array_equal(load_inputs(source, 9, seed=1), load_inputs(source, 9, seed=1))
    assert not np.array_equal(load_inputs(source, 9, seed=1), load_inputs(source, 9, seed=2))


def test_gaussian_inputs_have_the_shape_asked_for():
    batch = load_inputs("gaussian", 200, features=300)
    assert batch.shape == (200, 300) and batch.dtype == np.float64
    assert abs(batch.mean()) < 0.05 and abs(batch.std() - 1) < 0.05


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_npy_files(tmp_path, dtype):
    values = np.arange(60).reshape(5, 3, 4).astype(dtype)
    np.save(tmp_path / "x.npy", values)
    batch = load_inputs(str(tmp_path / "x.npy"), 5)
    assert batch.shape == (5, 12) and batch.dtype == np.float64
    assert sorted(map(tuple, batch)) == sorted(map(tuple, values.reshape(5, 12)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_pt_files(tmp_path, dtype):
    values = torch.arange(60).reshape(5, 3, 4).to(dtype)
    torch.save(values, tmp_path / "x.pt")
    batch = load_inputs(str(tmp_path / "x.pt"), 5)
    assert sorted(map(tuple, batch)) == sorted(map(tuple, values.reshape(5, 12).tolist()))


def save(path, value):
    if path.suffix == ".npy":
        np.save(path, value, allow_pickle=True)
    else:
        torch.save(value, path)
    return str(path)


class Payload:
    ran = False

    def __reduce__(self):
        return (setattr, (Payload, "ran", True))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("x.npy", np.arange(3.0), ValueError, r"must hold \(inputs, features\); got .*\(3,\)"),
        ("x.pt", torch.ones(()), ValueError, r"must hold \(inputs, features\); got .*\(\)"),
        ("x.npy", np.array([[1.0, np.nan]]), ValueError, "x.npy contains NaN"),
        ("x.pt", torch.tensor([[1.0, torch.inf]]), ValueError, "x.pt contains an infinite entry"),
        ("x.npy", np.zeros((0, 5)), ValueError, "x.npy is empty"),
        ("x.npy", np.ones((2, 2)) * 1j, TypeError, r"must be real numbers; got .*complex128"),
        ("x.npy", np.array([["a"]]), TypeError, "must be real numbers"),
        ("x.npy", np.array([[Payload()]]), ValueError, "is not a .npy file of numbers"),
        ("x.pt", {"x": torch.ones(2, 2)}, ValueError, "must hold one tensor; got dict. Save the"),
        ("x.pt", Payload(), ValueError, "must hold one tensor and nothing else"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, name, value, error, message):
    with pytest.raises(error, match=message):
        load_inputs(save(tmp_path / name, value), 1)
    assert not Payload.ran  # nothing in a file is run


@pytest.mark.parametrize("name", ["x.npy", "x.pt"])
def test_files_of_rubbish(tmp_path, name):
    for content in (b"", b"rubbish", b"\x00" * 200):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} (is not a .npy file|must hold one tensor)"):
            load_inputs(str(tmp_path / name), 1)


def idx(values, kind):
    """The bytes of an IDX file, written as the format says and by struct alone."""
    head = struct.pack(">BBBB", 0, 0, kind, values.ndim) + struct.pack(
        f">{values.ndim}I", *values.shape
    )
    code = {8: "B", 9: "b", 11: "h", 12: "i", 13: "f", 14: "d"}[kind]
    return head + struct.pack(f">{values.size}{code}", *values.reshape(-1).tolist())


@pytest.mark.parametrize(
    ("kind", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_of_every_type(tmp_path, kind, dtype, packed):
    low = 0 if kind == 8 else -100
    values = np.random.default_rng(kind).integers(low, 100, size=(3, 4, 5)).astype(dtype)
    content = idx(values, kind)
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    found = read_idx(path)
    assert found.dtype == np.dtype(dtype) and found.dtype.isnative
    assert np.array_equal(found, values)


def mnist_folder(folder, images, labels, ending=""):
    """A folder as MNIST is handed out; the test images are the training images in reverse."""
    folder.mkdir(exist_ok=True)
    for prefix, step in (("train", 1), ("t10k", -1)):
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(values[::step], 8)
            path = folder / f"{prefix}-{name}-ubyte{ending}"
            path.write_bytes(gzip.compress(content, mtime=0) if ending else content)
    return folder


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_folder_of_mnist(tmp_path, ending):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 4, 6)).astype("u1"), np.arange(7).astype("u1")
    images[0, 0, 0], images[1, 0, 0] = 0, 255
    folder = mnist_folder(tmp_path / "mnist", images, labels, ending)
    x, y = mnist(folder)
    assert x.shape == (7, 24) and x.min() == 0 and x.max() == 1 and x.dtype == np.float64
    assert np.array_equal(np.rint(255 * x), images.reshape(7, 24)) and y.tolist() == [*range(7)]
    x_test, y_test = mnist(folder, "test")
    assert np.array_equal(x_test, x[::-1]) and y_test.tolist() == [*range(7)][::-1]
    batch = load_inputs(str(folder), 7)
    assert sorted(map(tuple, batch)) == sorted(map(tuple, x))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is not an IDX file: .* got \[\]"),
        (b"\0\0\x08", "is not an IDX file"),
        (b"rubbish", "is not an IDX file"),
        (b"\0\0\x07\x01\0\0\0\x01\0", "is not an IDX file"),
        (b"\0\0\x08\x03\0\0\0\x02", "ends within its 16 bytes of header"),
        (idx(np.ones((2, 3), "u1"), 8)[:-1], r"shape \(2, 3\), 18 bytes in all; it has 17"),
        (idx(np.ones((2, 3), "u1"), 8) + b"\0", r"18 bytes in all; it has 19"),
        (gzip.compress(idx(np.ones(50), 14), mtime=0)[:-20], "is a damaged .gz file"),
        (b"\x1f\x8brubbish", "is a damaged .gz file"),
    ],
)
def test_idx_files_that_are_damaged(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "x")


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder 'nowhere'"):
        mnist("nowhere")
    with pytest.raises(FileNotFoundError, match="there is no IDX file 'nowhere'"):
        read_idx("nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither train-images-idx3-ubyte nor .*gz"):
        load_inputs(str(tmp_path), 1)
    images, labels = np.zeros((3, 2, 2), "u1"), np.zeros(3, "u1")
    with pytest.raises(ValueError, match=r"unknown split 'tests'; allowed: train, test. Did you"):
        mnist(mnist_folder(tmp_path / "a", images, labels), "tests")
    with pytest.raises(ValueError, match=r"images \(3, 2, 2\) of uint8 and labels \(2,\)"):
        mnist(mnist_folder(tmp_path / "b", images, labels[:2]))
    with pytest.raises(ValueError, match=r"images \(3, 2\) of uint8"):
        mnist(mnist_folder(tmp_path / "c", images[:, 0], labels))
    with pytest.raises(ValueError, match="holds no images"):
        mnist(mnist_folder(tmp_path / "d", images[:0], labels[:0]))


def test_refusals():
    with pytest.raises(
        ValueError,
        match=r"unknown input 'digitz'; allowed: digits, gaussian, a .npy or .pt file, "
        r"or a folder of MNIST. Did you mean 'digits'\?",
    ):
        load_inputs("digitz", 4)
    with pytest.raises(ValueError, match=r"unknown input 'x.csv'; .* folder of MNIST\.$"):
        load_inputs("x.csv", 4)
    with pytest.raises(FileNotFoundError, match=r"there is no input file 'nowhere\.npy'"):
        load_inputs("nowhere.npy", 4)
    with pytest.raises(ValueError, match="digits holds 1797 inputs; asked for 1798; take fewer"):
        load_inputs("digits", 1798)
    with pytest.raises(ValueError, match="batch must be >= 1; got 0"):
        load_inputs("gaussian", 0)
    with pytest.raises(ValueError, match="features must be >= 1; got 0"):
        load_inputs("gaussian", 4, features=0)
    with pytest.raises(ValueError, match="seed must be >= 0; got -1"):
        load_inputs("gaussian", 4, seed=-1)


def test_without_scikit_learn_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sigprop\[digits\]', or use Gauss"):
        load_inputs("digits", 4)
