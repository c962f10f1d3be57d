"""The steps codebook, item_map and drift, and `segue tokens insert`, on day one and on day two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.artifacts import commit, read_manifest, temporary_folder, write_json
from segue.bases import keep, write_base
from segue.canonical import sha256_of_file
from segue.data.settings import ImageSource
from segue.data.sources import CATALOGUE_SCHEMA
from segue.encoders.attributes import AttributeSpace
from segue.encoders.text import item_texts
from segue.errors import ArtifactError, BindingError, ConfigurationError, DataError
from segue.items import Items, ItemVectors
from segue.params import SECTIONS, Params
from segue.steps.runner import run_step
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.insertion import compare, insert_items
from segue.tokenizers.item_map import ItemMap, bound_items
from segue.workspace import Workspace
from tests.encoders.pictures import Miniature, drawn, encoded, put

DATASET = "toy"
PARAMS = Params.model_validate(
    {name: {} for name in SECTIONS}
    | {"data": {"reader": "ml-100k"}, "tokenizer": {"level_sizes": (8, 4, 8), "dimensions": 8}}
)
GENRES = ("Comedy", "Drama", "Horror", "Western")


class Bytes:
    """A text encoder that needs no weights: a text's hash, as numbers, around its first word's."""

    name = "bytes"
    weights_sha256 = "none"
    dimensions = 16

    def encode(self, texts: Sequence[str], progress: object = None) -> np.ndarray:
        def numbers(text: str) -> np.ndarray:
            return np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype=np.uint8) / 255.0 - 0.5

        rows = [numbers(text.split()[0]) + 0.3 * numbers(text) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), 16)


def catalogue(numbers: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [f"m{number:03d}" for number in numbers],
            "title": [f"Title{number % 5} the {number}th" for number in numbers],
            "text": [None for _ in numbers],
            "categories": [[GENRES[number % 4]] for number in numbers],
            "year": [1950 + number % 50 for number in numbers],
            "price": [None for _ in numbers],
            "created_at": [None for _ in numbers],
            "image_path": [None for _ in numbers],
        },
        schema=CATALOGUE_SCHEMA,
    )


def seal(workspace: Workspace, step: str, write: Callable[[Path], None]) -> None:
    final = workspace.step(DATASET, step)
    with temporary_folder(final) as folder:
        write(folder)
        commit(folder, final, step=step, dataset=DATASET, params_sha256="", inputs={}, code_version="")


def picture(number: int) -> bytes:
    """A picture file of an item; every sixth item's is broken."""
    return encoded(drawn(number)) if number % 6 else b"no picture"


def provide(
    workspace: Workspace,
    numbers: Sequence[int],
    events: int,
    *,
    collaborative: str = "day one",
    pictures: bool = False,
) -> None:
    """The artifacts upstream of the codebook; items from 60 on have no collaborative vector.

    Without ``pictures`` the image modality is the empty one of a dataset that has none.
    """
    table = catalogue(sorted(numbers)).with_row_index("item_index").cast({"item_index": pl.Int32})
    items = Items(table.with_columns(train_count=pl.lit(1, dtype=pl.Int64)))

    def splits(folder: Path) -> None:
        items.table.write_parquet(folder / "items.parquet")
        pl.DataFrame({"item_index": [0] * events}).write_parquet(folder / "interactions.parquet")

    def encoder(folder: Path, name: str, weights: str) -> None:
        write_json(folder / "encoder.json", {"name": name, "weights_sha256": weights, "kind": name})

    def text(folder: Path) -> None:
        ItemVectors(Bytes().encode(item_texts(table)), np.ones(len(items), dtype=bool), items.ids).save(
            folder
        )
        encoder(folder, "bytes", "none")

    def attribute(folder: Path) -> None:
        space = AttributeSpace.fit(catalogue(range(60)), 10)
        ItemVectors(*space.encode(table), items.ids).save(folder)
        space.save(folder)
        encoder(folder, "attributes", space.sha256)

    def company(folder: Path) -> None:
        known = np.array([int(item[1:]) < 60 for item in items.ids])
        vectors = np.array([np.random.default_rng(int(item[1:])).normal(size=6) for item in items.ids])
        ItemVectors(np.where(known[:, None], vectors, 0).astype(np.float32), known, items.ids).save(folder)
        encoder(folder, "sppmi_svd", collaborative)

    def image(folder: Path) -> None:
        if not pictures:
            ItemVectors(
                np.zeros((len(items), 0), dtype=np.float32), np.zeros(len(items), dtype=bool), items.ids
            ).save(folder)
            encoder(folder, "none", "none")
            return
        files = [put(workspace.root / "p" / f"{item}.png", picture(int(item[1:]))) for item in items.ids]
        sound = np.array([int(item[1:]) % 6 > 0 for item in items.ids])
        vectors = np.zeros((len(items), Miniature.dimensions), dtype=np.float32)
        vectors[sound] = Miniature().encode([file for file, there in zip(files, sound, strict=True) if there])
        ItemVectors(vectors, sound, items.ids).save(folder)
        encoder(folder, Miniature.name, Miniature.weights_sha256)

    seal(workspace, "splits", splits)
    seal(workspace, "image_embeddings", image)
    seal(workspace, "sequences", lambda folder: write_json(folder / "users.json", []))
    seal(workspace, "text_embeddings", text)
    seal(workspace, "attribute_embeddings", attribute)
    seal(workspace, "collaborative_embeddings", company)


def run(workspace: Workspace, *steps: str) -> None:
    for step in steps or ("codebook", "item_map", "drift"):
        run_step(workspace, DATASET, step, PARAMS, force=True)


def drift(workspace: Workspace) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((workspace.step(DATASET, "drift") / "drift.json").read_text())
    return loaded


def contents(workspace: Workspace, step: str) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in read_manifest(workspace.step(DATASET, step)).files.items()}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    write_base(made, DATASET, {})
    provide(made, range(60), events=100)
    return made


def test_day_one_is_revision_one_and_equal_inputs_give_equal_bytes(workspace: Workspace) -> None:
    run(workspace)
    before = {step: contents(workspace, step) for step in ("codebook", "item_map", "drift")}
    assert set(before["codebook"]) == {"codebook.safetensors", "codebook.json", "quality.json"}
    assert {
        "item_map.parquet",
        "item_map.json",
        "room.parquet",
        "vectors.safetensors",
        "quality.json",
    } <= set(before["item_map"])
    assert drift(workspace)["verdict"] == "nothing_kept"
    assert json.loads((workspace.step(DATASET, "item_map") / "item_map.json").read_text())["revision"] == 1
    run(workspace)
    assert before == {step: contents(workspace, step) for step in ("codebook", "item_map", "drift")}
    assert (workspace.reports(DATASET) / "item_map_usage.png").is_file()


def test_day_two_keeps_inserts_retires_and_judges(workspace: Workspace) -> None:
    run(workspace)
    first = ItemMap.load(workspace.step(DATASET, "item_map"))
    codebook = contents(workspace, "codebook")
    keep(workspace, DATASET, ("splits", "codebook", "item_map", "collaborative_embeddings"))

    run(workspace)  # nothing arrived: nothing changes
    assert ItemMap.load(workspace.step(DATASET, "item_map")).item_map_id == first.item_map_id
    assert drift(workspace)["verdict"] == "keep"

    provide(workspace, [*range(1, 60), *range(60, 66)], events=110)
    run(workspace)
    second = ItemMap.load(workspace.step(DATASET, "item_map"))
    assert contents(workspace, "codebook") == codebook
    assert (second.revision, len(second.item_ids)) == (2, 66)
    assert second.item_ids[-1] == "m000"
    assert second.retired.sum() == 1
    for item in first.item_ids:
        np.testing.assert_array_equal(second.codes[second.row_of[item]], first.codes[first.row_of[item]])
        np.testing.assert_array_equal(second.vectors[second.row_of[item]], first.vectors[first.row_of[item]])
    report = drift(workspace)
    assert (report["verdict"], report["kept"]) == ("keep", True)
    figures = report["figures"]
    assert isinstance(figures, dict)
    assert (figures["new_items"], figures["retired_items"], figures["new_events"]) == (6, 1, 10)
    items = Items.load(workspace.step(DATASET, "splits"))
    bound = bound_items(workspace.step(DATASET, "item_map"))
    assert bound.codes.shape == (len(items), 3)
    assert second.item_ids[: len(items)] == items.ids
    kept = workspace.kept(DATASET) / "item_map"
    assert compare(next(kept.iterdir()), workspace.step(DATASET, "item_map"))["churn"] == 0.0

    # Day three: the retired item comes back, many events arrive.
    keep(workspace, DATASET, ("splits", "codebook", "item_map", "collaborative_embeddings"))
    provide(workspace, range(66), events=200)
    run(workspace)
    third = ItemMap.load(workspace.step(DATASET, "item_map"))
    assert (third.revision, int(third.retired.sum())) == (3, 0)
    np.testing.assert_array_equal(third.codes[0], first.codes[0])
    assert drift(workspace)["verdict"] == "retrain"


def test_a_kept_map_of_another_codebook_is_refused(workspace: Workspace) -> None:
    run(workspace)
    keep(workspace, DATASET, ("item_map",))
    changed = PARAMS.model_copy(update={"tokenizer": PARAMS.tokenizer.model_copy(update={"seed": 3})})
    run_step(workspace, DATASET, "codebook", changed)
    with pytest.raises(BindingError, match="keep the two together"):
        run_step(workspace, DATASET, "item_map", changed)


def test_vectors_of_another_factorization_are_refused(workspace: Workspace) -> None:
    run(workspace)
    keep(workspace, DATASET, ("splits", "codebook", "item_map"))
    provide(workspace, range(60), events=100, collaborative="day two")
    run(workspace, "codebook")
    with pytest.raises(BindingError, match="keep collaborative_embeddings together with the codebook"):
        run(workspace, "item_map")


def test_vectors_of_other_items_are_refused(workspace: Workspace) -> None:
    vectors = ItemVectors(np.ones((3, 16), dtype=np.float32), np.ones(3, dtype=bool), ["a", "b", "c"])

    def write(folder: Path) -> None:
        vectors.save(folder)
        write_json(folder / "encoder.json", {"name": "bytes", "weights_sha256": "none"})

    seal(workspace, "text_embeddings", write)
    with pytest.raises(ArtifactError, match="run the step text_embeddings again"):
        run(workspace, "codebook")


def test_items_are_inserted_by_hand(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workspace)
    monkeypatch.setattr("segue.encoders.registry.text_encoder", lambda settings: Bytes())
    file, out = tmp_path / "new.parquet", tmp_path / "grown"
    catalogue([58, 70, 71]).write_parquet(file)
    before = contents(workspace, "item_map")
    report = insert_items(workspace, DATASET, PARAMS, file, out)
    assert (report["inserted"], report["known"], report["revision"]) == (2, 1, 2)
    grown = ItemMap.load(out)
    assert grown.item_map_id == report["item_map_id"]
    assert report["items"]["m070"] == grown.codes[grown.row_of["m070"]].tolist()
    assert contents(workspace, "item_map") == before  # the graph's own map stays

    # The step gives the same items the same vectors and codes.
    keep(workspace, DATASET, ("splits", "codebook", "item_map", "collaborative_embeddings"))
    provide(workspace, [*range(60), 70, 71], events=100)
    run(workspace, "codebook", "item_map")
    stepped = ItemMap.load(workspace.step(DATASET, "item_map"))
    for item in ("m070", "m071"):
        assert stepped.codes[stepped.row_of[item]].tolist() == report["items"][item]
    assert stepped.item_map_id == grown.item_map_id

    with pytest.raises(ArtifactError, match="name a new folder"):
        insert_items(workspace, DATASET, PARAMS, file, out)


def test_a_dataset_without_pictures_has_the_codebook_that_it_had_before_there_were_any(
    workspace: Workspace,
) -> None:
    run(workspace, "codebook")
    with_empty = contents(workspace, "codebook")
    modalities = {
        name: ItemVectors.load(workspace.step(DATASET, f"{name}_embeddings"))
        for name in ("text", "attribute", "collaborative")
    }
    encoders = {
        name: EncoderIdentity.load(workspace.step(DATASET, f"{name}_embeddings")) for name in modalities
    }
    weights = {"text": 1.0, "attribute": 1.0, "collaborative": 2.0}
    settings = PARAMS.tokenizer.model_copy(update={"modality_weights": weights})
    without = Codebook.fit(modalities, encoders, settings)
    without.save(workspace.root / "without")
    for name in ("codebook.safetensors", "codebook.json"):
        assert sha256_of_file(workspace.root / "without" / name) == with_empty[name]


def test_a_weight_of_a_modality_that_there_is_not_is_named(workspace: Workspace) -> None:
    run(workspace, "codebook")
    before = contents(workspace, "codebook")
    weights = PARAMS.tokenizer.modality_weights | {"colaborative": 2.0}
    params = PARAMS.model_copy(
        update={"tokenizer": PARAMS.tokenizer.model_copy(update={"modality_weights": weights})}
    )
    with pytest.raises(
        ConfigurationError,
        match="there is no modality 'colaborative'; known: attribute, collaborative, image",
    ):
        run_step(workspace, DATASET, "codebook", params, force=True)
    assert contents(workspace, "codebook") == before
    unweighed = PARAMS.tokenizer.modality_weights | {"audio": 0.0}
    params = PARAMS.model_copy(
        update={"tokenizer": PARAMS.tokenizer.model_copy(update={"modality_weights": unweighed})}
    )
    run_step(workspace, DATASET, "codebook", params, force=True)
    assert contents(workspace, "codebook")["codebook.safetensors"] == before["codebook.safetensors"]


def test_pictures_join_the_codebook_and_an_inserted_item_is_the_steps(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workspace, "codebook")
    blind = Codebook.load(workspace.step(DATASET, "codebook"))
    provide(workspace, range(60), events=100, pictures=True)
    run(workspace)
    codebook = Codebook.load(workspace.step(DATASET, "codebook"))
    assert list(codebook.fusion.modalities) == ["attribute", "collaborative", "image", "text"]
    assert codebook.encoders["image"].name == "miniature"
    assert codebook.codebook_id != blind.codebook_id
    weightless = PARAMS.tokenizer.modality_weights | {"image": 0.0}
    params = PARAMS.model_copy(
        update={"tokenizer": PARAMS.tokenizer.model_copy(update={"modality_weights": weightless})}
    )
    run_step(workspace, DATASET, "codebook", params, force=True)
    assert Codebook.load(workspace.step(DATASET, "codebook")).codebook_id == blind.codebook_id

    run(workspace)
    monkeypatch.setattr("segue.encoders.registry.text_encoder", lambda settings: Bytes())
    monkeypatch.setattr("segue.encoders.registry.image_encoder", lambda name, settings: Miniature())
    with_template = PARAMS.model_copy(
        update={
            "data": PARAMS.data.model_copy(update={"images": ImageSource(folder="p", template="{item}.png")})
        }
    )
    new = [70, 71, 72, 73]  # 72 is broken, 73 has no file
    for number in new[:3]:
        put(tmp_path / "p" / f"m{number:03d}.png", picture(number))
    catalogue(new).write_parquet(tmp_path / "new.parquet")
    report = insert_items(workspace, DATASET, with_template, tmp_path / "new.parquet")
    assert report["without_image"] == {"m072": "not_an_image", "m073": "missing"}
    keep(workspace, DATASET, ("splits", "codebook", "item_map", "collaborative_embeddings"))
    provide(workspace, [*range(60), 70, 71, 72], events=100, pictures=True)
    run(workspace)
    stepped = ItemMap.load(workspace.step(DATASET, "item_map"))
    for item in ("m070", "m071", "m072"):
        assert stepped.codes[stepped.row_of[item]].tolist() == report["items"][item]
    assert drift(workspace)["kept"] is True


def test_pictures_that_all_went_away_stop_what_was_made_with_them(workspace: Workspace) -> None:
    provide(workspace, range(60), events=100, pictures=True)
    run(workspace)
    keep(workspace, DATASET, ("splits", "codebook", "item_map", "collaborative_embeddings"))
    provide(workspace, range(60), events=100)
    run(workspace, "codebook")
    with pytest.raises(BindingError, match="the image vectors come from none"):
        run(workspace, "item_map")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (catalogue([70, 71, 70]), "item 'm070' .* is there twice"),
        (catalogue([70]).with_columns(item_id=pl.lit("")), "row 1 has no item_id"),
        (catalogue([]), "no rows"),
    ],
)
def test_bad_item_files_are_refused(
    workspace: Workspace, tmp_path: Path, table: pl.DataFrame, message: str
) -> None:
    run(workspace, "codebook", "item_map")
    table.write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=message):
        insert_items(workspace, DATASET, PARAMS, tmp_path / "bad.parquet")


def test_inserting_before_there_is_a_map_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="segue run --dataset toy"):
        insert_items(Workspace(tmp_path), DATASET, PARAMS, tmp_path / "any.csv")
