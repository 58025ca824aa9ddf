"""Many validations: the same numbers however they run, one verdict for all."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sigprop import validate_many
from sigprop.validation.grid import cell_level
from sigprop.validation.judge import sidak


@pytest.mark.parametrize("threads", [1, 2])
def test_the_numbers_depend_neither_on_workers_nor_on_threads(threads, monkeypatch):
    """At this width a product of several threads has other last digits; the setting is kept."""
    case = {"alpha": 0.2, "depth": 2, "width": 1024, "seeds": 1, "batch": 8, "device": "cpu"}
    (alone,) = validate_many([case])
    torch.set_num_threads(threads)
    try:
        for workers in (1, 2):
            found = validate_many([case] * workers, workers=workers)
            assert [result.p_value for result in found] == [alone.p_value] * workers
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


def test_the_threads_are_set_back_when_a_case_fails():
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="depth"):
            validate_many([{"alpha": 0.2, "depth": 0, "width": 8}])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("cells", [1, 2, 12, 1000])
def test_all_cells_hold_at_their_level_where_the_grid_holds_at_its_own(cells):
    bar = cell_level(0.01, cells)
    for p, holds in ((bar * 1.000001, True), (bar * 0.999999, False)):
        assert (sidak([p] + [0.5] * (cells - 1)) >= 0.01) == holds
    with pytest.raises(ValueError, match="level must be > 0 and < 1; got 1"):
        cell_level(1, cells)


def test_an_executor_counts_the_nets_of_each_case():
    case = {"alpha": 0.2, "depth": 2, "width": 16, "seeds": 2, "batch": 2, "device": "cpu"}
    seen = []
    with ThreadPoolExecutor(1) as pool:
        found = validate_many(
            [case, case | {"seeds": 3}], executor=pool, progress=lambda *now: seen.append(now)
        )
    assert seen == [(2, 5), (5, 5)]
    assert [result.p_value for result in found] == [
        result.p_value for result in validate_many([case, case | {"seeds": 3}])
    ]


@pytest.mark.parametrize("cases", [{"alpha": 0.2, "depth": 1, "width": 8}, ["relu"]])
def test_cases_that_are_no_list_of_dicts_are_refused(cases):
    with pytest.raises(TypeError, match="cases must be a list of dicts, the keyword arguments of"):
        validate_many(cases)
