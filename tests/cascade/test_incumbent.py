"""An incumbent's folder: fitted, refitted, kept over new data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from segue.artifacts import hash_files
from segue.cascade import incumbent, load_cascade, load_paths
from segue.cascade.incumbent import (
    fit_incumbent,
    item_content,
    read_incumbent,
    refit_incumbent,
    refresh_incumbent,
)
from segue.cascade.study import train_sasrec, tune_sasrec
from segue.errors import ArtifactError, DataError
from segue.items import ItemVectors
from segue.paths import ListRules

from .conftest import World, make_content, make_items, make_sequences, request


def fit(world: World, folder: Path, **changes):
    folder.mkdir()
    given = {
        "items": world.items,
        "sequences": world.sequences,
        "content": world.content,
        "settings": world.settings,
        "progress": lambda text: None,
    }
    return fit_incumbent(folder, **(given | changes))


def test_equal_inputs_give_equal_bytes_also_when_it_was_interrupted(world, tmp_path):
    class Killed(Exception):
        pass

    def kill_in_the_second_trial(text: str) -> None:
        if "trial 2: epoch 3" in text:
            raise Killed

    checkpoints = tmp_path / "checkpoints"
    with pytest.raises(Killed):
        fit(world, tmp_path / "first", checkpoints=checkpoints, progress=kill_in_the_second_trial)
    fit(world, tmp_path / "second", checkpoints=checkpoints)
    assert hash_files(tmp_path / "second") == hash_files(world.folder)


def test_records_every_trial_and_keeps_the_best(world):
    trials = world.facts["trials"]
    assert [trial["number"] for trial in trials] == [0, 1]
    assert trials[0]["settings"]["learning_rate"] == world.settings.sasrec.learning_rate
    best = max((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: trial["value"])
    assert world.facts["validation_ndcg_at_10"]["sasrec"] == best["value"]
    assert world.facts["settings"]["sasrec"] == best["settings"]
    assert best["value"] > 0.5  # the walks are easy


def test_a_refit_takes_the_chosen_settings_and_epochs_and_sees_all_events(world, tmp_path):
    facts = refit_incumbent(
        tmp_path,
        chosen=world.folder,
        items=world.items,
        sequences=world.sequences,
        content=world.content,
        settings=world.settings,
        progress=lambda text: None,
    )
    assert facts["epochs"] == world.facts["epochs"]
    assert facts["settings"] == world.facts["settings"]
    assert facts["incumbent_id"] != world.facts["incumbent_id"]
    counts = load_cascade(tmp_path, world.items).popularity.counts
    assert counts.sum() == len(world.sequences.items)


def test_a_kept_incumbent_keeps_its_weights_and_identity_and_lists_new_items(world, tmp_path):
    ids = ["a13", *world.items.ids, "z14"]  # odd and even, before and behind the old ones
    items, content = make_items(ids), make_content(ids)
    walks = [[1, 3, 5, 0], [1, 3, 5, 0], [2, 4, 13]]
    facts = refresh_incumbent(
        tmp_path,
        kept=world.folder,
        items=items,
        sequences=make_sequences(walks, labelled=False),
        content=content,
        settings=world.settings,
    )
    assert facts["incumbent_id"] == world.facts["incumbent_id"]
    for file in ("sasrec/model.safetensors", "two_tower/model.safetensors"):
        assert (tmp_path / file).read_bytes() == (world.folder / file).read_bytes()
    cascade = load_cascade(tmp_path, items)
    assert cascade.popularity.counts[0] == 2
    old = load_cascade(world.folder, world.items)
    # The old items keep their scores under their new indices.
    [before] = old.recommend([request(0, 2)], 3, ListRules())
    [after] = cascade.recommend([request(1, 3)], 3, ListRules())
    assert [items.ids[item] for item in after.items] == [world.items.ids[item] for item in before.items]
    np.testing.assert_allclose(after.scores, before.scores, rtol=1e-5)
    # New items have content, no SASRec score, and their place behind.
    [whole] = cascade.recommend([request(1, 3)], len(ids), ListRules())
    assert {0, 13} <= set(whole.items.tolist())
    assert 0 not in whole.items[:3]
    assert not cascade.sasrec.known[[0, 13]].any()
    assert cascade.two_tower.known[[0, 13]].all()


def test_micro_batches_make_no_other_incumbent_and_a_refit_uses_them(world, tmp_path, monkeypatch):
    sasrec = world.settings.sasrec.model_copy(update={"accumulate": 2, "checkpoint_steps": 7})
    settings = world.settings.model_copy(update={"sasrec": sasrec})
    given = {
        "items": world.items,
        "sequences": world.sequences,
        "content": world.content,
        "settings": settings,
    }
    kept = refresh_incumbent(tmp_path / "kept", kept=world.folder, **given)
    assert kept["incumbent_id"] == world.facts["incumbent_id"]
    used = []
    monkeypatch.setattr(
        incumbent, "train_sasrec", lambda *args, **more: used.append(args[2]) or train_sasrec(*args, **more)
    )
    refit = refit_incumbent(tmp_path / "refit", chosen=world.folder, progress=lambda text: None, **given)
    assert refit["settings"] == world.facts["settings"]
    assert [(one.accumulate, one.checkpoint_steps) for one in used] == [(2, 7)]


def test_another_setting_of_recall_is_another_incumbent(world, tmp_path):
    facts = refresh_incumbent(
        tmp_path,
        kept=world.folder,
        items=world.items,
        sequences=world.sequences,
        content=world.content,
        settings=world.settings.model_copy(update={"recall_per_route": 5}),
    )
    assert facts["incumbent_id"] != world.facts["incumbent_id"]


def test_a_folder_serves_a_table_that_has_grown_since(world):
    items = make_items(["a13", *world.items.ids])
    paths = load_paths(world.folder, items)
    assert set(paths) == {"cascade", "sasrec", "item_knn", "two_tower", "popularity"}
    for path in paths.values():
        [found] = path.recommend([request(1, 3)], 5, ListRules())
        assert 0 not in found.items  # without content, only popularity could, and it has no event


def test_content_puts_blocks_of_unit_length_side_by_side():
    items = make_items(["a", "b"])
    text = ItemVectors(
        np.array([[3.0, 4.0], [9.0, 9.0]], dtype=np.float32), np.array([True, False]), items.ids
    )
    kind = ItemVectors(np.array([[2.0], [5.0]], dtype=np.float32), np.array([True, True]), items.ids)
    found = item_content([text, kind], items)
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8, 1.0], [0.0, 0.0, 1.0]])
    assert found.present.all()
    with pytest.raises(ArtifactError, match="run the embedding steps"):
        item_content([text], make_items(["a", "b", "c"]))


def test_refuses_data_that_it_cannot_learn_from(world, tmp_path):
    with pytest.raises(DataError, match="no regular user has a validation event"):
        fit(world, tmp_path / "a", sequences=make_sequences([[0, 1, 2]], labelled=False))
    with pytest.raises(DataError, match="two events"):
        fit(world, tmp_path / "b", sequences=make_sequences([[0, 1, 2]]))


def test_refuses_a_folder_that_is_not_whole_and_content_of_another_width(world, tmp_path):
    with pytest.raises(ArtifactError, match=r"incumbent\.json is missing"):
        load_cascade(tmp_path, world.items)
    with pytest.raises(ArtifactError, match=r"incumbent\.json is missing"):
        read_incumbent(tmp_path)
    wider = dataclasses.replace(world.content, vectors=np.ones((len(world.items), 3), dtype=np.float32))
    refresh_incumbent(
        tmp_path,
        kept=world.folder,
        items=world.items,
        sequences=world.sequences,
        content=wider,
        settings=world.settings,
    )
    with pytest.raises(ArtifactError, match="use the same encoders"):
        load_cascade(tmp_path, world.items)


def test_one_trial_is_the_settings_as_they_stand(world):
    settings = world.settings.sasrec.model_copy(update={"trials": 1, "epochs": 1})
    best, trials = tune_sasrec(
        world.sequences, len(world.items), settings, threads=1, progress=lambda text: None, checkpoints=None
    )
    assert len(trials) == 1
    assert best.model.settings == settings
