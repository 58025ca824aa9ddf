"""A report in words: the verdict, what was found with what to do, the layers, the p-values."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, get_args

from sigprop.checking.columns import Column, Gap, columns, said_of, shown
from sigprop.checking.findings import SHOWN, Finding, Level, by_problem
from sigprop.reading.calling import some
from sigprop.records import counted, cut, p_text

if TYPE_CHECKING:
    from sigprop.checking.result import CheckReport, LayerCheck

WIDTH = 110
"""Characters of a line."""
LONGEST = {"operation": 14, "law of weights": 24}
"""Characters that columns are cut to."""
SHORTEST = {"law of weights": 16, "layer": 12}
"""Characters that columns are cut to where a line is too long, one after the other."""
WORST_FIRST: tuple[Level, ...] = tuple(reversed(get_args(Level)))


def as_text(report: CheckReport) -> str:
    """The verdict, the findings, the table, and what the weights say."""
    lines = [f"{verdict(report)} ({report.model}, {counted(len(report.layers), 'weight layer')})"]
    told: set[str] = set()
    for found in grouped(report.findings):
        lines += _told(found, told)
    if report.layers:
        lines += ["", *_table(report)]
    return "\n".join([*lines, "", *map(_filled, sentences(report))])


def verdict(report: CheckReport) -> str:
    """In a line.

    A problem counts once, in however many layers it is.
    """
    word = "healthy" if report.healthy else "unhealthy"
    named = {"unhealthy": "problem", "warning": "warning", "note": "note"}
    groups = [found[0].level for found in grouped(report.findings)]
    counts = [counted(groups.count(lv), named[lv]) for lv in WORST_FIRST if lv in groups]
    return f"{word}: {', '.join(counts) or 'nothing to report'}"


def grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one level and one problem together, the worst first."""
    return [
        group
        for level in WORST_FIRST
        for group in by_problem([finding for finding in findings if finding.level == level])
    ]


def advice(found: Sequence[Finding]) -> str:
    """What to do about findings of one problem."""
    return " ".join(dict.fromkeys(finding.advice for finding in found if finding.advice))


def places(found: Sequence[Finding]) -> list[str]:
    """Where findings of one problem are, the first few."""
    lines = [f"{f.name or 'the model'}: {f.detail}" for f in found[:SHOWN]]
    return lines + ([f"and {len(found) - SHOWN:,} more"] if len(found) > SHOWN else [])


def sentences(report: CheckReport) -> list[str]:
    """What the p-values of the model say, in plain words."""
    asked = {
        "their size fits their laws": ("their size does not fit their laws", report.p_scale),
        "they are independent of their inputs": (
            "they seem to depend on their inputs", report.p_direction,
        ),
        "they are independent of their gradients": (
            "they seem to depend on their gradients", report.p_backward,
        ),
    }  # fmt: skip
    said = [
        f"{right if p >= report.level else wrong} ({p_text(p)})"
        for right, (wrong, p) in asked.items()
        if p is not None
    ]
    tables = [f"{name}: {law}" for name, law in report.tables.items()]
    told = [f"Tables of embeddings: {some(tables)}."] if tables else []
    if report.recurrent:
        laws: dict[str, list[str]] = {}
        for matrix in report.recurrent:
            laws.setdefault(matrix.law, []).append(matrix.name)
        inner = "; ".join(f"{law} ({some(names)})" for law, names in laws.items())
        told.append(f"Within recurrent layers: {inner}.")
    if not said:
        why = "their laws are not known, or leave nothing to chance"
        return [f"The weights could not be tested: {why}.", *told]
    right = f"Weights drawn at random give a p below {report.level:g} once in {1 / report.level:g}."
    return [f"All weights together: {'; '.join(said)}. {right}", *told]


def _told(found: Sequence[Finding], told: set[str]) -> Iterator[str]:
    """Findings of one problem: what it is, where, what to do; ``told`` is what was said already."""
    yield ""
    yield f"{found[0].level.upper()}  {found[0].problem}"
    for line in places(found):
        yield _filled(line, "  ")
    remedy = advice(found)
    if remedy:
        yield _filled(f"What to do: {'as above.' if remedy in told else remedy}", "  ")
        told.add(remedy)


def _table(report: CheckReport) -> Iterator[str]:
    """The layers, in as many characters as there are."""
    found, rows, said = columns(report), shown(report), said_of(report)
    layers = [row for row in rows if not isinstance(row, Gap)]
    widths = _widths(found, layers)
    yield _groups(found, widths)
    yield _line(found, [column.title for column in found], widths)
    for row in rows:
        if isinstance(row, Gap):
            yield row.text
            continue
        yield _line(found, [column.cell(row) for column in found], widths)
        if row.name in said:
            yield _filled(said[row.name], "  ^ ")
    if len(layers) < len(report.layers):
        yield f"all {len(report.layers):,} layers: report.records()"


def _widths(found: Sequence[Column], layers: Sequence[LayerCheck]) -> list[int]:
    """As wide as the cells, but for names and laws, which share what is left of a line."""
    widths = [max(map(len, [column.title, *map(column.cell, layers)])) for column in found]
    titles = [column.title for column in found]
    for title, longest in LONGEST.items():
        place = titles.index(title)
        widths[place] = min(widths[place], longest)
    over = sum(widths) + 2 * (len(widths) - 1) - WIDTH
    for title, shortest in SHORTEST.items():
        place = titles.index(title)
        less = max(min(over, widths[place] - shortest), 0)
        widths[place] -= less
        over -= less
    return widths


def _line(found: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        cell.rjust(width) if column.number else cut(cell, width).ljust(width)
        for column, cell, width in zip(found, cells, widths, strict=True)
    ]
    return "  ".join(parts).rstrip()


def _groups(found: Sequence[Column], widths: Sequence[int]) -> str:
    """The line above the titles: each group over the last of its columns."""
    ends = list(accumulate(width + 2 for width in widths))
    line = ""
    for column, end in zip(found, ends, strict=True):
        line = line.removesuffix(column.group).ljust(end - 2 - len(column.group)) + column.group
    return line.rstrip()


def _filled(text: str, indent: str = "") -> str:
    """Lines of a paragraph; "p = 0.1" stays together."""
    filled = textwrap.fill(
        text.replace(" = ", "\0=\0"), WIDTH, initial_indent=indent,
        subsequent_indent=" " * len(indent and indent + "  "), break_on_hyphens=False,
    )  # fmt: skip
    return filled.replace("\0", " ")
