"""What goes wrong most: each is one line that names the file, the row or field, and the mend."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from segue.data.settings import SplitSettings, TableSource, ValidationSettings
from segue.data.sources import read_table
from segue.data.splits import make_splits
from segue.data.validation import validate
from segue.errors import DataError

from .examples import catalogue, interactions

HEADER = "user_id,item_id,timestamp,weight\n"
NOW = 1_600_000_000


@pytest.mark.parametrize(
    ("content", "names", "mend"),
    [
        ("", "a.csv is empty", "was it written to the end"),
        (HEADER, "a.csv holds no rows", "check that it is the right one"),
        ("user_id,thing\nu,i\n", "a.csv: no column 'item_id'", "name the right one under `columns"),
        (
            HEADER + "u,i,1,3\nu,i,soon,3\n",
            "a.csv: column 'timestamp', data row 2: 'soon'",
            "see `timestamp_unit`",
        ),
        (HEADER + "u,i,1,lots\n", "a.csv: column 'weight', data row 1: 'lots' is no number", "mend the row"),
        (HEADER.encode() + "José,i,1,3\n".encode("latin-1"), "a.csv, line 2: byte 0xe9", "encoding: latin-1"),
        (HEADER + "u,i,1\n", "a.csv, line 2: 3 fields", "mend it there"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, content: str | bytes, names: str, mend: str) -> None:
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_table(TableSource(path="a.csv"), "interactions", tmp_path)
    message = str(caught.value)
    assert names in message
    assert mend in message
    assert "\n" not in message


def test_a_truncated_parquet_of_the_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": ["a"]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        DataError, match=r"items\.parquet is no whole Parquet file.*copy or write it again"
    ) as caught:
        read_table(TableSource(path="items.parquet"), "catalogue", tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_rows_are_set_aside_with_their_row_and_reason(tmp_path: Path) -> None:
    rows = ["u,i,1,3", "u,i,1,3", f"u,i,{NOW * 2},3", "u,i,5,NaN", '"u\nv",i,6,3', 'u,"i\nj",7,3']
    (tmp_path / "a.csv").write_text(HEADER + "\n".join(rows) + "\n")
    found = validate(
        read_table(TableSource(path="a.csv"), "interactions", tmp_path),
        catalogue([]),
        ValidationSettings(min_interactions=1, min_users=1, min_items=1, max_quarantined_share=1),
        has_timestamps=True,
        has_catalogue=False,
        now=NOW,
        pages=tmp_path / "pages",
    )
    assert found.quarantine.select("row", "reason").rows() == [
        (2, "the same event stands in an earlier row"),
        (3, "timestamp lies in the future"),
        (4, "weight is NaN or infinite"),
        (5, "user_id is empty or holds a line break or another control character"),
        (6, "item_id is empty or holds a line break or another control character"),
    ]


def test_a_user_with_one_event_trains_and_is_not_evaluated() -> None:
    events = interactions(
        [(f"u{user}", f"i{item}", item) for user in range(5) for item in range(4)] + [("lonely", "i1", 9)]
    )
    settings = SplitSettings(new_user_share=0, replay_user_share=0)
    items = catalogue([f"i{n}" for n in range(4)])
    tables = make_splits(events, items, settings, has_timestamps=True, ordered=False)
    assert tables.interactions.filter(pl.col("user_id") == "lonely")["part"].to_list() == ["train"]
    assert tables.summary["evaluated_users"]["regular"] == 5
