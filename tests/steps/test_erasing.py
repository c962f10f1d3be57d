"""Erasing a user end to end: from the store to what the next refit is trained on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from segue.artifacts import read_json, read_manifest, verify, write_json
from segue.bases import KEEPABLE, keep, kept_path, read_base
from segue.data.append import append
from segue.data.erasure import erased_file, read_erasures
from segue.data.sequences import Sequences
from segue.errors import ArtifactError, UnavailableError
from segue.params import SECTIONS, Params
from segue.schema import UserGroup
from segue.serving.requests import Event
from segue.serving.store import open_store
from segue.steps.erasing import erase_user, readmit_user
from segue.steps.registry import get, upstream
from segue.steps.runner import run_step
from segue.workspace import Workspace
from tests.postgres import PostgresServer

USERS, EVENTS = 30, 8
PARAMS = Params.model_validate(
    {name: {} for name in SECTIONS}
    | {
        "data": {"interactions": {"path": "shop.csv"}},
        "validation": {"min_interactions": 100, "min_users": 10, "min_items": 10},
        "splits": {"new_user_share": 0.0, "replay_user_share": 0.0},
    }
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    rows = [
        f"u{user:02d},i{(user + 3 * place) % 20},{1000 + place}"
        for user in range(USERS)
        for place in range(EVENTS)
    ]
    (tmp_path / "shop.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    write_json(tmp_path / "bases" / "shop.json", dict.fromkeys(KEEPABLE))
    return Workspace(tmp_path)


def run(workspace: Workspace, *steps: str) -> None:
    for name in steps or ("ingest", "validation", "splits", "sequences"):
        run_step(workspace, "shop", name, PARAMS)


def users_in(workspace: Workspace) -> list[set[str]]:
    """Who is in each artifact that holds events, on the way to the refit."""
    return [
        *(
            set(pl.read_parquet(workspace.step("shop", name) / "interactions.parquet")["user_id"])
            for name in ("ingest", "validation", "splits")
        ),
        set(Sequences.load(workspace.step("shop", "sequences") / UserGroup.REGULAR.value).user_ids),
    ]


def more(workspace: Workspace, text: str) -> dict[str, Any]:
    path = workspace.root / "more.csv"
    path.write_text(f"user_id,item_id,timestamp\n{text}")
    return append(workspace, "shop", PARAMS, path, None)["interactions"]


def test_after_an_erasure_no_step_up_to_the_refit_holds_an_event_of_that_user(workspace: Workspace) -> None:
    more(workspace, "u07,i1,5000\nu08,i1,5000\nu99,i2,5000\nu99,i3,5001\nu99,i4,5002\n")
    run(workspace)
    keep(workspace, "shop", ["splits"])
    before = Sequences.load(workspace.step("shop", "sequences") / UserGroup.REGULAR.value)
    assert all({"u07", "u99"} < users for users in users_in(workspace))
    store = open_store(workspace, "shop")
    store.import_snapshot(workspace.step("shop", "splits"))
    store.post([Event(event_id="a", user_id="u07", item_id="i5", timestamp=6000)])
    store.close()

    assert erase_user(workspace, "shop", "u07").rows == {
        "histories": 1, "events": 1, "feedback": 0, "exposures": 0,
    }  # fmt: skip
    assert erase_user(workspace, "shop", "u99").swept is not None
    run(workspace)

    assert all(not {"u07", "u99"} & users for users in users_in(workspace))
    after = Sequences.load(workspace.step("shop", "sequences") / UserGroup.REGULAR.value)
    assert len(before.items) - len(after.items) == (EVENTS + 1) + 3
    assert len(after) == USERS - 1
    # What a refit knows of users comes from these artifacts alone.
    assert upstream(["refit"]) & {"ingest", "validation", "splits", "sequences"} == {
        "ingest", "validation", "splits", "sequences",
    }  # fmt: skip
    assert "sequences" in get("refit").inputs
    store = open_store(workspace, "shop")
    store.import_snapshot(workspace.step("shop", "splits"))
    assert (store.history("u07"), store.history("u99")) == (None, None)
    assert store.history("u08") is not None
    store.close()


def test_what_was_appended_and_what_is_kept_is_swept(workspace: Workspace) -> None:
    first = more(workspace, "u07,i1,5000\nu08,i1,5000\n")
    run(workspace)
    keep(workspace, "shop", ["splits"])
    old = read_base(workspace, "shop")["splits"]
    assert old is not None
    record = workspace.kept("shop") / "bundles" / "b.json"
    write_json(record, {"splits": old, "refit": "r"})

    swept = erase_user(workspace, "shop", "u07").swept
    assert swept is not None
    assert (swept.appended_rows, swept.kept_splits) == (1, 1)
    left = sorted(workspace.state("shop").rglob("interactions*/*.parquet")) + sorted(
        workspace.state("shop").rglob("interactions.parquet")
    )
    assert len(left) == 2  # the landed file and the kept splits
    assert all("u07" not in pl.read_parquet(path)["user_id"].to_list() for path in left)
    new = read_base(workspace, "shop")["splits"]
    assert new is not None
    assert new != old
    assert read_json(record) == {"splits": new, "refit": "r"}
    assert verify(kept_path(workspace, "shop", "splits", new)).content_sha256 == new
    assert not (workspace.kept("shop") / "splits" / old).exists()
    # The same rows do not land again under another name, and would be dropped if they did.
    assert more(workspace, "u07,i1,5000\nu08,i1,5000\n") == first | {"new": False}
    again = erase_user(workspace, "shop", "u07").swept
    assert again is not None
    assert (again.appended_rows, again.kept_splits) == (0, 0)


def test_an_erased_user_that_a_source_brings_again_is_dropped_until_readmitted(workspace: Workspace) -> None:
    erase_user(workspace, "shop", "u07")
    more(workspace, "u07,i1,7000\n")
    run(workspace, "ingest")
    assert "u07" not in users_in_ingest(workspace)
    assert readmit_user(workspace, "shop", "u07")
    run(workspace, "ingest")
    assert "u07" in users_in_ingest(workspace)
    assert not readmit_user(workspace, "shop", "u07")


def users_in_ingest(workspace: Workspace) -> set[str]:
    return set(pl.read_parquet(workspace.step("shop", "ingest") / "interactions.parquet")["user_id"])


def test_an_erasure_outlives_the_store(workspace: Workspace) -> None:
    erase_user(workspace, "shop", "u07")
    assert "u07" not in erased_file(workspace, "shop").read_text()
    for path in workspace.state("shop").glob("online.sqlite*"):
        path.unlink()
    erase_user(workspace, "shop", "u08")  # a new store, with another secret
    run(workspace, "ingest")
    assert not {"u07", "u08"} & users_in_ingest(workspace)
    assert len(read_erasures(workspace, "shop").by_salt) == 2


def test_without_erasures_ingestion_is_what_it_was(workspace: Workspace) -> None:
    run(workspace, "ingest")
    before = read_manifest(workspace.step("shop", "ingest")).content_sha256
    open_store(workspace, "shop").close()
    run(workspace, "ingest")
    assert read_manifest(workspace.step("shop", "ingest")).content_sha256 == before
    assert not erased_file(workspace, "shop").exists()


HOLDER = """
import sys
from pathlib import Path
from segue.lock import dataset_lock
with dataset_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_erasure_during_a_run_is_swept_by_the_next_one(workspace: Workspace) -> None:
    more(workspace, "u07,i1,5000\n")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workspace.state("shop"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert erase_user(workspace, "shop", "u07").swept is None
        other.communicate()
    (landed,) = workspace.landing("shop").rglob("*.parquet")
    assert pl.read_parquet(landed).height == 1
    run(workspace, "ingest")
    assert "u07" not in users_in_ingest(workspace)
    assert pl.read_parquet(landed).is_empty()


def test_an_erasure_on_another_machine_reaches_ingestion(
    workspace: Workspace, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEGUE_DATABASE_URL", postgres.new_database())
    erase_user(Workspace(tmp_path / "elsewhere"), "shop", "u07")
    run(workspace, "ingest")
    assert "u07" not in users_in_ingest(workspace)
    monkeypatch.setenv("SEGUE_DATABASE_URL", "postgresql://segue@127.0.0.1:1/segue")
    with pytest.raises(UnavailableError, match="who was erased cannot be asked, so nothing is ingested"):
        run(workspace, "ingest")


def test_a_damaged_list_of_erased_users_stops_ingestion(workspace: Workspace) -> None:
    erased_file(workspace, "shop").parent.mkdir(parents=True)
    erased_file(workspace, "shop").write_text('{"salt": 3}')
    with pytest.raises(ArtifactError, match=r"erased\.json is damaged"):
        run(workspace, "ingest")
