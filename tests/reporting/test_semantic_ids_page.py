"""The page about the semantic IDs, from the step's files to what a person reads."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from segue.artifacts import write_json
from segue.errors import ArtifactError
from segue.params import SECTIONS, Params
from segue.reporting.charts import Bar, bar_chart, column_chart
from segue.reporting.semantic_ids_page import write_semantic_ids_page
from segue.reporting.thumbnails import SIDE, Thumbnails, picture_folder, thumbnail
from segue.tokenizers.themes import prefix_themes
from segue.workspace import Workspace
from tests.reporting.test_evaluation_page import Wellformed

SCRIPT = "<script>alert('x')</script>"
CODES = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [2, 1, 0]])
QUALITY: dict[str, Any] = {
    "item_map_id": "c0-r1-m0",
    "items": 4,
    "prefixes_in_use": 3,
    "unique_item_rate": 0.5,
    "collisions": 2,
    "excess_collisions": 1,
    "full_prefixes": 0,
    "items_per_prefix": {"1": 2, "2": 1},
    "items_per_code": [[3, 1, 0], [2, 2], [3, 1, 0, 0]],
    "levels": [
        {"size": size, "in_use": 2, "dead": size - 2, "usage": 2 / size, "entropy_bits": 0.8, "perplexity": 1.75,
         "relative_perplexity": 1.75 / size}
        for size in (3, 2, 4)
    ],
    "reconstruction_error": 0.2,
    "reconstruction_error_by_depth": [0.4, 0.2],
    "neighbours": 10,
    "neighbour_agreement_by_depth": [0.6, 0.3],
    "neighbour_agreement_by_depth_by_chance": [0.5, 0.0],
    "co_consumption": {"pairs": 12, "by_depth": [0.75, 0.25], "by_chance": [0.5, 0.125]},
    "room": {"prefixes_by_free": {"2": 1, "3": 2}, "least": 2, "median": 3.0, "most": 3, "in_use": 8, "in_all": 12},
    "findings": [],
}  # fmt: skip


def params(**semantic_ids: int) -> Params:
    sections: dict[str, Any] = {name: {} for name in SECTIONS}
    sections["data"] = {"interactions": {"path": "a.csv"}, "title": f"Shop {SCRIPT}"}
    return Params.model_validate(sections | {"semantic_ids": semantic_ids})


def page(
    root: Path,
    images: list[str | None] | None = None,
    titles: list[str | None] | None = None,
    quality: dict[str, Any] | None = None,
    **settings: int,
) -> str:
    folder, chosen = root / "report", params(**settings)
    folder.mkdir(exist_ok=True)
    items = pl.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(4)],
            "title": titles or [SCRIPT, "Comet Two", None, "Soup & Bread"],
            "text": [None] * 4,
            "categories": [["Sci-Fi", "<b>bold</b>"], ["Sci-Fi", "<b>bold</b>"], None, ["Cooking"]],
            "image_path": images or [None] * 4,
            "train_count": [9, 1, 2, 3],
        },
        schema_overrides={"text": pl.String, "image_path": pl.String},
    )
    write_json(folder / "quality.json", QUALITY | (quality or {}))
    themes = prefix_themes(items, CODES, (3, 2, 4), words=4, examples=chosen.semantic_ids.examples)
    themes.write_parquet(folder / "themes.parquet")
    written = write_semantic_ids_page(
        root / "reports", folder, dataset="toy", params=chosen, workspace=Workspace(root)
    )
    return written.read_text(encoding="utf-8")


def told(html: str) -> str:
    parser = Wellformed()
    parser.feed(html)
    assert parser.open == []
    return " ".join(" ".join(parser.text).split())


def draw(path: Path, size: tuple[int, int] = (300, 200), kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 30)).save(path, kind)


def test_the_page_tells_its_figures_and_needs_no_other_file(tmp_path: Path) -> None:
    html = page(tmp_path)
    text = told(html)
    assert "4 items have a semantic ID of 3 codes (3 × 2 × 4)." in text
    assert "The first 2 codes are the prefix" in text
    assert "50 % of the items have a prefix to themselves" in text.replace("\u00a0", " ")
    for words in ("no warning", "After 2 codes", "1.2× chance", "1.5× chance", "12 pairs", "1 dead"):
        assert words in text
    assert not re.search(r'(src|href)="https?:', html)
    assert 'href="index.html"' in html
    assert html.count("<svg") == 3 + 1 + 1 + 2 + 2


def test_everything_that_people_wrote_is_escaped(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert "<script" not in html
    assert "<b>" not in html.split('class="tree"')[1]
    assert "&lt;script&gt;" in html
    assert "<b>bold</b>" in told(html)  # as text


def test_the_tree_has_each_prefix_below_its_parent(tmp_path: Path) -> None:
    tree = page(tmp_path, examples=1).split('class="tree"')[1]
    text = told("<main><div" + tree.split("</main>")[0] + "</main>")
    assert tree.count("<details>") == 2  # codes 0 and 2 are followed by others
    assert tree.count('class="leaf"') == 3
    assert text.index("Sci-Fi") < text.index("0 · 0") < text.index("0 · 1") < text.index("2 · 1")
    assert "i2" in text  # an item without a title goes by its id
    assert "no text" in text  # and has no theme
    assert "and 2 more" in text
    assert "Soup & Bread" in text


def test_smaller_prefixes_are_left_out_and_counted(tmp_path: Path) -> None:
    html = page(tmp_path, page_prefixes=3)
    text = told(html)
    assert html.split('class="tree"')[1].count('class="leaf"') == 1
    assert "The largest 3 of 5 prefixes are shown" in text
    assert text.count("1 smaller prefix is not shown here.") == 2


def test_findings_stand_at_the_top(tmp_path: Path) -> None:
    finding = {"finding": "unique_item_rate", "value": 0.1, "threshold": 0.2, "told": "too <few>"}
    text = told(page(tmp_path, quality={"findings": [finding]}))
    assert "unique item rate too <few>" in text
    assert "no warning" not in text


def test_without_co_consumption_there_is_a_dash(tmp_path: Path) -> None:
    none = {"co_consumption": {"pairs": 0, "by_depth": [None, None], "by_chance": [None, None]}}
    text = told(page(tmp_path, quality=none))
    assert "Of 0 pairs" in text
    assert "Same first code —" in text


def test_pictures_are_small_and_embedded_as_long_as_there_are_any_left(tmp_path: Path) -> None:
    draw(tmp_path / "posters" / "a.jpg", kind="JPEG")
    draw(tmp_path / "posters" / "b.png")
    images = ["posters/a.jpg", "posters/missing.jpg", None, "posters/b.png"]
    html = page(tmp_path, images)
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert len(found) == 4  # each of the two below both of its prefixes
    for encoded in found:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert max(picture.size) == SIDE
    assert page(tmp_path, images, thumbnails=1).count("data:image") == 1
    assert page(tmp_path, images, thumbnails=0).count("data:image") == 0
    assert "<img" not in page(tmp_path)


def test_what_is_no_picture_of_the_folder_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    draw(folder / "good.png")
    draw(tmp_path / "secret.png")
    (folder / "text.jpg").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    pictures = Thumbnails(folder, 5)
    for name in ("../secret.png", "https://example.org/a.png", "text.jpg", "cut.png", "", None, "pictures"):
        assert pictures.of(name) is None
    assert pictures.left == 5
    assert pictures.of("good.png") is not None
    assert pictures.left == 4
    assert Thumbnails(None, 5).of("good.png") is None
    monkeypatch.setattr("segue.reporting.thumbnails.MOST_PIXELS", 300 * 200 - 1)
    assert thumbnail(folder / "good.png") is None


def test_pictures_count_from_the_workspace_or_the_readers_folder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert picture_folder(params().data, workspace) == tmp_path
    reader = params().data.model_copy(update={"reader": "movielens", "folder": "films", "interactions": None})
    assert picture_folder(reader, workspace) is None
    (tmp_path / "films").mkdir()
    assert picture_folder(reader, workspace) == tmp_path / "films"


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    write_json(tmp_path / "quality.json", QUALITY)
    with pytest.raises(ArtifactError, match="run the step semantic_id_report again"):
        write_semantic_ids_page(
            tmp_path, tmp_path, dataset="toy", params=params(), workspace=Workspace(tmp_path)
        )


def test_columns_are_as_high_as_their_values_and_many_are_averaged() -> None:
    chart = column_chart(
        [4, 2, 0], caption="a <b>", x_title="x", y_title="y", labels=["1", "2", "3"], reference=2
    )
    heights = [float(value) for value in re.findall(r'class="column".*?height="([\d.]+)"', chart)]
    assert heights[1] == pytest.approx(heights[0] / 2, abs=0.1)
    assert heights[2] == 0
    assert 'class="margin"' in chart
    assert "<b>" not in chart
    many = column_chart(list(range(1000)), caption="c", x_title="x", y_title="y")
    assert many.count('class="column"') == 334
    assert 'class="column"' not in column_chart([], caption="c", x_title="x", y_title="y")


def test_bars_share_one_axis() -> None:
    chart = bar_chart(
        [Bar("a<", 0.5, "half", 0.25), Bar("b", None, "none")], caption="c", most=1.0, percents=True
    )
    (width,) = re.findall(r'class="column".*?width="([\d.]+)"', chart)
    ticks = [float(value) for value in re.findall(r'class="grid" x1="([\d.]+)"', chart)]
    assert float(width) == pytest.approx((ticks[-1] - ticks[0]) / 2, abs=0.2)
    (reference,) = re.findall(r'class="reference" x1="([\d.]+)"', chart)
    assert float(reference) == pytest.approx(ticks[0] + (ticks[-1] - ticks[0]) / 4, abs=0.2)
    assert "a&lt;" in chart
    assert "100\u00a0%" in chart
    assert "NaN" not in bar_chart([Bar("a", None, "none")], caption="c")
