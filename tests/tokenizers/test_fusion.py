from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segue.errors import BindingError, DataError
from segue.items import ItemVectors
from segue.tokenizers.fusion import PENALTIES, Fusion, ridge, select

from .examples import modalities

WEIGHTS = {"text": 1.0, "collaborative": 2.0}


def test_distances_are_those_of_the_weighted_modalities() -> None:
    given = modalities(40, cold=0.0)
    fusion = Fusion.fit(given, WEIGHTS, dimensions=13)
    vectors, present = fusion.fuse(given)
    assert present.all()
    parts = []
    for name in fusion.modalities:
        unit = given[name].vectors / np.linalg.norm(given[name].vectors, axis=1, keepdims=True)
        centred = unit - unit.mean(axis=0)
        parts.append(centred * WEIGHTS[name] / np.sqrt((centred**2).sum(axis=1).mean()))
        assert np.isclose((parts[-1] ** 2).sum(axis=1).mean(), WEIGHTS[name] ** 2, rtol=1e-4)
    joined = np.concatenate(parts, axis=1)
    expected = np.linalg.norm(joined[:, None] - joined[None], axis=2)
    found = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_axes_fall_in_variance_and_have_a_fixed_sign() -> None:
    given = modalities(40)
    fusion = Fusion.fit(given, WEIGHTS, dimensions=5)
    vectors, _ = fusion.fuse(given)
    variances = vectors.var(axis=0)
    assert vectors.shape == (40, 5)
    assert (np.diff(variances) <= 1e-6).all()
    assert (fusion.components[np.arange(5), np.abs(fusion.components).argmax(axis=1)] > 0).all()


def test_fewer_items_than_dimensions_reduces_the_dimensions() -> None:
    given = modalities(4, cold=0.0)
    assert Fusion.fit(given, WEIGHTS, dimensions=96).dimensions == 3
    assert Fusion.fit(modalities(50, cold=0.0), WEIGHTS, dimensions=96).dimensions == 13


def test_ridge_is_the_normal_equation_at_the_penalty_of_least_cross_validation_error() -> None:
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))
    y = x @ rng.normal(size=(4, 3)) + 0.5 * noise + 2.0
    coefficients, intercept = ridge(x, y)
    centred_x, centred_y = x - x.mean(axis=0), y - y.mean(axis=0)
    best = (np.inf, np.zeros((4, 3)))
    for penalty in PENALTIES:
        inverse = np.linalg.inv(centred_x.T @ centred_x + penalty * 30 * np.eye(4))
        w = inverse @ centred_x.T @ centred_y
        freedom = 30 - 1 - np.trace(centred_x @ inverse @ centred_x.T)
        best = min(
            best, (30 * ((centred_y - centred_x @ w) ** 2).sum() / freedom**2, w), key=lambda pair: pair[0]
        )
    np.testing.assert_allclose(coefficients, best[1], atol=1e-8)
    np.testing.assert_allclose(intercept, y.mean(axis=0) - x.mean(axis=0) @ coefficients)


def test_an_untouched_item_gets_the_collaborative_vector_that_its_content_predicts() -> None:
    given = modalities(120, cold=0.0)
    fusion = Fusion.fit(given, WEIGHTS, dimensions=13)
    true, _ = fusion.fuse(given)
    untouched = {
        **given,
        "collaborative": replace(given["collaborative"], present=np.zeros(120, dtype=bool)),
    }
    imputed, present = fusion.fuse(untouched)
    without = Fusion.fit({"text": given["text"]}, WEIGHTS, 13)
    assert present.all()
    assert without.coefficients.size == 0
    assert ((imputed - true) ** 2).sum() < 0.2 * ((true - true.mean(axis=0)) ** 2).sum()


def test_a_new_item_gets_its_vector_by_the_frozen_maps_whatever_comes_with_it() -> None:
    fusion = Fusion.fit(modalities(60), WEIGHTS, dimensions=6)
    new = modalities(30, seed=5, first=100)
    together, _ = fusion.fuse(new)
    alone, _ = fusion.fuse({name: select(vectors, np.array([7])) for name, vectors in new.items()})
    np.testing.assert_allclose(alone[0], together[7], atol=1e-6)


def test_an_item_without_any_modality_is_marked_and_gets_a_finite_vector() -> None:
    given = modalities(40, cold=0.0)
    for vectors in given.values():
        vectors.present[3] = False
    fused, present = Fusion.fit(given, WEIGHTS, 6).fuse(given)
    assert present.sum() == 39
    assert not present[3]
    assert np.isfinite(fused).all()


def test_a_vector_of_length_zero_counts_as_absent() -> None:
    given = {"text": modalities(40)["text"]}
    given["text"].vectors[2] = 0
    fused, present = Fusion.fit(given, WEIGHTS, 6).fuse(given)
    assert not present[2]
    assert np.isfinite(fused).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_names_its_item(value: float) -> None:
    given = modalities(40)
    given["text"].vectors[5, 1] = value
    with pytest.raises(DataError, match="text vector of item 'i0005' is not finite"):
        Fusion.fit(given, WEIGHTS, 6)


def test_items_that_are_all_alike_are_refused() -> None:
    same = ItemVectors(np.ones((9, 4), dtype=np.float32), np.ones(9, dtype=bool), [f"x{i}" for i in range(9)])
    with pytest.raises(DataError, match=r"all 9 items have the same vector .*'x0'"):
        Fusion.fit({"text": same}, WEIGHTS, 4)


def test_one_modality_that_is_the_same_for_all_items_carries_nothing() -> None:
    given = modalities(40, cold=0.0)
    ones = np.ones((40, 4), dtype=np.float32)
    plain, _ = Fusion.fit(given, WEIGHTS, 13).fuse(given)
    given["attribute"] = ItemVectors(ones, np.ones(40, dtype=bool), given["text"].item_ids)
    fused, _ = Fusion.fit(given, {**WEIGHTS, "attribute": 1.0}, 13).fuse(given)
    np.testing.assert_allclose(fused, plain, atol=1e-5)


def test_no_modality_with_a_weight_is_refused() -> None:
    with pytest.raises(DataError, match="modality_weights"):
        Fusion.fit(modalities(20), {"image": 1.0}, 4)


def test_other_dimensions_missing_modalities_and_other_items_are_refused() -> None:
    given = modalities(40)
    fusion = Fusion.fit(given, WEIGHTS, 6)
    wide = ItemVectors(np.ones((40, 9), dtype=np.float32), np.ones(40, dtype=bool), given["text"].item_ids)
    with pytest.raises(BindingError, match="9 dimensions"):
        fusion.fuse({**given, "text": wide})
    with pytest.raises(BindingError, match="collaborative is missing"):
        fusion.fuse({"text": given["text"]})
    with pytest.raises(BindingError, match="different items"):
        fusion.fuse({**given, "text": modalities(40, first=1)["text"]})


def test_pictures_weigh_what_they_are_told_and_an_absent_one_is_the_mean() -> None:
    given = modalities(60)
    random = np.random.default_rng(5)
    there = random.random(60) < 0.7
    pictures = np.where(there[:, None], random.normal(size=(60, 9)), 0).astype(np.float32)
    given["image"] = ItemVectors(pictures, there, list(given["text"].item_ids))

    def share(weight: float) -> float:
        """Of the fused distance, what the pictures decide."""
        fusion = Fusion.fit(given, {"text": 1.0, "collaborative": 1.0, "image": weight}, 22)
        blind = {
            **given,
            "image": ItemVectors(np.zeros_like(pictures), np.zeros(60, dtype=bool), given["text"].item_ids),
        }
        moved = fusion.fuse(given)[0] - fusion.fuse(blind)[0]
        # An absent picture stands at the mean: taking it away moves nothing but what content predicts.
        assert not moved[~there].any()
        return float((moved[there] ** 2).sum())

    assert share(2.0) == pytest.approx(4 * share(1.0), rel=0.35)
    assert list(Fusion.fit(given, {"text": 1.0, "image": 0.0}, 8).modalities) == ["text"]
