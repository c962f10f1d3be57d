"""Tables as users have them, good and bad."""

from __future__ import annotations

import gzip
import sqlite3
from datetime import UTC, date, datetime
from pathlib import Path

import fsspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.settings import TableSource
from segue.data.sources import describe, expand, read_table
from segue.errors import DataError

CSV = "user_id,item_id,timestamp,weight\n007,a,10,1.5\n8,b,20,\n"
MAPPED = {"user_id": "u", "item_id": "i"}


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> str:
    (folder / name).write_bytes(text.encode(encoding))
    return name


def events(folder: Path, **source: object) -> pl.DataFrame:
    return read_table(TableSource.model_validate(source), "interactions", folder)


def test_csv_in_our_names_keeps_ids_as_they_stand(tmp_path: Path) -> None:
    table = events(tmp_path, path=write(tmp_path, "a.csv", CSV))
    assert table["user_id"].to_list() == ["007", "8"]
    assert table["timestamp"].to_list() == [10, 20]
    assert table["weight"].to_list() == [1.5, None]
    assert table["order"].to_list() == [0, 1]
    assert table["action"].to_list() == [None, None]


def test_separator_of_two_characters_without_header(tmp_path: Path) -> None:
    columns = {"user_id": "1", "item_id": "2", "weight": "3", "timestamp": "4"}
    path = write(tmp_path, "r.dat", "1::0012::7::99\r\n2::34::::100\r\n")
    table = events(tmp_path, path=path, separator="::", has_header=False, columns=columns)
    assert table["item_id"].to_list() == ["0012", "34"]
    assert table["weight"].to_list() == [7.0, None]
    write(tmp_path, "r.dat", "1::0012::7::99\n2::34::7\n")
    with pytest.raises(DataError, match="line 2: 3 fields between '::', the first line has 4"):
        events(tmp_path, path=path, separator="::", has_header=False, columns=columns)


def test_one_character_without_header_counts_columns_from_one(tmp_path: Path) -> None:
    path = write(tmp_path, "r.tsv", "x\ty\n")
    table = events(
        tmp_path, path=path, separator="\t", has_header=False, columns={"user_id": "2", "item_id": "1"}
    )
    assert table.row(0)[:2] == ("y", "x")


def test_latin_1_is_refused_with_its_mend_and_read_with_it(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user_id,item_id\nx,y\nJosé,b\n", "latin-1")
    with pytest.raises(DataError, match=r"a\.csv, line 3: byte 0xe9 is not utf8.*encoding: latin-1"):
        events(tmp_path, path=path)
    assert events(tmp_path, path=path, encoding="latin-1")["user_id"][1] == "José"
    with pytest.raises(DataError, match="none that Python knows"):
        events(tmp_path, path=path, encoding="klingon")


@pytest.mark.parametrize("text", ["", "\n", "user_id,item_id\n"])
def test_empty_table(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"is empty|holds no rows"):
        events(tmp_path, path=write(tmp_path, "a.csv", text))


def test_missing_column_names_those_that_exist(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "who,what\n1,2\n")
    with pytest.raises(DataError, match="no column 'user_id' for user_id; it has 'who', 'what'"):
        events(tmp_path, path=path)
    with pytest.raises(DataError, match="no column 'when' for timestamp"):
        events(tmp_path, path=path, columns={"user_id": "who", "item_id": "what", "timestamp": "when"})
    with pytest.raises(DataError, match="'users', which is no column of ours"):
        events(tmp_path, path=path, columns={"users": "who"})


def test_a_column_is_found_in_another_case(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "USER_ID,movieid\n1,2\n")
    assert events(tmp_path, path=path, columns={"item_id": "movieId"})["item_id"].to_list() == ["2"]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("weight", "good", "column 'weight', data row 2: 'good' is no number"),
        ("timestamp", "yesterday", "column 'timestamp', data row 2: 'yesterday' is no time in s"),
    ],
)
def test_wrong_type_names_the_first_bad_row(tmp_path: Path, header: str, row: str, message: str) -> None:
    path = write(tmp_path, "a.csv", f"user_id,item_id,{header}\na,b,1\na,b,{row}\na,b,worse\n")
    with pytest.raises(DataError, match=message):
        events(tmp_path, path=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "user_id,item_id\n1,2\n\n1,2,3\n",
            r"a\.csv, line 4: 3 fields between ',', the first line has 2: mend it",
        ),
        (
            "user_id,item_id,weight\n1,2,3\n1,2\n",
            r"a\.csv, line 3: 2 fields between ',', the first line has 3",
        ),
        ('user_id,item_id\n"a\nb",c\n"d\ne"\n', r"a\.csv, lines 4 to 5: 1 fields"),
        ('user_id,item_id\n1,2\n3,"4\n5,6\n', r"a\.csv, line 3: a quotation mark stays open"),
        (
            'user_id,item_id\n1,2\n3,"4" x\n',
            r"a\.csv, line 3: a quotation mark stays open, or stands where none may",
        ),
        (
            "user_id;item_id\n1;2\n",
            r"a\.csv has one column when cut at comma \(','\); semicolon \(';'\) fits: set",
        ),
    ],
)
def test_a_line_that_is_cut_otherwise_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        events(tmp_path, path=write(tmp_path, "a.csv", text))


def test_an_empty_last_field_is_no_short_row(tmp_path: Path) -> None:
    table = events(tmp_path, path=write(tmp_path, "a.csv", "user_id,item_id,weight\n1,2,\n1,3,4\n"))
    assert table["weight"].to_list() == [None, 4.0]


def test_nan_and_infinite_weights_and_ids_with_newlines_come_through(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'user_id,item_id,weight\n"x\ny",b,NaN\n,b,inf\n')
    table = events(tmp_path, path=path)
    assert table["user_id"].to_list() == ["x\ny", None]
    assert table["weight"].is_nan().to_list() == [True, False]


@pytest.mark.parametrize(
    ("unit", "written", "seconds"),
    [
        ("s", "1500000000", 1_500_000_000),
        ("s", " 1.5e9 ", 1_500_000_000),
        ("ms", "1500000000999", 1_500_000_000),
        ("us", "1500000000999999", 1_500_000_000),
        ("ms", "-1", -1),
        ("iso", "2017-07-14T02:40:00Z", 1_500_000_000),
        ("iso", "2017-07-14 04:40:00.75+02:00", 1_500_000_000),
        ("iso", "2017-07-14 02:40", 1_500_000_000),
        ("iso", "2017-07-14", 1_499_990_400),
        ("iso", "", None),
    ],
)
def test_timestamps(tmp_path: Path, unit: str, written: str, seconds: int | None) -> None:
    path = write(tmp_path, "a.csv", f"user_id,item_id,timestamp\na,b,{written}\n")
    assert events(tmp_path, path=path, timestamp_unit=unit)["timestamp"].to_list() == [seconds]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=8))
def test_parquet_times_need_no_unit(seconds: list[int]) -> None:
    filesystem = fsspec.filesystem("memory")
    times = pl.Series([second * 1_000_000 for second in seconds], dtype=pl.Int64)
    frame = pl.DataFrame({"user_id": ["u"] * len(seconds), "item_id": ["i"] * len(seconds)})
    with filesystem.open("/times.parquet", "wb") as file:
        frame.with_columns(times.cast(pl.Datetime("us", "UTC")).alias("timestamp")).write_parquet(file)
    assert events(Path("/"), path="memory://times.parquet")["timestamp"].to_list() == seconds


def test_parquet_types(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "id": [1.0, None, 3.0],  # integers with a gap, as pandas writes them
            "genres": [["a", " b "], None, [""]],
            "release": [date(1970, 1, 2), None, date(1969, 12, 31)],
            "year": [1999.0, None, 2000.0],
        }
    ).write_parquet(tmp_path / "items.parquet")
    columns = {"item_id": "id", "categories": "genres", "created_at": "release"}
    source = TableSource(path="items.parquet", columns=columns)
    table = read_table(source, "catalogue", tmp_path)
    assert table["item_id"].to_list() == ["1", None, "3"]
    assert table["categories"].to_list() == [["a", "b"], None, []]
    assert table["created_at"].to_list() == [86_400, None, -86_400]
    assert table["year"].to_list() == [1999, None, 2000]
    pl.DataFrame({"user_id": [[1]], "item_id": ["a"]}).write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"column 'user_id' holds List\(Int64\), which is no text"):
        events(tmp_path, path="bad.parquet")


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user_id": ["a"], "item_id": ["b"]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.parquet is no whole Parquet file, it may be truncated"):
        events(tmp_path, path="a.parquet")


def test_parquet_under_the_wrong_format_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": ["a"], "item_id": ["b"]}).write_parquet(tmp_path / "a.dat")
    with pytest.raises(DataError, match=r"a\.dat is a Parquet file: say `format: parquet`"):
        events(tmp_path, path="a.dat", format="csv")
    assert events(tmp_path, path="a.dat").height == 1


def test_folder_glob_and_url_are_read_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for name, user in (("b.csv", "2"), ("a.csv", "1"), ("_SUCCESS", "9"), (".a.csv.crc", "9")):
        write(tmp_path / "parts", name, f"user_id,item_id\n{user},x\n")
    pl.DataFrame({"user_id": ["3"], "item_id": ["x"]}).write_parquet(tmp_path / "parts" / "c.parquet")
    (tmp_path / "parts" / "d.csv.gz").write_bytes(gzip.compress(b"user_id,item_id\n4,x\n"))
    assert events(tmp_path, path="parts")["user_id"].to_list() == ["1", "2", "3", "4"]
    assert events(tmp_path, path="parts/*.csv")["user_id"].to_list() == ["1", "2"]
    assert events(tmp_path, path=f"file://{tmp_path}/parts/*.csv")["order"].to_list() == [0, 1]
    fsspec.filesystem("memory").pipe("/here/one.csv", b"user_id,item_id\nm,x\n")
    assert events(tmp_path, path="memory://here")["user_id"].to_list() == ["m"]


@pytest.mark.parametrize("path", ["gone.csv", "gone/*.csv", "memory://gone/a.csv", "nosuch://bucket/a.csv"])
def test_missing_files_are_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match=r"does not exist|no CSV or Parquet file|cannot be listed"):
        events(tmp_path, path=path)


def test_sql_by_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("create table t (u integer, i text, at text)")
        database.executemany(
            "insert into t values (?, ?, ?)", [(1, "a", "2017-07-14T02:40:00"), (2, "b", None)]
        )
    monkeypatch.setenv("SHOP", f"sqlite:///{tmp_path}/shop.db")
    query = "select * from t order by u"
    table = events(
        tmp_path, sql="env:SHOP", query=query, columns={**MAPPED, "timestamp": "at"}, timestamp_unit="iso"
    )
    assert table["user_id"].to_list() == ["1", "2"]
    assert table["timestamp"].to_list() == [1_500_000_000, None]
    absent = TableSource(sql=f"sqlite:///{tmp_path}/absent.db", query="select 1 as user_id, 2 as item_id")
    with pytest.raises(DataError, match=r"absent\.db is missing"):
        read_table(absent, "interactions", tmp_path)
    assert not (tmp_path / "absent.db").exists()
    with pytest.raises(DataError, match=r"refused the query: .*no such table"):
        events(tmp_path, sql="env:SHOP", query="select * from nowhere")
    monkeypatch.delenv("SHOP")
    with pytest.raises(DataError, match="environment variable SHOP holds no database URL"):
        events(tmp_path, sql="env:SHOP", query=query)


def test_no_password_in_any_message(tmp_path: Path) -> None:
    source = TableSource(sql="nosuchdatabase://me:secret@host/db", query="select 1")
    assert "secret" not in describe(source)
    with pytest.raises(DataError, match="cannot be opened") as caught:
        read_table(source, "interactions", tmp_path)
    assert "secret" not in str(caught.value)


def test_exactly_one_place() -> None:
    for source in (
        {},
        {"path": "a", "sql": "b", "query": "c"},
        {"sql": "sqlite://"},
        {"path": "a", "query": "b"},
    ):
        with pytest.raises(ValueError, match=r"exactly one|go together"):
            TableSource.model_validate(source)


def test_segue_data_defaults_to_the_folder_beside_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkout"
    monkeypatch.delenv("SEGUE_DATA", raising=False)
    with pytest.raises(DataError, match="SEGUE_DATA, which is not set: set SEGUE_DATA"):
        expand("${SEGUE_DATA}/x", root)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert expand("${SEGUE_DATA}/x", root) == f"{tmp_path}/shared/data/x"
    monkeypatch.setenv("SEGUE_DATA", "/elsewhere")
    assert expand("$SEGUE_DATA/x", root) == "/elsewhere/x"


def test_utc_is_meant_where_no_zone_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user_id,item_id,timestamp\na,b,2001-02-03T04:05:06\n")
    expected = int(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC).timestamp())
    assert events(tmp_path, path=path, timestamp_unit="iso")["timestamp"].to_list() == [expected]
