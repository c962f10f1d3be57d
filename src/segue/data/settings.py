"""Settings of ingestion, validation and splits."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from segue.settings import Settings


class TableSource(Settings):
    """Where a table comes from and how its columns are called there.

    Exactly one of ``path`` and ``sql`` is set:

    - ``path``: a file, folder, glob or fsspec URL (``s3://…``, ``memory://…``) of CSV or Parquet; a relative
      one counts from the folder of ``params.yaml``; ``${SEGUE_DATA}`` and other environment variables are
      expanded.
    - ``sql`` with ``query``: a SQLAlchemy URL, or ``env:NAME`` for one that an environment variable holds, so
      that no password stands in a file. Give the query an ORDER BY: the rows' order is part of what is
      hashed.
    """

    path: str | None = None
    format: Literal["auto", "csv", "parquet"] = (
        "auto"  # auto: Parquet by the ending .parquet or .pq, else CSV
    )
    separator: str = Field(
        ",", min_length=1
    )  # more than one character ("::") is taken literally, without quoting
    encoding: str = "utf8"  # any of Python's: latin-1, cp1252, utf-16 …
    has_header: bool = True
    sql: str | None = None
    query: str | None = None
    columns: dict[str, str] = Field(
        default_factory=dict
    )  # our name -> the source's; without a header "1", "2", …
    category_separator: str = Field("|", min_length=1)
    title_holds_year: bool = False  # a catalogue's "Heat (1995)" becomes the title Heat and the year 1995
    timestamp_unit: Literal["s", "ms", "us", "iso"] = "s"  # date and time types of Parquet and SQL need none

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.sql is None):
            raise ValueError("a table needs exactly one of `path` and `sql`")
        if (self.sql is None) != (self.query is None):
            raise ValueError("`sql` and `query` go together")
        return self


class ImageSource(Settings):
    """Where the items' pictures lie: files that the catalogue's ``image_path`` names, or a template does.

    ``folder``: what relative paths count from; ${SEGUE_DATA} is expanded. None: the folder of a built-in
    reader, else the folder of ``params.yaml``. ``template``: the path of an item whose ``image_path`` is
    empty, such as ``posters/{item}.jpg``.
    """

    folder: str | None = None
    template: str | None = None

    @model_validator(mode="after")
    def _names_the_item(self) -> Self:
        if self.template is not None and "{item}" not in self.template:
            raise ValueError("`template` must hold {item}, where the item's id goes")
        return self


class ContextFeature(Settings):
    """Something known at the moment of a request, which a model may heed (docs/models.md).

    ``category`` and ``number`` come from a column of the interactions, the others from the time: ``hour`` and ``weekday``
    (0: Monday) of the event or request, ``gap``: how long ago the event before was.
    """

    kind: Literal["category", "number", "hour", "weekday", "gap"]
    column: str | None = None  # of the interactions; None: the feature's own name
    trait: bool = False  # of the user, not of the moment: a request's value holds for the whole history
    max_values: int = Field(1000, ge=1)  # of a category: the most frequent get a code, the others are unknown
    boundaries: tuple[float, ...] = ()  # of a number: where a bucket ends and the next begins, ascending
    utc_offset_hours: float = Field(0.0, ge=-14, le=14)  # of hour and weekday: timestamps are UTC

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if (self.kind == "number") != bool(self.boundaries):
            raise ValueError("`boundaries` belong to the kind number, and a number needs them")
        if any(high <= low for low, high in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"boundaries {list(self.boundaries)} must rise")
        if self.kind not in ("category", "number") and (self.column is not None or self.trait):
            raise ValueError(
                f"`column` and `trait` mean nothing to the kind {self.kind}, which is read off the time"
            )
        return self


class DataSettings(Settings):
    """A dataset's sources. ``reader`` names a built-in reader for data that is no plain table."""

    title: str = ""
    terms: str = ""
    reader: Literal["tables", "ml-100k", "movielens", "movietweetings", "amazon-sequences"] = "tables"
    folder: str | None = None  # of a built-in reader's files; ${SEGUE_DATA} is expanded
    interactions: TableSource | None = None
    catalogue: TableSource | None = None  # None: the catalogue is the items that occur in the interactions
    images: ImageSource = ImageSource()
    context: dict[str, ContextFeature] = Field(default_factory=dict)  # by name, as requests say it
    ordered: bool = False  # tables without timestamps: the rows of a user stand in order of time

    @field_validator("context")
    @classmethod
    def _context_has_names(cls, context: dict[str, ContextFeature]) -> dict[str, ContextFeature]:
        if wrong := [name for name in context if not re.fullmatch(r"[a-z][a-z0-9_]*", name)]:
            raise ValueError(
                f"the context feature {wrong[0]!r} must be named in a-z, 0-9 and _, a letter first"
            )
        return context

    @model_validator(mode="after")
    def _sources_of_the_reader(self) -> Self:
        if self.reader == "tables":
            if self.interactions is None:
                raise ValueError("the reader `tables` needs `interactions`")
        elif self.interactions is not None or self.catalogue is not None:
            raise ValueError(
                f"the reader `{self.reader}` knows its own tables: drop `interactions` and `catalogue`"
            )
        if self.reader not in ("tables", "ml-100k") and self.folder is None:
            raise ValueError(f"the reader `{self.reader}` needs `folder`")
        return self


class ValidationSettings(Settings):
    """What a table must satisfy, and what happens to rows that do not."""

    on_bad_rows: Literal["quarantine", "stop"] = "quarantine"
    max_quarantined_share: float = Field(0.05, ge=0, le=1)  # of a table's rows; more stops the run
    min_interactions: int = Field(1000, ge=1)  # counted after the quarantine, as are the next two
    min_users: int = Field(50, ge=1)
    min_items: int = Field(50, ge=1)
    max_age_days: float | None = Field(None, gt=0)  # freshness of the newest event; None: not checked
    max_future_days: float = Field(1.0, ge=0)
    min_weight: float | None = None
    max_weight: float | None = None

    @model_validator(mode="after")
    def _weights_in_order(self) -> Self:
        if self.min_weight is not None and self.max_weight is not None and self.min_weight > self.max_weight:
            raise ValueError(f"min_weight {self.min_weight} lies above max_weight {self.max_weight}")
        return self


class SplitSettings(Settings):
    """Who is set aside, and which events are training, validation and test."""

    primary: Literal["leave_one_out", "global_time"] = "leave_one_out"
    seed: int = 17
    new_user_share: float = Field(0.1, ge=0, lt=0.5)  # in expectation: membership is a hash of the user alone
    replay_user_share: float = Field(0.1, ge=0, lt=0.5)
    k_core: int = Field(0, ge=0)
    min_history: int = Field(3, ge=3)  # events a user needs to be evaluated by leave-one-out
    global_time_train_share: float = Field(0.8, gt=0, lt=1)  # of the regular users' events, by time
    global_time_validation_share: float = Field(
        0.1, gt=0, lt=1
    )  # of the training window's events: its last slice
    global_time_min_test_users: int = 200
    cold_items: bool = True  # keep catalogue items that nobody has touched
