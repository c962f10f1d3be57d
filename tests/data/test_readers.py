"""The built-in readers, on tiny copies of the files that they read."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from segue.data.readers import read_dataset
from segue.data.settings import DataSettings
from segue.data.sources import split_title
from segue.errors import DataError
from segue.workspace import Workspace


def read(root: Path, reader: str, folder: str | None = "files"):  # type: ignore[no-untyped-def]
    return read_dataset(DataSettings(reader=reader, folder=folder), Workspace(root))  # type: ignore[arg-type]


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


def test_ml_100k(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ml-100k" / "raw"
    folder.mkdir(parents=True)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml-100k.inter").write_text(header + "196\t2\t3\t881250949\n186\t1\t4\t891717742\n")
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n2\tunkonwn\tunkonwn\tunknown\n"
    )
    raw = read(tmp_path, "ml-100k", None)
    assert raw.interactions.row(0, named=True) == {
        "user_id": "196",
        "item_id": "2",
        "timestamp": 881250949,
        "order": 0,
        "action": None,
        "weight": 3.0,
    }
    assert raw.catalogue["year"].to_list() == [1995, None]
    assert raw.catalogue["categories"].to_list() == [["Animation", "Children's", "Comedy"], []]
    assert (raw.has_timestamps, raw.ordered) == (True, False)


def test_movielens_with_and_without_plots(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    put(
        folder,
        ratings__csv="userid,movieid,rating,timestamp\n1,1,4.0,964982703\n1,3,4.5,964981247\n",
        movies__csv="movieId,title,genres\n1,Toy Story (1995),Comedy|Fantasy\n"
        '3,"Odd, The",(no genres listed)\n',
    )
    bare = read(tmp_path, "movielens").catalogue
    assert bare["text"].to_list() == [None, None]
    assert bare["image_path"].to_list() == [None, None]
    put(folder, plots__csv='movieId,director,actors,plot\n1,J. L.,T. H.,"A boy, and ""Woody""."\n')
    table = read(tmp_path, "movielens").catalogue
    assert table["title"].to_list() == ["Toy Story", "Odd, The"]
    assert table["year"].to_list() == [1995, None]
    assert table["categories"].to_list() == [["Comedy", "Fantasy"], []]
    assert table["text"].to_list() == ['A boy, and "Woody".', None]


def test_movietweetings_keeps_leading_zeros(tmp_path: Path) -> None:
    put(
        tmp_path / "files",
        ratings__dat="1::0104257::8::1364690142\n",
        movies__dat="0104257::Fantômas - À l'ombre (1913)::Crime|Drama\n0000001::Nothing known (2013)::\n",
    )
    raw = read(tmp_path, "movietweetings")
    assert raw.interactions["item_id"].to_list() == ["0104257"]
    assert raw.catalogue["title"].to_list() == ["Fantômas - À l'ombre", "Nothing known"]
    assert raw.catalogue["categories"].to_list() == [["Crime", "Drama"], None]


def test_amazon_keeps_the_order_and_no_asin(tmp_path: Path) -> None:
    put(
        tmp_path / "files",
        sequences__txt="1 9 8\n2 8\n",
        items__csv="item_id,asin,text\n8,B00AAA,red nail polish\n9,B00BBB,soap\n",
        item_attributes__json=json.dumps({"9": [3, 4]}),
    )
    raw = read(tmp_path, "amazon-sequences")
    assert raw.interactions.select("user_id", "item_id", "order").rows() == [
        ("1", "9", 0),
        ("1", "8", 1),
        ("2", "8", 2),
    ]
    assert (raw.has_timestamps, raw.ordered) == (False, True)
    assert raw.catalogue["categories"].to_list() == [None, ["3", "4"]]
    assert "B00AAA" not in str(raw.catalogue.rows())


@pytest.mark.parametrize(
    ("sequences", "attributes", "message"),
    [
        ("1 2\n3\n", "{}", "sequence 2: a user without items"),
        ("1 2\n", "[]", "must map item ids"),
        ("1 2\n", "{", "no JSON"),
    ],
)
def test_amazon_bad_files(tmp_path: Path, sequences: str, attributes: str, message: str) -> None:
    put(
        tmp_path / "files",
        sequences__txt=sequences,
        items__csv="item_id,asin,text\n2,B,soap\n",
        item_attributes__json=attributes,
    )
    with pytest.raises(DataError, match=message):
        read(tmp_path, "amazon-sequences")


def test_missing_folder_and_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="segue data fetch ml-100k"):
        read(tmp_path, "ml-100k", None)
    with pytest.raises(DataError, match=r"set SEGUE_DATA, or `data.folder`"):
        read(tmp_path, "movielens")
    put(tmp_path / "files", movies__csv="movieId,title,genres\n")
    with pytest.raises(DataError, match=r"ratings\.csv does not exist"):
        read(tmp_path, "movielens")


def test_settings_refuse_what_contradicts_itself() -> None:
    with pytest.raises(ValueError, match="needs `interactions`"):
        DataSettings()
    with pytest.raises(ValueError, match="needs `folder`"):
        DataSettings(reader="movielens")
    with pytest.raises(ValueError, match="knows its own tables"):
        DataSettings.model_validate({"reader": "ml-100k", "interactions": {"path": "a.csv"}})


def test_titles() -> None:
    titles = pl.Series(
        ["Heat (1995)", "Babylon 5 (1993-1998)", "2001", None, "(500) Days (of) Summer (2009) "]
    )
    table = split_title(titles)
    assert table["title"].to_list() == ["Heat", "Babylon 5", "2001", None, "(500) Days (of) Summer"]
    assert table["year"].to_list() == [1995, 1993, None, None, 2009]


@pytest.mark.data
@pytest.mark.parametrize(
    ("reader", "folder", "events", "items"),
    [
        ("movielens", "movielens-latest-small", 100_836, 9_742),
        ("movietweetings", "movietweetings-100k", 100_000, 10_506),
        ("amazon-sequences", "amazon-beauty", 198_502, 12_101),
    ],
)
def test_real_files(
    tmp_path: Path, segue_data: Path, reader: str, folder: str, events: int, items: int
) -> None:
    raw = read(tmp_path, reader, str(segue_data / folder))
    assert (raw.interactions.height, raw.catalogue.height) == (events, items)
    assert set(raw.interactions["item_id"]) <= set(raw.catalogue["item_id"])
