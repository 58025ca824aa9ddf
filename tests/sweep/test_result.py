"""Results as rows, data frames, arrays with named axes, and text."""

import math
import sys

import numpy as np
import pytest

from sigprop import sweep
from tests.sweep import functions
from tests.sweep.running import here


def measured(gain, seed, kind="a"):
    if gain == 2 and seed == 1:
        raise ValueError("no")
    return {"q": gain * 10 + seed, "log": math.log(gain), "word": kind * seed, "good": gain > 1}


CASES = sweep.grid(gain=[1.0, 2.0, 0.5], seed=range(2), kind="b")


def test_an_array_has_an_axis_for_each_argument_that_varies(tmp_path):
    pytest.importorskip("xarray")
    out = tmp_path / "s"
    for result in (here(measured, CASES, out=out), sweep.load(out)):
        data = result.to_xarray()
        assert dict(data.sizes) == {"gain": 3, "seed": 2}
        assert data.gain.values.tolist() == [1.0, 2.0, 0.5]  # in the order given
        assert data.attrs["kind"] == "b" and data.attrs["function"].endswith(":measured")
        assert data.q.sel(gain=0.5, seed=1) == 6.0 and math.isnan(data.q.sel(gain=2, seed=1))
        assert data.word.sel(gain=1, seed=1) == "b"
        assert data.word.isnull().sum() == data.q.isnull().sum() == 1
        assert data.good.sel(gain=0.5, seed=0) == 0 and data.good.sel(gain=2, seed=0) == 1


def test_an_array_of_lists_of_cases():
    pytest.importorskip("xarray")
    whole = here(functions.square, [{"x": 2}, {"x": 1}]).to_xarray()
    assert whole.square.dims == ("x",) and whole.square.dtype == np.int64
    assert whole.square.sel(x=2) == 4
    kinds = here(measured, [{"gain": 1.5, "seed": 0, "kind": k} for k in ("b", "a")]).to_xarray()
    assert kinds.kind.values.tolist() == ["b", "a"]
    with pytest.raises(ValueError, match="several cases have the arguments"):
        here(functions.square, [{"x": 1}, {"x": 1}]).to_xarray()
    with pytest.raises(ValueError, match=r"several rows each.*records\(\)"):
        here(functions.several, [{"n": 2}]).to_xarray()


def test_a_frame_and_a_file_hold_the_rows(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    result = here(measured, CASES)
    frame = result.to_pandas()
    assert frame.columns.tolist() == ["gain", "seed", "kind", "q", "log", "word", "good"]
    assert len(frame) == 5 and frame.q.tolist() == [row["q"] for row in result.records()]
    path = result.to_parquet(tmp_path / "s.parquet")
    pandas.testing.assert_frame_equal(pandas.read_parquet(path), frame)


@pytest.mark.parametrize(
    ("package", "method"),
    [("pandas", "to_pandas"), ("xarray", "to_xarray"), ("pyarrow", "to_parquet")],
)
def test_what_is_not_installed_is_told(monkeypatch, tmp_path, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    result = here(functions.square, [{"x": 1}])
    given = [tmp_path / "s.parquet"] if method == "to_parquet" else []
    with pytest.raises(ModuleNotFoundError, match=rf"{method}\(\) needs {package}: pip install"):
        getattr(result, method)(*given)


def test_a_result_of_the_name_of_an_argument_is_kept_apart():
    def same_name(gain, depth):
        return {"gain": 1.41 if gain is None else gain, "depth": depth + 1}

    found = here(same_name, sweep.grid(gain=[None, 1.2], depth=3)).records()
    assert found == [
        {"gain": None, "depth": 3, "result_gain": 1.41, "result_depth": 4},
        {"gain": 1.2, "depth": 3, "result_depth": 4},
    ]


def test_a_print_shows_the_first_and_the_last_and_the_kinds_of_error():
    def fails(x):
        if x % 2:
            raise ValueError(f"kind {x % 16}\nmore of it")
        return x

    text = str(here(fails, sweep.grid(x=range(64))))
    assert text.startswith("sweep of ") and "64 of 64 cases finished, 32 of them raised" in text
    assert "... 16 more rows" in text and "4 x ValueError: kind 1\n" in text
    assert "and 3 more kinds of error, see errors()" in text and "s a case (median)" in text
    assert "raised" not in str(here(functions.same, [{"value": 1}]))


def test_a_print_says_once_what_is_the_same_in_all_rows():
    def wide(x, kind):
        return {"none": None, "fixed": 3.0} | {f"column{i}": x * i for i in range(1, 20)}

    text = str(here(wide, sweep.grid(x=range(1, 4), kind="b")))
    assert "\nin all: kind b, fixed 3\n" in text
    assert text.splitlines()[2].split() == ["x", *(f"column{i}" for i in range(1, 12))]
    assert "... 8 more columns, see records() ..." in text
    assert "in all" not in str(here(wide, [{"x": 1, "kind": "b"}]))
