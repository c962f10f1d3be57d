"""The quality report: what is there, what is twice, what is nearly twice, and what to look at."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.encoders.pictures import PictureFacts, look
from segue.encoders.quality import content_quality, nearest_by_bits, nearest_by_cosine
from segue.encoders.settings import ContentQualitySettings, EncoderSettings
from segue.encoders.text import unit
from segue.items import ItemVectors
from segue.steps.image_embeddings import PICTURES_SCHEMA
from tests.encoders.pictures import drawn, encoded

COUNT = 30
IDS = [f"i{row:02d}" for row in range(COUNT)]
LOOSE = ContentQualitySettings(max_duplicate_share=1, max_unusable_image_share=1, min_coverage=0)


def modality(vectors: np.ndarray, absent: tuple[int, ...] = ()) -> ItemVectors:
    present = np.ones(COUNT, dtype=bool)
    present[list(absent)] = False
    return ItemVectors(np.where(present[:, None], vectors, 0).astype(np.float32), present, IDS)


def pictures(facts: dict[int, PictureFacts], same: dict[int, int]) -> pl.DataFrame:
    """Items without facts are not named; ``same`` gives an item the file of another."""
    rows: list[tuple[Any, ...]] = []
    for row, item in enumerate(IDS):
        one = facts.get(row)
        if one is None:
            rows.append((item, None, None, "not_named", None, None, None, None, ""))
        else:
            sha = f"sha{same.get(row, row)}"
            rows.append((item, "p", sha, one.reason, one.width, one.height, one.format, one.mode, one.dhash))
    return pl.DataFrame(rows, schema=PICTURES_SCHEMA, orient="row")


@pytest.fixture
def world() -> dict[str, Any]:
    """Text: two empty, three items the same, two nearly. Pictures: 24 of 30, one copied, one resized, two bad."""
    random = np.random.default_rng(0)
    texts = [f"the text of item number {row}, long enough" for row in range(COUNT)]
    texts[3] = texts[4] = texts[5]
    texts[6], texts[7], texts[8] = "", "", "short"
    text = unit(random.normal(size=(COUNT, 16)).astype(np.float32))
    text[3] = text[4] = text[5]
    text[10] = unit((text[9] + 0.01 * random.normal(size=16))[None].astype(np.float32))[0]
    settings = EncoderSettings()
    facts = {row: look(encoded(drawn(row, 160, 240)), settings) for row in range(24)}
    facts[1] = facts[0]  # the same file
    facts[2] = look(encoded(drawn(3, 160, 240).resize((80, 120)), "JPEG"), settings)
    facts[20], facts[21] = look(b"", settings), look(b"text", settings)
    image = unit(random.normal(size=(COUNT, 8)).astype(np.float32))
    image[1] = image[0]
    empty = np.zeros((COUNT, 0), dtype=np.float32)
    return {
        "modalities": {
            "text": modality(text, (6, 7)),
            "image": modality(image, (20, 21, *range(24, COUNT))),
            "attribute": modality(np.tile(np.eye(3, dtype=np.float32), (10, 1))),
            "collaborative": modality(empty, tuple(range(COUNT))),
        },
        "texts": texts,
        "pictures": pictures(facts, {1: 0}),
        "seed": 1,
    }


def test_the_report_counts_what_is_planted(world: dict[str, Any]) -> None:
    report = content_quality(**world, settings=LOOSE)
    text, image = report["modalities"]["text"], report["modalities"]["image"]
    assert (text["items"], text["coverage"]) == (28, round(28 / 30, 6))
    assert text["duplicates"] == {
        "groups": 1, "items": 3, "share": round(3 / 28, 6), "largest": [["i03", "i04", "i05"]]
    }  # fmt: skip
    assert [pair[:2] for pair in text["near_duplicates"]["nearest"]] == [["i09", "i10"]]
    assert (text["near_duplicates"]["contents"], text["near_duplicates"]["looked_at"]) == (2, 26)
    assert (text["empty"], text["short"]) == (2, 1)
    assert sum(text["characters"]["counts"]) == 28
    assert (image["items"], image["files"], image["unusable"]) == (22, 24, 2)
    assert {reason: found["items"] for reason, found in image["reasons"].items()} == {
        "empty": 1, "not_an_image": 1, "not_named": 6
    }  # fmt: skip
    assert image["duplicates"]["largest"] == [["i00", "i01"]]
    assert [pair[:2] for pair in image["same_picture"]["nearest"]] == [["i02", "i03"]]
    assert image["formats"] == {"JPEG": 1, "PNG": 21}
    assert sum(image["shorter_side"]["counts"]) == 22
    attribute = report["modalities"]["attribute"]
    assert attribute["duplicates"]["groups"] == 3
    assert attribute["near_duplicates"]["contents"] == 0
    assert report["modalities"]["collaborative"]["near_duplicates"]["nearest_cosine"] is None
    assert report["modalities_per_item"] == {"2": 10, "3": 20}  # two lack text, eight a usable picture
    assert report["without_content"] == {"items": 0, "examples": []}
    assert report["findings"] == []
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"min_coverage": 0.9}, {("image", "coverage")}),
        ({"max_duplicate_share": 0.1}, {("text", "duplicates")}),
        ({"max_unusable_image_share": 0.05}, {("image", "unusable")}),
        ({"max_unusable_image_share": 0.09}, set()),
    ],
)
def test_a_finding_stands_where_a_threshold_is_passed(
    world: dict[str, Any], changed: dict[str, float], expected: set[tuple[str, str]]
) -> None:
    report = content_quality(**world, settings=LOOSE.model_copy(update=changed))
    assert {(found["modality"], found["finding"]) for found in report["findings"]} == expected


def test_nearest_neighbours_are_those_of_brute_force() -> None:
    vectors = unit(np.random.default_rng(3).normal(size=(200, 12)).astype(np.float32))
    cosine = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(cosine, -2)
    queries = np.array([3, 50, 199])
    found = nearest_by_cosine(vectors, queries)
    assert found.other.tolist() == cosine[queries].argmax(axis=1).tolist()
    assert found.value == pytest.approx(cosine[queries].max(axis=1), abs=1e-5)

    hashes = [np.random.default_rng(seed).bytes(8).hex() for seed in range(60)]
    numbers = [int(value, 16) for value in hashes]
    nearest = nearest_by_bits(hashes, np.arange(60))
    for row in range(60):
        bits = [(numbers[row] ^ other).bit_count() for at, other in enumerate(numbers) if at != row]
        assert nearest.value[row] == min(bits)
        assert nearest.other[row] != row


def test_a_sample_of_queries_is_seeded(world: dict[str, Any]) -> None:
    few = LOOSE.model_copy(update={"max_queries": 5})
    one, other = content_quality(**world, settings=few), content_quality(**world, settings=few)
    assert one == other
    assert one["modalities"]["text"]["near_duplicates"]["looked_at"] == 5
