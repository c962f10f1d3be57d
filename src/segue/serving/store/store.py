"""The online store: user histories, the events posted since, what was shown, and how users responded.

A user's history is the snapshot's, followed by the events posted since. Exposures and feedback name a user by
a hash that is keyed by a secret of the store.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl
import sqlalchemy as sa

from segue.artifacts import temporary_file
from segue.canonical import sha256_of_file
from segue.data.erasure import keyed_hash
from segue.database import checked_url, database_url, namespace_of
from segue.errors import ArtifactError
from segue.items import ITEMS_FILE
from segue.migration.online_experiment import Experiment
from segue.migration.online_users import OnlineUsers, closed
from segue.migration.settings import OnlineSettings
from segue.schema import Interactions, Split, UserGroup
from segue.serving.requests import Event, Feedback
from segue.serving.store import attribution, tables
from segue.serving.store.connection import Database
from segue.serving.store.records import REPLAYED, Exposure, Posted, Retention, StoredHistory
from segue.serving.store.schema import open_schema
from segue.serving.store.windows import feedback_windows, newest_list, serving_windows
from segue.workspace import Workspace

STORE_URL: Final = "SEGUE_STORE"
STORE_FILE: Final = "online.sqlite"
ExportedTable = Literal["events", "exposures", "feedback"]
_ROWS_A_STATEMENT = 500
_ROWS_A_DELETE = 10_000  # short transactions: serving writes in between
_ROWS_A_READ = 50_000
_ROWS_A_BUCKET = 1_000_000
_HASH_BUCKETS = 256  # a user's bucket is the first byte of their hash
# A row is dated before it is committed: so long after a window's end its last rows are surely visible.
SETTLE_SECONDS: Final = 0.2
_DAY = 86_400.0
_TIMES: Final = {"events": "received_at", "exposures": "shown_at", "feedback": "received_at"}


class Store:
    """One online store. Thread- and process-safe as its database is. An older store is upgraded on opening.

    Args:
        url: of SQLite or Postgres.
        namespace: the Postgres schema it lies in; None: the database's default.
        busy_seconds: how long a statement waits for another process's lock before the store counts as away.

    Every method raises UnavailableError where the database is away or locked for long. Opening raises
    ConfigurationError for another kind of URL, StateError for a store of a newer schema.
    """

    def __init__(self, url: str, *, namespace: str | None = None, busy_seconds: float = 10.0) -> None:
        self._database = Database(
            checked_url(url, "the online store's URL"), namespace, busy_seconds=busy_seconds
        )
        try:
            self.version_found, self.version = open_schema(self._database)
            self._claim("user_salt", secrets.token_hex(16))
            with self._database.read() as connection:
                salt = connection.execute(
                    sa.select(tables.about.c.value).where(tables.about.c.key == "user_salt")
                ).scalar_one()
        except BaseException:
            self._database.close()
            raise
        self.salt = str(salt)

    @classmethod
    def at(cls, path: Path, *, busy_seconds: float = 10.0) -> Store:
        """The SQLite store in the file ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{path}", busy_seconds=busy_seconds)

    @property
    def where(self) -> str:
        """Its URL without a password, for messages."""
        return self._database.where

    def close(self) -> None:
        self._database.close()

    def ping(self) -> None:
        """Raises UnavailableError where the database takes no write: it is away, locked, full or a read-only copy."""
        statement = self._database.insert_or_ignore(tables.about, "key")
        with self._database.write() as connection:
            connection.execute(statement, {"key": "user_salt", "value": self.salt})

    def user_hash(self, user_id: str) -> str:
        """How exposures name a user: keyed by a secret of this store, so that names cannot be guessed."""
        return keyed_hash(self.salt, user_id)

    def has_snapshot(self, sha256: str) -> bool:
        """Whether the current histories are those of that snapshot."""
        with self._database.read() as connection:
            newest = connection.execute(
                sa.select(tables.about.c.value).where(tables.about.c.key == "snapshot")
            ).scalar()
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
            return self.counts()["histories"]
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
        with self._database.write() as connection:
            erased = set(connection.execute(sa.select(tables.erased.c.user_hash)).scalars())
            rows = [
                {"user_id": user, "item_ids": json.dumps(items), "timestamps": json.dumps(times)}
                for user, items, times in users.iter_rows()
                if not erased or self.user_hash(user) not in erased
            ]
            connection.execute(sa.delete(tables.histories))
            for start in range(0, len(rows), _ROWS_A_STATEMENT):
                connection.execute(sa.insert(tables.histories), rows[start : start + _ROWS_A_STATEMENT])
            connection.execute(sa.delete(tables.snapshots).where(tables.snapshots.c.sha256 == digest))
            connection.execute(
                sa.insert(tables.snapshots).values(
                    sha256=digest,
                    imported_at=int(time.time()),
                    users=len(rows),
                    events=int(users[Interactions.ITEM].list.len().sum() or 0),
                )
            )
            connection.execute(sa.delete(tables.about).where(tables.about.c.key == "snapshot"))
            connection.execute(sa.insert(tables.about).values(key="snapshot", value=digest))
        return len(rows)

    def history(self, user_id: str) -> StoredHistory | None:
        """The snapshot's events and those posted since, by time; None for a user nobody knows."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(tables.histories).where(tables.histories.c.user_id == user_id)
            ).first()
            posted = connection.execute(
                sa.select(tables.events.c.item_id, tables.events.c.timestamp)
                .where(tables.events.c.user_id == user_id)
                .order_by(tables.events.c.timestamp, tables.events.c.sequence)
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
        with self._database.read() as connection:
            known = set(connection.execute(sa.select(tables.histories.c.user_id)).scalars())
            known |= set(connection.execute(sa.select(tables.events.c.user_id).distinct()).scalars())
        return sorted(known)

    def post(self, events: Sequence[Event]) -> Posted:
        """Keep events; on return they are on disk. An ``event_id`` that is known already is left as it is."""
        now = int(time.time())
        rows = [
            {
                "event_id": event.event_id,
                "user_id": event.user_id,
                "user_hash": self.user_hash(event.user_id),
                "item_id": event.item_id,
                "timestamp": now if event.timestamp is None else event.timestamp,
                "action": event.action,
                "received_at": now,
            }
            for event in events
        ]
        return self._insert_new(tables.events, "event_id", rows)

    def post_feedback(self, feedback: Sequence[Feedback]) -> Posted:
        """Keep feedback; on return it is on disk. A ``feedback_id`` that is known already is left as it is.

        Nothing is looked up: which exposure it belongs to is found at reading (:meth:`user_sums`), so that it
        may come before its exposure, or long after.
        """
        now = time.time()
        rows = [
            {
                "feedback_id": one.feedback_id,
                "exposure_id": one.exposure_id,
                "user_hash": None if one.user_id is None else self.user_hash(one.user_id),
                "item_id": one.item_id,
                "kind": one.kind,
                "value": one.value,
                "happened_at": now if one.timestamp is None else one.timestamp,
                "received_at": now,
            }
            for one in feedback
        ]
        return self._insert_new(tables.feedback, "feedback_id", rows)

    def log_exposures(self, shown: Sequence[Exposure]) -> None:
        """Record what is about to be shown to whom; on return it is on disk. A known exposure_id changes nothing.

        What an erased user is shown is logged as shown to nobody in particular.
        """
        if not shown:
            return
        rows = [
            {
                "exposure_id": one.exposure_id,
                "user_hash": one.user_hash if one.user_id is None else self.user_hash(one.user_id),
                "arm": one.arm,
                "path": one.path,
                "bundle": one.bundle,
                "deployment": one.deployment,
                "item_ids": json.dumps(one.item_ids),
                "sources": None if one.sources is None else json.dumps(one.sources),
                "fallback": one.fallback,
                "warnings": json.dumps(one.warnings) if one.warnings else None,
                "latency_ms": one.latency_ms,
                "shown_at": one.shown_at,
            }
            for one in shown
        ]
        with self._database.write() as connection:
            erased = self._erased_among(connection, rows)
            for row in rows:
                if row["user_hash"] in erased:
                    row["user_hash"] = None
            connection.execute(self._database.insert_or_ignore(tables.exposures, "exposure_id"), rows)

    def exposures(self, *, after: int = 0, limit: int = 100_000) -> list[dict[str, Any]]:
        """Exposures in the order of their sequence numbers, from behind ``after``.

        With several writers a smaller number may become visible after a larger one: whoever must miss none
        reads from the beginning.
        """
        query = (
            sa.select(tables.exposures)
            .where(tables.exposures.c.sequence > after)
            .order_by(tables.exposures.c.sequence)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_exposure(row) | {"warnings": json.loads(row["warnings"] or "[]")} for row in rows]

    def held_exposures(self, exposure_ids: Collection[str]) -> set[str]:
        """Those of ``exposure_ids`` that are in the store: whoever was shown lists can tell whether one was lost."""
        wanted, column = sorted(exposure_ids), tables.exposures.c.exposure_id
        found: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(wanted), _ROWS_A_STATEMENT):
                some = sa.select(column).where(column.in_(wanted[start : start + _ROWS_A_STATEMENT]))
                found |= set(connection.execute(some).scalars())
        return found

    def user_sums(
        self,
        *,
        window_seconds: int = attribution.WINDOW_SECONDS,
        since: float | None = None,
        until: float | None = None,
        deployments: Collection[int] | None = None,
        replayed: bool = False,
    ) -> attribution.UserSums:
        """What every user was shown and did, by arm and deployment: the raw material of online evidence.

        Args:
            window_seconds: how old an exposure may be to which feedback that names none is given.
            since, until, deployments: which exposures count: those shown in [since, until), seconds since
                1970, under these revisions. None: all. The coverage is that of the whole store.
            replayed: the lists that replays asked for and the feedback on them, which nothing else counts, instead of all
                others.

        Users are worked on in groups of about a million exposures, so that memory stays bounded.
        """
        parts, coverage = [], attribution.Coverage()
        for exposures, attributed in self.attributed(window_seconds, replayed=replayed):
            coverage += attribution.coverage_of(exposures, attributed)
            parts.append(
                attribution.user_sums(
                    exposures, attributed, since=since, until=until, deployments=deployments
                )
            )
        return attribution.UserSums(pl.concat(parts).sort("user_hash", "arm", "deployment"), coverage)

    def online_users(
        self,
        experiment: Experiment,
        settings: OnlineSettings,
        *,
        now: float | None = None,
        replayed: bool = False,
    ) -> OnlineUsers:
        """The users of a running experiment whose windows have closed at ``now`` (default: the present moment).

        ``replayed``: as in :meth:`user_sums`.

        Reads the whole store, users in groups as in :meth:`user_sums`; the watcher, which looks all the time, reads
        what is new (:class:`segue.serving.watching.StoreReader`).
        """
        moment = time.time() - SETTLE_SECONDS if now is None else now
        feedback, serving, newest, coverage = [], [], [], attribution.Coverage()
        for exposures, attributed in self.attributed(replayed=replayed):
            coverage += attribution.coverage_of(exposures, attributed)
            feedback.append(feedback_windows(exposures, attributed, experiment, settings))
            serving.append(serving_windows(exposures, attributed, experiment, settings))
            newest.append(newest_list(exposures, experiment))
        everybody = pl.concat(feedback).filter(pl.col("first_exposed_at") <= moment)
        return OnlineUsers(
            feedback=closed(everybody, moment),
            serving=closed(pl.concat(serving), moment),
            assigned=dict(everybody.group_by("arm").len().sort("arm").iter_rows()),
            first_exposed_at=_seconds(everybody["first_exposed_at"].min()),
            last_exposed_at=max((when for when in newest if when is not None), default=None),
            feedback_rows=coverage.feedback,
            attributed=coverage.stated + coverage.inferred,
        )

    def rows_of(self, users: Collection[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
        """All exposures of the users with these hashes but those of replays, and the feedback on them, joined."""
        exposures, feedback = [], []
        shown, given = tables.exposures, tables.feedback
        names = sorted(users)
        for start in range(0, len(names), _ROWS_A_STATEMENT):
            some = names[start : start + _ROWS_A_STATEMENT]
            theirs = sa.select(shown.c.exposure_id).where(shown.c.user_hash.in_(some))
            exposures += self._exposures(shown.c.user_hash.in_(some) & _of_replay(shown.c.exposure_id, False))
            feedback += self._feedback(
                sa.select(*(given.c[name] for name in attribution.FEEDBACK)).where(
                    given.c.exposure_id.in_(theirs) | given.c.user_hash.in_(some),
                    _of_replay(given.c.exposure_id, False),
                )
            )
        frame = pl.DataFrame(exposures, schema=attribution.EXPOSURES, orient="row")
        told = pl.DataFrame(feedback, schema=attribution.FEEDBACK, orient="row")
        # Feedback that names its user and another one's exposure is found once a chunk.
        return frame, attribution.attribute(frame, told.unique("sequence", maintain_order=True))

    def exposure_keys(
        self, *, after: int, deployments: Collection[int]
    ) -> Iterator[tuple[str | None, str | None, int, str, float]]:
        """(user_hash, arm, deployment, bundle, shown_at) of the exposures behind the sequence number ``after`` under these
        revisions, in order of sequence, read in parts of one moment; without those of replays.

        The same caution as for :meth:`exposures`: where not :attr:`commits_in_order`, begin before what was seen last.
        """
        shown = tables.exposures.c
        query = (
            sa.select(shown.user_hash, shown.arm, shown.deployment, shown.bundle, shown.shown_at)
            .where(
                (shown.sequence > after)
                & shown.deployment.in_(sorted(deployments))
                & _of_replay(shown.exposure_id, False)
            )
            .order_by(shown.sequence)
        )
        with self._database.read() as connection:
            streaming = connection.execution_options(yield_per=_ROWS_A_READ)
            for rows in streaming.execute(query).partitions():
                yield from (row._tuple() for row in rows)

    def newest_sequence(self, table: Literal["exposures", "feedback"]) -> int:
        """The largest sequence number of ``table``; 0 where it is empty. Grows with every row, whatever is pruned before it."""
        column = getattr(tables, table).c.sequence
        with self._database.read() as connection:
            return int(connection.execute(sa.select(sa.func.max(column))).scalar() or 0)

    @property
    def commits_in_order(self) -> bool:
        """Whether rows become visible in the order of their sequence numbers: SQLite has one writer, Postgres many."""
        return self._database.is_sqlite

    def attributed(
        self, window_seconds: int = attribution.WINDOW_SECONDS, *, replayed: bool = False
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Exposures and their joined feedback, users in groups of about a million exposures.

        ``replayed``: as in :meth:`user_sums`.
        """
        counts = self.counts()
        total = max(counts["exposures"], counts["feedback"])
        groups = min(_HASH_BUCKETS, max(1, -(-total // _ROWS_A_BUCKET)))
        bounds = [f"{group * _HASH_BUCKETS // groups:02x}" for group in range(groups)]
        for number, low in enumerate(bounds):
            high = bounds[number + 1] if number + 1 < groups else None
            exposures, feedback = self._bucket(low, high, first=number == 0, replayed=replayed)
            yield exposures, attribution.attribute(exposures, feedback, window_seconds=window_seconds)

    def export(self, table: ExportedTable, out: Path) -> int:
        """Write one table as Parquet, in the order of its sequence numbers; the number of rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        source: sa.Table = getattr(tables, table)
        schema = pl.DataFrame(schema=_exported_schema(source)).to_arrow().schema
        count = 0
        with temporary_file(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for rows in self._read_all(sa.select(source).order_by(source.c.sequence)):
                plain = [_exposure(row) if table == "exposures" else dict(row) for row in rows]
                frame = pl.DataFrame(plain, schema=_exported_schema(source), orient="row")
                writer.write_table(pa.table(frame.to_arrow()).cast(schema))
                count += len(rows)
        return count

    def counts(self) -> dict[str, int]:
        """Rows by table: histories, events, exposures, feedback, erased."""
        names = ("histories", "events", "exposures", "feedback", "erased")
        with self._database.read() as connection:
            return {
                name: int(
                    connection.execute(
                        sa.select(sa.func.count()).select_from(getattr(tables, name))
                    ).scalar_one()
                )
                for name in names
            }

    def genuine_counts(self) -> dict[str, int]:
        """Rows of exposures and feedback without those of replays: what real traffic left."""
        with self._database.read() as connection:
            return {
                name: int(
                    connection.execute(
                        sa.select(sa.func.count())
                        .select_from(table)
                        .where(_of_replay(table.c.exposure_id, replayed=False))
                    ).scalar_one()
                )
                for name, table in (("exposures", tables.exposures), ("feedback", tables.feedback))
            }

    def prune(
        self, retention: Retention, *, now: float | None = None, dry_run: bool = False
    ) -> dict[str, int]:
        """Remove what is older than ``retention`` says; rows by table (with ``dry_run``: that would go).

        Deleted in short transactions: serving goes on meanwhile, and a kill leaves the rest for the next call.
        """
        moment = time.time() if now is None else now
        removed = {}
        for name, column in _TIMES.items():
            days = getattr(retention, name)
            if days is None:
                continue
            table: sa.Table = getattr(tables, name)
            old = table.c[column] < moment - days * _DAY
            if dry_run:
                with self._database.read() as connection:
                    count = connection.execute(sa.select(sa.func.count()).select_from(table).where(old))
                    removed[name] = int(count.scalar_one())
                continue
            removed[name] = 0
            while True:
                some = sa.select(table.c.sequence).where(old).limit(_ROWS_A_DELETE)
                with self._database.write() as connection:
                    gone = connection.execute(sa.delete(table).where(table.c.sequence.in_(some))).rowcount
                removed[name] += gone
                if gone < _ROWS_A_DELETE:
                    break
        return removed

    def erase_user(self, user_id: str) -> dict[str, int]:
        """Forget a user: history, events, exposures, feedback; rows by table.

        No later snapshot brings them back, and nothing about them is kept from now on
        (:meth:`readmit_user` ends that). Safe against writers that run at the same moment.
        """
        name = self.user_hash(user_id)
        with self._database.write() as connection:
            connection.execute(
                self._database.insert_or_ignore(tables.erased, "user_hash"), {"user_hash": name}
            )
        theirs = sa.select(tables.exposures.c.exposure_id).where(tables.exposures.c.user_hash == name)
        deletions = {
            "histories": sa.delete(tables.histories).where(tables.histories.c.user_id == user_id),
            "events": sa.delete(tables.events).where(tables.events.c.user_id == user_id),
            "feedback": sa.delete(tables.feedback).where(
                (tables.feedback.c.user_hash == name) | tables.feedback.c.exposure_id.in_(theirs)
            ),
            "exposures": sa.delete(tables.exposures).where(tables.exposures.c.user_hash == name),
        }
        with self._database.write() as connection:
            if not self._database.is_sqlite:
                # Writers read the list of erased users first, and hold it to their end: once this lock is
                # granted, everybody who did not see the new entry has committed. SQLite has one writer.
                connection.execute(sa.text(f"LOCK TABLE {tables.erased.name} IN ACCESS EXCLUSIVE MODE"))
            removed = {table: connection.execute(query).rowcount for table, query in deletions.items()}
        if self._database.is_sqlite:
            self._empty_the_log()
        return removed

    def readmit_user(self, user_id: str) -> bool:
        """Keep what an erased user does from now on; whether they had been erased. What was erased stays gone."""
        with self._database.write() as connection:
            gone = sa.delete(tables.erased).where(tables.erased.c.user_hash == self.user_hash(user_id))
            return bool(connection.execute(gone).rowcount)

    def erased(self) -> set[str]:
        """The hashes of all erased users."""
        with self._database.read() as connection:
            return set(connection.execute(sa.select(tables.erased.c.user_hash)).scalars())

    def _insert_new(self, table: sa.Table, key: str, rows: Sequence[Mapping[str, Any]]) -> Posted:
        """Insert in the order given, of repeated keys the first."""
        first: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            first.setdefault(row[key], row)
        if not first:
            return Posted(0, 0, 0)
        statement = self._database.insert_or_ignore(table, key).returning(table.c[key])
        with self._database.write() as connection:
            gone = self._erased_among(connection, rows)
            erased = sum(row["user_hash"] in gone for row in rows)
            kept = [dict(row) for row in first.values() if row["user_hash"] not in gone]
            # Counted by what is returned: psycopg gives no row count of several statements at once.
            new = len(connection.execute(statement, kept).all()) if kept else 0
        return Posted(new, len(rows) - erased - new, erased)

    def _erased_among(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> set[str]:
        """Which of the rows' users were erased. Comes first in its transaction: see :meth:`erase_user`."""
        names = sorted({row["user_hash"] for row in rows} - {None})
        found: set[str] = set()
        for start in range(0, max(len(names), 1), _ROWS_A_STATEMENT):
            column = tables.erased.c.user_hash
            some = sa.select(column).where(column.in_(names[start : start + _ROWS_A_STATEMENT]))
            found |= set(connection.execute(some).scalars())
        return found

    def _bucket(
        self, low: str, high: str | None, *, first: bool, replayed: bool
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Exposures and feedback of the users whose hashes lie in [low, high); the first bucket has the nameless too.

        Feedback is where its exposure is, else where its user is.
        """
        shown, given = tables.exposures, tables.feedback
        owner = sa.case(
            (shown.c.exposure_id.is_not(None), shown.c.user_hash), else_=given.c.user_hash
        )  # nameless exposures keep their feedback with them
        joined = given.outerjoin(shown, given.c.exposure_id == shown.c.exposure_id)
        exposures = self._exposures(
            _in_bucket(shown.c.user_hash, low, high, first=first) & _of_replay(shown.c.exposure_id, replayed)
        )
        feedback = self._feedback(
            sa.select(*(given.c[name] for name in attribution.FEEDBACK))
            .select_from(joined)
            .where(_in_bucket(owner, low, high, first=first), _of_replay(given.c.exposure_id, replayed))
        )
        return (
            pl.DataFrame(exposures, schema=attribution.EXPOSURES, orient="row"),
            pl.DataFrame(feedback, schema=attribution.FEEDBACK, orient="row"),
        )

    def _exposures(self, where: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
        query = sa.select(*(tables.exposures.c[name] for name in attribution.EXPOSURES)).where(where)
        return [_exposure(row) for rows in self._read_all(query) for row in rows]

    def _feedback(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        return [dict(row) for rows in self._read_all(query) for row in rows]

    def _read_all(self, query: sa.Select[Any]) -> Iterator[Sequence[sa.RowMapping]]:
        """The rows of a query in parts, all of one moment."""
        with self._database.read() as connection:
            streaming = connection.execution_options(yield_per=_ROWS_A_READ)
            yield from streaming.execute(query).mappings().partitions()

    def _claim(self, key: str, value: str) -> None:
        """Write a fact about the store unless another process was first."""
        with self._database.read() as connection:
            query = sa.select(tables.about.c.key).where(tables.about.c.key == key)
            if connection.execute(query).first() is not None:
                return
        with self._database.write() as connection:
            connection.execute(
                self._database.insert_or_ignore(tables.about, "key"), {"key": key, "value": value}
            )

    def _empty_the_log(self) -> None:
        """Move SQLite's write-ahead log into the file, so that no copy of a deleted row is left in it.

        Where readers hold it open it is done by a later checkpoint.
        """
        with self._database.translated(), self._database.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def open_named_store(
    dataset: str, environment: Mapping[str, str], *, busy_seconds: float = 10.0
) -> Store | None:
    """The store that the environment names: ``SEGUE_STORE``, taken as it is; else the dataset's own one in the
    database of ``SEGUE_DATABASE_URL``; else None."""
    if url := environment.get(STORE_URL):
        return Store(checked_url(url, STORE_URL), busy_seconds=busy_seconds)
    if url := database_url(environment):
        return Store(url, namespace=namespace_of(dataset), busy_seconds=busy_seconds)
    return None


def open_store(
    workspace: Workspace,
    dataset: str,
    environment: Mapping[str, str] | None = None,
    *,
    busy_seconds: float = 10.0,
) -> Store:
    """The online store of a dataset: the one that the environment names, else ``state/<dataset>/online.sqlite``."""
    given = os.environ if environment is None else environment
    named = open_named_store(dataset, given, busy_seconds=busy_seconds)
    return named or Store.at(workspace.state(dataset) / STORE_FILE, busy_seconds=busy_seconds)


def store_exists(workspace: Workspace, dataset: str, environment: Mapping[str, str] | None = None) -> bool:
    """Whether there may be a store: a database is named, or the SQLite file is there."""
    given = os.environ if environment is None else environment
    if given.get(STORE_URL) or database_url(given):
        return True
    return (workspace.state(dataset) / STORE_FILE).is_file()


def _in_bucket(
    column: sa.ColumnElement[Any], low: str, high: str | None, *, first: bool
) -> sa.ColumnElement[bool]:
    inside = column >= low
    if high is not None:
        inside = inside & (column < high)
    return (inside | column.is_(None)) if first else inside


def _of_replay(exposure_id: sa.ColumnElement[Any], replayed: bool) -> sa.ColumnElement[bool]:
    """Whether the list is a replay's, or the feedback is on one; with ``replayed`` False: whether not.

    Feedback that names no list is never a replay's.
    """
    marked = sa.func.coalesce(exposure_id, "").startswith(REPLAYED, autoescape=True)
    return marked if replayed else ~marked


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _exposure(row: sa.RowMapping) -> dict[str, Any]:
    sources = row["sources"]
    return dict(row) | {
        "item_ids": json.loads(row["item_ids"]),
        "sources": None if sources is None else json.loads(sources),
    }


def _exported_schema(table: sa.Table) -> pl.Schema:
    known: dict[str, Any] = {**attribution.EXPOSURES, **attribution.FEEDBACK, "timestamp": pl.Int64}
    if table is tables.events:
        known["received_at"] = pl.Int64
    return pl.Schema({str(column.name): known.get(str(column.name), pl.String) for column in table.columns})
