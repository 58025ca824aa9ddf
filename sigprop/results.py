"""How a result looks: ``repr`` and ``print`` as text, and a small table in a notebook."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from sigprop.records import Row, cell, plain, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTEBOOK = "font: 13px system-ui, sans-serif; max-width: 64em"
"""The style of a result in a notebook, where there is no style sheet."""
CELL = "padding: .1em .6em; text-align: {}; white-space: nowrap"
MOST_ROWS = 16
"""Rows of a table in a notebook; of more, the first and the last half of them are shown."""
MOST_ENTRIES = 6
"""Entries of an array that are written in a line of text."""
DOTS_PER_INCH = 80


@dataclass(frozen=True)
class Shown:
    """What of a result is shown, in order; text and notebook both come from it.

    Attributes:
        above: lines above the table.
        rows: of the table; none: no table.
        columns: key → format of the columns, as :func:`sigprop.records.table` takes them.
        below: lines below the table.
        whole: whether text shows all rows; a notebook never shows more than a few.
    """

    above: Sequence[str] = ()
    rows: Sequence[Row] = ()
    columns: Mapping[str, str] | None = None
    below: Sequence[str] = ()
    whole: bool = True

    def as_text(self) -> str:
        """The lines and the table as aligned text."""
        lines = table(self.rows, self.columns).split("\n") if self.rows else []
        if not self.whole and len(self.rows) > MOST_ROWS:
            half, left = MOST_ROWS // 2, len(self.rows) - MOST_ROWS
            lines[1 + half : -half] = [f"... {left:,} more rows, see records() ..."]
        return "\n".join([*self.above, *lines, *self.below])

    def as_html(self) -> list[str]:
        """The same as parts of a page."""
        above, below = ([f"<p>{escape(line)}</p>" for line in s] for s in (self.above, self.below))
        return [*above, *self._table(), *below]

    def _table(self) -> list[str]:
        if not self.rows:
            return []
        rows = [plain(row) for row in self.rows]
        columns = self.columns
        if columns is None:
            columns = {key: "" for row in rows for key in row}
        words = {key for key in columns if any(isinstance(row.get(key), str) for row in rows)}
        style = {
            key: f' style="{CELL.format("left" if key in words else "right")}"' for key in columns
        }
        lines = [
            "<tr>"
            + "".join(
                f"<td{style[key]}>{escape(cell(row.get(key), spec))}</td>"
                for key, spec in columns.items()
            )
            + "</tr>"
            for row in rows
        ]
        if len(lines) > MOST_ROWS:
            half, left = MOST_ROWS // 2, len(lines) - MOST_ROWS
            lines[half:-half] = [f'<tr><td colspan="{len(columns)}">… {left:,} more rows</td></tr>']
        head = "".join(f"<th{style[key]}>{escape(key)}</th>" for key in columns)
        return [
            '<div style="overflow-x: auto">',
            '<table style="font: inherit; border-collapse: collapse">',
            f"<thead><tr>{head}</tr></thead><tbody>",
            *lines,
            "</tbody></table></div>",
        ]


class Result:
    """What a question returns: ``repr`` is what ``print`` shows, a notebook shows a small table.

    A class says what it shows in ``_shown`` and, where there is a picture of it, draws that in
    ``_picture``. Without ``_shown`` it is the table of its ``records()``, or else its fields.
    Numbers that numpy made become Python's own when a dataclass is made.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Before ``@dataclass`` looks: it leaves a ``__repr__`` of the class's own alone."""
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return self._shown().as_text()

    def _repr_html_(self) -> str:
        """For notebooks."""
        parts = [f'<div style="{NOTEBOOK}">', *self._html(), *_embedded(self), "</div>"]
        return "\n".join(parts)

    def _html(self) -> list[str]:
        shown = self._shown()
        if not shown.rows and is_dataclass(self):
            plainly = type(self)._shown is Result._shown
            above = [type(self).__name__] if plainly else shown.above
            shown = Shown(above, _field_rows(self), below=shown.below)
        return shown.as_html()

    def _shown(self) -> Shown:
        if hasattr(self, "records"):
            return Shown(rows=self.records(), whole=False)
        told = ", ".join(f"{row['field']}={row['value']}" for row in _field_rows(self))
        return Shown([f"{type(self).__name__}({told})"])

    def _picture(self) -> Figure | Axes | None:
        """Draw it with :mod:`sigprop.plots`; None: there is no picture."""
        return None


def _field_rows(result: Any) -> list[Row]:
    """Public fields with short values, a row each."""
    shown = [f.name for f in fields(result) if f.repr and not f.name.startswith("_")]
    return [{"field": name, "value": _brief(getattr(result, name))} for name in shown]


def _brief(value: Any) -> str:
    """A value in a line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            return _brief(value.item())
        if value.ndim == 1 and value.size <= MOST_ENTRIES:
            return f"[{', '.join(map(_brief, value.tolist()))}]"
        return f"array of shape {value.shape}"
    if isinstance(value, tuple | list) and len(value) <= MOST_ENTRIES:
        ends = "()" if isinstance(value, tuple) else "[]"
        return f"{ends[0]}{', '.join(map(_brief, value))}{ends[1]}"
    if isinstance(value, tuple | list | Mapping) and len(value) > MOST_ENTRIES:
        return f"{len(value):,} entries"
    return repr(value)


def _embedded(result: Result) -> list[str]:
    """The picture inside the page; its figure is closed, so that no notebook shows it again."""
    if type(result)._picture is Result._picture:
        return []
    import matplotlib.pyplot as plt

    with plt.ioff():  # nor any window
        drawn = result._picture()
    if drawn is None:
        return []
    figure: Any = getattr(drawn, "figure", None) or drawn
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png", dpi=DOTS_PER_INCH)
    plt.close(figure)
    encoded = base64.b64encode(pixels.getvalue()).decode("ascii")
    return [f'<img alt="picture of this result" src="data:image/png;base64,{encoded}">']
