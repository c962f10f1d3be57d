"""Bundles: identity, damage, publication."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from segue.artifacts import hash_files, write_json
from segue.errors import ArtifactError
from segue.registry.bundle import (
    BUNDLE_FILE,
    fetch_bundle,
    publish,
    read_bundle,
    stated_recipe,
    write_bundle,
)
from tests.serving.conftest import full, full_id, incumbent_only, world
from tests.serving.worlds import DECODING, RULES, SERVING, full_bundle

__all__ = ["full", "full_id", "incumbent_only", "world"]


@pytest.fixture
def own(full: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(full, tmp_path / "own"))


def test_equal_inputs_give_equal_bytes(world: Path, full: Path, tmp_path: Path) -> None:
    full_bundle(world, tmp_path / "again")
    assert hash_files(tmp_path / "again") == hash_files(full)


def test_it_says_what_it_is(full: Path, incumbent_only: Path, world: Path) -> None:
    whole, alone = read_bundle(full), read_bundle(incumbent_only)
    assert (whole.kind, alone.kind) == ("full", "incumbent")
    assert whole.incumbent_id == alone.incumbent_id
    assert whole.item_map_revision == 1
    assert whole.codebook_id == "c" * 64
    assert alone.model_id is None
    assert whole.recipe != alone.recipe


def test_it_holds_titles_but_no_histories_and_no_long_text(full: Path) -> None:
    columns = pl.read_parquet(full / "items.parquet").columns
    assert "title" in columns
    assert "text" not in columns
    assert not [name for name in read_bundle(full).files if "interactions" in name]


def test_another_rule_is_another_bundle_and_recipe(world: Path, full: Path, tmp_path: Path) -> None:
    other = write_bundle(
        tmp_path,
        dataset="tiny",
        splits=world / "splits",
        incumbent=world / "incumbent",
        model=world / "model",
        item_map=world / "item_map",
        rules={"filter_seen": False},
        serving=SERVING,
        decoding=DECODING,
    )
    assert other.bundle_id != read_bundle(full).bundle_id
    assert other.recipe != read_bundle(full).recipe


def test_other_weights_and_items_keep_the_recipe(world: Path, tmp_path: Path) -> None:
    before = stated_recipe(
        incumbent=world / "incumbent", rules=RULES, decoding=DECODING, model=world / "model"
    )
    model = Path(shutil.copytree(world / "model", tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"other weights")
    incumbent = Path(shutil.copytree(world / "incumbent", tmp_path / "incumbent"))
    facts = json.loads((incumbent / "incumbent.json").read_text())
    write_json(incumbent / "incumbent.json", facts | {"incumbent_id": "0" * 64, "trained_on": "all events"})
    assert stated_recipe(incumbent=incumbent, rules=RULES, decoding=DECODING, model=model) == before
    config = json.loads((model / "config.json").read_text())
    config["settings"]["accumulate"] = 4
    write_json(model / "config.json", config)
    assert stated_recipe(incumbent=incumbent, rules=RULES, decoding=DECODING, model=model) == before
    config["settings"]["dropout"] = 0.9
    write_json(model / "config.json", config)
    assert stated_recipe(incumbent=incumbent, rules=RULES, decoding=DECODING, model=model) != before


def test_a_step_manifest_beside_it_is_no_part_of_it(own: Path, full_id: str) -> None:
    (own / "manifest.json").write_text("{}")
    assert read_bundle(own).bundle_id == full_id


def test_damage_is_named(own: Path) -> None:
    target = own / "model" / "model.safetensors"
    target.write_bytes(target.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed or damaged"):
        read_bundle(own)


def test_a_missing_file_is_named(own: Path) -> None:
    (own / "items.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"items\.parquet is missing"):
        read_bundle(own)


@pytest.mark.parametrize("name", ["evil.faiss", "incumbent/two_tower/index.onnx", "code.py"])
def test_what_is_not_listed_is_not_loaded(own: Path, name: str) -> None:
    (own / name).write_bytes(b"anything")
    with pytest.raises(ArtifactError, match="not listed"):
        read_bundle(own)


def test_a_changed_manifest_is_refused(own: Path) -> None:
    raw = json.loads((own / BUNDLE_FILE).read_text())
    (own / BUNDLE_FILE).write_text(json.dumps(raw | {"recipe": "f" * 64}))
    with pytest.raises(ArtifactError, match="bundle_id is not the hash"):
        read_bundle(own)


def test_an_unknown_version_is_refused(own: Path) -> None:
    raw = json.loads((own / BUNDLE_FILE).read_text())
    (own / BUNDLE_FILE).write_text(json.dumps(raw | {"schema_version": 2}))
    with pytest.raises(ArtifactError, match="schema version 2"):
        read_bundle(own)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd.json", "weights.pkl"])
def test_a_manifest_may_not_name_just_any_file(own: Path, name: str) -> None:
    raw = json.loads((own / BUNDLE_FILE).read_text())
    raw["files"][name] = "0" * 64
    (own / BUNDLE_FILE).write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match="files"):
        read_bundle(own)


def test_a_pickle_does_not_get_in(world: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(world / "model", tmp_path / "model"))
    (model / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="may not go into a bundle"):
        write_bundle(
            tmp_path / "out",
            dataset="tiny",
            splits=world / "splits",
            incumbent=world / "incumbent",
            model=model,
            item_map=world / "item_map",
            rules=RULES,
            serving=SERVING,
            decoding=DECODING,
        )


def test_model_and_item_map_must_share_a_codebook(world: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(world / "model", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"codebook_id": "d" * 64})
    with pytest.raises(ArtifactError, match="bound to codebook"):
        write_bundle(
            tmp_path / "out",
            dataset="tiny",
            splits=world / "splits",
            incumbent=world / "incumbent",
            model=model,
            item_map=world / "item_map",
            rules=RULES,
            serving=SERVING,
            decoding=DECODING,
        )


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_published_once_and_fetched_whole(full: Path, full_id: str, tmp_path: Path, scheme: str) -> None:
    root = f"{scheme}{tmp_path / 'bundles'}"
    assert publish(full, root) == publish(full, root) == full_id
    fetched = fetch_bundle(root, full_id, tmp_path / "cache")
    assert read_bundle(fetched).bundle_id == full_id
    shutil.rmtree(tmp_path / "bundles")
    assert fetch_bundle(root, full_id, tmp_path / "cache") == fetched  # the cache is enough


def test_a_damaged_publication_is_mended(full: Path, full_id: str, tmp_path: Path) -> None:
    publish(full, tmp_path)
    (tmp_path / full_id / "items.parquet").write_bytes(b"")
    publish(full, tmp_path)
    read_bundle(tmp_path / full_id)


def test_a_damaged_arrival_leaves_nothing_behind(full: Path, full_id: str, tmp_path: Path) -> None:
    publish(full, tmp_path / "bundles")
    (tmp_path / "bundles" / full_id / "items.parquet").write_bytes(b"")
    with pytest.raises(ArtifactError, match="damaged"):
        fetch_bundle(str(tmp_path / "bundles"), full_id, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unpublished_bundle_and_a_wrong_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not published"):
        fetch_bundle(str(tmp_path), "a" * 64, tmp_path / "cache")
    with pytest.raises(ArtifactError, match="no bundle id"):
        fetch_bundle(str(tmp_path), "../../etc", tmp_path / "cache")
