"""What every test may ask for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer, running

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run without a GPU; read when Triton is imported

# The tests make their own databases: whoever works with a real one must not find it written to.
for _name in ("SEGUE_DATABASE_URL", "SEGUE_STORE", "SEGUE_LEDGER_URL", "SEGUE_SPOOL"):
    os.environ.pop(_name, None)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository() -> Path:
    """The checkout that holds these tests."""
    return REPOSITORY


@pytest.fixture
def workspace_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace with the repository's parameters, profiles and bases; SEGUE_ROOT points at it."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    for folder in ("profiles", "bases"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    monkeypatch.setenv("SEGUE_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def segue_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    configured = os.environ.get("SEGUE_DATA")
    folder = Path(configured) if configured else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data is absent: set SEGUE_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres server; tests that need it are skipped where it is not installed."""
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: the same contract tests run on SQLite and on Postgres."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.sqlite'}"
    server = request.getfixturevalue("postgres")
    assert isinstance(server, PostgresServer)
    return server.new_database()
