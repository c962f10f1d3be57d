from __future__ import annotations

import numpy as np
import pytest

from segue.blending.blended import BlendedPath
from segue.evaluation.blend import ByProposer, best_share, blend_by_share
from segue.evaluation.metrics import ndcg, relevance
from segue.evaluation.protocol import Cases
from segue.paths import ListRules
from tests.blending.shelves import ITEMS, cascade, generative, request


def test_a_share_s_figure_is_that_of_the_path_with_these_weights() -> None:
    random = np.random.default_rng(4)
    first, second = cascade(random.permutation(ITEMS)), generative(random.permutation(ITEMS))
    requests = [request(*random.choice(ITEMS, 3, replace=False)) for _ in range(25)]
    cases = Cases(requests, random.integers(0, ITEMS, 25), np.array(["regular"] * 25))
    found = blend_by_share(first, second, cases, ListRules(), shares=(0.25, 0.5, 0.8), k=5, batch_size=10)
    for share, figure in found.items():
        path = BlendedPath(
            cascade=first, generative=second, weights={"cascade": 1 - share, "generative": share}
        )
        lists = np.stack([one.items for one in path.recommend(requests, 5, ListRules())])
        assert figure == pytest.approx(ndcg(*relevance(lists, cases.targets), 5).mean())
    assert len(set(found.values())) > 1


def test_of_equal_shares_the_one_nearest_to_one_half_is_chosen() -> None:
    assert best_share({0.25: 0.1, 0.5: 0.1, 0.75: 0.1}) == 0.5
    assert best_share({0.25: 0.1, 0.75: 0.1}) == 0.25
    assert best_share({0.25: 0.1, 0.5: 0.1, 0.9: 0.2}) == 0.9


def test_tables_count_proposers_and_not_places() -> None:
    path = ByProposer(BlendedPath(cascade=cascade([1, 2]), generative=generative([2, 3])))
    [found] = path.recommend([request()], 3, ListRules())
    assert dict(zip(found.items.tolist(), found.sources, strict=True)) == {
        1: "cascade", 2: "cascade+generative", 3: "generative"
    }  # fmt: skip
