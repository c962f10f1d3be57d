"""``segue store``, as it is typed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from segue import cli
from segue.errors import ConfigurationError
from segue.serving.store import SCHEMA_VERSION, Store
from segue.workspace import Workspace
from tests.serving.store.builders import click, event, exposure
from tests.serving.store.version_1 import make_version_1


@pytest.fixture
def path(workspace_root: Path) -> Path:
    found = Workspace(workspace_root).state("ml-100k") / "online.sqlite"
    found.parent.mkdir(parents=True)
    return found


def typed(*words: str) -> str:
    done = CliRunner().invoke(cli.app, ["store", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def filled(path: Path) -> None:
    store = Store.at(path)
    store.log_exposures([exposure("a"), exposure("b", "u01")])
    store.post([event("e")])
    store.post_feedback([click("f", "a"), click("g", None, "u77")])
    store.close()


def test_what_is_there_and_what_is_exported(path: Path, tmp_path: Path) -> None:
    filled(path)
    told = typed("status")
    assert f"schema version {SCHEMA_VERSION}" in told
    assert "exposures  2" in told
    told = typed("export", "users", "--out", str(tmp_path / "out" / "users.parquet"))
    assert "2 rows in" in told
    assert "2 feedback: 1 by exposure, 0 by user and item, 1 unattributed" in told
    table = pl.read_parquet(tmp_path / "out" / "users.parquet")
    assert table["clicks"].sum() == 1
    assert typed("export", "exposures", "--out", str(tmp_path / "e.parquet")).startswith("2 rows")
    typed("export", "users", "--days", "1", "--out", str(tmp_path / "none.parquet"))
    assert pl.read_parquet(tmp_path / "none.parquet").is_empty()


def test_retention_and_erasure(path: Path) -> None:
    filled(path)
    assert "2 rows would be removed" in typed("prune", "--exposures", "30", "--dry-run")
    assert "exposures  2" in typed("status")
    assert "2 rows removed" in typed("prune", "--exposures", "30")
    told = typed("erase", "u00")
    assert "events     1 rows removed" in told
    assert "segue keep --retrain" in told
    assert "nothing was known" not in told
    assert "nothing was known of 'nobody' here: is it written as in the data?" in typed("erase", "nobody")
    assert "kept from now on" in typed("readmit", "u00")
    assert "had not been erased" in typed("readmit", "u00")
    with pytest.raises(ConfigurationError, match="nothing to prune"):
        typed("prune")


def test_an_older_store_is_upgraded_and_that_is_said(path: Path) -> None:
    make_version_1(f"sqlite:///{path}", "h", "e")
    assert f"upgraded from schema version 1 to {SCHEMA_VERSION}" in typed("upgrade")
    assert "already" in typed("upgrade")


def test_a_store_that_is_not_there_is_not_made_by_looking(path: Path) -> None:
    for words in (["status"], ["upgrade"], ["export", "users", "--out", "x.parquet"]):
        with pytest.raises(ConfigurationError, match="has no online store yet"):
            typed(*words)
    assert not path.exists()
