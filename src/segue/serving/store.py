"""The online store: user histories, the events posted since, and what was shown (CONTRACTS 7).

SQLite (write-ahead log, synchronous commits) under ``state/`` by default, Postgres by its URL. A user's
history is the snapshot's, followed by the events posted since. The tables are created here with a version
that is checked at every opening; migrations between versions (Alembic) are not part of it yet.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from segue.canonical import sha256_of_file
from segue.errors import ArtifactError, StateError
from segue.items import ITEMS_FILE
from segue.schema import Interactions, Split, UserGroup
from segue.serving.requests import Answer, Event

SCHEMA_VERSION = 1
_ROWS_A_STATEMENT = 500
_tables = sa.MetaData()

_about = sa.Table(
    "segue_store",
    _tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_snapshots = sa.Table(
    "segue_snapshots",
    _tables,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("imported_at", sa.BigInteger, nullable=False),
    sa.Column("users", sa.BigInteger, nullable=False),
    sa.Column("events", sa.BigInteger, nullable=False),
)
_histories = sa.Table(
    "segue_histories",  # one row a user: a history is read whole or not at all
    _tables,
    sa.Column("user_id", sa.String(512), primary_key=True),
    sa.Column("item_ids", sa.Text, nullable=False),  # JSON list, oldest first
    sa.Column("timestamps", sa.Text, nullable=False),  # JSON list of seconds
)
_events = sa.Table(
    "segue_events",
    _tables,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("event_id", sa.String(200), nullable=False, unique=True),
    sa.Column("user_id", sa.String(512), nullable=False, index=True),
    sa.Column("user_hash", sa.String(64), nullable=False),
    sa.Column("item_id", sa.String(512), nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
    sa.Column("action", sa.String(200)),
    sa.Column("received_at", sa.BigInteger, nullable=False),
)
_exposures = sa.Table(
    "segue_exposures",
    _tables,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("user_hash", sa.String(64), index=True),  # null: the request named no user
    sa.Column("arm", sa.String(100)),
    sa.Column("path", sa.String(32), nullable=False),
    sa.Column("bundle", sa.String(64), nullable=False),
    sa.Column("deployment", sa.BigInteger),
    sa.Column("item_ids", sa.Text, nullable=False),  # JSON list: position 0 was shown first
    sa.Column("fallback", sa.Text),
    sa.Column("shown_at", sa.Float, nullable=False),
)
_erased = sa.Table(
    "segue_erased",  # hashes only: a snapshot made before the erasure must not bring the user back
    _tables,
    sa.Column("user_hash", sa.String(64), primary_key=True),
)


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """Item ids and seconds, oldest first."""

    item_ids: list[str]
    timestamps: list[int]


class Store:
    """One online store. Thread- and process-safe as its database is.

    Raises StateError where the database was made by another version of this schema.
    """

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, pool_pre_ping=True)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _configure_sqlite)
        with self._engine.begin() as connection:
            _tables.create_all(connection)
        self._claim("schema_version", str(SCHEMA_VERSION))
        self._claim("user_salt", secrets.token_hex(16))
        with self._engine.connect() as connection:
            about = {row.key: row.value for row in connection.execute(sa.select(_about))}
        where = self._engine.url.render_as_string(hide_password=True)
        if about["schema_version"] != str(SCHEMA_VERSION):
            raise StateError(
                f"the online store {where} has schema version {about['schema_version']}, this code works on "
                f"{SCHEMA_VERSION}: use a new store, or the code that made it"
            )
        self._salt = about["user_salt"].encode()

    @classmethod
    def at(cls, path: Path) -> Store:
        """The SQLite store in the file ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{path}")

    def close(self) -> None:
        self._engine.dispose()

    def user_hash(self, user_id: str) -> str:
        """How exposures name a user: keyed by a secret of this store, so that names cannot be guessed."""
        return hmac.new(self._salt, user_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def has_snapshot(self, sha256: str) -> bool:
        """Whether the current histories are those of that snapshot."""
        with self._engine.connect() as connection:
            newest = connection.execute(sa.select(_about.c.value).where(_about.c.key == "snapshot")).scalar()
        return newest == sha256

    def import_snapshot(self, splits: Path) -> int:
        """Replace the histories by those of ``splits/interactions.parquet``; the number of users.

        The same file a second time changes nothing. Users of the group *replay* are left out: their events
        are replayed as if they happened now. Erased users stay erased. Events posted earlier are kept;
        those that the snapshot already holds count once. Raises ArtifactError where a file is missing.
        """
        events_file, items_file = splits / "interactions.parquet", splits / ITEMS_FILE
        for path in (events_file, items_file):
            if not path.is_file():
                raise ArtifactError(f"{path} is missing: run the step splits first")
        digest = sha256_of_file(events_file)
        if self.has_snapshot(digest):
            with self._engine.connect() as connection:
                return int(
                    connection.execute(sa.select(sa.func.count()).select_from(_histories)).scalar_one()
                )
        ids = pl.scan_parquet(items_file).select(Split.ITEM_INDEX, Interactions.ITEM)
        users = (
            pl.scan_parquet(events_file)
            .filter(pl.col(Split.GROUP) != UserGroup.REPLAY.value)
            .join(ids, on=Split.ITEM_INDEX, how="inner")
            .sort(Interactions.USER, Split.POSITION)
            .group_by(Interactions.USER, maintain_order=True)
            .agg(Interactions.ITEM, pl.col(Interactions.TIMESTAMP).fill_null(0))
            .collect()
        )
        with self._engine.begin() as connection:
            erased = set(connection.execute(sa.select(_erased.c.user_hash)).scalars())
            rows = [
                {"user_id": user, "item_ids": json.dumps(items), "timestamps": json.dumps(times)}
                for user, items, times in users.iter_rows()
                if not erased or self.user_hash(user) not in erased
            ]
            connection.execute(sa.delete(_histories))
            for start in range(0, len(rows), _ROWS_A_STATEMENT):
                connection.execute(sa.insert(_histories), rows[start : start + _ROWS_A_STATEMENT])
            connection.execute(sa.delete(_snapshots).where(_snapshots.c.sha256 == digest))
            connection.execute(
                sa.insert(_snapshots).values(
                    sha256=digest,
                    imported_at=int(time.time()),
                    users=len(rows),
                    events=int(users[Interactions.ITEM].list.len().sum() or 0),
                )
            )
            connection.execute(sa.delete(_about).where(_about.c.key == "snapshot"))
            connection.execute(sa.insert(_about).values(key="snapshot", value=digest))
        return len(rows)

    def history(self, user_id: str) -> StoredHistory | None:
        """The snapshot's events and those posted since, by time; None for a user nobody knows."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_histories).where(_histories.c.user_id == user_id)).first()
            posted = connection.execute(
                sa.select(_events.c.item_id, _events.c.timestamp)
                .where(_events.c.user_id == user_id)
                .order_by(_events.c.timestamp, _events.c.sequence)
            ).all()
        if row is None and not posted:
            return None
        pairs: list[tuple[str, int]] = []
        if row is not None:
            pairs = list(zip(json.loads(row.item_ids), json.loads(row.timestamps), strict=True))
        held = set(pairs)
        pairs += [(item, when) for item, when in posted if (item, when) not in held]
        if all(when > 0 for _, when in pairs):  # data without times keeps its order, posted events after it
            pairs.sort(key=lambda pair: pair[1])
        return StoredHistory([item for item, _ in pairs], [when for _, when in pairs])

    def users(self) -> list[str]:
        """Everybody with a history, in order."""
        with self._engine.connect() as connection:
            known = set(connection.execute(sa.select(_histories.c.user_id)).scalars())
            known |= set(connection.execute(sa.select(_events.c.user_id).distinct()).scalars())
        return sorted(known)

    def post(self, events: Sequence[Event]) -> int:
        """Keep events; how many were new. An ``event_id`` that is known already is left as it is."""
        now = int(time.time())
        rows = {
            event.event_id: {
                "event_id": event.event_id,
                "user_id": event.user_id,
                "user_hash": self.user_hash(event.user_id),
                "item_id": event.item_id,
                "timestamp": now if event.timestamp is None else event.timestamp,
                "action": event.action,
                "received_at": now,
            }
            for event in reversed(events)  # of repeated ids the first one counts
        }
        ordered = [rows[key] for key in dict.fromkeys(event.event_id for event in events)]
        if not ordered:
            return 0
        with self._engine.begin() as connection:
            return sum(
                int(connection.execute(self._insert_or_ignore(_events, "event_id"), row).rowcount)
                for row in ordered
            )

    def log_exposures(self, shown: Iterable[tuple[str | None, Answer]]) -> None:
        """Record what is about to be shown to whom; on return it is on disk. Previews are refused."""
        rows = []
        now = time.time()
        for user_id, answer in shown:
            if answer.preview:
                raise StateError("a preview is no exposure")
            rows.append(
                {
                    "user_hash": None if user_id is None else self.user_hash(user_id),
                    "arm": answer.arm,
                    "path": answer.path,
                    "bundle": answer.bundle,
                    "deployment": answer.deployment,
                    "item_ids": json.dumps([item.item_id for item in answer.items]),
                    "fallback": answer.fallback,
                    "shown_at": now,
                }
            )
        if rows:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(_exposures), rows)

    def exposures(self, *, after: int = 0, limit: int = 100_000) -> list[dict[str, Any]]:
        """Exposures in the order they were logged, from behind sequence number ``after``."""
        query = (
            sa.select(_exposures)
            .where(_exposures.c.sequence > after)
            .order_by(_exposures.c.sequence)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [dict(row) | {"item_ids": json.loads(row["item_ids"])} for row in rows]

    def erase_user(self, user_id: str) -> None:
        """Forget a user: history, events and exposures. A later snapshot does not bring them back."""
        name = self.user_hash(user_id)
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_histories).where(_histories.c.user_id == user_id))
            connection.execute(sa.delete(_events).where(_events.c.user_id == user_id))
            connection.execute(sa.delete(_exposures).where(_exposures.c.user_hash == name))
            connection.execute(self._insert_or_ignore(_erased, "user_hash"), {"user_hash": name})

    def _claim(self, key: str, value: str) -> None:
        """Write a fact about the store unless another process was first."""
        with self._engine.begin() as connection:
            connection.execute(self._insert_or_ignore(_about, "key"), {"key": key, "value": value})

    def _insert_or_ignore(self, table: sa.Table, key: str) -> Any:
        if self._engine.dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as postgres_insert

            return postgres_insert(table).on_conflict_do_nothing(index_elements=[key])
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table).on_conflict_do_nothing(index_elements=[key])


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
