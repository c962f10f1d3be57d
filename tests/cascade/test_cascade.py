"""The cascade and its models as paths: rules, sources, batches, empty histories."""

from __future__ import annotations

import numpy as np
import pytest

from segue.cascade import load_cascade, load_paths
from segue.cascade.cascade import ROUTES
from segue.errors import DataError
from segue.paths import ListRules

from .conftest import World, request

NAMES = ("cascade", "sasrec", "item_knn", "two_tower", "popularity")


@pytest.fixture(scope="module")
def paths(world: World):
    return load_paths(world.folder, world.items)


@pytest.mark.parametrize("name", NAMES)
def test_every_path_obeys_the_rules(paths, name):
    allowed = np.ones(12, dtype=bool)
    allowed[8] = False
    rules = ListRules(allowed=allowed, excluded=np.array([6]))
    for found in paths[name].recommend([request(0, 2, 4), request(1)], 12, rules):
        assert not {6, 8} & set(found.items.tolist())
        assert len(set(found.items.tolist())) == len(found.items) == len(found.sources)
        assert (np.diff(found.scores) <= 0).all()
    [first, second] = paths[name].recommend([request(0, 2, 4), request(1)], 12, rules)
    assert not {0, 2, 4} & set(first.items.tolist())
    assert 1 not in second.items


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_each_request_gets_alone(paths, name):
    requests = [request(0, 2), request(), request(1, 3, 5, 7, 9, 1, 3), request(11)]
    together = paths[name].recommend(requests, 5, ListRules())
    for asked, expected in zip(requests, together, strict=True):
        [alone] = paths[name].recommend([asked], 5, ListRules())
        assert alone.items.tolist() == expected.items.tolist()
        np.testing.assert_allclose(alone.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_given_items_are_scored_by_the_model_that_ranks_them(paths):
    requests = [request(0, 2, 4), request(1, 3)]
    lists = paths["cascade"].recommend(requests, 4, ListRules())
    scores = paths["cascade"].score_alone(requests, [found.items for found in lists])
    for own, found in zip(scores, lists, strict=True):
        known = paths["cascade"].sasrec.known[found.items]
        assert known.any()
        np.testing.assert_allclose(own[known], found.scores[known], rtol=1e-4, atol=1e-5)
    readable = np.flatnonzero(paths["cascade"].sasrec.known)[:3]
    np.testing.assert_array_equal(paths["cascade"].score_alone([request()], [readable])[0], 0)
    with pytest.raises(DataError, match="item index 12"):
        paths["cascade"].score_alone([request(1)], [np.array([12])])


@pytest.mark.parametrize("name", NAMES)
def test_refuses_a_k_below_one_and_items_that_do_not_exist(paths, name):
    with pytest.raises(DataError, match="at least one"):
        paths[name].recommend([request(0)], 0, ListRules())
    with pytest.raises(DataError, match="item index 12"):
        paths[name].recommend([request(12)], 3, ListRules())
    assert paths[name].recommend([], 3, ListRules()) == []


def test_the_models_learn_what_comes_next(paths):
    for name in ("cascade", "sasrec"):
        [found] = paths[name].recommend([request(0, 2, 4)], 2, ListRules())
        assert 6 in found.items


def test_the_cascade_ranks_as_sasrec_over_the_whole_catalogue(paths, world):
    requests = [request(*history) for history in ([0, 2], [1, 3, 5], [9], [4, 6])]
    cascade = paths["cascade"].recommend(requests, 4, ListRules())
    sasrec = paths["sasrec"].recommend(requests, 4, ListRules())
    for one, other in zip(cascade, sasrec, strict=True):
        assert one.items.tolist() == other.items.tolist()
        assert all("sasrec" in source for source in one.sources)


def test_a_further_route_joins_recall_and_the_cascade_ranks(paths, world):
    requests = [request(0, 2), request(1, 3, 5), request()]
    # Of three requests' proposals some are known to the routes already, some seen, some not allowed.
    proposed = [np.array([4, 11, 0]), np.array([7, 11, 11]), np.array([10, 3])]
    allowed = np.ones(12, dtype=bool)
    allowed[3] = False
    rules = ListRules(allowed=allowed)
    narrow = load_cascade(world.folder, world.items)
    found = narrow.recommend_with(requests, 3, rules, {"generative": proposed})
    for asked, one, own in zip(requests, found, proposed, strict=True):
        assert not set(asked.history.tolist()) & set(one.items.tolist())
        assert 3 not in one.items
        for item, source in zip(one.items.tolist(), one.sources, strict=True):
            assert ("generative" in source.split("+")) == (item in own)
    everything = [np.arange(12)] * 3
    wide = narrow.recommend_with(requests, 12, rules, {"generative": everything})
    for asked, one in zip(
        requests, wide, strict=True
    ):  # with all items proposed, all that may be shown are ranked
        assert len(one.items) == 12 - len({*asked.history.tolist(), 3})
        assert all("generative" in source for source in one.sources)


def test_what_the_ranker_scores_itself_no_further_route_brings_to_the_top(paths):
    """SASRec recalls its own best, so another route adds to the top nothing that SASRec knows."""
    requests = [request(0, 2), request(1, 3, 5), request(9)]
    plain = paths["cascade"].recommend(requests, 4, ListRules())
    more = paths["cascade"].recommend_with(requests, 4, ListRules(), {"generative": [np.arange(12)] * 3})
    assert [one.items.tolist() for one in plain] == [one.items.tolist() for one in more]


def test_a_route_must_be_further_and_whole(paths):
    cascade = paths["cascade"]
    with pytest.raises(DataError, match="'sasrec' is a recall route"):
        cascade.recommend_with([request(0)], 2, ListRules(), {"sasrec": [np.array([1])]})
    with pytest.raises(DataError, match="proposes for 1 requests, and there are 2"):
        cascade.recommend_with([request(0), request(1)], 2, ListRules(), {"generative": [np.array([1])]})
    with pytest.raises(DataError, match="item index 12"):
        cascade.recommend_with([request(0)], 2, ListRules(), {"generative": [np.array([12])]})


def test_an_empty_history_gets_what_is_popular(paths):
    [found] = paths["cascade"].recommend([request()], 5, ListRules())
    [popular] = paths["popularity"].recommend([request()], 5, ListRules())
    assert found.items.tolist() == popular.items.tolist()
    assert set(found.sources) == {"popularity"}
    [nothing] = paths["sasrec"].recommend([request()], 5, ListRules())
    assert nothing.items.size == 0


def test_a_k_beyond_the_catalogue_gives_all_that_may_be_shown(paths):
    [found] = paths["cascade"].recommend([request(0, 2)], 50, ListRules())
    assert sorted(found.items.tolist()) == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_each_route_proposes_no_more_than_asked_and_only_what_is_allowed(world):
    found = load_cascade(world.folder, world.items).recall([request(0, 2)], ListRules(), per_route=3)
    assert set(found) == set(ROUTES)
    for proposed in found.values():
        assert proposed.shape == (1, 3)
        assert not {0, 2} & set(proposed[0].tolist())
