"""`segue init` on the shapes that strangers' files have."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from segue.bases import read_base, write_base
from segue.data.profiles import init_profile
from segue.data.readers import read_dataset
from segue.errors import ConfigurationError, DataError
from segue.params import SECTIONS, active_datasets, load_params
from segue.workspace import Workspace

PARAMS = "# a comment\ndatasets: [ml-100k]  # another\n" + "".join(
    f"{name}: {{}}\n" for name in SECTIONS if name != "data"
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text(PARAMS)
    return Workspace(tmp_path)


def put(workspace: Workspace, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = workspace.root / name
    path.write_bytes(text.encode(encoding))
    return path


def test_headerless_double_colons_with_a_catalogue(workspace: Workspace) -> None:
    rows = "".join(
        f"{user}::000{item}::{item}::{1365029107 + item}\n" for user in range(9) for item in range(6)
    )
    events = put(workspace, "ratings.dat", rows)
    movies = "".join(
        f"000{item}::Film {item} (1999)::{'Crime|Drama' if item % 2 else 'War'}\n" for item in range(6)
    )
    written = init_profile(workspace, events, put(workspace, "movies.dat", movies), "my-tweets")
    assert written == [
        workspace.profile_file("my-tweets"),
        workspace.base_file("my-tweets"),
        workspace.params_file,
    ]
    params = load_params(workspace, "my-tweets")
    raw = read_dataset(params.data, workspace)
    assert raw.interactions.row(1)[:3] == ("0", "0001", 1365029108)
    assert raw.interactions["weight"].to_list()[:3] == [0.0, 1.0, 2.0]
    assert raw.catalogue is not None
    assert raw.catalogue.row(1)[:5] == ("0001", "Film 1", None, ["Crime", "Drama"], 1999)
    assert set(read_base(workspace, "my-tweets").values()) == {None}
    assert active_datasets(workspace) == ("ml-100k", "my-tweets")
    assert "# a comment\n" in workspace.params_file.read_text()
    assert "# another" in workspace.params_file.read_text()
    assert 'path: "ratings.dat"' in written[0].read_text()  # relative inside the checkout


def test_semicolons_latin_1_and_milliseconds(workspace: Workspace) -> None:
    text = "CustomerID;product_id;stars;event_time\nJosé;a;5;1500000000000\nb;c;4;1500000001000\n"
    init_profile(workspace, put(workspace, "Shop Export.csv", text, "latin-1"))
    source = load_params(workspace, "shop-export").data.interactions
    assert source is not None
    assert (source.separator, source.encoding, source.timestamp_unit) == (";", "latin-1", "ms")
    assert source.columns == {
        "user_id": "CustomerID",
        "item_id": "product_id",
        "timestamp": "event_time",
        "weight": "stars",
    }


@pytest.mark.parametrize(("column", "name"), [("device", "device"), ("Device Type", "device_type")])
def test_a_column_left_over_is_offered_as_a_context_feature(
    workspace: Workspace, column: str, name: str
) -> None:
    text = f"user_id,item_id,timestamp,{column}\nu,a,1500000000,tv\nv,b,1500000001,phone\n"
    written, *_ = init_profile(workspace, put(workspace, "shop.csv", text))
    profile = written.read_text()
    assert load_params(workspace, "shop").data.context == {}
    written.write_text(profile.replace("  # context: {", "  context: {"))
    (feature,) = load_params(workspace, "shop").data.context.items()
    assert (feature[0], feature[1].kind, feature[1].column or name) == (name, "category", column)


def test_parquet_with_times_of_its_own(workspace: Workspace) -> None:
    table = pl.DataFrame({"visitor_id": ["u"], "sku": [7], "when": ["2020-01-01"]})
    table.with_columns(pl.col("when").str.to_datetime("%Y-%m-%d")).write_parquet(
        workspace.root / "log.parquet"
    )
    init_profile(workspace, workspace.root / "log.parquet", activate=False)
    raw = read_dataset(load_params(workspace, "log").data, workspace)
    assert raw.interactions.row(0)[:3] == ("u", "7", 1_577_836_800)
    assert active_datasets(workspace) == ("ml-100k",)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "user_id,user,item_id,timestamp",
            r"which column is user_id; it could be 'user_id', 'user': pass --user-column",
        ),
        (
            "user_id,movie_id,product_id,timestamp",
            r"item_id; it could be 'movie_id', 'product_id'.*--item-column",
        ),
        ("user_id,item_id,a,b", "timestamp, for none holds.*could be 'a', 'b': pass --timestamp-column"),
        ("kunde,artikel,x,timestamp", "user_id; it could be 'kunde', 'artikel', 'x'.*--user-column"),
    ],
)
def test_ambiguous_columns_are_asked_for(workspace: Workspace, header: str, message: str) -> None:
    last = "1500000000" if "timestamp" in header else "2"
    path = put(workspace, "a.csv", f"{header}\n1,2,3,{last}\n4,5,6,{last}\n")
    with pytest.raises(DataError, match=message):
        init_profile(workspace, path)
    assert not workspace.profile_file("a").exists()
    assert active_datasets(workspace) == ("ml-100k",)


def test_options_settle_it(workspace: Workspace) -> None:
    path = put(workspace, "a.csv", "kunde,artikel,n\nx,y,1\nz,y,2\n")
    columns = {"user_id": "kunde", "item_id": "artikel", "timestamp": "none"}
    init_profile(workspace, path, columns=columns)
    params = load_params(workspace, "a")
    assert params.data.ordered
    assert read_dataset(params.data, workspace).interactions["timestamp"].to_list() == [None, None]
    with pytest.raises(DataError, match="has no column 'client'"):
        init_profile(workspace, path, name="b", columns={"user_id": "client"})


def test_an_unusual_separator_is_an_option(workspace: Workspace) -> None:
    path = put(workspace, "c.csv", "user_id^item_id^time\n1^2^1500000000\n3^4^1500000001\n")
    init_profile(workspace, path, separator="^")
    assert read_dataset(load_params(workspace, "c").data, workspace).interactions["item_id"].to_list() == [
        "2",
        "4",
    ]


def many(header: str, row: str, rows: int = 400) -> str:
    """``rows`` rows; {u} has 80 values, {i} 60, {n} as many as there are rows."""
    lines = [
        row.format(u=f"{n % 80:03}", i=f"{n * 7 % 60:03}", n=n, t=1_500_000_000 + n) for n in range(rows)
    ]
    return "\n".join([header, *lines]) + "\n"


ITEMS = "kennung,name\n" + "".join(f"{n:03},Ding {n}\n" for n in range(70))


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        # One name is enough: of the rest only one column could be the other.
        ("user,ding,gerundet,t", "u{u},{i},3,{t}", {"user_id": "user", "item_id": "ding"}),
        ("kunde,item,nummer,t", "u{u},{i},{n},{t}", {"user_id": "kunde", "item_id": "item"}),
        # The catalogue knows the item's column, whatever its name and place.
        ("ding,kunde,t", "{i},u{u},{t}", {"user_id": "kunde", "item_id": "ding"}),
        # Both number columns are known to it, but only one goes by the same name.
        ("kennung,kunde,t", "{i},{u},{t}", {"user_id": "kunde", "item_id": "kennung"}),
        # An action shows by its values.
        (
            "user,item,art,t",
            "{u},{i},add_to_cart,{t}",
            {"user_id": "user", "item_id": "item", "action": "art"},
        ),
    ],
)
def test_columns_without_a_known_name_are_told_by_their_values(
    workspace: Workspace, header: str, row: str, expected: dict[str, str]
) -> None:
    init_profile(workspace, put(workspace, "a.csv", many(header, row)), put(workspace, "items.csv", ITEMS))
    data = load_params(workspace, "a").data
    assert data.interactions is not None
    assert data.interactions.columns == {**expected, "timestamp": "t"}
    assert data.catalogue is not None
    assert data.catalogue.columns["item_id"] == "kennung"


def test_unknown_names_above_ids_and_times_without_a_bare_number_are_a_header(workspace: Workspace) -> None:
    rows = [f"u{n % 60};i{n * 7 % 70:03};2024-01-{1 + n % 28:02} 11:23:{n % 60:02};Handy" for n in range(400)]
    path = put(workspace, "a.csv", "\n".join(["Kunde;Artikel;Datum;Gerät", *rows]) + "\n")
    init_profile(workspace, path, columns={"user_id": "Kunde", "item_id": "Artikel"})
    data = load_params(workspace, "a").data
    assert data.interactions is not None
    assert data.interactions.has_header
    assert data.interactions.columns == {"user_id": "Kunde", "item_id": "Artikel", "timestamp": "Datum"}
    # Without the first line nothing names the columns.
    headless = put(workspace, "b.csv", "\n".join(rows) + "\n")
    with pytest.raises(DataError, match="it has no header, so its columns are counted from 1"):
        init_profile(workspace, headless)


def test_movietweetings_columns_need_no_option(workspace: Workspace) -> None:
    events = put(workspace, "tweets.csv", many("user,movie,rating,time", "{u},{i},7,{t}"))
    movies = put(workspace, "movies.csv", ITEMS.replace("kennung,name", "movie,title"))
    init_profile(workspace, events, movies)
    source = load_params(workspace, "tweets").data.interactions
    assert source is not None
    assert source.columns == {"user_id": "user", "item_id": "movie", "timestamp": "time", "weight": "rating"}


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("kunde,ding,t", "{u},{i},{t}", r"item_id; it could be 'kunde', 'ding': pass --item-column"),
        ("user,ding,ort,t", "u{u},x{i},o{u},{t}", r"item_id; it could be 'ding', 'ort': pass --item-column"),
        (
            "user,item,a,b,t",
            "u{u},{i},view,buy,{t}",
            r"action; it could be 'a', 'b': pass --action-column.*none",
        ),
        ("user,item,a,b", "u{u},{i},{t},{t}", r"timestamp; it could be 'a', 'b': pass --timestamp-column"),
    ],
)
def test_what_the_values_do_not_settle_is_asked_for(
    workspace: Workspace, header: str, row: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        init_profile(
            workspace, put(workspace, "a.csv", many(header, row)), put(workspace, "items.csv", ITEMS)
        )


def test_a_file_without_header_shows_what_its_numbered_columns_hold(workspace: Workspace) -> None:
    path = put(workspace, "users.dat", "1::177651718\n2::3141592\n")
    with pytest.raises(
        DataError, match=r"no header, so its columns are counted from 1.*'2' \(such as '177651718'\)"
    ):
        init_profile(workspace, path)


def test_two_candidates_for_an_optional_column_become_a_comment(workspace: Workspace) -> None:
    path = put(
        workspace, "a.csv", "user_id,item_id,timestamp,rating,score\n1,2,1500000000,3,4\n1,3,1500000000,3,4\n"
    )
    init_profile(workspace, path)
    assert "# weight could be rating or score" in workspace.profile_file("a").read_text()


def test_a_catalogue_of_other_items_is_refused(workspace: Workspace) -> None:
    events = put(workspace, "a.csv", "user_id,item_id,timestamp\n1,x1,1500000000\n1,x2,1500000000\n")
    items = put(workspace, "items.csv", "item_id,title\ny1,One\ny2,Two\n")
    with pytest.raises(DataError, match="no column holds the item ids of the interactions"):
        init_profile(workspace, events, items)


@pytest.mark.parametrize(("dated", "split"), [(2, True), (1, False)])
def test_titles_that_mostly_end_in_a_year_are_split(workspace: Workspace, dated: int, split: bool) -> None:
    events = put(
        workspace, "a.csv", "user_id,item_id,timestamp\n1,x,1500000000\n1,y,1500000000\n1,z,1500000000\n"
    )
    titles = [f"Film {n} (199{n})" if n < dated else f"Film {n}" for n in range(3)]
    rows = "".join(f"{item},{title}\n" for item, title in zip("xyz", titles, strict=True))
    init_profile(workspace, events, put(workspace, "items.csv", f"item_id,title\n{rows}"))
    assert ("title_holds_year: true  #" in workspace.profile_file("a").read_text()) is split
    catalogue = read_dataset(load_params(workspace, "a").data, workspace).catalogue
    assert catalogue is not None
    assert catalogue["title"].to_list() == (["Film 0", "Film 1", "Film 2"] if split else titles)
    assert catalogue["year"].to_list() == ([1990, 1991, None] if split else [None] * 3)


@pytest.mark.parametrize("name", ["params", "dvc"])
def test_a_name_of_the_workspaces_own_files_is_refused(workspace: Workspace, name: str) -> None:
    path = put(workspace, f"{name}.csv", "user_id,item_id,timestamp\n1,2,1500000000\n1,3,1500000000\n")
    for given in (name, None):  # also where the name comes from the file
        with pytest.raises(
            ConfigurationError, match=rf"'{name}' is taken: {name}\.yaml is the workspace's own"
        ):
            init_profile(workspace, path, name=given)


def test_names(workspace: Workspace) -> None:
    path = put(workspace, "a.csv", "user_id,item_id,timestamp\n1,2,1500000000\n")
    for name in ("../up", "UPPER", "a b", "", "-", "--help", "a" * 101):
        with pytest.raises(ConfigurationError, match="no name for a dataset"):
            init_profile(workspace, path, name=name)
    init_profile(workspace, path)
    with pytest.raises(ConfigurationError, match="exists already"):
        init_profile(workspace, path)


def test_shapeless_files(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="has no rows below its first line"):
        init_profile(workspace, put(workspace, "a.csv", "user_id,item_id\n"))
    with pytest.raises(DataError, match=r"tab .*, comma .*were tried as separators and none cuts its lines"):
        init_profile(workspace, put(workspace, "b.csv", "one\ntwo\nthree\n"))
    with pytest.raises(DataError, match=r"'\^' fits: pass --separator '\^'"):
        init_profile(workspace, put(workspace, "c.csv", "user_id^item_id\n1^2\n3^4\n"))
    with pytest.raises(DataError, match=r"comma \(','\) comes nearest, and cuts only 60%"):
        init_profile(workspace, put(workspace, "d.csv", "a,b\n1,2\n3,4\n5\n6\n"))
    with pytest.raises(DataError, match=r"gone\.csv is missing"):
        init_profile(workspace, workspace.root / "gone.csv")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("datasets: []\n", "datasets: [a]\n"),
        (
            "datasets:\n  # mine\n  - one  # first\n  - two\nrules: {}\n",
            "datasets:\n  # mine\n  - one  # first\n  - two\n  - a\nrules: {}\n",
        ),
        ("datasets:\n- one", "datasets:\n- one\n- a\n"),
        ("datasets: [b, a]\n", "datasets: [b, a]\n"),
        ('datasets: ["a"]\n', 'datasets: ["a"]\n'),
    ],
)
def test_the_list_of_datasets_is_extended_in_place(workspace: Workspace, before: str, after: str) -> None:
    workspace.params_file.write_text(before)
    init_profile(workspace, put(workspace, "a.csv", "user_id,item_id,timestamp\n1,2,1500000000\n"))
    assert workspace.params_file.read_text() == after


@pytest.mark.parametrize("name", ["ml-100k", "movielens-latest-small", "movietweetings", "amazon-beauty"])
def test_shipped_profiles_load(repository: Path, name: str) -> None:
    params = load_params(Workspace(repository), name)
    assert params.data.title
    assert params.data.terms
    read_base(Workspace(repository), name)


@pytest.mark.parametrize(
    "before",
    [
        "datasets: everything\n",
        "other: 1\n",
        "datasets: [\n  ml-100k,  # the demo\n  beauty,  # large\n]\n",  # the bracket would end in a comment
    ],
)
def test_where_the_datasets_cannot_be_extended_nothing_is_written(workspace: Workspace, before: str) -> None:
    workspace.params_file.write_text(before)
    with pytest.raises(ConfigurationError, match='no list `datasets` that could be extended: add "a" to it'):
        init_profile(workspace, put(workspace, "a.csv", "user_id,item_id,timestamp\n1,2,1500000000\n"))
    assert not workspace.profile_file("a").exists()
    assert not workspace.base_file("a").exists()
    assert workspace.params_file.read_text() == before


def test_what_is_kept_of_a_dataset_outlives_its_profile(workspace: Workspace) -> None:
    path = put(workspace, "a.csv", "user_id,item_id,timestamp\n1,2,1500000000\n")
    init_profile(workspace, path)
    kept = read_base(workspace, "a") | {"codebook": "0" * 64}
    write_base(workspace, "a", kept)
    workspace.profile_file("a").unlink()
    assert init_profile(workspace, path) == [workspace.profile_file("a")]
    assert read_base(workspace, "a") == kept


@pytest.mark.parametrize(
    "odd", ["first\r\nsecond: line", "a\u2028b: c", "bell\x07", "# no: comment", '"}{&*', "\x85 🎬"]
)
def test_whatever_cells_and_columns_hold_the_profile_can_be_read(workspace: Workspace, odd: str) -> None:
    table = pl.DataFrame(
        {"user_id": [odd, odd], "item_id": ["x", "y"], "timestamp": [1_500_000_000] * 2, odd: [1, 2]}
    )
    table.write_parquet(workspace.root / "a.parquet")
    init_profile(workspace, workspace.root / "a.parquet", columns={"user_id": odd})
    source = load_params(workspace, "a").data.interactions
    assert source is not None
    assert source.columns["user_id"] == odd


@pytest.mark.parametrize("name", ["2024", "no", "1e5"])
def test_a_name_that_yaml_takes_for_something_else_is_put_in_quotes(workspace: Workspace, name: str) -> None:
    path = put(workspace, f"{name}.csv", "user_id,item_id,timestamp\n1,2,1500000000\n")
    assert init_profile(workspace, path)[0] == workspace.profile_file(name)
    assert active_datasets(workspace)[-1] == name


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user_id": "item_id", "item_id": "item_id"},
            "--user-column and --item-column name the same column",
        ),
        ({"user_id": "none"}, "--user-column is 'none', but every event has one"),
    ],
)
def test_columns_that_cannot_be_are_refused(
    workspace: Workspace, columns: dict[str, str], message: str
) -> None:
    path = put(workspace, "a.csv", "user_id,item_id,timestamp\n1,2,1500000000\n1,3,1500000000\n")
    with pytest.raises(DataError, match=message):
        init_profile(workspace, path, columns=columns)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,item_id\n1,2\n".encode("utf-16"), "is text in UTF-16: save it as CSV in UTF-8"),
        (b"PK\x03\x04 and so on", "is an Excel workbook or another zip file: save it as CSV"),
        (b"user_id,user_id,item_id,timestamp\n1,2,3,1500000000\n", "several columns are called 'user_id'"),
    ],
)
def test_files_of_other_kinds_are_named(workspace: Workspace, content: bytes, message: str) -> None:
    (workspace.root / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        init_profile(workspace, workspace.root / "a.csv")


def test_a_folder_is_for_the_profile(workspace: Workspace) -> None:
    (workspace.root / "parts").mkdir()
    with pytest.raises(DataError, match=r"parts is a folder: give one of its files"):
        init_profile(workspace, workspace.root / "parts")
