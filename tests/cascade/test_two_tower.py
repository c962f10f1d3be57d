"""The two-tower model: pooling in the past only, the corrected loss, items known by content alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segue.cascade.settings import TwoTowerSettings
from segue.cascade.two_tower import TwoTower, in_batch_softmax, load_two_tower, save_two_tower
from segue.errors import ArtifactError


def make_model(**changes) -> TwoTower:
    torch.manual_seed(4)
    return TwoTower(5, 3, TwoTowerSettings(dimensions=8).model_copy(update=changes)).eval()


def test_pooling_equals_its_definition_and_sees_no_future():
    model = make_model()
    history = F.normalize(torch.randn(1, 4, 8), dim=-1)
    found = model.pooled_users(history)[0]
    slope = math.log1p(math.exp(float(model.slope.detach())))
    for t in range(4):
        scores = torch.stack([model.attention(history[0, s])[0] - slope * (t - s) for s in range(t + 1)])
        pooled = (scores.softmax(0)[:, None] * history[0, : t + 1]).sum(0)
        expected = F.normalize(pooled + model.user_mlp(pooled), dim=-1)
        torch.testing.assert_close(found[t], expected)
    torch.testing.assert_close(model.user_vectors(history, torch.tensor([2]))[0], found[1])


def test_an_unknown_item_is_what_its_content_says():
    model = make_model()
    content = torch.randn(2, 3)
    found = model.item_vectors(content, model.id_vectors(torch.tensor([-1, 4])))
    torch.testing.assert_close(found[0], F.normalize(model.project_content(content)[0], dim=-1))
    with torch.no_grad():
        model.item_embedding.weight.zero_()
    again = model.item_vectors(content, model.id_vectors(torch.tensor([-1, 4])))
    torch.testing.assert_close(again[0], found[0])
    assert not torch.allclose(again[1], found[1])


def test_the_in_batch_loss_is_corrected_by_how_often_an_item_is_drawn():
    torch.manual_seed(6)
    users, table = torch.randn(3, 8), torch.randn(5, 8)
    targets, columns = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    log_q = torch.tensor([0.2, 0.4, 0.2, 0.1, 0.1]).log()
    expected = []
    for user, target in zip(users, targets.tolist(), strict=True):
        corrected = {item: user @ table[item] - log_q[item] for item in range(5)}
        drawn = [corrected[item] for item in columns.tolist() if item != target]
        expected.append(torch.logsumexp(torch.stack([corrected[target], *drawn]), 0) - corrected[target])
    found = in_batch_softmax(users, table, targets, columns, log_q)
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_is_the_same_after_it_was_saved(tmp_path):
    model = make_model()
    save_two_tower(model, list("abcde"), tmp_path)
    loaded, ids = load_two_tower(tmp_path)
    content = torch.randn(5, 3)
    assert ids == list("abcde")
    rows = torch.arange(5)
    torch.testing.assert_close(
        loaded.item_vectors(content, loaded.id_vectors(rows)),
        model.item_vectors(content, model.id_vectors(rows)),
    )


def test_refuses_what_is_no_two_tower(tmp_path):
    (tmp_path / "config.json").write_text('{"model": "sasrec"}')
    with pytest.raises(ArtifactError, match="no two_tower"):
        load_two_tower(tmp_path)
