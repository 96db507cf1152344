"""Splits by group (patient), never by image: all images of one patient stay on one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reward_data.errors import DataError

SPLITS = ("train", "val", "test")


def assign(
    groups: Sequence[str],
    existing: Sequence[str | None],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[str, ...]:
    """A split for every case: those that have one keep it, the other groups are drawn at random.

    The fractions are of the groups that have no split yet; a positive fraction gives at least one group, except that
    train always keeps at least one. The draw depends on the set of groups and the seed, not on their order.

    Args:
        groups: group (patient) of each case.
        existing: split of each case, None where it is to be drawn.
        validation_fraction: share of the open groups for "val", in [0, 1).
        test_fraction: share of the open groups for "test", in [0, 1).
        seed: of the draw.
    """
    open_groups = sorted({group for group, split in zip(groups, existing) if split is None})
    shuffled = [open_groups[i] for i in np.random.default_rng([seed]).permutation(len(open_groups))]
    spare = max(len(shuffled) - (0 if "train" in existing else 1), 0)
    validation = min(_share(validation_fraction, len(shuffled)), spare)
    test = min(_share(test_fraction, len(shuffled)), spare - validation)
    drawn = dict.fromkeys(shuffled, "train")
    drawn |= dict.fromkeys(shuffled[:validation], "val")
    drawn |= dict.fromkeys(shuffled[validation : validation + test], "test")
    return tuple(split or drawn[group] for group, split in zip(groups, existing))


def _share(fraction: float, count: int) -> int:
    """How many of ``count`` groups a fraction takes: rounded, but at least one when it is positive."""
    return max(1, round(fraction * count)) if fraction > 0 and count > 0 else 0


def check_groups(ids: Sequence[str], groups: Sequence[str], splits: Sequence[str | None], where: str) -> None:
    """Refuse a group that lies in two splits; None (to be drawn) counts as a split of its own."""
    first: dict[str, tuple[str, str | None]] = {}
    for case_id, group, split in zip(ids, groups, splits):
        other_id, other = first.setdefault(group, (case_id, split))
        if other != split:
            raise DataError(
                f"{where}: group {group!r} is in two splits: case {other_id!r} in {_name(other)}, case {case_id!r} in "
                f"{_name(split)}; all cases of a group (patient) must be in one split: move one of them, "
                "or correct the group column or group_pattern"
            )


def _name(split: str | None) -> str:
    return split or "train/val (to be drawn)"


def check_unique(ids: Sequence[str], where: str) -> None:
    """Refuse ids that occur twice."""
    seen: set[str] = set()
    for case_id in ids:
        if case_id in seen:
            raise DataError(
                f"{where}: duplicate id {case_id!r}; every case needs an id of its own: rename one"
            )
        seen.add(case_id)
