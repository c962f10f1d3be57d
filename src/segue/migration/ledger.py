"""The ledger: the truth about what serves and why.

One append-only table of hash-chained rows, in SQLite (default, ``state/<dataset>/ledger.db``) or Postgres
(``SEGUE_LEDGER_URL``, or ``SEGUE_DATABASE_URL`` for ledger and online store). A row's hash covers its own
content and the hash of the row before it, so that a changed or removed row breaks every later one. A write
states the revision it builds on (compare and swap) and happens in one transaction; two writers can never both win.

After a commit the ledger writes ``current.json``, which serving follows. A kill in between leaves the file
behind the ledger, never ahead of it; :meth:`Ledger.project` writes it again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from segue.artifacts import read_json, write_json
from segue.canonical import canonical_json, sha256_of
from segue.database import checked_url, database_url, postgres_arguments
from segue.errors import ArtifactError, StateError
from segue.migration.deployment import CURRENT_FILE, BundleFacts, CurrentDeployment, Deployment
from segue.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

URL_VARIABLE: Final = "SEGUE_LEDGER_URL"
GENESIS: Final = "0" * 64

RowKind = Literal[
    "deployment", "decision", "revocation", "override", "projection", "request", "proposal", "approval"
]

_metadata = MetaData()
_rows = Table(
    "segue_ledger",
    _metadata,
    Column("dataset", String(200), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(20), nullable=False),
    Column("revision", Integer, nullable=True),  # of a deployment; null of every other kind
    Column("at", String(40), nullable=False),
    Column("payload", Text, nullable=False),  # canonical JSON
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    UniqueConstraint("dataset", "revision", name="one_document_a_revision"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row to be written."""

    kind: RowKind
    payload: Mapping[str, Any]
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger. ``payload`` is what ``text`` says."""

    sequence: int
    kind: RowKind
    revision: int | None
    at: str
    text: str
    previous: str
    hash: str

    @property
    def payload(self) -> dict[str, Any]:
        import json

        value = json.loads(self.text)
        assert isinstance(value, dict)
        return value

    def computed_hash(self, dataset: str) -> str:
        return sha256_of(
            [dataset, self.sequence, self.kind, self.revision, self.at, self.text, self.previous]
        )


@dataclass(frozen=True, slots=True)
class Revision:
    """A deployment as the ledger holds it: the event that led to it, and what its bundles are."""

    deployment: Deployment
    event: str
    bundles: Mapping[str, BundleFacts]


class Ledger:
    """One dataset's ledger. Creates its table where it is missing."""

    def __init__(self, url: str, dataset: str, *, projection: Path, bundles_root: str) -> None:
        self.dataset = dataset
        self.projection = projection
        self.bundles_root = bundles_root
        self._engine = _engine(url)
        try:
            _metadata.create_all(self._engine)
        except DBAPIError as error:
            # Two processes may both find the table missing: the second one's CREATE fails, and all is well.
            # Each database says so in its own way (Postgres: a duplicate in its catalogue).
            if not self._has_table():
                raise StateError(f"the ledger cannot be opened: {error.orig}") from error

    @classmethod
    def open(cls, workspace: Workspace, dataset: str) -> Ledger:
        """The ledger of a workspace: ``SEGUE_LEDGER_URL``, else ``SEGUE_DATABASE_URL``, else SQLite under
        ``state/<dataset>/``."""
        state = workspace.state(dataset)
        state.mkdir(parents=True, exist_ok=True)
        given = os.environ.get(URL_VARIABLE)
        named = checked_url(given, URL_VARIABLE) if given else database_url(os.environ)
        return cls(
            named or f"sqlite:///{state / 'ledger.db'}",
            dataset,
            projection=state / "deployment" / CURRENT_FILE,
            bundles_root=str(workspace.bundles(dataset)),
        )

    def close(self) -> None:
        self._engine.dispose()

    def rows(self) -> list[Row]:
        """Every row, oldest first."""
        with self._engine.connect() as connection:
            return self._read(connection)

    def head(self) -> str | None:
        """The hash of the newest row, None of an empty ledger: cheap, to see whether there is anything new."""
        newest = (
            select(_rows.c.hash)
            .where(_rows.c.dataset == self.dataset)
            .order_by(_rows.c.sequence.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            found = connection.scalar(newest)
        return None if found is None else str(found)

    def revisions(self) -> list[Revision]:
        """Every deployment, oldest first."""
        return revisions_of(self.rows())

    def current(self) -> Deployment | None:
        """What serves now; None before the bootstrap."""
        found = self.revisions()
        return found[-1].deployment if found else None

    def append(self, entries: Sequence[Entry], *, expected_revision: int | None) -> list[Row]:
        """Write ``entries`` in one transaction, if the newest revision still is ``expected_revision``.

        None expects an empty ledger. Raises StateError, and writes nothing, where somebody else was faster, or where what
        is built on was tampered with: whoever writes, the whole chain is checked before (some milliseconds for a thousand
        rows).
        """
        at = now().isoformat()
        head = self._projected_head()
        try:
            with self._engine.begin() as connection:
                newest = connection.scalar(
                    select(func.max(_rows.c.revision)).where(_rows.c.dataset == self.dataset)
                )
                if newest != expected_revision:
                    raise StateError(
                        f"the deployment of {self.dataset} is at revision {newest}, not at "
                        f"{expected_revision} any more: somebody else changed it meanwhile; "
                        "look at `segue ledger` and try again"
                    )
                self._verify(self._read(connection), head)
                written = self._insert(connection, entries, at)
        except (IntegrityError, OperationalError) as error:
            raise StateError(
                f"somebody else wrote to the ledger of {self.dataset} at the same moment, or it cannot be "
                f"written ({error.orig}): try again"
            ) from error
        self.project()
        return written

    def project(self) -> bool:
        """Write ``current.json`` from the ledger. Returns whether it had to change.

        Holds a file lock meanwhile, so that a slow writer never puts an older document over a newer one.
        """
        with _file_lock(self.projection.with_name(".lock")):
            rows = self.rows()
            found = revisions_of(rows)
            if not found:
                return False
            document = CurrentDeployment(
                deployment=found[-1].deployment,
                known_decisions=tuple(
                    sorted(row.payload["sha256"] for row in rows if row.kind == "decision")
                ),
                bundles_root=self.bundles_root,
                ledger_head=rows[-1].hash,
            ).model_dump(mode="json")
            if self.projection.is_file() and read_json(self.projection) == document:
                return False
            write_json(self.projection, document)
            return True

    def verify(self) -> int:
        """Check the whole chain and the document that was written last. Returns the number of rows.

        Raises StateError naming the first row that was changed, removed, added or moved.
        """
        head = (
            self._projected_head()
        )  # before the rows, or a row of this very moment would seem to be missing
        rows = self.rows()
        self._verify(rows, head)
        return len(rows)

    def _verify(self, rows: Sequence[Row], projected_head: str | None) -> None:
        previous = GENESIS
        revision = 0
        for number, row in enumerate(rows, start=1):
            where = f"the ledger of {self.dataset}, row {number}"
            if row.sequence != number:
                raise StateError(f"{where}: row {number} was removed (row {row.sequence} stands there)")
            if row.previous != previous:
                raise StateError(f"{where}: it does not follow the row before it: one of the two was changed")
            if row.hash != row.computed_hash(self.dataset):
                raise StateError(f"{where}: its content was changed after it was written")
            if row.kind == "deployment":
                revision += 1
                if row.revision != revision or row.payload["deployment"]["revision"] != revision:
                    raise StateError(f"{where}: it is not revision {revision}")
            previous = row.hash
        # Rows cut off at the end leave a whole chain; what was projected from them gives it away.
        if projected_head is not None and projected_head not in {row.hash for row in rows}:
            raise StateError(
                f"the ledger of {self.dataset} lacks the row that {self.projection} was written from: "
                "rows were removed from its end, or the file belongs to another ledger"
            )

    def _has_table(self) -> bool:
        try:
            with self._engine.connect() as connection:
                return bool(self._engine.dialect.has_table(connection, _rows.name))
        except DBAPIError:
            return False  # the database is away: the error that led here says so

    def _projected_head(self) -> str | None:
        """The hash of the row that the document was written from last; None where none was written yet."""
        if not self.projection.is_file():
            return None
        raw = read_json(self.projection)
        head = raw.get("ledger_head") if isinstance(raw, dict) else None
        if not isinstance(head, str):
            raise ArtifactError(f"{self.projection} names no ledger row: it was not written by the ledger")
        return head

    def _read(self, connection: Connection) -> list[Row]:
        found = connection.execute(
            select(_rows).where(_rows.c.dataset == self.dataset).order_by(_rows.c.sequence)
        )
        return [
            Row(row.sequence, row.kind, row.revision, row.at, row.payload, row.previous, row.hash)
            for row in found
        ]

    def _insert(self, connection: Connection, entries: Iterable[Entry], at: str) -> list[Row]:
        last = connection.execute(
            select(_rows.c.sequence, _rows.c.hash)
            .where(_rows.c.dataset == self.dataset)
            .order_by(_rows.c.sequence.desc())
            .limit(1)
        ).first()
        sequence, previous = (0, GENESIS) if last is None else (last.sequence, last.hash)
        written = []
        for entry in entries:
            sequence += 1
            bare = Row(sequence, entry.kind, entry.revision, at, canonical_json(entry.payload), previous, "")
            row = Row(
                bare.sequence,
                bare.kind,
                bare.revision,
                at,
                bare.text,
                previous,
                bare.computed_hash(self.dataset),
            )
            connection.execute(
                insert(_rows).values(
                    dataset=self.dataset,
                    sequence=row.sequence,
                    kind=row.kind,
                    revision=row.revision,
                    at=row.at,
                    payload=row.text,
                    previous=row.previous,
                    hash=row.hash,
                )
            )
            previous = row.hash
            written.append(row)
        return written


def revisions_of(rows: Iterable[Row]) -> list[Revision]:
    """The deployments among ``rows``, oldest first."""
    found = []
    for row in rows:
        if row.kind == "deployment":
            payload = row.payload
            found.append(
                Revision(
                    deployment=Deployment.model_validate(payload["deployment"]),
                    event=payload["event"],
                    bundles={
                        name: BundleFacts.model_validate(facts) for name, facts in payload["bundles"].items()
                    },
                )
            )
    return found


def now() -> datetime:
    """The present moment, UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(
            checked_url(url, "the ledger's URL"),
            isolation_level="SERIALIZABLE",
            pool_pre_ping=True,
            connect_args=postgres_arguments(),
        )
    engine = create_engine(url)

    # The driver's own transactions begin at the first write, after the revision was read: two writers could
    # read the same one. BEGIN IMMEDIATE takes the write lock before the read.
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 30000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)
