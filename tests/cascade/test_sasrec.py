"""SASRec against its equations written for one event at a time, and against what causality promises."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segue.cascade.sasrec import Sasrec, load_sasrec, log_q_softmax, save_sasrec
from segue.cascade.settings import SasrecSettings
from segue.errors import ArtifactError
from tests.cascade.histories import batch

N = 9


def make_model(**changes) -> Sasrec:
    torch.manual_seed(3)
    settings = SasrecSettings(dimensions=8, layers=2, heads=2, dropout=0.0, max_length=6).model_copy(
        update=changes
    )
    model = Sasrec(N, settings).eval()
    with torch.no_grad():  # away from the small start, so that differences show
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def reference(model: Sasrec, history: list[int]) -> torch.Tensor:
    """[T, d]: the paper's equations, a loop over layers, heads and events; no batch, no padding, no mask."""
    settings = model.settings
    start = settings.max_length - len(history)
    x = [
        model.item_embedding.weight[item] * math.sqrt(settings.dimensions)
        + model.position_embedding.weight[start + place]
        for place, item in enumerate(history)
    ]
    size = settings.dimensions // settings.heads
    for block in model.blocks:
        projected = [block.query_key_value(block.attention_norm(event)) for event in x]
        after = []
        for t, event in enumerate(x):
            heads = []
            for head in range(settings.heads):
                part = slice(head * size, (head + 1) * size)
                query = projected[t][: settings.dimensions][part]
                keys = [p[settings.dimensions : 2 * settings.dimensions][part] for p in projected[: t + 1]]
                values = [p[2 * settings.dimensions :][part] for p in projected[: t + 1]]
                weights = torch.stack([query @ key / math.sqrt(size) for key in keys]).softmax(0)
                heads.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
            event = event + block.attention_out(torch.cat(heads))
            hidden = F.relu(block.feed_forward_in(block.feed_forward_norm(event)))
            after.append(event + block.feed_forward_out(hidden))
        x = after
    return torch.stack([model.final_norm(event) for event in x])


def test_equals_the_equations_whatever_the_padding():
    model = make_model()
    histories = batch([1, 4, 2], [5, 5, 7, 0, 3, 8], [6])
    found = model.hidden(histories.items, histories.lengths)
    for row, history in enumerate([[1, 4, 2], [5, 5, 7, 0, 3, 8], [6]]):
        torch.testing.assert_close(
            found[row, : len(history)], reference(model, history), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_loss_is_the_mean_over_all_positions_of_all_histories(temperature):
    model = make_model(temperature=temperature)
    histories = batch([1, 4, 2], [5, 7], [6])
    losses = []
    for history in ([1, 4, 2], [5, 7]):
        # As in training: the input is the history but its last event, and stands at the end of the window.
        users = model.scaled(reference(model, history[:-1]))
        losses += F.cross_entropy(
            users @ model.item_vectors().T, torch.tensor(history[1:]), reduction="none"
        ).tolist()
    assert model.loss(histories)["total"].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_a_batch_without_anything_to_predict_has_no_loss():
    model = make_model()
    assert model.loss(batch([1], [2]))["total"].item() == 0.0


def test_cosine_scores_lie_within_one_over_the_temperature():
    model = make_model(temperature=0.1)
    scores = model.user_vectors(batch([1, 2], [3])) @ model.item_vectors().T
    assert scores.abs().max() <= 10.0 + 1e-4


def test_all_items_as_negatives_once_make_the_sampled_loss_the_full_one():
    scores, targets = torch.randn(5, N), torch.randint(N, (5,))
    for row, target in enumerate(targets):
        others = torch.tensor([item for item in range(N) if item != target])
        log_proposal = torch.full((N - 1,), -math.log(N - 1))
        found = log_q_softmax(
            scores[row, target][None], scores[row, others][None], target[None], others, log_proposal
        )
        torch.testing.assert_close(found, F.cross_entropy(scores[row][None], target[None]))


def test_sampled_negatives_estimate_the_full_loss():
    torch.manual_seed(5)
    model = make_model(loss="sampled_softmax", negatives=4096)
    histories = batch([1, 4, 2], [5, 7, 8])
    full = Sasrec.loss(make_model(), histories)["total"]
    torch.testing.assert_close(model.loss(histories)["total"], full, rtol=0.03, atol=0.0)


def test_is_the_same_after_it_was_saved(tmp_path):
    model = make_model(temperature=0.2)
    save_sasrec(model, [f"i{item}" for item in range(N)], tmp_path)
    loaded, ids = load_sasrec(tmp_path)
    assert ids[3] == "i3"
    torch.testing.assert_close(loaded.user_vectors(batch([1, 2])), model.user_vectors(batch([1, 2])))


def test_refuses_what_is_no_sasrec(tmp_path):
    with pytest.raises(ArtifactError, match="missing"):
        load_sasrec(tmp_path)
    (tmp_path / "config.json").write_text('{"model": "two_tower"}')
    with pytest.raises(ArtifactError, match="no sasrec"):
        load_sasrec(tmp_path)
    with pytest.raises(ValueError, match="heads"):
        Sasrec(N, SasrecSettings(dimensions=9, heads=2))
