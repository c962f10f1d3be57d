from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from segue.generative import neighbours
from segue.generative.house import HouseModel
from segue.generative.neighbours import Neighbours
from segue.protocols import BoundItems

from . import tiny

ITEMS = 70
NEW = torch.arange(ITEMS) % 7 == 0
PRESENT = torch.ones(ITEMS, dtype=torch.bool)


def content(dimensions: int = 5) -> torch.Tensor:
    """Alike, so that no neighbour's weight is next to nothing."""
    generator = torch.Generator().manual_seed(7)
    return 3 + torch.randn(ITEMS, dimensions, generator=generator)


def found(vectors: torch.Tensor, new: torch.Tensor, present: torch.Tensor | None = None) -> Neighbours:
    made = Neighbours.find(vectors, torch.ones_like(new) if present is None else present, ~new)
    assert made is not None
    return made


def test_the_nearest_are_those_of_a_search_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = content()
    whole = found(vectors, NEW)
    searches = []
    topk = torch.Tensor.topk

    def counted(self: torch.Tensor, count: int, dim: int) -> object:
        searches.append(self.shape)
        return topk(self, count, dim)

    monkeypatch.setattr(torch.Tensor, "topk", counted)
    monkeypatch.setattr(neighbours, "_CELLS", 180)  # 60 known items: three new ones at a time
    in_parts = found(vectors, NEW)
    assert searches == [(3, 60), (3, 60), (3, 60), (1, 60)]
    for made in (whole, in_parts):
        assert made.items.tolist() == list(range(0, ITEMS, 7))
        for row, item in enumerate(made.items.tolist()):
            cosines = {
                other: float(F.cosine_similarity(vectors[item], vectors[other], dim=0))
                for other in range(ITEMS)
                if not NEW[other]
            }
            nearest = sorted(cosines, key=lambda other: -cosines[other])[:20]
            assert made.nearest[row].tolist() == nearest
            expected = torch.tensor([cosines[other] / 0.1 for other in nearest]).softmax(dim=0)
            torch.testing.assert_close(made.weights[row], expected)


def test_where_a_search_would_take_too_long_some_known_items_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "COSINES", 300)
    monkeypatch.setattr(neighbours, "LEAST", 20)
    known = torch.nonzero(~NEW).flatten()
    made = found(content(), NEW)  # 10 new ones: 30 of 60 known ones are looked at
    assert set(made.nearest.flatten().tolist()) <= set(known[::2].tolist())
    few = found(content()[:, :2], ~NEW)  # 60 new ones would have 5, but 20 are looked at, and there are 10
    assert few.nearest.shape == (60, 10)


def test_without_known_items_or_new_ones_there_are_no_neighbours() -> None:
    nobody = torch.zeros_like(NEW)
    assert Neighbours.find(content(), PRESENT, nobody) is None
    assert Neighbours.find(content(), PRESENT, ~nobody) is None
    assert Neighbours.find(content(), NEW, ~NEW) is None  # known ones without content


def test_known_items_stay_and_a_new_one_becomes_its_neighbours_mean() -> None:
    made = found(content(), NEW)
    unit, raw = F.normalize(content(8), dim=-1), 3 * content(8)
    read, scored = made.placed(raw)
    torch.testing.assert_close(scored[~NEW], unit[~NEW])
    torch.testing.assert_close(read[~NEW], raw[~NEW])
    for row, item in enumerate(made.items.tolist()):
        mean = made.weights[row] @ unit[made.nearest[row]]
        torch.testing.assert_close(scored[item], mean / mean.norm() * mean.norm() ** (1 / 3))
        lengths = raw[made.nearest[row]].norm(dim=-1)
        pointing = made.weights[row] @ F.normalize(raw[made.nearest[row]], dim=-1)
        expected = F.normalize(pointing, dim=-1) * (made.weights[row] @ lengths)
        torch.testing.assert_close(read[item], expected)


def test_neighbours_who_agree_count_and_who_do_not_are_doubted() -> None:
    """The length of what is scored: 1 where all point the same way, less the more they differ, 0 where they cancel out."""
    made = found(torch.ones(3, 2), torch.tensor([False, False, True]))
    lengths = []
    for angle in (0.0, 0.5, 1.5, torch.pi):
        one, other = torch.tensor([1.0, 0.0]), torch.tensor([angle, angle + torch.pi / 2]).cos()
        lengths.append(float(made.placed(torch.stack([one, other, one]))[1][2].norm()))
    assert lengths[0] == pytest.approx(1)
    assert lengths[1] == pytest.approx(torch.tensor(0.25).cos().item() ** (1 / 3))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[3] < 0.01


def test_nobody_is_near_an_item_without_content() -> None:
    vectors, present = content(), PRESENT.clone()
    present[7], vectors[14], present[1] = False, 0, False  # two new ones, and a known one
    made = found(vectors, NEW, present)
    known = torch.nonzero(~NEW & present).flatten()
    for row in (1, 2):
        assert made.nearest[row].tolist() == [int(known[place * len(known) // 20]) for place in range(20)]
        torch.testing.assert_close(made.weights[row], torch.full((20,), 0.05))
    assert 1 not in made.nearest
    told = found(content(), NEW)
    everybody = F.normalize(torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    _, scored = made.placed(everybody)
    assert float(scored[7].norm()) < 0.75
    assert bool(scored.isfinite().all())
    others = [row for row in range(10) if row not in (1, 2) and 1 not in told.nearest[row]]
    assert others
    assert torch.equal(made.weights[others], told.weights[others])


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

    torch.testing.assert_close(after.raw, made.placed(grown(before.raw))[0])
    torch.testing.assert_close(after.items, made.placed(grown(before.items))[1])
    if before.pooled is not None and before.pooled_items is not None:
        torch.testing.assert_close(after.pooled, made.placed(grown(before.pooled))[0])
        torch.testing.assert_close(after.pooled_items, made.placed(grown(before.pooled_items))[1])
    if before.code_items is not None and after.code_items is not None:
        if changes["code_tower"] == "own":
            torch.testing.assert_close(after.code_items, made.placed(grown(before.code_items))[1])
            torch.testing.assert_close(after.code_raw, made.placed(grown(before.code_raw))[0])
        else:  # what knows items by content alone knows a new one as well
            torch.testing.assert_close(after.code_items.norm(dim=-1), torch.ones(30))


def grown_items(*, retired: tuple[int, ...] = ()) -> BoundItems:
    bound = tiny.items(30)
    active = bound.active.clone()
    active[list(retired)] = False
    return replace(bound, active=active)


@torch.no_grad()
def test_a_new_item_that_was_retired_is_still_read_in_histories() -> None:
    model = tiny.model()
    model.bind(grown_items())
    batch = tiny.histories([4])
    batch.items[0, 2] = 27
    before = model.encode(batch).state
    model.bind(grown_items(retired=(27,)))
    torch.testing.assert_close(model.encode(batch).state, before)


@torch.no_grad()
def test_an_item_that_was_trained_on_needs_no_neighbours() -> None:
    assert tiny.model(tiny.items(30))._neighbours is None


def test_training_sees_what_the_tower_makes_of_an_item() -> None:
    model = tiny.model(settings=tiny.SETTINGS.model_copy(update={"identity_dropout": 0.0}))
    model.bind(tiny.items(30))
    made = model.tower.items(model._content, model.bound.codes, model._identity)
    model.train()
    torch.testing.assert_close(model._tables().raw, made)
    model.eval()
    assert not torch.allclose(model._tables().raw[24:], made[24:])


def test_gradients_flow_after_the_model_has_served() -> None:
    """Also where it was bound by a server, which thinks of no gradients and may compute in bf16."""
    model, other = tiny.model(), tiny.model()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        model.bind(grown_items())
        model.item_vectors()
    other.bind(grown_items())
    assert model._neighbours is not None
    assert other._neighbours is not None
    assert torch.equal(model._neighbours.weights, other._neighbours.weights)
    model.bind(grown_items())
    with torch.inference_mode():
        model.item_vectors()
    model.loss(tiny.histories([3, 5], 30))["total"].backward()  # type: ignore[no-untyped-call]
    assert model.tower.identity is not None
    assert model.tower.identity.grad is not None
