"""The version of a store's tables: checked at every opening, brought up to date there and then (docs/adr/0011).

The version stands in the row ``schema_version`` of ``segue_store``, which also code that knows no Alembic
reads. Alembic runs the migrations, and is imported only where there is something to migrate. All of them
happen in one transaction under the database's own lock: a kill leaves the old version whole, and of several
processes that open an old store at once one upgrades it while the others wait.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from segue.errors import StateError
from segue.serving.store.connection import Database
from segue.serving.store.tables import about

SCHEMA_VERSION: Final = 3
VERSION_TABLE: Final = "segue_store_revision"  # Alembic's usual name may belong to somebody else's tables
_MIGRATIONS = Path(__file__).resolve().parent / "migrations"
_PATIENCE_SECONDS = 600  # how long an opening waits for another process's upgrade


def revision_of(version: int) -> str:
    """The Alembic revision that makes a version of the schema."""
    return f"{version:04d}"


def version_of(connection: sa.Connection) -> int | None:
    """The version of the store that ``connection`` sees; None: there is no store yet."""
    if not sa.inspect(connection).has_table(about.name):
        return None
    found = connection.execute(sa.select(about.c.value).where(about.c.key == "schema_version")).scalar()
    return None if found is None else int(found)


def open_schema(database: Database) -> tuple[int | None, int]:
    """Create the tables or bring them up to date, where need be. Returns the versions before and now.

    Raises StateError where the store is newer than this code, or where the upgrade fails; nothing is changed
    then.
    """
    with database.read() as connection:
        before = version_of(connection)
    if before == SCHEMA_VERSION:
        return before, before
    _refuse_newer(database, before)
    with _alone(database) as connection:
        before = version_of(connection)  # another process may have been faster
        _refuse_newer(database, before)
        if before != SCHEMA_VERSION:
            try:
                _migrate(connection, before)
            except sa.exc.SQLAlchemyError as error:
                what = (
                    "created"
                    if before is None
                    else f"upgraded from version {before} to version {SCHEMA_VERSION}"
                )
                raise StateError(
                    f"the online store {database.where} could not be {what}, and is as it was: "
                    f"{' '.join(str(getattr(error, 'orig', None) or error).split())}"
                ) from error
    return before, SCHEMA_VERSION


def alembic_config(connection: sa.Connection) -> Any:
    """Alembic's view of the migrations, to be run on ``connection``."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _migrate(connection: sa.Connection, before: int | None) -> None:
    from alembic import command

    config = alembic_config(connection)
    if before is not None and not sa.inspect(connection).has_table(VERSION_TABLE):
        command.stamp(config, revision_of(before))  # made before migrations came: version 1
    command.upgrade(config, revision_of(SCHEMA_VERSION))


def _refuse_newer(database: Database, version: int | None) -> None:
    if version is not None and version > SCHEMA_VERSION:
        raise StateError(
            f"the online store {database.where} has schema version {version}, this code works on "
            f"{SCHEMA_VERSION}: use the code that made it, or a newer one"
        )


@contextmanager
def _alone(database: Database) -> Iterator[sa.Connection]:
    """A transaction that no other process shares: SQLite's write lock, or an advisory lock of Postgres."""
    if database.is_sqlite:
        with database.translated(), database.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            waiting = driver.execute("PRAGMA busy_timeout").fetchone()[0]
            driver.execute(f"PRAGMA busy_timeout={_PATIENCE_SECONDS * 1000}")
            try:
                connection = connection.execution_options(segue_write=True)
                with connection.begin():
                    yield connection
            finally:
                driver.execute(f"PRAGMA busy_timeout={waiting}")
        return
    with database.write() as connection:
        name = f"segue online store {database.namespace or ''}"
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_PATIENCE_SECONDS}s'"))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
        if database.namespace is not None and not sa.inspect(connection).has_schema(database.namespace):
            connection.execute(sa.schema.CreateSchema(database.namespace))
        yield connection
