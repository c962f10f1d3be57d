"""Uniform, sticky, and of the fewest moves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from segue.migration.arms import stage_of, with_canary
from segue.migration.deployment import Deployment, Shadow
from segue.migration.settings import MigrationSettings
from segue.schema import PathName, Stage
from segue.serving.routing import arm_for, is_shadowed, position
from tests.migration.builders import bundle

B, D = bundle("B"), bundle("D", model="M3", recipe="R2")
USERS = [f"user {number}" for number in range(2000)]
LEVEL = 1e-4  # of the chi-square tests: their seeds are fixed, so they pass or fail for ever


def document(
    stage: Stage = Stage.PILOT, salt: str = "e1", *, canary: bool = False, **shares: object
) -> Deployment:
    rules = MigrationSettings.model_validate(shares)
    found = Deployment.model_validate(
        {
            "revision": 2, "parent": 1, "salt": salt, "lasting_salt": "for ever", "actor": "a", "reason": "",
            "at": "2026-01-01T00:00:00+00:00", **stage_of(stage, B, rules),
        }
    )  # fmt: skip
    return found.model_copy(update={"arms": with_canary(found, D, rules)}) if canary else found


def arms_of(deployment: Deployment, users: list[str] = USERS) -> dict[str, str]:
    return {user: arm_for(deployment, user).name for user in users}


def changes(before: Deployment, after: Deployment) -> Counter[tuple[str, str]]:
    """How many users went from which arm to which."""
    old, new = arms_of(before), arms_of(after)
    return Counter((old[user], new[user]) for user in USERS if old[user] != new[user])


@pytest.mark.parametrize("salt", ["segue", "segue:R1:2", "for ever", ""])
def test_users_are_spread_evenly_by_every_salt(salt: str) -> None:
    places = np.array([position(salt, f"u{number}") for number in range(20_000)])
    assert places.min() >= 0
    assert places.max() < 1
    assert chisquare(np.histogram(places, 50, (0, 1))[0]).pvalue > LEVEL


def test_every_arm_has_its_share_of_the_users() -> None:
    users = [f"customer-{number}" for number in range(40_000)]
    for deployment in (
        document(),
        document(Stage.HYBRID, holdback_share=0.1),
        document(Stage.FULL, canary=True),
        document(interleaved_share=0.09, pilot_share=0.3, holdback_share=0.0),
    ):
        found = Counter(arms_of(deployment, users).values())
        names = [arm.name for arm in deployment.arms]
        expected = [arm.share * len(users) for arm in deployment.arms]
        assert set(found) == set(names)
        assert chisquare([found[name] for name in names], expected).pvalue > LEVEL


def test_two_experiments_share_their_users_by_chance_alone() -> None:
    first, second = document(salt="e1", pilot_share=0.5), document(salt="e2", pilot_share=0.5)
    free = [user for user, arm in arms_of(first).items() if arm != "holdback"]
    table = Counter((arm_for(first, user).name, arm_for(second, user).name) for user in free)
    names = ("interleaved", "control", "treatment")
    assert chi2_contingency([[table[a, b] for b in names] for a in names]).pvalue > LEVEL
    # The same is true of who is held back: the experiment's arms have their shares among the others.
    held = Counter((position("e1", user) < 0.5, arm_for(first, user).name == "holdback") for user in USERS)
    assert chi2_contingency([[held[a, b] for b in (True, False)] for a in (True, False)]).pvalue > LEVEL


def test_the_held_back_are_the_same_whatever_runs() -> None:
    everything = [
        document(stage, salt, canary=canary, holdback_share=0.1)
        for stage, canary in ((Stage.PILOT, False), (Stage.HYBRID, False), (Stage.FULL, False), (Stage.FULL, True))
        for salt in ("e1", "e2")
    ]  # fmt: skip
    held = [{user for user, arm in arms_of(one).items() if arm == "holdback"} for one in everything]
    assert held[0]
    assert all(found == held[0] for found in held)


unit = st.floats(0.01, 0.97)


@settings(deadline=None, max_examples=20)
@given(unit, unit, st.sampled_from([0.0, 0.05, 0.3]), st.sampled_from([0.0, 0.1]))
def test_a_share_that_grows_moves_that_share_and_nobody_back(
    a: float, b: float, interleaved: float, held: float
) -> None:
    assume(a != b and max(a, b) + interleaved < 0.99)
    few, many = (
        document(share_of, pilot_share=share, hybrid_share=share, interleaved_share=interleaved, holdback_share=held)
        for share_of, share in ((Stage.PILOT, min(a, b)), (Stage.HYBRID, max(a, b)))
    )  # fmt: skip
    moved = changes(few, many)
    assert set(moved) <= {("control", "treatment")}
    # Exactly those between the two ends: by the salt's own count, and so about |b - a| of those not held back.
    free = [user for user, arm in arms_of(few).items() if arm != "holdback"]
    between = sum(1 - max(a, b) <= position("e1", user) < 1 - min(a, b) for user in free)
    assert abs(moved["control", "treatment"] - between) <= 1  # a share is written with nine digits
    assert moved["control", "treatment"] / len(free) == pytest.approx(abs(b - a), abs=0.05)
    assert set(changes(many, few)) <= {("treatment", "control")}


@settings(deadline=None, max_examples=15)
@given(st.floats(0, 0.4), st.floats(0, 0.4))
def test_so_it_is_with_the_interleaved_and_the_held_back(a: float, b: float) -> None:
    few, many = sorted((a, b))
    few_both, many_both = (document(interleaved_share=share, hybrid_share=0.5) for share in (few, many))
    assert set(changes(few_both, many_both)) <= {("control", "interleaved")}
    released = changes(document(holdback_share=many), document(holdback_share=few))
    assert {old for old, _ in released} <= {"holdback"}
    kept = changes(document(holdback_share=few), document(holdback_share=many))
    assert {new for _, new in kept} <= {"holdback"}


def test_a_whole_way_moves_nobody_twice() -> None:
    pilot, hybrid, full = (document(stage) for stage in (Stage.PILOT, Stage.HYBRID, Stage.FULL))
    assert set(changes(pilot, hybrid)) == {("control", "treatment")}
    assert set(changes(hybrid, full)) == {("control", "treatment"), ("interleaved", "treatment")}
    # A canary takes its own users from those who are treated, and gives them back.
    canary = document(Stage.FULL, "e2", canary=True)
    assert set(changes(full, canary)) == {("treatment", "canary")}
    assert set(changes(canary, document(Stage.FULL, "e2"))) == {("canary", "treatment")}


def test_a_pilot_of_one_scenario_leaves_every_other_request_alone() -> None:
    pilot = document(pilot_share=0.9, scenarios=["basket"], scenario="basket")
    assert Counter(arm_for(pilot, user, {"scenario": "basket"}).name for user in USERS) == Counter(
        arms_of(document(pilot_share=0.9)).values()
    )
    for context in (None, {}, {"scenario": "homepage"}, {"device": "basket"}):
        for user in (*USERS[:50], None):
            outside = arm_for(pilot, user, context)
            assert (outside.name, outside.bundle, outside.path.value) == ("outside", "B", "cascade")
    assert arm_for(pilot, None, {"scenario": "basket"}) == pilot.champion


def test_shadowed_users_stay_shadowed() -> None:
    def shadowed(rate: float, salt: str = "e1") -> set[str]:
        found = document().model_copy(
            update={
                "stage": Stage.CASCADE,
                "salt": salt,
                "shadow": Shadow(bundle="B", path=PathName.GENERATIVE, rate=rate),
            }
        )
        assert not is_shadowed(found, None)
        return {user for user in USERS if is_shadowed(found, user)}

    assert len(shadowed(0.2)) == pytest.approx(400, abs=72)  # 4 standard deviations
    assert shadowed(0.2) == shadowed(0.2, "e2")
    assert shadowed(0.1) < shadowed(0.2) < shadowed(1.0) == set(USERS)
    assert shadowed(0.0) == set()
    assert not is_shadowed(document(), USERS[0])


def test_a_document_of_an_earlier_version_keeps_its_users() -> None:
    old = {
        "revision": 2, "parent": 1, "stage": "full", "salt": "segue", "actor": "a", "reason": "",
        "at": "2026-01-01T00:00:00+00:00",
        "arms": [
            {"name": "control", "bundle": "B", "path": "cascade", "share": 0.05},
            {"name": "treatment", "bundle": "B", "path": "generative", "share": 0.95},
        ],
    }  # fmt: skip
    found = Deployment.model_validate(old)
    assert all((arm_for(found, user).name == "control") == (position("segue", user) < 0.05) for user in USERS)


def test_who_is_held_back_is_not_for_that_reason_shadowed() -> None:
    shadow = Shadow(bundle="B", path=PathName.GENERATIVE, rate=0.1)
    found = document(holdback_share=0.1).model_copy(update={"shadow": shadow})
    held = {user for user, arm in arms_of(found).items() if arm == "holdback"}
    shadowed = {user for user in USERS if is_shadowed(found, user)}
    assert 0 < len(held & shadowed) < 0.3 * len(held)  # one in ten, by chance
