"""What a count returns: two numbers, and the cells behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sigprop.arrangement.crossings import Indices
from sigprop.arrangement.hyperplanes import PairMaximum, Primitive
from sigprop.arrangement.merging import components, same_map
from sigprop.arrangement.network import Add, Affine, Array, Piecewise
from sigprop.arrangement.pieces import Pattern, marks
from sigprop.arrangement.points import Points
from sigprop.records import counted
from sigprop.results import Result, Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = 20_000
"""Most cells that a notebook draws by itself."""


@dataclass(frozen=True, eq=False)
class Complex:
    """Cells with everything known about them.

    Attributes:
        points: the table of points.
        steps: the primitive steps that were applied (all, or those before a stop).
        cells: number of cells.
        patterns: by step, (cells, units) the piece of each unit.
        pairs: (pairs, 2) cells that share a face.
        corners: (incidences, 2) cell and point, every corner of every cell once.
        faces: (faces, 2) points of edges or breakpoints; () where not kept.
        face_cells: (faces, 2) cells on either side, −1 for none.
        face_owner: (faces,) hyperplane, counted through all steps; −1 on the border.
        frames: (cells,) which frame the cell's coordinates belong to.
    """

    points: Points
    steps: list[Primitive]
    cells: int
    patterns: dict[int, Pattern]
    pairs: Indices
    corners: Indices
    faces: Indices
    face_cells: Indices
    face_owner: Indices
    frames: Indices

    @cached_property
    def activation_label(self) -> Indices:
        """(cells,) the activation region of each cell: cells of one pattern are one region."""
        told = marks(self.points.steps, self.patterns)
        columns = [rows for _, rows in sorted(told.items())]
        if not columns:
            return np.zeros(self.cells, np.intp)
        rows = np.concatenate([self.frames[:, None], *columns], axis=1)
        rows = np.ascontiguousarray(
            rows.astype(np.int16 if rows.max(initial=0) < 2**15 else np.int64)
        )
        whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
        return np.asarray(np.unique(whole, return_inverse=True)[1], np.intp).ravel()

    @property
    def activation_regions(self) -> int:
        """Number of activation regions."""
        return int(self.activation_label.max()) + 1

    @cached_property
    def same(self) -> NDArray[np.bool_]:
        """(pairs,) whether the two cells carry the same affine map."""
        patterns = {i: rows for i, rows in self.patterns.items() if i < len(self.steps)}
        if not patterns:
            return np.ones(len(self.pairs), bool)
        frame = self.points.frames[int(self.frames[0])]
        return same_map(self.steps, frame, patterns, self.pairs)

    @cached_property
    def linear_label(self) -> Indices:
        """(cells,) the linear region of each cell."""
        return components(self.cells, self.pairs[self.same])

    @cached_property
    def jumping(self) -> NDArray[np.bool_]:
        """(faces,) whether a unit jumps there, and the output is not the same on both sides."""
        inner = (self.face_cells >= 0).all(axis=1)
        a, b = self.face_cells[inner].T
        jumped = np.zeros(len(a), bool)
        for i, rows in self.patterns.items():
            step = self.points.steps[i]
            if isinstance(step, Piecewise) and step.jumps.any():
                passed = np.cumsum(np.concatenate([0 * step.jumps[:1], step.jumps]), axis=0)
                unit = np.arange(rows.shape[1])
                jumped |= (passed[rows[a], unit] != passed[rows[b], unit]).any(axis=1)
        own = np.concatenate([cut.jumps for cut in self.points.cuts.values()] + [[False]])
        found = own[self.face_owner] & ~inner  # where cells have points of their own
        found[inner] = jumped & (self.linear_label[a] != self.linear_label[b])
        return found

    def affine(self, cell: int) -> tuple[Array, Array]:
        """The affine map of the output on one cell: (out, coordinates) matrix and (out,) offset."""
        frame = self.points.floats[int(self.frames[cell])]
        columns = frame.shape[1]
        maps: list[Array] = [frame]
        for i, step in enumerate(self.steps):
            taken = [maps[source] for source in step.sources]
            maps.append(_composed(step, taken, self.patterns.get(i), cell, columns))
        return maps[-1][:, :-1], maps[-1][:, -1]


@dataclass(frozen=True, eq=False, kw_only=True)
class Regions(Result):
    """The regions of a network on a line, in a plane or in a box.

    Attributes:
        activation_regions: cells cut by every unit that has a kink.
        complete: whether the count came to its end. If False, ``max_cells`` or Ctrl-C stopped it,
            and the numbers are those of the layers that were done: less than the truth.
        interrupted: whether there was a Ctrl-C (only with ``keep_partial``).
        exact_decisions: how many signs float64 left open and exact arithmetic decided.
    """

    activation_regions: int
    complete: bool
    interrupted: bool
    exact_decisions: int
    _certified: bool = field(repr=False)
    _build: Callable[[], Complex] = field(repr=False)

    @cached_property
    def complex(self) -> Complex:
        """The cells behind the numbers; built when first asked for."""
        return self._build()

    @property
    def certified(self) -> bool:
        """Whether every sign rests on a guaranteed error bound or on exact arithmetic.

        False where guaranteed bounds would leave much to exact arithmetic, in networks of some five
        layers of 256 units or ten of 16: there the bounds are measured on the network itself, with
        a wide margin, and exact arithmetic decides within them. Such a count says "not certified"
        wherever it is printed, written or drawn.
        """
        built = self.__dict__.get("complex")
        return self._certified and (built is None or built.points.certified)

    @cached_property
    def linear_regions(self) -> int:
        """Regions on which the output is one affine map: cells merged where it does not bend.

        The output is that of the whole network: a unit that nothing passes on bends nothing. (In
        boxes of three and more dimensions cells on the two sides of a jump stay apart.) Maps
        are compared without rounding, in a finite field: equal maps always merge, and different
        ones are taken for equal with probability below 2⁻⁵⁷.
        """
        found = self.complex
        return len(np.unique(found.linear_label))

    def records(self) -> list[dict[str, Any]]:
        """The two counts and what they are worth, as one flat row."""
        return [
            {
                "activation_regions": self.activation_regions,
                "linear_regions": self.linear_regions,
                "complete": self.complete,
                "certified": self.certified,
            }
        ]

    def _shown(self) -> Shown:
        counts = (
            f"{counted(self.activation_regions, 'activation region')}, "
            f"{counted(self.linear_regions, 'linear region')}"
        )
        stopped = "interrupted" if self.interrupted else "stopped by max_cells"
        notes = [
            *([] if self.complete else [f"partial: {stopped}"]),
            *([] if self.certified else ["not certified"]),
        ]
        return Shown([f"{counts} ({'; '.join(notes)})" if notes else counts])


@dataclass(frozen=True, eq=False, kw_only=True)
class LineRegions(Regions):
    """The intervals of a segment a + t (b − a), 0 ≤ t ≤ 1.

    Attributes:
        breakpoints: (k,) positions t, ascending, where the activation pattern changes.
    """

    breakpoints: Array

    def _picture(self) -> Axes | None:
        return drawn(self)

    @cached_property
    def jumps(self) -> Array:
        """The breakpoints at which the output may jump (units with a jump, PhasedReLU)."""
        return self.breakpoints[self.complex.jumping]

    @cached_property
    def bends(self) -> NDArray[np.bool_]:
        """(k,) whether the affine map of the output changes at each breakpoint."""
        return ~self.complex.same

    def affine(self, interval: int) -> tuple[Array, Array]:
        """Output on an interval (0 … k) as slope·t + intercept: two arrays (out,)."""
        slope, intercept = self.complex.affine(_index("interval", interval, self.complex.cells))
        return slope[:, 0], intercept


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxRegions(Regions):
    """The cells of a box, or of all of the input space."""

    @property
    def cells(self) -> int:
        """Number of convex cells, which :meth:`affine` counts through.

        More than activation regions only where something else parts one: comparisons of a maximum
        that both lose, and, without a box, the fan of cones that all of the space is made of.
        """
        return self.complex.cells

    def affine(self, cell: int) -> tuple[Array, Array]:
        """Output on a cell (0 … cells − 1) as matrix @ coordinates + offset: (out, dim), (out,)."""
        return self.complex.affine(_index("cell", cell, self.complex.cells))

    @cached_property
    def discontinuities(self) -> int:
        """Number of faces of cells on which the network jumps (PhasedReLU).

        The two sides of a jump are cut differently, and each side's faces count.
        """
        found = self.complex
        return int(found.jumping.sum())


@dataclass(frozen=True, eq=False, kw_only=True)
class PlaneRegions(BoxRegions):
    """The cells of a plane slice, with their geometry in the slice's own two coordinates."""

    def _picture(self) -> Axes | None:
        return drawn(self)

    @cached_property
    def polygons(self) -> list[Array]:
        """The cells, each (corners, 2) in order around it."""
        found = self.complex
        cell, point = found.corners.T
        place = found.points.coordinates[point, :2]
        count = np.bincount(cell, minlength=found.cells)
        centre = np.stack([np.bincount(cell, place[:, k], found.cells) for k in (0, 1)], axis=1)
        away = place - (centre / count[:, None])[cell]
        order = np.lexsort((np.arctan2(away[:, 1], away[:, 0]), cell))
        return np.split(place[order], np.cumsum(count)[:-1])

    @cached_property
    def edges(self) -> Array:
        """(edges, 2, 2) the segments between cells: both ends, each a point of the slice."""
        found = self.complex
        inner = found.face_owner >= 0
        return np.asarray(found.points.coordinates[found.faces[inner], :2])

    @cached_property
    def bends(self) -> NDArray[np.bool_]:
        """(edges,) whether the affine map of the output changes across each edge."""
        found = self.complex
        inner = found.face_owner >= 0
        label = np.append(found.linear_label, -1)
        sides = label[found.face_cells[inner]]
        return np.asarray(sides[:, 0] != sides[:, 1])

    @cached_property
    def jumps(self) -> NDArray[np.bool_]:
        """(edges,) whether the network is discontinuous across each edge."""
        return self.complex.jumping[self.complex.face_owner >= 0]


def drawn(result: LineRegions | PlaneRegions) -> Axes | None:
    """The picture of regions, where there are not too many to be told apart."""
    from sigprop.plots import regions

    return regions(result) if result.activation_regions <= DRAWN else None


def _index(name: str, value: int, size: int) -> int:
    if not -size <= value < size:
        raise IndexError(f"{name} {value} does not exist; there are {size}, numbered from 0.")
    return value % size


def _composed(
    step: Primitive, taken: list[Array], pattern: Pattern | None, cell: int, columns: int
) -> Array:
    entering = taken[0]
    if isinstance(step, Affine):
        made = np.asarray(step.weight @ entering)
        made[:, -1] += step.bias
        return made
    if isinstance(step, Add):
        return np.asarray(sum(taken[1:], entering))
    if isinstance(step, PairMaximum):
        first = np.ones(len(step.first), bool) if pattern is None else pattern[cell] > 0
        return entering[np.where(first, step.first, step.second)]
    piece = np.zeros(step.slopes.shape[1], np.intp) if pattern is None else pattern[cell]
    unit = np.arange(len(piece))
    made = np.asarray(step.slopes[piece, unit][:, None] * entering)
    made[:, -1] += step.offsets[piece, unit]
    return made
