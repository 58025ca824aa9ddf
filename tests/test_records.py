"""Records: plain values, CSV and JSON there and back, the table."""

import json
import math
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from sigprop.records import (
    json_text,
    plain,
    read_csv,
    read_json,
    table,
    write_csv,
    write_json,
    write_text,
)


def test_numpy_turns_plain_at_any_depth():
    value = {
        "scalar": np.float32(0.5),
        "array": np.array([[1, 2], [3, 4]]),
        "zero_dim": np.array(2.5),
        "deep": ({"flag": np.True_}, [np.int64(3), None, "text"]),
        3: OrderedDict(a=np.array([])),
    }
    assert plain(value) == {
        "scalar": 0.5,
        "array": [[1, 2], [3, 4]],
        "zero_dim": 2.5,
        "deep": [{"flag": True}, [3, None, "text"]],
        "3": {"a": []},
    }
    assert type(plain(np.float64(1))) is float and type(plain(np.True_)) is bool
    json.dumps(plain(value))


ROWS = [
    {"layer": 1, "q": 0.1 + 0.2, "name": 'fc, "quoted"\nline', "ok": True},
    {"layer": -2, "q": 1e-300, "extra": None, "ok": False},
    {"layer": 10**20, "q": math.inf, "name": "α ≤ 1", "late": -1e22},
    {"layer": 0, "q": -math.inf, "name": "1_000", "late": 5e-324},
    {"layer": 3, "q": np.float64(1) / 3, "name": " 7", "late": np.float32(0.1)},
]


def test_csv_gives_the_same_numbers_back(tmp_path):
    path = write_csv(ROWS, tmp_path / "new" / "folder" / "rows.csv")
    assert path.read_text(encoding="utf-8").splitlines()[0] == "layer,q,name,ok,extra,late"
    columns = ["layer", "q", "name", "ok", "extra", "late"]
    expected = [{key: plain(row.get(key)) for key in columns} for row in ROWS]
    back = read_csv(path)
    assert back == expected
    kinds = [[type(value) for value in row.values()] for row in back]
    assert kinds == [[type(value) for value in row.values()] for row in expected]
    assert write_csv(back, tmp_path / "again.csv").read_bytes() == path.read_bytes()


def test_csv_nan_and_what_it_cannot_tell(tmp_path):
    path = write_csv([{"q": math.nan, "name": "12", "empty": "", "shape": (2, 3)}], tmp_path / "r")
    (row,) = read_csv(path)
    assert math.isnan(row["q"])
    assert (row["name"], row["empty"], row["shape"]) == (12, None, "[2, 3]")  # as documented


def test_no_rows(tmp_path):
    assert read_csv(write_csv([], tmp_path / "none.csv")) == []
    assert table([]) == ""


def test_json_there_and_back(tmp_path):
    value = {"rows": ROWS[:3], "shape": (2, 3), "nan": math.nan}
    back = read_json(write_json(value, tmp_path / "a" / "value.json"))
    assert back["rows"] == [plain(row) for row in ROWS[:3]]
    assert back["shape"] == [2, 3] and back["nan"] is None
    assert "α ≤ 1" in (tmp_path / "a" / "value.json").read_text(encoding="utf-8")


def test_what_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(TypeError, match="complex"):
        write_json({"z": 1j}, tmp_path / "z.json")


def test_the_table_is_aligned():
    rows = [
        {"name": "first", "q": 1.23456789, "n": 7, "ok": True},
        {"name": "x", "q": np.float32("nan"), "n": None, "ok": False},
        {"name": "", "q": -np.inf, "n": 12345},
    ]
    assert table(rows) == "\n".join(
        [
            "name         q      n     ok",
            "first  1.23457      7   True",
            "x            -      -  False",
            "          -inf  12345      -",
        ]
    )
    assert table(rows, {"q": ".2f", "n": ""}).splitlines()[1] == "1.23      7"
    assert table([{"shape": (3, 4)}]).splitlines()[1] == "[3, 4]"


def test_every_digit_of_a_number_is_kept():
    for value in (0.1, 1 / 3, np.nextafter(1.0, 2.0), 1e-300, 2.0**53 + 2):
        assert plain(np.float64(value)) == value
        assert plain({"a": [np.array([value])]}) == {"a": [[value]]}
        assert json.loads(json_text(np.float64(value))) == value
    assert plain(np.int64(2**62 + 1)) == 2**62 + 1


def strict(text):
    def refuse(word):
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_strict(indent):
    value = {
        "nan": math.nan,
        "NaN": [math.inf, -math.inf, np.array([np.nan, 1.0]), np.float32("inf")],
        'said "NaN"': 'NaN, "Infinity\\" and -Infinity',
    }
    back = strict(json_text(value, indent))
    assert back == {
        "nan": None,
        "NaN": [math.inf, -math.inf, [None, 1.0], math.inf],
        'said "NaN"': 'NaN, "Infinity\\" and -Infinity',
    }
    with pytest.raises(ValueError, match="no JSON"):
        strict(json.dumps(plain(value)))


WRITERS = {
    "csv": lambda path: write_csv([{"a": 1}], path),
    "json": lambda path: write_json({"a": 1}, path),
    "text": lambda path: write_text("a", path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch, write, step, error):
    path = tmp_path / "result"
    path.write_text("old")

    def fails(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fails)
        with pytest.raises(type(error)):
            write(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result"]
    write(path)
    assert "a" in path.read_text() and os.listdir(tmp_path) == ["result"]


def test_links_and_modes_stay_and_devices_are_written_to(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    assert write_text("new", link) == link
    assert link.is_symlink() and real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640
    before = os.stat(os.devnull)
    write_text("nothing", os.devnull)
    assert os.path.samestat(before, os.stat(os.devnull))
    with pytest.raises(OSError):
        write_text("folder", tmp_path)
    with pytest.raises(OSError, match="No space left"):
        write_text("full", "/dev/full")
    read, write = os.pipe()
    write_text("through", f"/dev/fd/{write}")
    assert os.read(read, 100) == b"through"
    os.close(read)
    os.close(write)
