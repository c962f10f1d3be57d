"""Declared context features as codes: what a moment was like, for models that heed it.

A feature's code 0 is *unknown*: not given, never seen in training, or not known at that time. The vocabulary that gives
the other codes is made on the training part and goes with the model that was trained under it, so that a request is
read as the model learnt to read it, whatever the data have become since.

What a model may read of a *history* is only what will be known of one when it serves: hour and weekday by the
timestamps, and the user's traits. What else belonged to a past moment (the device of then) neither the store nor a
request keeps; in training it is known of the event that is predicted, which is what a request's own context is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import ValidationError

from segue.artifacts import read_json, write_json
from segue.data.settings import ContextFeature
from segue.errors import ArtifactError, DataError
from segue.schema import Interactions

FILE = "context.json"
GAP_BUCKETS = 32  # of log2(1 + seconds), as the models bucket the time between events
_SPAN = {"hour": 24, "weekday": 7, "gap": GAP_BUCKETS}
_DAY, _HOUR = 86_400, 3_600
_MONDAY = 3  # days from 1970-01-01, a Thursday, back to a Monday

Codes = npt.NDArray[np.int32]
Seconds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """F features, in the order of their names, and the codes of their values. Two are equal where they read every request
    alike."""

    features: Mapping[str, ContextFeature]
    values: Mapping[str, tuple[str, ...]]  # of each category, in the order of their codes 1, 2, …

    def __post_init__(self) -> None:
        # A profile's order is lost on the way through engines and JSON; weights are stored by a feature's place.
        object.__setattr__(self, "features", dict(sorted(self.features.items())))

    @classmethod
    def fit(cls, features: Mapping[str, ContextFeature], training: pl.DataFrame) -> Vocabulary:
        """From events of the training part, whose column ``context`` holds JSON objects (see :func:`pack`).

        A category's most frequent values get codes, of equally frequent ones the first by name.
        """
        columns = _unpacked(features, training)
        values = {}
        for name, feature in sorted(features.items()):
            if feature.kind == "category":
                counts = (
                    columns[name].drop_nulls().value_counts().sort(["count", name], descending=[True, False])
                )
                values[name] = tuple(counts[name].head(feature.max_values).to_list())
        return cls(dict(features), values)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """[F] codes of each feature, the unknown among them."""
        return tuple(
            1 + (len(self.values[name]) if feature.kind == "category" else _buckets(feature))
            for name, feature in self.features.items()
        )

    @cached_property
    def of_history(self) -> tuple[int, ...]:
        """Which features are known of a past event when a model serves."""
        return tuple(
            place
            for place, feature in enumerate(self.features.values())
            if feature.trait or feature.kind in ("hour", "weekday")
        )

    def describe(self) -> dict[str, Any]:
        """The definitions, for a recipe: not the values, which tomorrow's data may add to."""
        return {name: feature.model_dump(mode="json") for name, feature in self.features.items()}

    def events(self, events: pl.DataFrame, offsets: Seconds) -> Codes:
        """[E, F] of events sorted by user and time (columns ``timestamp`` and ``context``); ``offsets`` [U + 1] tell
        where each user's begin."""
        columns = _unpacked(self.features, events)
        times = events[Interactions.TIMESTAMP].fill_null(0).to_numpy().astype(np.int64)
        before = np.concatenate([[0], times[:-1]]).astype(np.int64)[: len(times)]
        before[offsets[:-1][np.diff(offsets) > 0]] = 0
        codes = np.zeros((events.height, len(self.features)), dtype=np.int32)
        for place, (name, feature) in enumerate(self.features.items()):
            if feature.kind in ("category", "number"):
                distinct = columns[name].unique()
                known = {value: self._code(name, value) for value in distinct.to_list() if value is not None}
                codes[:, place] = [known.get(value, 0) for value in columns[name].to_list()]
            else:
                codes[:, place] = _of_time(feature, times, before)
        return codes

    def request(self, context: Mapping[str, str], now: int | None, last: int) -> Codes:
        """[F] of a request: what it says, else what ``now`` tells; ``last``: its newest event's time, 0 where unknown."""
        codes = np.zeros(len(self.features), dtype=np.int32)
        for place, (name, feature) in enumerate(self.features.items()):
            if name in context:
                codes[place] = self._code(name, context[name])
            elif now is not None and feature.kind in _SPAN:
                codes[place] = _of_time(feature, np.array([now]), np.array([last]))[0]
        return codes

    def history(self, context: Mapping[str, str], timestamps: Seconds) -> Codes:
        """[T, F] of a request's history: what :attr:`of_history` says is known, 0 for the others."""
        codes = np.zeros((len(timestamps), len(self.features)), dtype=np.int32)
        for place, (name, feature) in enumerate(self.features.items()):
            if feature.trait and name in context:
                codes[:, place] = self._code(name, context[name])
            elif feature.kind in ("hour", "weekday"):
                codes[:, place] = _of_time(feature, timestamps, timestamps)
        return codes

    def values_of(self, codes: Codes) -> dict[str, str]:
        """A request's context that has these codes [F]; what is unknown is left out."""
        said: dict[str, str] = {}
        for code, (name, feature) in zip(codes.tolist(), self.features.items(), strict=True):
            if not code:
                continue
            match feature.kind:
                case "category":
                    said[name] = self.values[name][code - 1]
                case "number":
                    low = feature.boundaries[code - 2] if code > 1 else feature.boundaries[0] - 1
                    said[name] = repr(low)
                case "gap":
                    said[name] = str(2 ** (code - 1) - 1)
                case _:
                    said[name] = str(code - 1)
        return said

    def complaints(self, context: Mapping[str, str], *, spared: Collection[str] = ()) -> list[str]:
        """What of a request's context is not heeded, and why; ``spared``: keys that serve others than a model."""
        found = []
        for name, value in sorted(context.items()):
            if name not in self.features:
                if name not in spared:
                    found.append(f"context {name!r} is no declared feature of this bundle: it was ignored")
            elif not self._code(name, value):
                found.append(
                    f"context {name!r} is {value!r}, which the model does not know: taken as unknown"
                )
        return found

    def save(self, folder: Path) -> None:
        write_json(
            folder / FILE,
            {
                "features": self.describe(),
                "values": {name: list(known) for name, known in self.values.items()},
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Vocabulary | None:
        """None where the folder holds none. Raises ArtifactError for one that is damaged."""
        path = folder / FILE
        if not path.is_file():
            return None
        raw = read_json(path)
        try:
            if not isinstance(raw, dict):
                raise TypeError("no object")
            features = {name: ContextFeature.stored(each) for name, each in raw["features"].items()}
            values = {name: tuple(str(value) for value in known) for name, known in raw["values"].items()}
            if set(values) != {name for name, feature in features.items() if feature.kind == "category"}:
                raise ValueError("the values are of other features")
        except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
            raise ArtifactError(f"{path} is damaged ({error}): run the step that wrote it again") from error
        return cls(features, values)

    @cached_property
    def _codes(self) -> dict[str, dict[str, int]]:
        return {
            name: {value: code for code, value in enumerate(known, start=1)}
            for name, known in self.values.items()
        }

    def _code(self, name: str, value: str) -> int:
        """Of a value as a request or a table says it; 0 where it means nothing."""
        feature = self.features[name]
        if feature.kind == "category":
            return self._codes[name].get(value, 0)
        try:
            number = float(value)
        except ValueError:
            return 0
        if not math.isfinite(number):
            return 0
        if feature.kind == "number":
            return 1 + int(np.searchsorted(feature.boundaries, number, side="right"))
        if feature.kind == "gap":
            return 1 + int(_gap_bucket(np.array([number]))[0]) if number >= 0 else 0
        return int(number) + 1 if number == int(number) and 0 <= number < _SPAN[feature.kind] else 0


def pack(
    frame: pl.DataFrame, features: Mapping[str, ContextFeature], where: str, *, lenient: bool = False
) -> pl.Series:
    """[rows] of a source's table: what is declared of it, as one JSON object a row; null where nothing is known.

    One column of text goes through every table as it is. ``lenient``: what was appended may lack columns, and its
    values are unknown. Raises DataError for a column that the table lacks otherwise, and for a number that is none,
    naming its row.
    """
    parts = []
    for name, feature in features.items():
        if feature.kind not in ("category", "number"):
            continue
        column = feature.column or name
        if column not in frame.columns and lenient:
            if name not in frame.columns:
                continue
            column = name
        if column not in frame.columns:
            raise DataError(
                f"{where}: no column {column!r} for the context feature {name}; it has "
                f"{', '.join(repr(each) for each in frame.columns)}: name the right one under `data.context`"
            )
        text = frame[column].cast(pl.String)
        if feature.kind == "number":
            wrong = text.is_not_null() & text.cast(pl.Float64, strict=False).is_null()
            if wrong.any():
                row = wrong.arg_max() or 0
                raise DataError(f"{where}, data row {row + 1}: {column} is {text[row]!r}, which is no number")
        parts.append(text.alias(name))
    if not parts:
        return pl.Series(Interactions.CONTEXT, [None] * frame.height, dtype=pl.String)
    rows = pl.DataFrame(parts).rows(named=True)
    said = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return pl.Series(
        Interactions.CONTEXT,
        [json.dumps(each, ensure_ascii=False, sort_keys=True) if each else None for each in said],
        dtype=pl.String,
    )


def _unpacked(features: Mapping[str, ContextFeature], events: pl.DataFrame) -> pl.DataFrame:
    """A column of text for each feature that a table holds; null where an event has none."""
    schema = {
        name: pl.String() for name, feature in features.items() if feature.kind in ("category", "number")
    }
    if Interactions.CONTEXT not in events.columns or not schema:
        return pl.DataFrame({name: pl.Series([None] * events.height, dtype=pl.String) for name in schema})
    try:
        parsed = events[Interactions.CONTEXT].str.json_decode(pl.Struct(schema))
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the column {Interactions.CONTEXT} of the events holds a value that is no JSON object ({error}): "
            "run the step ingest again, or mend what was appended"
        ) from error
    return pl.DataFrame({name: parsed.struct.field(name) for name in schema})


def _buckets(feature: ContextFeature) -> int:
    return len(feature.boundaries) + 1 if feature.kind == "number" else _SPAN[feature.kind]


def _of_time(feature: ContextFeature, times: Seconds, before: Seconds) -> Codes:
    """[n] codes at ``times``; ``before``: of the event before. A time of 0 is none."""
    known = times > 0
    if feature.kind == "gap":
        codes, known = _gap_bucket(times - before), known & (before > 0)
    else:
        local = times + round(feature.utc_offset_hours * _HOUR)
        codes = local // _HOUR % 24 if feature.kind == "hour" else (local // _DAY + _MONDAY) % 7
    return np.where(known, codes + 1, 0).astype(np.int32)


def _gap_bucket(seconds: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    doublings = np.log2(np.maximum(seconds, 0).astype(np.float64) + 1).astype(np.int64)
    buckets: npt.NDArray[np.int64] = np.minimum(doublings, GAP_BUCKETS - 1)
    return buckets
