"""Stores of other schema versions: upgraded whole, or refused."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from segue.data.erasure import keyed_hash
from segue.database import checked_url
from segue.errors import StateError
from segue.serving.store import SCHEMA_VERSION, Store
from segue.serving.store import schema as schema_module
from segue.serving.store.connection import Database
from segue.serving.store.schema import VERSION_TABLE, alembic_config, revision_of
from segue.serving.store.tables import metadata
from tests.serving.store.builders import click, exposure
from tests.serving.store.version_1 import EXPOSURES, SALT, make_version_1

USER, GONE = keyed_hash(SALT, "u00"), keyed_hash(SALT, "gone")


@pytest.fixture
def old(database_url: str) -> str:
    """The URL of a store of version 1."""
    url = checked_url(database_url, "url")
    make_version_1(url, USER, GONE)
    return url


def dump(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    engine = sa.create_engine(checked_url(url, "url"))
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = {
            name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for name, table in tables.tables.items()
        }
    engine.dispose()
    return rows


def test_a_store_of_version_1_is_upgraded_without_losing_a_row(old: str) -> None:
    before = dump(old)
    store = Store(old)
    assert (store.version_found, store.version) == (1, SCHEMA_VERSION)
    after = dump(old)
    for name in ("segue_histories", "segue_events", "segue_erased", "segue_snapshots"):
        assert after[name] == before[name]
    # The columns of version 1 come first and are unchanged.
    assert sorted((row[:9] for row in after["segue_exposures"]), key=repr) == before["segue_exposures"]
    assert len({row[9] for row in after["segue_exposures"]}) == EXPOSURES
    assert store.user_hash("u00") == USER
    history = store.history("u00")
    assert history is not None
    assert history.item_ids == ["i001", "i002", "i003"]
    store.log_exposures([exposure("new")])
    store.post_feedback([click("f", "new")])
    assert store.user_sums().coverage.exposures == EXPOSURES + 1
    assert store.post_feedback([click("f", None, "gone")]).erased == 1
    store.close()
    again = Store(old)
    assert (again.version_found, again.version) == (SCHEMA_VERSION, SCHEMA_VERSION)
    again.close()


@pytest.mark.parametrize("made", ["upgraded", "new"])
def test_migrations_make_the_tables_that_the_code_works_on(
    made: str, database_url: str, request: pytest.FixtureRequest
) -> None:
    if made == "upgraded":
        request.getfixturevalue("old")
    Store(database_url).close()
    database = Database(checked_url(database_url, "url"))
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": VERSION_TABLE}
        )
        assert compare_metadata(context, metadata) == []
    database.close()


def test_the_newest_migration_is_the_version_of_the_code() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
        assert script.get_heads() == [revision_of(SCHEMA_VERSION)]


def test_an_upgrade_that_fails_leaves_the_old_store(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dump(old)
    engine = sa.create_engine(old)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE segue_feedback (somebody_elses INTEGER)")
    with pytest.raises(
        StateError,
        match=f"could not be upgraded from version 1 to version {SCHEMA_VERSION}, and is as it was",
    ):
        Store(old)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE segue_feedback")
    engine.dispose()
    assert dump(old) == before
    Store(old).close()


KILLED = """
import os, signal, sys
from alembic import command
from segue.serving.store import Store
upgrade = command.upgrade
def until_killed(*arguments):
    upgrade(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
command.upgrade = until_killed
Store(sys.argv[1])
"""


def test_a_kill_during_an_upgrade_leaves_the_old_store(old: str, repository: Path) -> None:
    before = dump(old)
    done = subprocess.run([sys.executable, "-c", KILLED, old], cwd=repository, check=False)
    assert done.returncode == -9
    assert dump(old) == before
    store = Store(old)
    assert store.counts()["exposures"] == EXPOSURES
    store.close()


def test_of_many_that_open_an_old_store_at_once_one_upgrades_it(old: str) -> None:
    def open_it(_: int) -> int | None:
        store = Store(old)
        store.close()
        return store.version_found

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(open_it, range(8)))
    assert set(found) <= {1, SCHEMA_VERSION}
    assert len(dump(old)["segue_exposures"]) == EXPOSURES


def test_of_many_that_make_a_store_at_once_all_get_the_same(database_url: str) -> None:
    def open_it(_: int) -> str:
        store = Store(database_url)
        store.close()
        return store.salt

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(open_it, range(8)))) == 1


def test_a_newer_store_is_refused(database_url: str) -> None:
    Store(database_url).close()
    engine = sa.create_engine(checked_url(database_url, "url"))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE segue_store SET value = '9' WHERE key = 'schema_version'")
    engine.dispose()
    with pytest.raises(StateError, match=f"has schema version 9, this code works on {SCHEMA_VERSION}"):
        Store(database_url)


def test_the_code_of_version_1_refuses_an_upgraded_store(old: str) -> None:
    """It compares this row with '1': see :mod:`tests.serving.store.version_1`."""
    Store(old).close()
    assert ("schema_version", str(SCHEMA_VERSION)) in dump(old)["segue_store"]


def test_opening_an_up_to_date_store_needs_no_alembic(database_url: str, repository: Path) -> None:
    Store(database_url).close()
    code = "import sys; from segue.serving.store import Store; Store(sys.argv[1]); assert 'alembic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, database_url], cwd=repository, check=True)


def test_migrations_ship_inside_the_package() -> None:
    folder = schema_module._MIGRATIONS
    assert (folder / "__init__.py").is_file()  # setuptools finds packages by it
    assert (folder / "versions" / "__init__.py").is_file()
