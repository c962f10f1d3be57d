"""Names: the columns of every table and the words of the domain, each defined once."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Interactions:
    """Columns of an interactions table."""

    USER: Final = "user_id"
    ITEM: Final = "item_id"
    TIMESTAMP: Final = (
        "timestamp"  # int64, seconds since 1970-01-01 UTC; null where the data carries order only
    )
    ORDER: Final = (
        "order"  # int64, position in the source; breaks no tie unless the data is an ordered sequence
    )
    ACTION: Final = "action"
    WEIGHT: Final = "weight"
    CONTEXT: Final = "context"  # JSON object of declared features; only where data.context declares some


class Catalogue:
    """Columns of an item catalogue."""

    ITEM: Final = "item_id"
    TITLE: Final = "title"
    TEXT: Final = "text"
    CATEGORIES: Final = "categories"  # list of strings
    YEAR: Final = "year"
    PRICE: Final = "price"
    CREATED_AT: Final = "created_at"
    IMAGE: Final = "image_path"


class Split:
    """Columns that the splits add."""

    ITEM_INDEX: Final = "item_index"  # row in splits/items.parquet
    POSITION: Final = "position"  # of the event within its user, from 0
    GROUP: Final = "group"
    PART: Final = "part"


class UserGroup(StrEnum):
    """Who a user is to the experiment."""

    REGULAR = "regular"
    NEW = "new"  # never trained on; the new-user slice of the offline evaluation
    REPLAY = "replay"  # never trained on, never evaluated offline; the source of replayed events


class Part(StrEnum):
    """Which part of the protocol an event belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Stage(StrEnum):
    """A migration stage; the order of the members is the order of migration."""

    CASCADE = "cascade"
    PILOT = "pilot"
    HYBRID = "hybrid"
    FULL = "full"


class PathName(StrEnum):
    """One way to make a list."""

    CASCADE = "cascade"
    RECALL_ROUTE = "recall_route"
    RERANK = "rerank"
    BLENDED = "blended"
    GENERATIVE = "generative"
    INTERLEAVED = "interleaved"
    POPULARITY = "popularity"
