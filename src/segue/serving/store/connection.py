"""The database under the online store: durable commits, one transaction a write, one kind of error when it is away."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import sqlalchemy as sa

from segue.database import postgres_arguments
from segue.errors import ConfigurationError, StateError, UnavailableError

_WAL_SECONDS = 10.0  # how long an opening waits for another process that changes the journal mode
_WRITE = "segue_write"
_READ_ONLY = "25006"  # Postgres: what was the primary is a standby now


class Database:
    """An engine with this project's habits.

    SQLite: write-ahead log, synchronous commits; a writing transaction takes the write lock before it reads,
    so that it never fails half way because somebody else wrote meanwhile. Postgres: all tables in the schema
    ``namespace`` (None: the database's default); commits are never asynchronous.

    Args:
        url: a SQLAlchemy URL, checked already (:func:`segue.database.checked_url`).
        namespace: a Postgres schema; ignored by SQLite.
        busy_seconds: how long a statement waits for another process's lock.
    """

    def __init__(self, url: str, namespace: str | None = None, *, busy_seconds: float = 10.0) -> None:
        parsed = sa.make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.namespace = None if self.is_sqlite else namespace
        arguments = {"timeout": busy_seconds} if self.is_sqlite else postgres_arguments()
        try:
            self.engine = sa.create_engine(
                parsed,
                pool_pre_ping=not self.is_sqlite,
                pool_timeout=5,
                connect_args={name: value for name, value in arguments.items() if name not in parsed.query},
            )
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"Postgres needs the Python package {error.name}: pip install 'psycopg[binary]'"
            ) from error
        prepare = _prepare_sqlite if self.is_sqlite else _preparer(self.namespace, busy_seconds)
        # First of the listeners: SQLAlchemy's own one asks for the default schema, which this one sets.
        sa.event.listen(self.engine, "connect", prepare, insert=True)
        if self.is_sqlite:
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        self.where = parsed.render_as_string(hide_password=True) + (
            f" (schema {self.namespace})" if self.namespace else ""
        )

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading: what it reads was committed. Raises UnavailableError where there is none."""
        with self.translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction: on return its rows are on disk. Raises UnavailableError, and writes nothing, where it cannot."""
        with self.translated(), self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise UnavailableError for what may pass: a server that is away, a file that somebody else has locked."""
        try:
            yield
        except (sa.exc.TimeoutError, sa.exc.DBAPIError) as error:
            if _is_damaged(error):
                raise StateError(
                    f"the online store {self.where} is damaged or no SQLite database ({error.orig}): "
                    "restore it from a backup, or move the file away for a new one"
                ) from error
            if not _may_pass(error):
                raise
            cause = getattr(error, "orig", None) or error
            reason = " ".join(str(cause).split())
            busy = "locked" in reason or "lock timeout" in reason
            hint = ": another process has held it for long" if busy else ""
            raise UnavailableError(
                f"the online store {self.where} cannot be used right now ({reason}{hint})"
            ) from error

    def insert_or_ignore(self, table: sa.Table, key: str) -> Any:
        """An INSERT that leaves a row with the same ``key`` as it is."""
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return sqlite_insert(table).on_conflict_do_nothing(index_elements=[key])
        from sqlalchemy.dialects.postgresql import insert as postgres_insert

        return postgres_insert(table).on_conflict_do_nothing(index_elements=[key])

    def close(self) -> None:
        self.engine.dispose()


def _is_damaged(error: sa.exc.SQLAlchemyError) -> TypeGuard[sa.exc.DBAPIError]:
    return isinstance(error, sa.exc.DBAPIError) and type(error.orig) is sqlite3.DatabaseError


def _may_pass(error: sa.exc.SQLAlchemyError) -> bool:
    if isinstance(error, sa.exc.DBAPIError):
        if error.connection_invalidated:
            return True
        if getattr(error.orig, "sqlstate", None) == _READ_ONLY:
            return True
    return isinstance(error, (sa.exc.TimeoutError, sa.exc.OperationalError, sa.exc.InterfaceError))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says, not at the first write
    cursor = connection.cursor()
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        _use_write_ahead_log(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # NORMAL may lose acknowledged rows when the power goes
    cursor.execute("PRAGMA secure_delete=ON")  # what was erased is overwritten, not only unlinked
    cursor.close()


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    # SQLite does not wait, whatever busy_timeout says, while another connection changes the mode.
    deadline = time.monotonic() + _WAL_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _preparer(namespace: str | None, busy_seconds: float) -> Callable[[Any, Any], None]:
    def prepare(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            if namespace is not None:  # it alone: a table must never come to lie in another schema by mistake
                quoted = namespace.replace('"', '""')
                cursor.execute("SELECT set_config('search_path', %s, false)", (f'"{quoted}"',))
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{int(busy_seconds * 1000)}ms",))
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') = 'off'"
            )
        connection.commit()  # a setting made in a transaction goes with it when it is rolled back

    return prepare
