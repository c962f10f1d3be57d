"""The content page, and the check that Dagster shows of the same report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.checks import CHECKS
from segue.artifacts import write_json
from segue.encoders.quality import content_quality
from segue.encoders.settings import ContentQualitySettings
from segue.items import ItemVectors
from segue.reporting.content_page import REASONS, write_content_page
from segue.reporting.svg import histogram
from segue.steps.image_embeddings import PICTURES_SCHEMA
from tests.reporting.test_evaluation_page import Wellformed

IDS = [f"<b>{row}</b>" for row in range(12)]  # an id must never become markup


def report(*, images: bool, **settings: float) -> dict[str, Any]:
    present = np.ones(12, dtype=bool)
    rows: list[tuple[Any, ...]] = [(item, None, None, "not_named", *[None] * 4, "") for item in IDS]
    image = ItemVectors(np.zeros((12, 0), dtype=np.float32), ~present, IDS)
    if images:
        hashes = [f"{1 << (5 * row):016x}" for row in range(11)]
        rows = [
            (IDS[row], f"{row}.png", f"sha{row}", None, 90, 120, "PNG", "RGB", hashes[row])
            for row in range(11)
        ]
        rows.append((IDS[11], "11.png", "sha11", "broken", *[None] * 4, ""))
        image = ItemVectors(np.eye(12, dtype=np.float32), np.arange(12) < 11, IDS)
    ones = np.tile(np.eye(4, dtype=np.float32), (3, 1))
    return content_quality(
        {
            "text": ItemVectors(np.eye(12, dtype=np.float32), present, IDS),
            "image": image,
            "attribute": ItemVectors(ones, present, IDS),
            "collaborative": ItemVectors(np.eye(12, dtype=np.float32), present, IDS),
        },
        texts=[f"text number {row}" for row in range(12)],
        pictures=pl.DataFrame(rows, schema=PICTURES_SCHEMA, orient="row"),
        settings=ContentQualitySettings.model_validate(settings),
        seed=1,
    )


@pytest.mark.parametrize("images", [True, False])
def test_the_page_is_whole_and_says_what_is_there(images: bool, tmp_path: Path) -> None:
    page = write_content_page(tmp_path, report(images=images), dataset="toy", title="Toys & more")
    html = page.read_text(encoding="utf-8")
    parser = Wellformed()
    parser.feed(html)
    assert parser.open == []
    text = " ".join(" ".join(parser.text).split())
    assert "Of 12 items 100.0\u00a0% have text" in html
    assert ("None has a picture." in text) is not images
    assert ("12 picture" in text or "12, of which 1 are of no use" in text) is images
    assert (REASONS["broken"] in text) is images
    assert "<b>0</b>" not in html
    assert "Toys &amp; more" in html
    assert "http" not in html.replace("http://www.w3.org", "")
    assert html.count("<svg") == (6 if images else 4)


def test_every_reason_has_words() -> None:
    from segue.data.images import NoFile
    from segue.encoders.pictures import Unusable

    assert set(REASONS) == {reason.value for reason in (*NoFile, *Unusable)}


def test_a_histogram_is_drawn_to_scale() -> None:
    drawn = str(histogram([0, 10, 20], [4, 0, 2], caption="<lengths>", unit="characters"))
    heights = [float(part.split('"')[0]) for part in drawn.split('height="')[1:]]
    assert heights[0] == 2 * heights[2]
    assert heights[1] == 0
    assert "20 to more characters: 2" in drawn
    assert "<lengths>" not in drawn
    assert "<svg" in str(histogram([], [], caption="none", unit="x"))


def test_the_check_warns_of_findings_and_shows_the_table(tmp_path: Path) -> None:
    gate = CHECKS["content_quality"]
    assert not gate.blocking
    write_json(tmp_path / "quality.json", report(images=True))
    passed, why, metadata = gate.read(tmp_path)
    assert not passed
    assert why == "image: 1 picture files (8.3%) are of no use, more than 2%"
    assert "| image | 11 | 91.7% | 0.0% | 0.0% |" in str(metadata["modalities"].value)
    write_json(tmp_path / "quality.json", report(images=True, max_unusable_image_share=0.1))
    assert gate.read(tmp_path)[:2] == (True, "nothing passes a threshold")
