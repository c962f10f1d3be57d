"""``segue search`` over finished artifacts, with stand-ins for the encoders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.artifacts import commit, temporary_folder
from segue.errors import ArtifactError, BindingError, ConfigurationError, DataError
from segue.items import ItemVectors
from segue.params import load_params
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.search import search
from segue.tokenizers.settings import AlignmentSettings, TokenizerSettings
from segue.workspace import Workspace

DATASET = "ml-100k"
WORDS = ("space", "love", "crime", "war", "music")
ITEMS = 50
IDS = [f"i{item:02d}" for item in range(ITEMS)]


class Words:
    """A text encoder that knows five words; item i is about word i % 5, and nothing else."""

    name, weights_sha256, dimensions = "words", "w", len(WORDS)

    def encode(self, texts: list[str], progress: object = None) -> np.ndarray:
        return np.array([[float(word in text) for word in WORDS] for text in texts], dtype=np.float32)


def artifact(workspace: Workspace, step: str, write: Any) -> None:
    folder = workspace.step(DATASET, step)
    with temporary_folder(folder) as temporary:
        write(temporary)
        commit(temporary, folder, step=step, dataset=DATASET, params_sha256="p", inputs={}, code_version="c")


def prepare(workspace: Workspace, fusion: str) -> None:
    """Items 0 … 9 have no text: only what they are consumed with tells what they are about."""
    text = Words().encode([WORDS[item % 5] for item in range(ITEMS)])
    has_text = np.arange(ITEMS) >= 10
    noise = 0.05 * np.random.default_rng(0).normal(size=(ITEMS, 5)).astype(np.float32)
    modalities = {
        "text": ItemVectors(text * has_text[:, None], has_text, IDS),
        "collaborative": ItemVectors(text[:, ::-1] + noise, np.ones(ITEMS, dtype=bool), IDS),
    }
    encoders = {
        "text": EncoderIdentity(name=Words.name, weights_sha256=Words.weights_sha256),
        "collaborative": EncoderIdentity(name="c", weights_sha256="c"),
    }
    together = np.array([(i, j) for i in range(ITEMS) for j in range(ITEMS) if i != j and (i - j) % 5 == 0])
    settings = TokenizerSettings(
        fusion=fusion,  # type: ignore[arg-type]
        alignment=AlignmentSettings(steps=100, batch_size=64),
        level_sizes=(5, 3, 20),
        dimensions=4,
    )
    codebook = Codebook.fit(modalities, encoders, settings, together)
    vectors, present = codebook.fuse(modalities)
    table = pl.DataFrame(
        {
            "item_id": IDS,
            "title": [f"About {WORDS[item % 5]}, {item}" for item in range(ITEMS)],
            "item_index": range(ITEMS),
            "train_count": [1] * ITEMS,
        }
    )
    artifact(workspace, "splits", lambda folder: table.write_parquet(folder / "items.parquet"))
    artifact(workspace, "codebook", codebook.save)
    artifact(workspace, "item_map", ItemMap.build(codebook, IDS, vectors, present).save)
    artifact(workspace, "text_embeddings", modalities["text"].save)


@pytest.fixture
def workspace(workspace_root: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr("segue.encoders.registry.text_encoder", lambda settings: Words())
    return Workspace(workspace_root)


def ask(workspace: Workspace, **wanted: Any) -> dict[str, Any]:
    return search(workspace, DATASET, load_params(workspace, DATASET), **wanted)


def test_in_the_aligned_space_a_text_finds_items_that_have_none(workspace: Workspace) -> None:
    prepare(workspace, "contrastive")
    found = ask(workspace, text="a crime story", k=10)
    assert found["space"] == "aligned"
    assert {int(row["item_id"][1:]) % 5 for row in found["items"]} == {WORDS.index("crime")}
    assert {"i02", "i07"} <= {row["item_id"] for row in found["items"]}  # without a text of their own
    cosines = [row["cosine"] for row in found["items"]]
    assert cosines == sorted(cosines, reverse=True)


def test_elsewhere_it_finds_the_items_that_have_one(workspace: Workspace) -> None:
    prepare(workspace, "concat_pca")
    found = ask(workspace, text="music", k=8)
    assert found["space"] == "text"
    assert [row["item_id"] for row in found["items"]] == [f"i{n}" for n in range(14, 54, 5) if n < 50]


def test_a_run_that_was_stopped_in_between_is_no_basis(workspace: Workspace) -> None:
    prepare(workspace, "concat_pca")
    table = pl.read_parquet(workspace.step(DATASET, "splits") / "items.parquet")
    shifted = table.with_columns(pl.Series("item_id", [f"j{item:02d}" for item in range(ITEMS)]))
    artifact(workspace, "splits", lambda folder: shifted.write_parquet(folder / "items.parquet"))
    with pytest.raises(ArtifactError, match="a run was stopped in between"):
        ask(workspace, text="war")
    prepare(workspace, "concat_pca")
    old = ItemMap.load(workspace.step(DATASET, "item_map"))
    prepare(workspace, "contrastive")
    artifact(workspace, "item_map", old.save)
    with pytest.raises(BindingError, match="codebook"):
        ask(workspace, text="war")


def test_what_cannot_be_answered_is_told(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(workspace, "concat_pca")
    for wanted in ({}, {"text": "x", "image": tmp_path / "x.jpg"}):
        with pytest.raises(ConfigurationError, match="one of the two"):
            ask(workspace, **wanted)
    with pytest.raises(DataError, match="empty"):
        ask(workspace, text="  ")
    with pytest.raises(DataError, match="at least one"):
        ask(workspace, text="war", k=0)
    with pytest.raises(DataError, match="made without image"):
        ask(workspace, image=tmp_path / "x.jpg")
    monkeypatch.setattr(
        "segue.encoders.registry.text_encoder",
        lambda settings: SimpleNamespace(name="words", weights_sha256="other", encode=Words().encode),
    )
    with pytest.raises(BindingError, match="text vectors come from"):
        ask(workspace, text="war")
