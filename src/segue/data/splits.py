"""Splits: events in order, users set aside, and what is training, validation and test.

*Users set aside.* A user belongs to the new or to the replay users when a seeded hash of the user's id, as
a number in [0, 1), falls into that group's share. The shares therefore hold in expectation only, and in
exchange nobody changes group when data is appended: a user that no model was trained on stays one.

*Order.* Data that comes as sequences keeps its order (among events of one second, where it has times, too).
Other data is ordered by time, and events of one user at the same second by a seeded hash of (user, item),
never by their place in a file, which may be sorted by item.

*k-core.* Filtering looks at the regular users only (the others are set aside before everything else),
counts events, and is repeated until nothing changes; under ``global_time`` it looks at the training window
only. Users set aside must then meet the same threshold on the items that are left.

*leave_one_out.* The last event of a user with at least ``min_history`` events is test, the one before it
validation.

*global_time.* The regular users' events are cut at the ``global_time_train_share`` quantile of their
timestamps: what comes at the cut or later is test. Validation is the last ``global_time_validation_share``
of the training window, again by quantile. A user is evaluated at the first event of each part, from
everything before it; who has nothing before it is not evaluated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.data.settings import SplitSettings
from segue.errors import DataError
from segue.schema import Catalogue, Interactions, Part, Split, UserGroup

Protocol = Literal["leave_one_out", "global_time"]
PROTOCOLS: tuple[Protocol, ...] = ("leave_one_out", "global_time")
TRAIN_COUNT = "train_count"

_U64 = npt.NDArray[np.uint64]
_TIE = "_tie"


@dataclass(frozen=True, slots=True)
class SplitTables:
    """What the splits step writes.

    ``items``: item_index int32, the catalogue's columns, train_count int64; sorted by item_id.
    ``interactions``: user_id, item_index int32, timestamp int64 or null, position int32, group, part,
    weight; sorted by (user_id, position). ``summary``: the content of ``splits.json``.
    """

    items: pl.DataFrame
    interactions: pl.DataFrame
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Window:
    """Where ``global_time`` cuts, in seconds: the first second of validation and the first of test."""

    validation_from: int
    test_from: int


def stable_hash(seed: int, ids: Iterable[str]) -> _U64:
    """A seeded 64-bit hash (BLAKE2b) of every id, equal on every machine and version. [n] uint64."""
    key = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    digests = [hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=key).digest() for text in ids]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def stable_uniform(seed: int, ids: Iterable[str]) -> npt.NDArray[np.float64]:
    """The same hash as a number in [0, 1). [n] float64."""
    return (stable_hash(seed, ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def user_groups(users: pl.Series, settings: SplitSettings) -> pl.DataFrame:
    """The group of every user of ``users`` (unique ids): a table of user_id and group."""
    place = stable_uniform(settings.seed, users.to_list())
    labels = np.full(len(users), UserGroup.REGULAR.value, dtype=object)
    labels[place < settings.new_user_share + settings.replay_user_share] = UserGroup.REPLAY.value
    labels[place < settings.new_user_share] = UserGroup.NEW.value
    return pl.DataFrame(
        {Interactions.USER: users, Split.GROUP: pl.Series(labels.tolist(), dtype=pl.String)},
        schema={Interactions.USER: pl.String, Split.GROUP: pl.String},
    )


def k_core(events: pl.DataFrame, k: int) -> pl.DataFrame:
    """The events left when users and items with fewer than ``k`` events are removed until none is.

    The result is the largest subset in which every user and every item has ``k`` events, whatever the order
    of removal.
    """
    while k > 1:
        left = events.filter(
            (pl.len().over(Interactions.USER) >= k) & (pl.len().over(Interactions.ITEM) >= k)
        )
        if left.height == events.height:
            break
        events = left
    return events


def make_splits(
    interactions: pl.DataFrame,
    catalogue: pl.DataFrame,
    settings: SplitSettings,
    *,
    has_timestamps: bool,
    ordered: bool,
) -> SplitTables:
    """Split validated tables by the primary protocol of ``settings``.

    ``ordered``: the column ``order`` is the true order of a user's events. The result does not depend on
    the order of the input's rows. Raises DataError where there is nothing to split, an item has no
    catalogue row, or the primary protocol is not possible; the message gives the reason.
    """
    _check(interactions, catalogue, has_timestamps=has_timestamps)
    events = _in_order(interactions, settings.seed, has_timestamps=has_timestamps, ordered=ordered)
    refused: dict[str, str | None] = {}
    labelled: dict[str, tuple[pl.DataFrame, _Window | None]] = {}
    for protocol in PROTOCOLS:
        outcome = _apply(protocol, events, settings, has_timestamps=has_timestamps, ordered=ordered)
        refused[protocol] = outcome if isinstance(outcome, str) else None
        if not isinstance(outcome, str):
            labelled[protocol] = outcome
    if settings.primary not in labelled:
        possible = ", ".join(labelled) or "none"
        raise DataError(
            f"splits.primary: {settings.primary} is not possible: "
            f"{refused[settings.primary]} (possible: {possible})"
        )
    chosen, window = labelled[settings.primary]
    return _tables(
        chosen, window, events, catalogue, settings, refused, has_timestamps=has_timestamps, ordered=ordered
    )


def _check(interactions: pl.DataFrame, catalogue: pl.DataFrame, *, has_timestamps: bool) -> None:
    if interactions.is_empty():
        raise DataError(
            "interactions: the table has no rows left after validation, so there is nothing to split"
        )
    ids = catalogue[Catalogue.ITEM]
    if ids.n_unique() != ids.len():
        twice = ids.filter(ids.is_duplicated()).sort()[0]
        raise DataError(f"catalogue: item_id {twice!r} appears more than once; keep one row an item")
    unknown = interactions.join(catalogue.select(Catalogue.ITEM), on=Interactions.ITEM, how="anti")
    if unknown.height:
        first = unknown[Interactions.ITEM].sort()[0]
        raise DataError(
            f"interactions: {unknown.height} events name items that the catalogue lacks, such as {first!r}; "
            "add them to the catalogue or run validation, which quarantines them"
        )
    if has_timestamps and interactions[Interactions.TIMESTAMP].null_count():
        raise DataError(
            f"interactions: {interactions[Interactions.TIMESTAMP].null_count()} events have no timestamp "
            "while others do; fill them, or leave the column out for every event"
        )


def _in_order(events: pl.DataFrame, seed: int, *, has_timestamps: bool, ordered: bool) -> pl.DataFrame:
    """Events sorted by user and then by their order, with their user's group still to be added."""
    users, items = (events[name].unique().sort() for name in (Interactions.USER, Interactions.ITEM))
    hashed = events.join(
        pl.DataFrame({Interactions.USER: users, "_u": stable_hash(seed, users.to_list())}),
        on=Interactions.USER,
    ).join(
        pl.DataFrame({Interactions.ITEM: items, "_i": stable_hash(seed, items.to_list())}),
        on=Interactions.ITEM,
    )
    tie = _mix(hashed["_u"].to_numpy() * np.uint64(3) + hashed["_i"].to_numpy())
    keys = [Interactions.USER]
    if has_timestamps:
        keys.append(Interactions.TIMESTAMP)
    if ordered:
        keys.append(Interactions.ORDER)
    # The columns behind the hash matter only where one user meets one item twice in one second.
    keys += [_TIE, Interactions.ITEM, Interactions.WEIGHT, Interactions.ACTION]
    if Interactions.CONTEXT in hashed.columns:
        keys.append(Interactions.CONTEXT)
    return hashed.with_columns(pl.Series(_TIE, tie)).sort(keys).drop("_u", "_i", _TIE)


def _mix(values: _U64) -> _U64:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _apply(
    protocol: Protocol, events: pl.DataFrame, settings: SplitSettings, *, has_timestamps: bool, ordered: bool
) -> tuple[pl.DataFrame, _Window | None] | str:
    """Labelled events (group, position, part) and the window, or the reason why the protocol is refused."""
    groups = user_groups(events[Interactions.USER].unique().sort(), settings)
    events = events.join(groups, on=Interactions.USER, how="left", maintain_order="left")
    if protocol == "leave_one_out":
        if not (has_timestamps or ordered):
            return "the events carry neither timestamps nor an order, so no event is a user's last"
        labelled = _leave_one_out(_filter_core(events, None, settings), settings.min_history)
        if not _evaluated(labelled, UserGroup.REGULAR).height:
            return f"no regular user has {settings.min_history} events (min_history)"
        return labelled, None
    if not has_timestamps:
        return "the events carry no timestamps"
    window = _window(events, settings)
    if isinstance(window, str):
        return window
    labelled = _by_time(_filter_core(events, window, settings), window)
    found = _evaluated(labelled, UserGroup.REGULAR).height
    if found < settings.global_time_min_test_users:
        return (
            f"only {found} regular users have events both before and after the cut, "
            f"{settings.global_time_min_test_users} are needed (global_time_min_test_users)"
        )
    return labelled, window


def _window(events: pl.DataFrame, settings: SplitSettings) -> _Window | str:
    times = np.sort(
        events.filter(pl.col(Split.GROUP) == UserGroup.REGULAR.value)[Interactions.TIMESTAMP].to_numpy()
    )
    if not times.size:
        return "every user is set aside as a new or a replay user"
    test_from = int(times[int(times.size * settings.global_time_train_share)])
    before = times[times < test_from]
    if not before.size:
        return "every event has the timestamp of the cut, so nothing is left to train on"
    at = min(int(before.size * (1 - settings.global_time_validation_share)), before.size - 1)
    if before[at] == before[0]:
        return "the training window holds a single timestamp, so no validation slice can be cut off"
    return _Window(validation_from=int(before[at]), test_from=test_from)


def _filter_core(events: pl.DataFrame, window: _Window | None, settings: SplitSettings) -> pl.DataFrame:
    """Events of the users and items that the k-core leaves.

    With a window, items first seen after it stay, unless ``cold_items`` is off.
    """
    k = settings.k_core
    inside = events if window is None else events.filter(pl.col(Interactions.TIMESTAMP) < window.test_from)
    core = k_core(inside.filter(pl.col(Split.GROUP) == UserGroup.REGULAR.value), k)
    items = core.select(Interactions.ITEM).unique()
    if window is not None and settings.cold_items:
        below = inside.join(items, on=Interactions.ITEM, how="anti").select(Interactions.ITEM).unique()
        kept = (
            events.join(below, on=Interactions.ITEM, how="anti", maintain_order="left") if k > 1 else events
        )
    elif window is not None or k > 1:
        kept = events.join(items, on=Interactions.ITEM, how="semi", maintain_order="left")
    else:
        kept = events
    if k <= 1:
        return kept
    aside = inside.filter(pl.col(Split.GROUP) != UserGroup.REGULAR.value).join(
        items, on=Interactions.ITEM, how="semi"
    )
    enough = aside.group_by(Interactions.USER).len().filter(pl.col("len") >= k)
    users = pl.concat([core.select(Interactions.USER).unique(), enough.select(Interactions.USER)])
    return kept.join(users, on=Interactions.USER, how="semi", maintain_order="left")


def _positioned(events: pl.DataFrame) -> pl.DataFrame:
    position = pl.int_range(pl.len(), dtype=pl.Int32).over(Interactions.USER)
    return events.with_columns(position.alias(Split.POSITION))


def _leave_one_out(events: pl.DataFrame, min_history: int) -> pl.DataFrame:
    length = pl.len().over(Interactions.USER)
    evaluated = (length >= min_history) & (pl.col(Split.GROUP) != UserGroup.REPLAY.value)
    from_end = length.cast(pl.Int32) - pl.col(Split.POSITION)
    part = (
        pl.when(evaluated & (from_end == 1))
        .then(pl.lit(Part.TEST.value))
        .when(evaluated & (from_end == 2))
        .then(pl.lit(Part.VALIDATION.value))
        .otherwise(pl.lit(Part.TRAIN.value))
    )
    return _positioned(events).with_columns(part.alias(Split.PART))


def _by_time(events: pl.DataFrame, window: _Window) -> pl.DataFrame:
    time = pl.col(Interactions.TIMESTAMP)
    part = (
        pl.when((pl.col(Split.GROUP) == UserGroup.REPLAY.value) | (time < window.validation_from))
        .then(pl.lit(Part.TRAIN.value))
        .when(time < window.test_from)
        .then(pl.lit(Part.VALIDATION.value))
        .otherwise(pl.lit(Part.TEST.value))
    )
    return _positioned(events).with_columns(part.alias(Split.PART))


def _evaluated(labelled: pl.DataFrame, group: UserGroup | None = None) -> pl.DataFrame:
    """Each evaluated user's first test position; only users with a history before it."""
    chosen = labelled.filter(pl.col(Split.PART) == Part.TEST.value)
    if group is not None:
        chosen = chosen.filter(pl.col(Split.GROUP) == group.value)
    return (
        chosen.group_by(Interactions.USER)
        .agg(pl.col(Split.POSITION).min())
        .filter(pl.col(Split.POSITION) > 0)
    )


def _tied(labelled: pl.DataFrame) -> int:
    """Evaluated users whose test event has the timestamp of the event before it."""
    before = pl.col(Interactions.TIMESTAMP).shift(1).over(Interactions.USER)
    return (
        labelled.with_columns(before.alias("_before"))
        .join(_evaluated(labelled), on=[Interactions.USER, Split.POSITION], how="semi")
        .filter(pl.col(Interactions.TIMESTAMP) == pl.col("_before"))
        .height
    )


def _tables(
    labelled: pl.DataFrame,
    window: _Window | None,
    events: pl.DataFrame,
    catalogue: pl.DataFrame,
    settings: SplitSettings,
    refused: dict[str, str | None],
    *,
    has_timestamps: bool,
    ordered: bool,
) -> SplitTables:
    universe = catalogue
    if not settings.cold_items:
        universe = catalogue.join(labelled.select(Interactions.ITEM).unique(), on=Catalogue.ITEM, how="semi")
    universe = universe.sort(Catalogue.ITEM).with_row_index(Split.ITEM_INDEX)
    universe = universe.with_columns(pl.col(Split.ITEM_INDEX).cast(pl.Int32))
    training = labelled.filter(
        (pl.col(Split.GROUP) == UserGroup.REGULAR.value) & (pl.col(Split.PART) == Part.TRAIN.value)
    )
    counts = training.group_by(Interactions.ITEM).agg(pl.len().cast(pl.Int64).alias(TRAIN_COUNT))
    items = universe.join(counts, on=Catalogue.ITEM, how="left", maintain_order="left").with_columns(
        pl.col(TRAIN_COUNT).fill_null(0)
    )
    table = (
        labelled.join(
            items.select(Catalogue.ITEM, Split.ITEM_INDEX),
            on=Interactions.ITEM,
            how="left",
            maintain_order="left",
        )
        .select(
            Interactions.USER,
            Split.ITEM_INDEX,
            pl.col(Interactions.TIMESTAMP).cast(pl.Int64),
            Split.POSITION,
            Split.GROUP,
            Split.PART,
            pl.col(Interactions.WEIGHT).cast(pl.Float64),
            *([Interactions.CONTEXT] if Interactions.CONTEXT in labelled.columns else []),
        )
        .sort(Interactions.USER, Split.POSITION)
    )
    per_group = {
        group: table.filter(pl.col(Split.GROUP) == group.value)[Interactions.USER].n_unique()
        for group in UserGroup
    }
    summary: dict[str, Any] = {
        "protocol": settings.primary,
        "seed": settings.seed,
        "users": sum(per_group.values()),
        "regular_users": per_group[UserGroup.REGULAR],
        "new_users": per_group[UserGroup.NEW],
        "replay_users": per_group[UserGroup.REPLAY],
        "items": items.height,
        "interactions": table.height,
        "evaluated_users": {
            group.value: _evaluated(labelled, group).height for group in (UserGroup.REGULAR, UserGroup.NEW)
        },
        "tied_last_steps": _tied(labelled)
        if has_timestamps
        else None,  # None: without timestamps nobody can tell
        "has_timestamps": has_timestamps,
        "ordered": ordered,
        "k_core": settings.k_core,
        "left_out": {
            "interactions": events.height - labelled.height,
            "users": events[Interactions.USER].n_unique() - labelled[Interactions.USER].n_unique(),
            "items": catalogue.height - items.height,
        },
        "window": None
        if window is None
        else {"validation_from": window.validation_from, "test_from": window.test_from},
        "refused": refused,
    }
    return SplitTables(items=items, interactions=table, summary=summary)
