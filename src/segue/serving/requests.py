"""What goes over the wire: typed requests and answers. What breaks a type is refused with one message."""

from __future__ import annotations

import time
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

_NO_NUL = r"^[^\x00]+$"  # Postgres keeps no NUL in a text
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=_NO_NUL)]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=_NO_NUL)]
RowId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_NUL)]
Action = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]
MAX_AHEAD_SECONDS = 86_400.0  # of a clock: as far ahead as validation lets interactions be by default
_Number = TypeVar("_Number", int, float)


def _past(when: _Number) -> _Number:
    """A moment ahead of everything would stay the newest for ever."""
    if when > time.time() + MAX_AHEAD_SECONDS:
        raise ValueError(
            f"{when} lies more than a day ahead; give seconds since 1970-01-01 UTC: is this milliseconds?"
        )
    return when


_Moment = (Field(ge=-(2**53), le=2**53), AfterValidator(_past))
Seconds = Annotated[int, *_Moment]  # since 1970-01-01 UTC, at most a day ahead
FeedbackKind = Literal["click", "view", "add_to_cart", "like", "purchase", "rating", "dismiss"]
ServedPath = Literal[
    "cascade", "recall_route", "rerank", "blended", "generative", "interleaved", "popularity"
]  # :class:`segue.schema.PathName`
MAX_HISTORY = 10_000
MAX_BATCH = 256


class _Wire(BaseModel):
    # Ids are text; a catalogue numbered 1, 2, 3 may be written without quotes.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)


class Filters(_Wire):
    """Which items may be shown. Everything given must hold; ids the catalogue lacks are ignored."""

    categories: list[str] | None = None  # the item has at least one of them
    allow: list[ItemId] | None = None
    deny: list[ItemId] = Field(default_factory=list)


class Who(_Wire):
    """For whom. The history of the request, where there is one, stands for the one in the store."""

    user_id: UserId | None = None
    history: list[ItemId] | None = Field(default=None, max_length=MAX_HISTORY)  # oldest first
    timestamps: list[int] | None = Field(default=None, max_length=MAX_HISTORY)  # seconds since 1970-01-01 UTC
    now: int | None = None  # seconds; default: the newest event
    context: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _somebody(self) -> Who:
        if self.user_id is None and self.history is None and not self.context:
            raise ValueError("give a user_id, a history (which may be empty) or a context")
        if self.timestamps is not None and len(self.timestamps) != len(self.history or ()):
            raise ValueError("timestamps and history must be of one length")
        return self


class RecommendRequest(Who):
    """A list, please.

    ``k``: its length; where the catalogue, the filters or the path offer fewer items, the list is shorter.
    ``path``: omitted, the deployment decides; named, a preview that no experiment counts.
    ``replay``: nobody will see the list, past events are replayed. It is logged as such, and counted by the replay alone.
    """

    k: int | None = Field(default=None, ge=1)
    filters: Filters = Filters()
    path: ServedPath | None = None
    replay: bool = False


class SimilarRequest(_Wire):
    """Items like one item."""

    item_id: ItemId
    k: int | None = Field(default=None, ge=1)
    filters: Filters = Filters()


class ExplainRequest(Who):
    """Why this item, for this history and context? ``path``: omitted, the one that serves them."""

    item_id: ItemId
    path: ServedPath | None = None


class Event(_Wire):
    """Something that a user did. ``event_id`` makes posting it again harmless."""

    event_id: RowId
    user_id: UserId
    item_id: ItemId
    timestamp: Seconds | None = None  # default: when it arrived
    action: Action | None = None


class Feedback(_Wire):
    """How a user responded to an item that was shown. ``feedback_id`` makes posting it again harmless.

    ``exposure_id`` is the one that the answer carried. It may be posted at any time: before the exposure is
    visible, days later, in any order. Without it, ``user_id`` is needed, and the feedback belongs to the user's
    newest exposure that showed the item within the attribution window; else it is kept, and counted as
    unattributed. ``value``: the stars of a rating, the amount of a purchase (at least 0: a refund is no purchase).
    """

    feedback_id: RowId
    kind: FeedbackKind
    item_id: ItemId
    exposure_id: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_NUL)] | None = None
    user_id: UserId | None = None
    value: float | None = None
    timestamp: Annotated[float, *_Moment] | None = None  # seconds; default: when it arrived

    @model_validator(mode="after")
    def _belongs_somewhere(self) -> Feedback:
        if self.exposure_id is None and self.user_id is None:
            raise ValueError("give the exposure_id of the answer that showed the item, or a user_id")
        if self.kind == "rating" and self.value is None:
            raise ValueError("a rating needs a value")
        if self.kind == "purchase" and not (self.value is not None and self.value >= 0):
            raise ValueError("a purchase needs a value, its amount, of at least 0")
        return self


class RecommendedItem(_Wire):
    item_id: str
    title: str | None
    score: float
    source: str  # who proposed it; of blended and interleaved lists see segue.blending.sources


class Answer(_Wire):
    """A list and where it came from."""

    items: list[RecommendedItem]
    path: ServedPath  # the path that made this list
    bundle: str
    deployment: int | None  # revision; null where no deployment is followed
    arm: str | None
    preview: bool
    fallback: str | None  # why another path than the one asked for made the list
    unknown_items: list[str]  # ids of the history that the catalogue lacks; they were ignored
    latency_ms: float
    # By which feedback names this list; null: it is logged nowhere and will not be counted.
    exposure_id: str | None = None
    warnings: list[str] = Field(
        default_factory=list
    )  # what went worse than it should, and was answered all the same


class SimilarAnswer(_Wire):
    items: list[RecommendedItem]
    bundle: str
    deployment: int | None
    latency_ms: float


class ExplainedEvent(_Wire):
    """An event of the history. ``importance``: by how much the item's score falls without it."""

    item_id: str
    title: str | None
    place: int  # in the history as the catalogue knows it, from 0, oldest first
    importance: float  # above 0: it speaks for the item


class ExplainedTheme(_Wire):
    """What the item shares with events of the history: the longest common prefix of their semantic IDs."""

    prefix: list[int]
    words: list[
        str
    ]  # heaviest first; empty where the items have no texts, or the bundle is older than themes
    shared_with: list[str]  # item ids of those events, newest first


class ExplainAnswer(_Wire):
    """Why an item, in a sentence and as data."""

    item_id: str
    title: str | None
    sentence: str
    basis: Literal["history", "context", "popularity"]  # what the sentence speaks of
    score: float | None  # the path's own, of this item; null: it has none
    events: list[ExplainedEvent]  # the newest 20 at most; most important first, of equals the newest
    context_importance: float | None  # the same for the request's context as a whole; null: it had none
    theme: ExplainedTheme | None
    path: ServedPath  # the path whose score was explained
    bundle: str
    deployment: int | None
    arm: str | None
    fallback: str | None  # why another path than the one asked for explains
    unknown_items: list[str]
    latency_ms: float
    warnings: list[str] = Field(default_factory=list)


class EventsAnswer(_Wire):
    accepted: int
    duplicates: int  # posted before under the same event_id
    unknown_items: list[str]  # kept, and used once a bundle knows them
    erased: int = 0  # of users who were erased: not kept


class FeedbackAnswer(_Wire):
    accepted: int
    duplicates: int  # posted before under the same feedback_id
    erased: int  # of users who were erased: not kept
