from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from segue.generative import neighbours
from segue.generative.house import HouseModel
from segue.generative.neighbours import Neighbours

from . import tiny


def content(count: int = 40, dimensions: int = 5) -> torch.Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(7))


def found(vectors: torch.Tensor, wanted: torch.Tensor) -> Neighbours:
    made = Neighbours.find(vectors, ~wanted, wanted)
    assert made is not None
    return made


def test_the_nearest_are_those_of_a_search_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, wanted = content(), torch.arange(40) % 4 == 0
    whole = found(vectors, wanted)
    monkeypatch.setattr(neighbours, "_CELLS", 64)  # so that it is done in several parts
    for made in (whole, found(vectors, wanted)):
        assert made.items.tolist() == torch.nonzero(wanted).flatten().tolist()
        for row, item in enumerate(made.items.tolist()):
            cosines = {
                other: float(F.cosine_similarity(vectors[item], vectors[other], dim=0))
                for other in range(40)
                if not wanted[other]
            }
            nearest = sorted(cosines, key=lambda other: -cosines[other])[: neighbours.COUNT]
            assert made.nearest[row].tolist() == nearest
            expected = torch.tensor([cosines[other] / neighbours.TEMPERATURE for other in nearest])
            torch.testing.assert_close(made.weights[row], expected.softmax(dim=0))


def test_of_many_known_items_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "SEARCHED", 10)
    made = found(content(), torch.arange(40) >= 38)
    assert made.nearest.shape == (2, 10)
    assert set(made.nearest.flatten().tolist()) == {place * 38 // 10 for place in range(10)}


def test_without_known_items_or_new_ones_there_are_no_neighbours() -> None:
    nobody = torch.zeros(40, dtype=torch.bool)
    assert Neighbours.find(content(), nobody, ~nobody) is None
    assert Neighbours.find(content(), ~nobody, nobody) is None


def test_known_items_stay_and_a_new_one_becomes_its_neighbours_mean() -> None:
    vectors, wanted = content(), torch.arange(40) >= 38
    made = found(vectors, wanted)
    unit, raw = F.normalize(content(dimensions=8), dim=-1), 3 * content(dimensions=8)
    scored, read = made.scored(unit), made.read(raw)
    torch.testing.assert_close(scored[:38], unit[:38])
    torch.testing.assert_close(read[:38], raw[:38])
    for row in range(2):
        mean = made.weights[row] @ unit[made.nearest[row]]
        torch.testing.assert_close(scored[38 + row], mean * mean.norm() ** (1 / 3 - 1))
        lengths = raw[made.nearest[row]].norm(dim=-1)
        pointing = made.weights[row] @ F.normalize(raw[made.nearest[row]], dim=-1)
        expected = F.normalize(pointing, dim=-1) * (made.weights[row] @ lengths)
        torch.testing.assert_close(read[38 + row], expected)


def test_neighbours_who_agree_are_taken_at_their_word_and_who_do_not_are_doubted() -> None:
    """The length of what is scored: 1 where all point the same way, less the more they differ."""
    made = found(torch.ones(4, 2), torch.tensor([False, False, False, True]))
    for angle in (0.0, 0.5, 1.5):
        turned = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
        turned[1] = torch.tensor([angle, 0.0]).cos() * torch.tensor([1.0, 0.0])
        turned[1, 1] = torch.tensor(angle).sin()
        length = float(made.scored(turned)[3].norm())
        assert length == pytest.approx(float(turned[:3].mean(dim=0).norm()) ** (1 / 3))
        assert (length > 0.999) == (angle == 0.0)


@pytest.mark.parametrize("name", ["house", "hstu"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooled_tower": True},
        {"code_tower": "own", "dense_tower": "identities", "code_tower_scores": True, "pooled_tower": True},
        {"code_tower": "content", "code_tower_scores": True},
    ],
)
@torch.no_grad()
def test_a_new_item_is_read_and_scored_as_its_neighbours_by_every_tower_with_identities(
    name: str, changes: dict[str, object]
) -> None:
    model = tiny.named(name, settings=tiny.SETTINGS.model_copy(update=changes))
    assert isinstance(model, HouseModel)
    before = model._tables()
    model.bind(tiny.items(30))
    made = found(tiny.items(30).vectors, torch.arange(30) >= 24)
    after = model._tables()

    def grown(rows: torch.Tensor) -> torch.Tensor:
        return F.pad(rows, (0, 0, 0, 6))

    torch.testing.assert_close(after.raw, made.read(grown(before.raw)))
    torch.testing.assert_close(after.items, made.scored(grown(before.items)))
    if before.pooled is not None and after.pooled is not None:
        torch.testing.assert_close(after.pooled, made.scored(grown(before.pooled)))
    if before.code_items is not None and after.code_items is not None:
        if changes["code_tower"] == "own":
            torch.testing.assert_close(after.code_items, made.scored(grown(before.code_items)))
        else:  # what knows items by content alone knows a new one as well
            torch.testing.assert_close(after.code_items.norm(dim=-1), torch.ones(30))


@torch.no_grad()
def test_what_has_no_content_has_no_neighbours_and_is_nobodys() -> None:
    bound = tiny.items(30)
    bound = replace(bound, present=bound.present & (torch.arange(30) != 3) & (torch.arange(30) != 27))
    model = tiny.model()
    model.bind(bound)
    model._tables()
    made = model._neighbours
    assert made is not None
    assert made.items.tolist() == [24, 25, 26, 28, 29]
    assert 3 not in made.nearest
    assert bool(model.item_vectors()[27].isfinite().all())


@torch.no_grad()
def test_a_new_item_that_is_trained_on_has_an_identity_and_needs_no_neighbours() -> None:
    model = tiny.model(tiny.items(30))
    model._tables()
    assert model._neighbours is None
