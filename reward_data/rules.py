"""The kinds of anatomical rule: each takes one number off a mask and says within which limits it has to lie.

A rule names its structures by class ("lv") or by several classes in union (["lv", "myo"]). It is not applicable
(value NaN, accepted) when a structure that it measures is missing: that is for `present` to say.
Costs order the early exit: 0 needs counts only, 9 a distance transform.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator
from scipy import ndimage

from reward_data.errors import ConfigError
from reward_data.mask_geometry import (
    MaskGeometry,
    Names,
    hole_pixels,
    hull_pixels,
    piece_sizes,
    quantile,
    union,
)
from reward_data.types import Config


def _as_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Structure = Annotated[Names, BeforeValidator(_as_names), Field(min_length=1)]
SPECK = 0.0002  # of a structure's area: 1 or 2 pixels of a left ventricle at 256x256, none at 64x64


class Rule(Config):
    """Base of all rules: accepted when low <= value <= high."""

    cost: ClassVar[int] = 0
    any_dimension: ClassVar[bool] = True
    fitted: ClassVar[bool] = True

    name: str | None = Field(
        default=None, description="Name in reports; default: the kind and its structures."
    )
    structure: Structure = Field(description="The class, or the classes in union, that the rule is about.")
    low: float | None = Field(default=None, description="Smallest accepted value, in the rule's unit.")
    high: float | None = Field(default=None, description="Largest accepted value, in the rule's unit.")

    @model_validator(mode="after")
    def _limits_in_order(self) -> Rule:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ConfigError(f"rule {self.label}: low {self.low} is above high {self.high}; swap them")
        return self

    @property
    def label(self) -> str:
        """The rule's name in reports."""
        structures = [self.structure, *self.others]
        return self.name or f"{getattr(self, 'kind', 'rule')}({', '.join('+'.join(s) for s in structures)})"

    @property
    def others(self) -> tuple[Names, ...]:
        """Further structures that the rule reads."""
        return ()

    @property
    def unit(self) -> str:
        """Unit of value, low and high."""
        return "ratio"

    def value(self, geometry: MaskGeometry) -> float:
        """The measured value, NaN where a structure is missing."""
        return self._value(geometry) if geometry.pixels(self.structure) else math.nan

    def accepts(self, value: float) -> bool:
        """Whether a value of this rule lies within the limits; NaN (not applicable) does."""
        if math.isnan(value):
            return True
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def _value(self, geometry: MaskGeometry) -> float:
        raise NotImplementedError


class Present(Rule):
    """The structure covers more than nothing: its share of the image's pixels, 0 when it is missing."""

    fitted: ClassVar[bool] = False
    kind: Literal["present"] = "present"
    low: float | None = Field(default=1e-9, description="Smallest share of the image's pixels.")

    def value(self, geometry: MaskGeometry) -> float:
        """Share of the image; never NaN."""
        return geometry.pixels(self.structure) / max(geometry.image_pixels, 1)


class OnePiece(Rule):
    """Share of the structure's area that lies outside its largest piece (pieces touching by a corner are one).

    A tolerance relative to the structure, not in pixels: the specks that resampling leaves shrink with the grid.
    """

    cost: ClassVar[int] = 3
    fitted: ClassVar[bool] = False
    kind: Literal["one_piece"] = "one_piece"
    high: float | None = Field(default=SPECK, description="Largest accepted share in other pieces.")

    def _value(self, geometry: MaskGeometry) -> float:
        box = geometry.box(self.structure)
        sizes = piece_sizes(geometry.region(self.structure)[box])
        return 1.0 - float(sizes.max()) / geometry.pixels(self.structure)


class NoHole(Rule):
    """Area that the structure encloses without being part of it, as a share of the structure's area."""

    cost: ClassVar[int] = 4
    fitted: ClassVar[bool] = False
    kind: Literal["no_hole"] = "no_hole"
    high: float | None = Field(default=SPECK, description="Largest accepted share of holes.")

    def _value(self, geometry: MaskGeometry) -> float:
        around = tuple(slice(side.start - 1, side.stop + 1) for side in geometry.box(self.structure))
        return hole_pixels(geometry.region(self.structure)[around]) / geometry.pixels(self.structure)


class NoGap(Rule):
    """Background squeezed between two structures, as a share of the area of both.

    Counted on rays along the axes that leave the structure, cross background and meet the other within ``reach``.
    """

    cost: ClassVar[int] = 6
    kind: Literal["no_gap"] = "no_gap"
    neighbour: Structure = Field(description="The structure that has to lie against the first one.")
    reach: float = Field(
        default=0.1, gt=0, description="Widest gap, as a share of the size of both structures."
    )
    high: float | None = Field(default=0.01, description="Largest accepted share of gap area.")

    @property
    def others(self) -> tuple[Names, ...]:
        """The neighbour."""
        return (self.neighbour,)

    def _value(self, geometry: MaskGeometry) -> float:
        if not geometry.pixels(self.neighbour):
            return math.nan
        both = geometry.size_mm(union(self.structure, self.neighbour))
        gap = geometry.gap_pixels(self.structure, self.neighbour, self.reach * both)
        return gap * geometry.pixel_area / both**geometry.ndim


class FrontierRatio(Rule):
    """Length of the structure's border that faces the neighbour, absolute or relative to the structure's size."""

    cost: ClassVar[int] = 1
    kind: Literal["frontier_ratio"] = "frontier_ratio"
    neighbour: Structure = Field(default=("background",), description="What lies across the frontier.")
    relative_to: Literal["border", "width", "height", "size", "mm"] = Field(
        default="border",
        description="Divide by the whole border, the box's extent on axis 1 (width) or 0 (height), sqrt(area), or not.",
    )

    @property
    def others(self) -> tuple[Names, ...]:
        """The neighbour."""
        return (self.neighbour,)

    @property
    def unit(self) -> str:
        """Mm where the length is absolute."""
        return "mm" if self.relative_to == "mm" else "ratio"

    def _value(self, geometry: MaskGeometry) -> float:
        length = geometry.frontier(self.structure, self.neighbour).length
        return length / self._whole(geometry)

    def _whole(self, geometry: MaskGeometry) -> float:
        if self.relative_to == "border":
            return geometry.border(self.structure).length
        if self.relative_to in ("width", "height"):
            axis = 1 if self.relative_to == "width" else 0
            return _extent_mm(geometry, self.structure, axis)
        return geometry.size_mm(self.structure) if self.relative_to == "size" else 1.0


class WidthRatio(Rule):
    """Width of the structure over that of another, in a band of rows around the middle of the structure's box."""

    any_dimension: ClassVar[bool] = False
    cost: ClassVar[int] = 1
    kind: Literal["width_ratio"] = "width_ratio"
    other: Structure = Field(description="The structure whose width divides.")
    at: float = Field(
        default=0.5, ge=0, le=1, description="Middle of the band, from the box's top (0) to bottom (1)."
    )
    band: float = Field(
        default=0.1, ge=0, le=1, description="Height of the band as a share of the box's height."
    )

    @property
    def others(self) -> tuple[Names, ...]:
        """The other structure."""
        return (self.other,)

    def _value(self, geometry: MaskGeometry) -> float:
        rows = geometry.box(self.structure)[0]
        height = rows.stop - rows.start
        middle = rows.start + self.at * (height - 1)
        first = max(rows.start, math.floor(middle - self.band * height / 2 + 0.5))
        last = min(rows.stop, max(first, math.ceil(middle + self.band * height / 2 - 0.5)) + 1)
        width = np.count_nonzero(geometry.region(self.structure)[first:last])
        other = np.count_nonzero(geometry.region(self.other)[first:last])
        return width / other if other else math.inf


class Area(Rule):
    """Area of the structure: share of the image, of another structure, or absolute (mm2; mm3 in 3-D)."""

    kind: Literal["area"] = "area"
    relative_to: Structure = Field(default=("image",), description='"image", "mm" (absolute) or a structure.')

    @property
    def others(self) -> tuple[Names, ...]:
        """The structure whose area divides, where there is one."""
        return () if self.relative_to in (("image",), ("mm",)) else (self.relative_to,)

    @property
    def unit(self) -> str:
        """Mm2 where the area is absolute (in 3-D: a volume in mm3)."""
        return "mm2" if self.relative_to == ("mm",) else "ratio"

    def _value(self, geometry: MaskGeometry) -> float:
        if self.relative_to == ("image",):
            return geometry.pixels(self.structure) / geometry.image_pixels
        if self.relative_to == ("mm",):
            return geometry.area(self.structure)
        whole = geometry.pixels(self.relative_to)
        return geometry.pixels(self.structure) / whole if whole else math.inf


class Aspect(Rule):
    """Length over breadth: ratio of the spreads along the structure's longest and shortest principal axis."""

    cost: ClassVar[int] = 2
    kind: Literal["aspect"] = "aspect"

    def _value(self, geometry: MaskGeometry) -> float:
        spreads = np.linalg.eigvalsh(geometry.covariance(self.structure))
        return math.sqrt(float(spreads[-1] / spreads[0]))


class Solidity(Rule):
    """Pixels of the structure over pixels whose centre lies in the convex hull of its pixel centres.

    Both are counts on the same grid (the hull's by Pick's theorem), so a convex shape has exactly 1 on any grid.
    """

    any_dimension: ClassVar[bool] = False
    cost: ClassVar[int] = 6
    kind: Literal["solidity"] = "solidity"

    def _value(self, geometry: MaskGeometry) -> float:
        region = geometry.region(self.structure)[geometry.box(self.structure)]
        return geometry.pixels(self.structure) / hull_pixels(region)


class ContactSegments(Rule):
    """Number of separate stretches along which the structure faces the neighbour.

    Stretches shorter than ``ignore`` times the structure's size (sqrt of its area) do not count.
    """

    cost: ClassVar[int] = 2
    fitted: ClassVar[bool] = False
    kind: Literal["contact_segments"] = "contact_segments"
    neighbour: Structure = Field(default=("background",), description="What lies across the frontier.")
    ignore: float = Field(default=0.03, ge=0, description="Length not to count, per size of the structure.")

    @property
    def others(self) -> tuple[Names, ...]:
        """The neighbour."""
        return (self.neighbour,)

    @property
    def unit(self) -> str:
        """A number of stretches."""
        return "count"

    def _value(self, geometry: MaskGeometry) -> float:
        lengths = geometry.stretches(geometry.frontier(self.structure, self.neighbour))
        shortest = (self.ignore * geometry.size_mm(self.structure)) ** (geometry.ndim - 1)
        return float(np.count_nonzero(lengths > shortest))


class ContactPosition(Rule):
    """How far the contact with the neighbour reaches up from one end of the structure, per extent of its box.

    0: only at that end; 1: up to the opposite end. An upside-down or side-leaking structure has a large value.
    """

    cost: ClassVar[int] = 1
    kind: Literal["contact_position"] = "contact_position"
    neighbour: Structure = Field(default=("background",), description="What lies across the frontier.")
    axis: int = Field(default=0, ge=0, le=2, description="Spatial axis to look along; 0 is the image's rows.")
    end: Literal["high", "low"] = Field(
        default="high", description="Where the contact belongs; the last row is high."
    )

    @property
    def others(self) -> tuple[Names, ...]:
        """The neighbour."""
        return (self.neighbour,)

    def _value(self, geometry: MaskGeometry) -> float:
        if self.axis >= geometry.ndim:
            raise ConfigError(
                f"rule {self.label} looks along axis {self.axis} of a {geometry.ndim}-D mask; use 0 or 1"
            )
        frontier = geometry.frontier(self.structure, self.neighbour)
        if not frontier.index.size:
            return math.nan
        box = geometry.box(self.structure)[self.axis]
        along = np.unravel_index(frontier.index, geometry.crop.shape)[self.axis]
        reach = box.stop - 1 - along.min() if self.end == "high" else along.max() - box.start
        return float(reach / max(box.stop - box.start - 1, 1))


class EndFill(Rule):
    """Share of the last rows of the structure's box, at one end, that the structure fills.

    A ventricle ends at the base in two feet of unequal height; one that is cut off straight fills its last rows.
    The band may end within a row, which then counts in part, so that the value does not jump with the grid.
    """

    any_dimension: ClassVar[bool] = False
    cost: ClassVar[int] = 1
    kind: Literal["end_fill"] = "end_fill"
    end: Literal["high", "low"] = Field(
        default="high", description="Which end of axis 0: high is the last row."
    )
    band: float = Field(
        default=0.06, gt=0, le=1, description="Height of the band as a share of the box's height."
    )

    def _value(self, geometry: MaskGeometry) -> float:
        region = geometry.region(self.structure)[geometry.box(self.structure)]
        band = max(1.0, self.band * len(region))
        rows = region[::-1] if self.end == "high" else region
        fill = rows[: math.ceil(band)].mean(axis=1)
        weights = np.clip(band - np.arange(len(fill)), 0.0, 1.0)
        return float(weights @ fill / band)


class MinWallThickness(Rule):
    """Thickness of a wall at its thinnest stretch: a low quantile over the inner structure's border.

    At each pixel where ``inner`` meets the wall: straight distance to the nearest background behind the wall, whole
    pixels of wall only. Border pixels nearer than ``clearance`` to where ``inner`` is open to the background are
    left out, as the wall ends there. Relative to the size (sqrt of the area) of wall and inner together, to the wall's
    own thick part (a wall that is thin on one side only), or in mm.
    """

    cost: ClassVar[int] = 5
    kind: Literal["min_wall_thickness"] = "min_wall_thickness"
    inner: Structure = Field(description="The structure that the wall surrounds.")
    quantile: float = Field(
        default=0.05, ge=0, le=1, description="Share of the inner border that may be thinner."
    )
    clearance: float = Field(
        default=0.2, ge=0, description="Stretch to leave out next to the opening, per size."
    )
    relative_to: Literal["size", "thick", "mm"] = Field(
        default="size",
        description="Divide by the size, by the wall's own thick part (quantile 0.8), or not (mm).",
    )

    @property
    def others(self) -> tuple[Names, ...]:
        """The inner structure."""
        return (self.inner,)

    @property
    def unit(self) -> str:
        """Mm where absolute."""
        return "mm" if self.relative_to == "mm" else "ratio"

    def _value(self, geometry: MaskGeometry) -> float:
        thickness = geometry.wall_profile(self.structure, self.inner, self.clearance)
        if not thickness.size:
            return math.nan
        thin = quantile(thickness, self.quantile)
        if self.relative_to == "thick":
            thick = quantile(thickness, 0.8)
            return thin / thick if thick > 0 else 0.0
        return (
            thin / geometry.size_mm(union(self.structure, self.inner)) if self.relative_to == "size" else thin
        )


class ThicknessBeforeSplit(Rule):
    """Depth of erosion that the structure survives in one piece, per largest depth (its distance transform).

    Level after level of the distance transform is cut away, until what is left is in several pieces.
    """

    cost: ClassVar[int] = 9
    kind: Literal["thickness_before_split"] = "thickness_before_split"
    steps: int = Field(
        default=25, ge=2, description="Levels of erosion tried, from none to the largest depth."
    )

    def _value(self, geometry: MaskGeometry) -> float:
        region = np.pad(geometry.region(self.structure)[geometry.box(self.structure)], 1)
        depth = ndimage.distance_transform_edt(region, sampling=tuple(geometry.spacing_mm))
        levels = np.linspace(0.0, float(depth.max()), self.steps + 1)
        for survived, level in enumerate(levels[1:-1]):
            if len(piece_sizes(depth > level)) > 1:
                return survived / self.steps
        return (self.steps - 1) / self.steps


def _extent_mm(geometry: MaskGeometry, names: Names, axis: int) -> float:
    box = geometry.box(names)[axis]
    return float((box.stop - box.start) * geometry.spacing_mm[axis])


AnyRule = Annotated[
    Present
    | OnePiece
    | NoHole
    | NoGap
    | FrontierRatio
    | WidthRatio
    | ThicknessBeforeSplit
    | Area
    | Aspect
    | Solidity
    | ContactSegments
    | ContactPosition
    | EndFill
    | MinWallThickness,
    Field(discriminator="kind"),
]
