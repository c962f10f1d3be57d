"""Quality, drift, insertion by hand and comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import BindingError, DataError
from segue.tokenizers.codebook import EncoderIdentity
from segue.tokenizers.drift import drift_report, nothing_kept
from segue.tokenizers.insertion import compare, insert_vectors
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.quality import codes_quality, heldout_error, neighbour_agreement, plot_usage
from segue.tokenizers.settings import DriftSettings, TokenizerSettings

from .examples import ENCODERS, SMALL, codebook, modalities

ROOMY = SMALL.model_copy(update={"level_sizes": (6, 4, 16)})
BOOK = codebook(60, ROOMY)


def build(count: int = 60) -> ItemMap:
    given_items = modalities(count)
    return ItemMap.build(BOOK, given_items["text"].item_ids, *BOOK.fuse(given_items))


def grow(item_map: ItemMap, count: int, shift: float = 0.0) -> ItemMap:
    new = modalities(count, seed=2, first=1000)
    vectors, present = BOOK.fuse(new)
    return item_map.insert(BOOK, new["text"].item_ids, (vectors + shift).astype(np.float32), present)


HELD_OUT = heldout_error(BOOK.fuse(modalities(60))[0], ROOMY)


def report(
    current: ItemMap,
    kept: ItemMap,
    events: int = 100,
    trained_items: list[str] | None = None,
    **changed: float,
) -> dict[str, object]:
    return drift_report(
        codebook=BOOK,
        current=current,
        kept=kept,
        trained_items=kept.item_ids if trained_items is None else trained_items,
        events=events,
        kept_events=100,
        heldout_error=HELD_OUT,
        settings=DriftSettings(**changed),
    )


@given(seed=st.integers(0, 1000), k=st.integers(1, 30))
@settings(max_examples=10, deadline=None)
def test_neighbour_agreement_equals_brute_force(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, first = rng.normal(size=(25, 3)).astype(np.float32), rng.integers(0, 3, 25)
    shares = []
    for row in range(25):
        others = [other for other in range(25) if other != row]
        others.sort(key=lambda other: float(((vectors[row].astype(float) - vectors[other]) ** 2).sum()))
        shares.append(np.mean([first[other] == first[row] for other in others[:k]]))
    assert np.isclose(neighbour_agreement(vectors, first, k, 0), np.mean(shares))


def test_quality_counts_what_the_codes_show() -> None:
    vectors = np.array([[0.0] * 6, [0.0] * 6, [1.0] * 6, [2.0] * 6], dtype=np.float32)
    codes = np.array([[0, 1], [0, 1], [0, 2], [3, 0]])
    quality = codes_quality(BOOK, vectors, codes, neighbours=1, seed=0)
    assert quality["unique_rate"] == 0.75
    assert quality["collisions"] == 2
    assert quality["items_per_prefix"] == {"1": 2, "2": 1}
    assert quality["levels"][0]["in_use"] == 2
    assert np.isclose(quality["levels"][0]["entropy_bits"], 0.811278, atol=1e-6)
    assert np.isclose(quality["levels"][1]["perplexity"], 2**1.5, atol=1e-5)
    assert quality["neighbour_agreement"] == 0.75  # the last item's neighbour has another first code


def test_quality_of_real_codes_beats_chance_and_the_plot_is_a_picture(tmp_path: Path) -> None:
    item_map = build()
    quality = codes_quality(BOOK, item_map.vectors, item_map.codes, neighbours=5, seed=0)
    assert quality["neighbour_agreement"] > 2 * quality["neighbour_agreement_by_chance"]
    assert 0 < quality["reconstruction_error"] < 0.5
    assert len(quality["levels"]) == 3
    plot_usage(item_map.codes, BOOK.level_sizes, tmp_path / "new" / "usage.png")
    assert (tmp_path / "new" / "usage.png").read_bytes().startswith(b"\x89PNG")


def test_held_out_items_are_described_worse_than_the_codebooks_own() -> None:
    vectors, _ = BOOK.fuse(modalities(60))
    own = codes_quality(BOOK, vectors, BOOK.encode(vectors), neighbours=5, seed=0)["reconstruction_error"]
    assert HELD_OUT is not None
    assert own < HELD_OUT < 1
    assert heldout_error(vectors[:40], SMALL) is None
    assert heldout_error(np.ones((60, 3), dtype=np.float32), SMALL) is None


def test_drift_keeps_what_has_not_moved() -> None:
    item_map = build()
    assert report(item_map, item_map)["verdict"] == "keep"
    assert nothing_kept(["codebook"], DriftSettings())["verdict"] == "nothing_kept"
    assert nothing_kept(["codebook"], DriftSettings())["kept"] is False


def test_drift_by_items_or_events_asks_for_a_retrain() -> None:
    kept = build(40)
    grown = grow(kept, 19)
    found = report(grown, kept, max_new_item_share=0.3)
    assert found["verdict"] == "retrain"
    assert found["figures"]["new_item_share"] == round(19 / 59, 6)  # type: ignore[index]
    assert report(grown, kept, max_new_item_share=0.33)["verdict"] == "keep"
    assert report(kept, kept, events=126)["verdict"] == "retrain"
    assert report(kept, kept, events=124)["verdict"] == "keep"
    assert report(kept, kept, events=90)["figures"]["new_events"] == 0  # type: ignore[index]


def test_items_inserted_day_by_day_add_up_until_the_next_training() -> None:
    trained = build(40)
    yesterday = grow(trained, 10)
    today = grow(trained, 20)
    assert report(today, yesterday)["verdict"] == "keep"  # what a day alone would say
    found = report(today, yesterday, trained_items=trained.item_ids, max_inserted_share=1.0)
    assert found["figures"]["new_items"] == 20  # type: ignore[index]
    assert found["verdict"] == "retrain"


def test_drift_of_the_space_or_want_of_room_asks_for_a_new_codebook() -> None:
    kept = build(40)
    far = report(grow(kept, 20, shift=2.0), kept)
    assert far["verdict"] == "new_codebook"
    assert "distance_ratio" in far["reasons"][0]  # type: ignore[index]
    few = report(grow(kept, 20, shift=2.0), kept, min_inserted_items=21, max_full_prefix_share=1.0)
    assert few["verdict"] == "retrain"
    assert few["figures"]["distance_ratio"] is None  # type: ignore[index]
    near = report(grow(kept, 20), kept, max_new_item_share=1.0)
    assert near["verdict"] == "keep"
    assert report(grow(kept, 20), kept, max_inserted_share=0.3)["verdict"] == "new_codebook"
    tight = {"max_full_prefix_share": 0.2, "max_inserted_share": 1.0}
    full = report(grow(kept, 200), kept, **tight)
    assert full["verdict"] == "new_codebook"
    assert full["reasons"][0].startswith("full_prefix_share")  # type: ignore[index]


def test_drift_refuses_maps_of_another_codebook() -> None:
    other = codebook(60, TokenizerSettings(level_sizes=(5, 4, 4), dimensions=6))
    with pytest.raises(BindingError, match="belongs to codebook"):
        drift_report(
            codebook=other,
            current=build(),
            kept=build(),
            trained_items=[],
            events=1,
            kept_events=1,
            heldout_error=None,
            settings=DriftSettings(),
        )


def test_items_are_inserted_from_content_alone_and_known_ones_keep_their_codes() -> None:
    item_map = build()
    new = modalities(5, seed=2, first=58)  # i0058 and i0059 are known
    grown, report = insert_vectors(BOOK, item_map, {"text": new["text"]}, ENCODERS)
    assert (report["inserted"], report["known"], report["revision"]) == (3, 2, 2)
    assert report["items"]["i0058"] == item_map.codes[58].tolist()
    assert report["free"] == BOOK.capacity - 63
    assert grown.present.all()
    assert insert_vectors(BOOK, grown, {"text": new["text"]}, ENCODERS)[1]["revision"] == 2


def test_insertion_refuses_other_encoders_and_items_without_content() -> None:
    new = modalities(5, seed=2, first=58)
    encoders = {**ENCODERS, "text": EncoderIdentity(name="other", weights_sha256="0")}
    with pytest.raises(BindingError, match="text vectors come from other"):
        insert_vectors(BOOK, build(), {"text": new["text"]}, encoders)
    with pytest.raises(DataError, match="none of the codebook's modalities"):
        insert_vectors(BOOK, build(), {"image": new["text"]}, ENCODERS)


def test_compare_counts_churn_by_level(tmp_path: Path) -> None:
    first = build(50)
    grow(first, 10).save(tmp_path / "grown")
    first.save(tmp_path / "first")
    same = compare(tmp_path / "first", tmp_path / "grown")
    assert (same["churn"], same["common_items"], same["only_second"]) == (0.0, 50, 10)
    other_book = codebook(60, TokenizerSettings(level_sizes=(6, 4, 4), dimensions=6, seed=1))
    given_items = modalities(50)
    other = ItemMap.build(other_book, given_items["text"].item_ids, *other_book.fuse(given_items))
    other.save(tmp_path / "other")
    found = compare(tmp_path / "first", tmp_path / "other")
    assert not found["same_codebook"]
    assert found["churn"] == np.mean((first.codes != other.codes).any(axis=1))
    assert found["churn_by_level"] == (first.codes != other.codes).mean(axis=0).tolist()
    assert found["churn_by_prefix"] == sorted(found["churn_by_prefix"])


def test_agreement_sees_through_the_names_of_codes(tmp_path: Path) -> None:
    first = build(50)
    first.save(tmp_path / "first")
    renamed = first.codes.copy()
    renamed[:, 0] = (renamed[:, 0] + 1) % 6
    replace(first, codes=renamed).save(tmp_path / "renamed")
    shuffled = replace(first, codes=first.codes[np.random.default_rng(0).permutation(50)])
    shuffled.save(tmp_path / "shuffled")
    found = compare(tmp_path / "first", tmp_path / "renamed")
    assert found["churn_by_level"][0] == 1.0
    assert found["agreement_by_prefix"] == [1.0, 1.0]
    assert abs(compare(tmp_path / "first", tmp_path / "shuffled")["agreement_by_prefix"][0]) < 0.2
    first.retire(first.item_ids).save(tmp_path / "nobody")
    assert compare(tmp_path / "first", tmp_path / "nobody")["agreement_by_prefix"] == [None, None]
