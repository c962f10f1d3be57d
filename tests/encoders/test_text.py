"""Text encoding: what an item's text is, that vectors do not depend on company, and the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from segue.artifacts import hash_files
from segue.encoders.cache import encode_cached
from segue.encoders.protocol import Progress, TextEncoder, Vectors
from segue.encoders.registry import text_encoder
from segue.encoders.settings import EncoderSettings
from segue.encoders.text import item_texts, minilm_folder, model_sha256
from segue.errors import ConfigurationError
from segue.items import ItemVectors
from segue.steps import text_embeddings as step
from tests.data.examples import catalogue, context

TEXTS = [
    "Toy Story. Animation, Children's, Comedy",
    "GoldenEye. Action, Adventure, Thriller",
    "Twelve Monkeys. Drama, Sci-Fi",
    "Die Hard. Action, Thriller",
    "Il Postino",
    "Amélie — le fabuleux destin",
    "a " * 400,
    "x",
]


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return text_encoder(EncoderSettings())


class Counting:
    """A tiny encoder that remembers what it was asked."""

    name = "counting"
    weights_sha256 = "0" * 64
    dimensions = 3

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        self.asked.extend(texts)
        if progress is not None:
            progress(len(texts), len(texts))
        return np.array([[len(text), text.count("a"), 1] for text in texts], dtype=np.float32)


def test_item_text_is_title_categories_text() -> None:
    items = catalogue(
        list("abcd"),
        title=["Toy  Story ", None, "", "Alone"],
        categories=[["Animation", "Comedy"], ["Drama", None], None, []],
        text=["Toys\nlive.", " plot ", None, ""],
    )
    assert item_texts(items) == ["Toy Story. Animation, Comedy. Toys live.", "Drama. plot", "", "Alone"]


def test_a_vector_depends_on_its_text_alone(minilm: TextEncoder) -> None:
    alone = np.concatenate([minilm.encode([text]) for text in TEXTS])
    together = minilm.encode(TEXTS)
    crowd = minilm.encode([f"filler number {n}" for n in range(21)] + TEXTS[::-1] + TEXTS)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    threaded = minilm.encode(TEXTS)
    assert torch.get_num_threads() == 2  # left as it was found
    torch.set_num_threads(before)
    for other in (together, crowd[-len(TEXTS) :], crowd[-2 * len(TEXTS) : -len(TEXTS)][::-1], threaded):
        assert other.tobytes() == alone.tobytes()
    assert np.linalg.norm(alone, axis=1) == pytest.approx(1, abs=1e-5)


def test_vectors_are_those_of_sentence_transformers(minilm: TextEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(minilm_folder()), device="cpu", local_files_only=True)
    reference.max_seq_length = 128
    expected = reference.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert minilm.encode(TEXTS) == pytest.approx(expected, abs=2e-6)
    assert minilm.encode([]).shape == (0, 384)


def test_only_new_texts_are_encoded(tmp_path: Path) -> None:
    said: list[str] = []
    encoder, path = Counting(), tmp_path / "deep" / "cache.parquet"
    first, encoded = encode_cached(encoder, ["a", "bb", "a"], path, said.append)
    assert encoded == 2
    assert encoder.asked == ["a", "bb"]
    second, encoded = encode_cached(encoder, ["ccc", "bb", "a"], path, said.append)
    assert encoded == 1
    assert encoder.asked == ["a", "bb", "ccc"]
    assert second[1:].tobytes() == first[[1, 0]].tobytes()
    assert encode_cached(encoder, ["a"], path, said.append)[1] == 0
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_text("no parquet", encoding="utf-8"),
        lambda path: pl.DataFrame({"other": [1]}).write_parquet(path),
        lambda path: pl.DataFrame({"key": ["k"], "vector": [[1.0]]}).write_parquet(path),
    ],
)
def test_a_damaged_cache_costs_time_only(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path, said = tmp_path / "cache.parquet", []
    expected, _ = encode_cached(Counting(), ["a", "bb"], path, said.append)
    damage(path)
    found, encoded = encode_cached(Counting(), ["a", "bb"], path, said.append)
    assert found.tobytes() == expected.tobytes()
    assert encoded == 2
    assert any("made anew" in line for line in said)


def test_the_step_is_the_same_with_a_cold_and_a_warm_cache(tmp_path: Path) -> None:
    items = catalogue(
        list("abcd"), title=["Heat", "", "Toy Story", "Heat"], categories=[["Crime"], [], None, ["Crime"]]
    )
    outputs = []
    for run, count in ((0, 4), (1, 2), (1, 4)):  # cold; half of it; the rest from the warm cache of the half
        folder = tmp_path / f"splits{run}{count}"
        folder.mkdir()
        table = items.head(count).with_row_index("item_index").with_columns(train_count=pl.lit(0))
        table.write_parquet(folder / "items.parquet")
        made = context(tmp_path / str(run), "text_embeddings", {"splits": folder})
        step.run(made)
        outputs.append({name: entry.sha256 for name, entry in hash_files(made.output).items()})
    assert outputs[0] == outputs[2] != outputs[1]
    assert made.record["texts_encoded"] == 1
    vectors = ItemVectors.load(made.output)
    assert vectors.present.tolist() == [True, False, True, True]
    assert not vectors.vectors[1].any()
    assert np.array_equal(vectors.vectors[0], vectors.vectors[3])
    facts = json.loads((made.output / "encoder.json").read_text(encoding="utf-8"))
    assert facts["name"] == "minilm"
    assert facts["weights_sha256"] == model_sha256(minilm_folder())


def test_weights_that_could_run_code_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"no \.safetensors weights"):
        text_encoder(EncoderSettings(text_model=str(tmp_path)))
