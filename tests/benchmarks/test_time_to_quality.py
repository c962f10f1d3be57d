"""The T5 behind the protocol is what the library computes, and the ratio is that of the curves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import time_to_quality
from benchmarks.t5_tiger import T5Shape, T5Tiger
from benchmarks.time_to_quality import HOUSE, T5
from segue.decoding.beam import beam_search
from tests.benchmarking import tiny as world
from tests.generative import tiny

SHAPE = T5Shape(width=16, layers=1, heads=2, head_width=8, inner=32, dropout=0.0)


def made() -> T5Tiger:
    bound = tiny.items()
    torch.manual_seed(0)
    model = T5Tiger(
        tiny.SETTINGS,
        codebook_id=bound.codebook_id,
        level_sizes=bound.level_sizes,
        content_dimensions=bound.vectors.shape[1],
        shape=SHAPE,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.bind(bound)
    return model


def library_log_probs(model: T5Tiger, history: list[int], codes: list[int]) -> torch.Tensor:
    """[L, vocabulary] by one call of the library for one history and one item."""
    tokens = [1] + [token for item in history for token in (model.bound.codes[item] + model.offsets).tolist()]
    start = [0] + [code + int(model.offsets[level]) for level, code in enumerate(codes[:-1])]
    found = model.t5(input_ids=torch.tensor([tokens]), decoder_input_ids=torch.tensor([start]))
    return found.logits[0].log_softmax(dim=-1)


def test_likelihoods_are_those_of_the_library_and_padding_is_not_read() -> None:
    model = made()
    histories = tiny.histories([3, 0, 5])
    items = torch.tensor([[2, 7], [4, 4], [11, 0]])
    found = model.log_likelihood(model.encode(tiny.wider(histories, 2)), items)
    for row, length in enumerate([3, 0, 5]):
        for place, item in enumerate(items[row].tolist()):
            codes = model.bound.codes[item].tolist()
            own = library_log_probs(model, histories.items[row, :length].tolist(), codes)
            expected = sum(own[level, code + int(model.offsets[level])] for level, code in enumerate(codes))
            assert found[row, place].item() == pytest.approx(expected.item(), abs=1e-4)


def test_a_beam_as_wide_as_the_catalogue_ranks_by_likelihood() -> None:
    model = made()
    context = model.encode(tiny.histories([3, 4]))
    items, scores = beam_search(model, context, model.trie, None, 24)
    torch.testing.assert_close(scores, model.log_likelihood(context, items), rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_mean_over_every_event_with_a_history() -> None:
    model = made()
    histories = tiny.histories([3, 1, 4])
    losses = []
    for row, length in enumerate([3, 1, 4]):
        items = histories.items[row, :length].tolist()
        for place in range(1, length):
            codes = model.bound.codes[items[place]]
            own = library_log_probs(model, items[:place], codes.tolist())
            losses.append(F.nll_loss(own, codes + model.offsets, reduction="sum"))
    found = model.loss(histories)["total"]
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)
    assert int(model.loss_events(histories)) == len(losses)


def test_the_mark_is_what_tiger_reached_where_it_did_not_reach_more() -> None:
    house = [(1.0, 0.01), (2.0, 0.03), (3.0, 0.05)]
    first, second = time_to_quality.rows({T5: [(10.0, 0.02), (30.0, 0.06)], HOUSE: house}, 0.035)
    assert (first["mark"], first["training seconds to the mark"], first["times the house model's"]) == (
        0.035,
        30.0,
        10.0,
    )
    assert second["training seconds to the mark"] == 3.0
    first, second = time_to_quality.rows(
        {T5: [(10.0, 0.02), (30.0, 0.025), (50.0, 0.02)], HOUSE: house}, 0.035
    )
    assert (first["mark"], first["times the house model's"]) == (0.025, 15.0)
    never = time_to_quality.rows({T5: [(10.0, 0.06)], HOUSE: [(1.0, 0.01)]}, 0.035)
    assert [row["times the house model's"] for row in never] == [None, None]


def test_both_are_trained_and_a_finished_curve_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, arguments = (
        world.world(validation_users=10),
        {
            "mark": 0.99,  # which nobody reaches: the minutes end it
            "minutes": 1e-6,
            "stretches": {HOUSE: 2, T5: 1},
            "seed": 1,
            "t5": {"learning_rate": 1e-3, "batch_events": 64},
            "shape": SHAPE,
        },
    )
    found = time_to_quality.measure(small, world.CHOSEN, tmp_path, **arguments)
    assert [row["model"] for row in found] == [T5, HOUSE]
    assert all(len(row["curve"]) == 1 and row["seconds trained"] > 0 for row in found)

    def refuse(*_: object) -> None:
        raise AssertionError("a finished curve was made again")

    monkeypatch.setattr(time_to_quality, "_train", refuse)
    assert time_to_quality.measure(small, world.CHOSEN, tmp_path, **arguments) == found
    # Other code has another curve: the package's, the benchmark's own, and that of the T5.
    other = tmp_path / "t5_tiger.py"
    other.write_text("# changed")
    for name, value in (
        ("code_version", lambda _: "other"),
        ("_SOURCES", {HOUSE: (other,), T5: time_to_quality._SOURCES[T5]}),
        ("_SOURCES", {HOUSE: time_to_quality._SOURCES[HOUSE], T5: (other,)}),
        ("processor", lambda: "another machine"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(time_to_quality, name, value)
            with pytest.raises(AssertionError, match="made again"):
                time_to_quality.measure(small, world.CHOSEN, tmp_path, **arguments)
