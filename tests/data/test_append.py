"""Data that arrives later."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.artifacts import read_json
from segue.data.append import add_items, append, read_landed, tell
from segue.errors import DataError
from segue.params import SECTIONS, Params
from segue.steps.runner import run_step
from segue.workspace import Workspace

from .examples import catalogue


def make_params(**data: Any) -> Params:
    return Params.model_validate({name: {} for name in SECTIONS} | {"data": data})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "shop.csv").write_text("who;what;when\nu1;a;1000\nu2;b;2000\n")
    (tmp_path / "items.csv").write_text("item_id,title,price\na,Apple,1\nb,Bread,2\n")
    return Workspace(tmp_path)


PARAMS = make_params(
    interactions={
        "path": "shop.csv",
        "separator": ";",
        "timestamp_unit": "ms",
        "columns": {"user_id": "who", "item_id": "what", "timestamp": "when"},
    },
    catalogue={"path": "items.csv"},
)


def put(workspace: Workspace, name: str, text: str) -> Path:
    (workspace.root / name).write_text(text)
    return workspace.root / name


def ingest(workspace: Workspace, params: Params = PARAMS) -> Path:
    run_step(workspace, "shop", "ingest", params)
    return workspace.step("shop", "ingest")


def test_the_sources_own_names_and_ours_are_both_read(workspace: Workspace) -> None:
    theirs = append(workspace, "shop", PARAMS, put(workspace, "more.csv", "who;what;when\nu3;a;5000\n"), None)
    assert theirs["interactions"]["rows"] == 1
    assert theirs["items"] is None
    append(workspace, "shop", PARAMS, put(workspace, "ours.csv", "user_id,item_id,timestamp\nu4,b,7\n"), None)
    iso = put(workspace, "iso.csv", "user_id,item_id,timestamp\nu5,b,1970-01-01T00:00:09Z\n")
    append(workspace, "shop", PARAMS, iso, None)
    table = pl.read_parquet(ingest(workspace) / "interactions.parquet")
    assert table.select("user_id", "timestamp", "order").rows() == [
        ("u1", 1, 0),
        ("u2", 2, 1),
        ("u3", 5, 2),
        ("u4", 7, 3),
        ("u5", 9, 4),
    ]
    source: Any = read_json(workspace.step("shop", "ingest") / "source.json")
    assert source["appended"] == {"interactions": 3, "items": 0}


def test_the_same_rows_land_once_whatever_file_brings_them(workspace: Workspace) -> None:
    first = append(workspace, "shop", PARAMS, put(workspace, "more.csv", "who;what;when\nu3;a;5000\n"), None)
    again = append(
        workspace, "shop", PARAMS, put(workspace, "copy.csv", "user_id,item_id,timestamp\nu3,a,5\n"), None
    )
    assert first["interactions"]["new"]
    assert not again["interactions"]["new"]
    assert tell(first) == [f"interactions: 1 rows taken in as {first['interactions']['file']}"]
    assert tell(again)[0].startswith("interactions: already taken in")
    assert first["interactions"]["file"] == again["interactions"]["file"]
    assert pl.read_parquet(ingest(workspace) / "interactions.parquet").height == 3


def test_items_update_field_by_field_and_extend(workspace: Workspace) -> None:
    append(
        workspace,
        "shop",
        PARAMS,
        None,
        put(workspace, "1.csv", "item_id,title,price\na,Apricot,\nc,Corn,3\n"),
    )
    append(workspace, "shop", PARAMS, None, put(workspace, "2.csv", "item_id,price\na,9\n"))
    table = pl.read_parquet(ingest(workspace) / "catalogue.parquet")
    assert table.select("item_id", "title", "price").rows() == [
        ("a", "Apricot", 9.0),
        ("b", "Bread", 2.0),
        ("c", "Corn", 3.0),
    ]


def test_nothing_is_written_unless_both_files_are_good(workspace: Workspace) -> None:
    events = put(workspace, "more.csv", "who;what;when\nu3;a;5000\n")
    with pytest.raises(DataError, match=r"'cheap' is no number"):
        append(workspace, "shop", PARAMS, events, put(workspace, "bad.csv", "item_id,price\na,cheap\n"))
    assert not workspace.landing("shop").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"has the columns 'a', 'b'; it needs user_id and item_id, or 'who' and 'what'"),
        (
            "who,what,when\nu3,a,5000\n",
            r"is cut at comma \(','\), expected is semicolon \(';'\) for the columns 'who', 'what', 'when'",
        ),
        (
            "user_id\titem_id\ttimestamp\nu\ta\t5\n",
            r"is cut at tab .*, expected is comma .*: write it with comma",
        ),
        ("who;what;when\nu3;a;5000\nu3;a\n", r"line 3: 2 fields between ';', the first line has 3"),
        ("user_id,item_id,timestamp\nu,a,soon\n", "'soon' is no ISO 8601 time"),
        ("user_id,item_id\nu,a\n", "no event has a timestamp"),
        ("user_id,item_id,timestamp\n", "holds no rows"),
        ("", "is empty"),
    ],
)
def test_bad_appends(workspace: Workspace, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        append(workspace, "shop", PARAMS, put(workspace, "bad.csv", text), None)


def test_parquet_is_appended_to_csv_in_either_names(workspace: Workspace) -> None:
    whole = workspace.root / "more.parquet"
    times = pl.Series([5_000_000]).cast(pl.Datetime("us"))
    pl.DataFrame({"who": ["u3"], "what": ["a"], "when": times}).write_parquet(whole)
    append(workspace, "shop", PARAMS, whole, None)
    pl.DataFrame({"user_id": [4], "item_id": ["b"], "timestamp": [6]}).write_parquet(whole)
    append(workspace, "shop", PARAMS, whole, None)
    table = pl.read_parquet(ingest(workspace) / "interactions.parquet")
    assert table.select("user_id", "timestamp").rows()[2:] == [("u3", 5), ("4", 6)]


@pytest.mark.parametrize("kind", ["parquet", "sql"])
def test_csv_is_appended_to_sources_whose_times_have_a_type(workspace: Workspace, kind: str) -> None:
    columns = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    place = {"path": "log/*.parquet"} if kind == "parquet" else {"sql": "sqlite://", "query": "select 1"}
    params = make_params(interactions={**place, "columns": columns})
    append(
        workspace, "shop", params, put(workspace, "n.csv", "who,what,when\nu,a,1970-01-01T00:00:09\n"), None
    )
    append(workspace, "shop", params, put(workspace, "n.csv", "who,what,when\nv,a,11\n"), None)
    tables = read_landed(workspace, "shop", "interactions")
    assert [table["timestamp"].to_list() for table in tables] == [[9], [11]]


def test_appended_titles_are_split_as_the_profile_says(workspace: Workspace) -> None:
    catalogue = {"path": "items.csv", "columns": {"title": "name"}, "title_holds_year": True}
    params = make_params(interactions={"path": "shop.csv"}, catalogue=catalogue)
    append(workspace, "shop", params, None, put(workspace, "1.csv", "item_id,name\nc,Heat (1995)\n"))
    append(
        workspace, "shop", params, None, put(workspace, "2.csv", "item_id,title,year\nd,Alien (1979),1980\n")
    )
    rows = [table.select("title", "year").row(0) for table in read_landed(workspace, "shop", "catalogue")]
    assert rows == [("Heat", 1995), ("Alien", 1980)]


def test_a_folder_of_parts_is_appended_as_one(workspace: Workspace) -> None:
    (workspace.root / "parts").mkdir()
    put(workspace, "parts/b.csv", "who;what;when\nu4;a;6000\n")
    pl.DataFrame({"who": ["u3"], "what": ["a"], "when": [5000]}).write_parquet(
        workspace.root / "parts/a.parquet"
    )
    landed = append(workspace, "shop", PARAMS, workspace.root / "parts", None)
    assert landed["interactions"]["rows"] == 2
    assert read_landed(workspace, "shop", "interactions")[0]["user_id"].to_list() == ["u3", "u4"]


def test_a_folder_may_be_named_from_where_one_stands(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.root / "new" / "parts").mkdir(parents=True)
    put(workspace, "new/parts/1.csv", "who;what;when\nu3;a;5000\n")
    monkeypatch.chdir(workspace.root)
    assert append(workspace, "shop", PARAMS, Path("new/parts"), None)["interactions"]["rows"] == 1
    assert append(workspace, "shop", PARAMS, Path("./new/../new/parts"), None)["interactions"]["rows"] == 1


def test_a_column_that_the_dataset_has_and_the_file_has_not_is_to_be_added(workspace: Workspace) -> None:
    mapped = {"path": "items.csv", "columns": {"item_id": "item_id", "title": "title", "price": "cost"}}
    params = make_params(interactions=PARAMS.data.interactions.model_dump(), catalogue=mapped)  # type: ignore[union-attr]
    message = r"more\.csv: no column 'cost' for price; it has 'item_id', 'title': add it, empty where"
    with pytest.raises(DataError, match=message):
        append(workspace, "shop", params, None, put(workspace, "more.csv", "item_id,title\nc,Cheese\n"))
    taken = append(
        workspace, "shop", params, None, put(workspace, "more.csv", "item_id,title,cost\nc,Cheese,\n")
    )
    assert taken["items"]["rows"] == 1


def test_rows_that_validation_will_set_aside_are_told(workspace: Workspace) -> None:
    text = "user_id,item_id,timestamp\n,a,5\nu1,a,5\nu1,b,99999999999\nu1,,-4\n"
    told = tell(append(workspace, "shop", PARAMS, put(workspace, "bad.csv", text), None))
    assert told[0].startswith("interactions: 4 rows taken in as ")
    assert told[1:] == [
        "interactions: 1 of 4 rows will be set aside: user_id is missing",
        "interactions: 1 of 4 rows will be set aside: item_id is missing",
        "interactions: 1 of 4 rows will be set aside: timestamp lies before 1970",
        "interactions: 1 of 4 rows will be set aside: timestamp lies in the future",
    ]
    assert (
        len(
            tell(
                append(
                    workspace, "shop", PARAMS, put(workspace, "ok.csv", "who;what;when\nu9;a;5000\n"), None
                )
            )
        )
        == 1
    )


def test_an_ending_that_lies_is_named_or_seen_through(workspace: Workspace) -> None:
    with pytest.raises(
        DataError, match=r"more\.parquet is no Parquet file: give it the ending of what it is"
    ):
        append(workspace, "shop", PARAMS, put(workspace, "more.parquet", "who;what;when\nu3;a;5000\n"), None)
    pl.DataFrame({"who": ["u3"], "what": ["a"], "when": [5000]}).write_parquet(workspace.root / "more.data")
    assert append(workspace, "shop", PARAMS, workspace.root / "more.data", None)["interactions"]["new"]


def test_numbers_where_the_profile_says_iso_say_what_to_write(workspace: Workspace) -> None:
    params = make_params(interactions={"path": "shop.csv", "timestamp_unit": "iso"})
    pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": [5]}).write_parquet(
        workspace.root / "n.parquet"
    )
    with pytest.raises(
        DataError, match="holds Int64, no ISO 8601 times: write times of a date-and-time type"
    ):
        append(workspace, "shop", params, workspace.root / "n.parquet", None)


def test_missing_file_and_nothing_given(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="nothing to append"):
        append(workspace, "shop", PARAMS, None, None)
    with pytest.raises(DataError, match="does not exist"):
        append(workspace, "shop", PARAMS, workspace.root / "gone.csv", None)


def test_ordered_data_keeps_the_order_of_arrival(workspace: Workspace) -> None:
    params = make_params(interactions={"path": "ordered.csv"}, ordered=True)
    put(workspace, "ordered.csv", "user_id,item_id\nu,a\nu,b\n")
    for item in "zcyd":
        append(
            workspace,
            "shop",
            params,
            put(workspace, "n.csv", f"user_id,item_id,timestamp\nu,{item},5\n"),
            None,
        )
    table = pl.read_parquet(ingest(workspace, params) / "interactions.parquet")
    assert table["item_id"].to_list() == ["a", "b", "z", "c", "y", "d"]
    assert table["timestamp"].null_count() == 6
    assert pl.read_parquet(workspace.step("shop", "ingest") / "catalogue.parquet").height == 0


def test_headerless_sources_take_headerless_appends(workspace: Workspace) -> None:
    columns = {"user_id": "1", "item_id": "2", "timestamp": "3"}
    source = {"path": "r.dat", "separator": "::", "has_header": False, "columns": columns}
    put(workspace, "r.dat", "u::01::5\n")
    params = make_params(interactions=source)
    append(workspace, "shop", params, put(workspace, "more.dat", "v::02::6\n"), None)
    append(workspace, "shop", params, put(workspace, "more.csv", "user_id,item_id,timestamp\nw,03,7\n"), None)
    assert [table["item_id"].to_list() for table in read_landed(workspace, "shop", "interactions")] == [
        ["02"],
        ["03"],
    ]


def test_ingest_says_no_change_until_something_arrives(workspace: Workspace) -> None:
    assert run_step(workspace, "shop", "ingest", PARAMS).status == "ran"
    assert run_step(workspace, "shop", "ingest", PARAMS).status == "no_change"
    append(workspace, "shop", PARAMS, put(workspace, "more.csv", "who;what;when\nu3;a;5000\n"), None)
    assert run_step(workspace, "shop", "ingest", PARAMS).status == "ran"


def test_what_an_older_version_landed_is_found_and_moved_once(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    append(workspace, "shop", PARAMS, put(workspace, "more.csv", "who;what;when\nu3;a;5000\n"), None)
    former = workspace.data("shop") / "landing"
    former.parent.mkdir(parents=True, exist_ok=True)
    workspace.landing("shop").rename(former)
    assert run_step(workspace, "shop", "ingest", PARAMS).status == "ran"
    assert f"moved what was appended from {former}" in capsys.readouterr().err
    assert len(read_landed(workspace, "shop", "interactions")) == 1
    assert not former.exists()
    assert "moved" not in capsys.readouterr().err
    former.mkdir()
    with pytest.raises(DataError, match="and in"):
        append(workspace, "shop", PARAMS, put(workspace, "more.csv", "who;what;when\nu4;a;5000\n"), None)


def test_what_was_landed_on_another_file_system_is_copied_whole(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(workspace, "shop", PARAMS, put(workspace, "more.csv", "who;what;when\nu3;a;5000\n"), None)
    former = workspace.data("shop") / "landing"
    former.parent.mkdir(parents=True, exist_ok=True)
    workspace.landing("shop").rename(former)
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(source) == former:
            raise OSError(errno.EXDEV, "another device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    assert len(read_landed(workspace, "shop", "interactions")) == 1
    assert not former.exists()


def test_a_damaged_landed_file_is_named(workspace: Workspace) -> None:
    (workspace.landing("shop") / "interactions").mkdir(parents=True)
    (workspace.landing("shop") / "interactions" / "dropped.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"dropped\.parquet is no whole Parquet file"):
        ingest(workspace)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["X", "Y", None])), max_size=4), max_size=4
    )
)
def test_add_items_equals_a_dictionary_updated_row_by_row(
    batches: list[list[tuple[str, str | None]]],
) -> None:
    expected: dict[str, str | None] = {"a": "A"}
    for batch in batches:
        for item, title in batch:
            expected[item] = title if title is not None else expected.get(item)
    tables = [
        catalogue([item for item, _ in batch], title=[title for _, title in batch]) for batch in batches
    ]
    merged = add_items(catalogue(["a"], title=["A"]), tables)
    assert dict(merged.select("item_id", "title").rows()) == expected
