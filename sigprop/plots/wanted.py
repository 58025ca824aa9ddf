"""What a picture is of: anything else is refused, with the picture that would fit it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PICTURES = {
    "Validation": "variance, plots.gradient or plots.scores; of its records() plots.path",
    "CheckReport": "check",
    "Prediction": "prediction",
    "NodeStatistics": "prediction, as measured=",
    "Monitor": "monitor",
    "KinksAlongLine": "kinks",
    "LineRegions": "regions",
    "PlaneRegions": "regions",
    "Sweep": "sweep",
}
"""Result → the picture of it."""


def draws(
    maker: str, *attributes: str, columns: Sequence[str] = (), several: bool = False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a picture: refuse a first argument that it is not of.

    Args:
        maker: what returns the result that is drawn, for the message.
        attributes: what such a result has; none: only rows are drawn.
        columns: what rows have, where rows are drawn too.
        several: whether it draws a sequence of results.

    Raises:
        TypeError: by the picture, of another thing; it says what is drawn, and what would draw it.
        ValueError: by the picture, of no rows.
    """

    def decorated(picture: Callable[P, T]) -> Callable[P, T]:
        def fits(value: Any) -> bool:
            return bool(attributes) and all(hasattr(value, name) for name in attributes)

        @functools.wraps(picture)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            given: Any = args[0] if args else next(iter(kwargs.values()), None)
            listed = isinstance(given, Sequence) and not isinstance(given, str)
            if several:
                right = listed and all(map(fits, given))
            elif columns and listed:
                right = all(_is_row(row, columns) for row in given)
            else:
                right = fits(given)
            if not right:
                raise TypeError(_refusal(picture.__name__, maker, given, columns, several))
            return picture(*args, **kwargs)

        return checked

    return decorated


def _is_row(row: Any, columns: Sequence[str]) -> bool:
    return isinstance(row, Mapping) and all(name in row for name in columns)


def _refusal(picture: str, maker: str, given: Any, columns: Sequence[str], several: bool) -> str:
    kind = type(given).__name__
    what = f"a list of what {maker} returns" if several else f"what {maker} returns"
    if columns:
        what += f", or rows with {', '.join(columns)}"
    other = PICTURES.get(kind)
    hint = f" plots.{other} draws that." if other and not other.startswith(picture) else ""
    return f"plots.{picture} draws {what}; got {kind}.{hint}"
