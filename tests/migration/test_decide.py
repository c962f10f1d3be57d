from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import ArtifactError, ConfigurationError
from segue.migration.decide import Decision, Outcome, Target, decide, newest, read_decision, write_decision
from segue.migration.evidence import Evidence
from segue.migration.gates import gate
from segue.migration.policy import Status, evaluate, lint, lint_policies, problems
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.schema import PathName
from tests.migration.builders import (
    NOON,
    OFFLINE,
    ONLINE,
    SETTINGS,
    VALID,
    bundle,
    evidence,
    online,
    requirement,
    serving,
)

OF_BLEND = requirement(path="blended")  # offline: hybrid serves it, and the pilot measures another path


def judge(requirement: Requirement, *found: Evidence, as_of: datetime | None = NOON) -> tuple[Status, str]:
    verdict = evaluate(requirement, found, as_of, recipe="R1", bundle="B", target="hybrid")
    return verdict.status, verdict.reason


def outcome(policy: Policy, found: list[Evidence], as_of: datetime | None = NOON) -> Decision:
    return decide(found, policy, as_of, target=Target.HYBRID, recipe="R1", bundle_id="B")


def test_the_interval_decides_and_not_the_estimate() -> None:
    assert judge(OFFLINE, evidence(estimate=0.0, low=-0.01, high=0.01))[0] is Status.MET
    assert judge(OFFLINE, evidence(estimate=0.0, low=-0.011, high=0.01))[0] is Status.UNDERPOWERED
    assert judge(OFFLINE, evidence(estimate=-0.05, low=-0.08, high=-0.02))[0] is Status.FAILED
    assert judge(VALID, serving("B", value=0.001))[0] is Status.FAILED
    assert judge(VALID, serving("B", low=0.0, high=0.01))[0] is Status.UNDERPOWERED


def test_what_is_not_measured_on_this_recipe_or_bundle_is_missing() -> None:
    assert judge(OFFLINE)[0] is Status.MISSING
    status, reason = judge(OFFLINE, evidence(recipe_a="R2"))
    assert status is Status.MISSING
    assert "another recipe" in reason
    assert judge(OFFLINE, evidence(recipe_a=None))[0] is Status.MISSING
    assert judge(VALID, serving("another"))[0] is Status.MISSING
    assert judge(OFFLINE, evidence(slice="new_users"), evidence(path_b="sasrec"))[0] is Status.MISSING


def test_what_a_pilot_shows_is_no_word_on_the_stage_after_the_next() -> None:
    assert judge(ONLINE, online())[0] is Status.MET
    status, reason = judge(ONLINE, online(gathered_for="full"))
    assert status is Status.MISSING
    assert reason.endswith("what was measured was gathered for full, not for hybrid")
    status, reason = judge(ONLINE, online(gathered_for=None))
    assert status is Status.MISSING
    assert reason.endswith("gathered for no gate, not for hybrid")
    harm = online(gathered_for="full", estimate=-0.1, low=-0.2, high=-0.05)
    assert outcome(Policy(requirements=(ONLINE,)), [harm]).outcome is Outcome.HOLD


def test_old_undated_future_and_non_finite_evidence_does_not_count() -> None:
    assert judge(ONLINE, online())[0] is Status.MET
    assert judge(ONLINE, online(), as_of=NOON + timedelta(days=8))[0] is Status.STALE
    assert judge(ONLINE, online(), as_of=NOON - timedelta(days=1))[0] is Status.STALE
    assert judge(ONLINE, online(), as_of=None)[0] is Status.STALE
    assert judge(ONLINE, online(measured_at=None))[0] is Status.STALE
    assert judge(ONLINE, online(low=float("nan")))[0] is Status.NON_FINITE
    assert judge(ONLINE, online(low=0.01, high=-0.01))[0] is Status.NON_FINITE
    assert judge(ONLINE, online(interval="bootstrap"))[0] is Status.NOT_VALID


def test_contradicting_evidence_counts_by_its_worst() -> None:
    assert judge(OFFLINE, evidence(), evidence(estimate=-0.1, low=-0.2, high=-0.05))[0] is Status.FAILED


def test_underpowered_says_how_many_users_it_would_take() -> None:
    # Half width 0.02 at 900 users, room 0.012: 900 * (0.02 / 0.012)^2.
    verdict = evaluate(
        OFFLINE,
        [evidence(estimate=0.002, low=-0.018, high=0.022)],
        NOON,
        recipe="R1",
        bundle="B",
        target="hybrid",
    )
    assert verdict.needed_n == 2500
    assert "2500 users" in verdict.reason
    # The estimate misses the margin: the usual sample size for a true difference of zero, (z sd / margin)^2.
    verdict = evaluate(
        OFFLINE,
        [evidence(estimate=-0.012, low=-0.03, high=0.006)],
        NOON,
        recipe="R1",
        bundle="B",
        target="hybrid",
    )
    assert verdict.needed_n == pytest.approx(((1.959964 + 0.841621) * 0.25 / 0.01) ** 2, abs=1)
    assert judge(requirement(minimum_n=1000), evidence())[0] is Status.UNDERPOWERED


def test_a_decision_is_a_value(tmp_path: Path) -> None:
    policy = Policy(requirements=(OFFLINE, VALID))
    body = [evidence(), serving("B")]
    first, second = outcome(policy, body, newest(body)), outcome(policy, body[::-1], newest(body))
    assert first.outcome is Outcome.PROMOTE
    assert first.sha256 == second.sha256
    write_decision(tmp_path / "decision.json", first)
    assert read_decision(tmp_path / "decision.json") == first
    text = (tmp_path / "decision.json").read_text()
    (tmp_path / "decision.json").write_text(text.replace("PROMOTE", "HOLD"))
    with pytest.raises(ArtifactError, match="changed after it was decided"):
        read_decision(tmp_path / "decision.json")


def test_a_broken_guardrail_asks_for_a_rollback_even_from_old_evidence() -> None:
    harm = online(estimate=-0.02, low=-0.03, high=-0.01)
    assert outcome(Policy(requirements=(ONLINE,)), [harm]).outcome is Outcome.ROLLBACK
    assert outcome(Policy(requirements=(OFFLINE, ONLINE)), [harm]).outcome is Outcome.ROLLBACK
    assert outcome(Policy(requirements=(ONLINE,)), [harm], None).outcome is Outcome.ROLLBACK


def test_reasons_begin_with_what_stands_in_the_way() -> None:
    found = outcome(Policy(requirements=(VALID, OFFLINE)), [serving("B")])
    assert found.outcome is Outcome.HOLD
    assert "missing" in found.reasons[0]
    assert len(found.reasons) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"margin": 1.5}, "never pass"),
        ({"margin": -1.0}, "never fail"),
        ({"metric": "seen_rate", "against": None, "direction": "at_most", "margin": 1.0}, "never fail"),
        ({"metric": "seen_rate", "against": None, "direction": "at_most", "margin": -0.1}, "never pass"),
        ({"metric": "latency_p99_ms", "against": None, "margin": 0.0}, "never fail"),
        ({"against": "generative"}, "with itself"),
        ({"maximum_age_days": 3.0}, "never pass"),
        ({"kind": "online", "maximum_age_days": 0.0}, "never pass"),
        ({"guardrail": True}, "never ask for ROLLBACK"),
    ],
)
def test_the_linter_refuses_what_decides_nothing(changes: dict[str, object], problem: str) -> None:
    policy = Policy(requirements=(requirement(**changes),))
    assert problem in " ".join(problems(policy))
    with pytest.raises(ConfigurationError, match="migration: pilot, requirement 0"):
        lint(policy, "pilot")
    assert outcome(policy, [evidence()]).outcome is Outcome.HOLD


def test_the_linter_refuses_an_empty_and_a_contradictory_policy() -> None:
    assert problems(Policy())
    assert outcome(Policy(), [evidence()]).outcome is Outcome.HOLD
    both = Policy(requirements=(requirement(margin=0.1), requirement(direction="at_most", margin=0.05)))
    assert "contradicts" in problems(both)[0]
    assert not problems(Policy(requirements=(OFFLINE, VALID, ONLINE)))


numbers = st.one_of(st.none(), st.floats(-1, 1), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
pieces = st.builds(
    lambda kind, estimate, low, high, n, recipe, days, interval: online(
        kind=kind, metric="ndcg@10" if kind == "offline" else "ctr", estimate=estimate, low=low, high=high,
        n=n,
        recipe_a=recipe, interval=interval,
        measured_at=None if days is None else (NOON - timedelta(days=days)).isoformat(),
    ),
    st.sampled_from(["offline", "online"]), numbers, numbers, numbers, st.integers(0, 5000),
    st.sampled_from(["R1", "R2", None]), st.one_of(st.none(), st.integers(-3, 20)),
    st.sampled_from(["bootstrap", "confidence_sequence"]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.lists(pieces, max_size=4))
def test_it_fails_closed(body: list[Evidence]) -> None:
    """PROMOTE only if, for every requirement, bound evidence is there and each piece of it is in order."""
    found = outcome(Policy(requirements=(OFFLINE, ONLINE)), body)
    if found.outcome is not Outcome.PROMOTE:
        return
    bound = [item for item in body if item.recipe_a == "R1"]
    assert {item.kind for item in bound} == {"offline", "online"}
    for item in bound:
        assert item.low is not None
        assert item.high is not None
        if item.kind == "online":
            assert item.n >= 1000
            assert item.interval == "confidence_sequence"
            assert item.measured_at is not None
            assert timedelta(0) <= NOON - datetime.fromisoformat(item.measured_at) <= timedelta(days=7)
        assert item.low >= (-0.01 if item.kind == "offline" else -0.005)


ORDER = [Outcome.ROLLBACK, Outcome.HOLD, Outcome.PROMOTE]


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-0.1, 0.1), st.floats(0, 0.05), st.floats(0, 0.05), st.floats(0, 0.1), st.floats(0, 1),
    st.integers(0, 3000), st.integers(0, 3000),
)  # fmt: skip
def test_better_evidence_never_makes_the_outcome_worse(
    estimate: float, below: float, above: float, gain: float, shrink: float, n: int, more: int
) -> None:
    policy = Policy(requirements=(ONLINE,))
    worse = online(estimate=estimate, low=estimate - below, high=estimate + above, n=n)
    better = online(
        estimate=estimate + gain,
        low=estimate + gain - below * shrink,
        high=estimate + gain + above,
        n=n + more,
    )
    ranks = [ORDER.index(outcome(policy, [item]).outcome) for item in (worse, better)]
    assert ranks[0] <= ranks[1]


def test_a_duration_is_exact_and_nothing_else_online_may_be() -> None:
    """Elapsed days are read off a clock: looking often does not make them wrong, as it would an estimate."""
    days = requirement(metric="duration_days", kind="online", margin=14.0, against=None)
    told = online(
        metric="duration_days", path_b=None, interval="exact", estimate=15.0, low=15.0, high=15.0, n=9000
    )
    rate = online(interval="exact")
    for rule, found, status in ((days, told, Status.MET), (ONLINE, rate, Status.NOT_VALID)):
        assert evaluate(rule, [found], NOON, recipe="R1", bundle=None, target="hybrid").status is status


def test_the_linter_knows_which_path_a_stage_serves() -> None:
    online = requirement(metric="ctr", kind="online", margin=-0.005)
    preference = requirement(metric="interleaving_preference", kind="online", margin=0.48, against=None)
    of_cascade = requirement(
        metric="fallback_rate", kind="online", direction="at_most", path="cascade", margin=0.1, against=None
    )
    sound = SETTINGS.model_copy(
        update={
            "hybrid": Policy(requirements=(online, preference, of_cascade, OF_BLEND)),
            "full": Policy(requirements=(online.model_copy(update={"path": "blended"}), preference)),
            "refresh_recipe": Policy(requirements=(OFFLINE, online.model_copy(update={"path": "blended"}))),
            "holdback_share": 0.05,
            "interleaved_share": 0.05,
            "hybrid_path": PathName.BLENDED,
        }
    )
    assert lint_policies(sound) == []
    (found,) = lint_policies(sound.model_copy(update={"full": Policy(requirements=(online,))}))
    assert "stage hybrid serves blended, not generative; write path: blended, or change hybrid_path" in found
    (found,) = lint_policies(
        sound.model_copy(update={"refresh_recipe": Policy(requirements=(OFFLINE, online))})
    )
    assert "stage full serves blended, not generative; write path: blended, or change hybrid_path" in found


def test_the_linter_knows_whom_the_shares_leave_none_of() -> None:
    clicks = requirement(metric="ctr", kind="online", path="blended", margin=-0.005, guardrail=True)
    preference = requirement(metric="interleaving_preference", kind="online", margin=0.48, against=None)
    measured_before = clicks.model_copy(update={"guardrail": False})  # at hybrid, which has a control
    sound = SETTINGS.model_copy(
        update={
            "hybrid": Policy(requirements=(preference, OF_BLEND)),
            "full": Policy(requirements=(clicks, measured_before)),
            "refresh_recipe": Policy(requirements=(OFFLINE, clicks)),
            "holdback_share": 0.05,
            "interleaved_share": 0.05,
            "hybrid_path": PathName.BLENDED,
        }
    )
    assert lint_policies(sound) == []
    guard, canary = lint_policies(sound.model_copy(update={"holdback_share": 0.0}))
    assert guard.startswith("full, requirement 0")
    assert "guards nothing once stage full is entered: holdback_share is 0" in guard
    assert canary.startswith("refresh_recipe, requirement 1")
    assert "can never pass: holdback_share is 0, so at stage full nobody is on the cascade" in canary
    (unseen,) = lint_policies(sound.model_copy(update={"interleaved_share": 0.0}))
    assert unseen.startswith("hybrid, requirement 0")
    assert "can never pass: interleaved_share is 0, so nobody sees interleaved lists" in unseen
    (beside,) = lint_policies(
        sound.model_copy(
            update={
                "refresh_recipe": Policy(
                    requirements=(OFFLINE, preference.model_copy(update={"path": "blended"}))
                )
            }
        )
    )
    assert "a canary runs beside no interleaved lists" in beside


def test_a_rollback_names_the_guardrail_that_is_broken_and_not_what_else_is_amiss() -> None:
    floor = ONLINE.model_copy(update={"margin": 0.0, "guardrail": False})
    guardrail = ONLINE.model_copy(update={"margin": -0.01})
    found = outcome(Policy(requirements=(floor, guardrail)), [online(estimate=-0.03, low=-0.04, high=-0.02)])
    assert found.outcome is Outcome.ROLLBACK
    assert "beyond the margin 0" in found.reasons[0]
    assert "beyond the margin -0.01" in found.broken_guardrail


def test_a_pilot_is_linted_against_the_path_that_it_serves() -> None:
    rerank = SETTINGS.model_copy(update={"pilot_path": PathName.RERANK, "hybrid": Policy()})
    offline, serving = (one for one in lint_policies(rerank) if one.startswith("pilot"))
    assert (
        "pilot asks for no offline evidence about rerank, which it would serve: write path: rerank" in offline
    )
    assert "no serving evidence about rerank" in serving
    about = Policy(
        requirements=tuple(one.model_copy(update={"path": "rerank"}) for one in SETTINGS.pilot.requirements)
    )
    sound = rerank.model_copy(update={"pilot": about})
    found = lint_policies(sound, evaluated=["rerank"], checked=["generative", "rerank"])
    assert not [one for one in found if one.startswith("pilot")]
    found = lint_policies(sound, evaluated=["blended"], checked=["generative"])
    told = [one for one in found if one.startswith("pilot")]
    assert [one.rpartition("add it to ")[2] for one in told] == ["evaluation.composed", "serving.check_paths"]


def test_most_users_get_no_path_of_which_nothing_was_asked() -> None:
    """The pilot measures its own path; of the blend nothing would have been asked before hybrid serves it."""
    sound = SETTINGS.model_copy(
        update={"hybrid_path": PathName.BLENDED, "hybrid": Policy(requirements=(ONLINE, OF_BLEND))}
    )

    def told(rules: MigrationSettings, evaluated: list[str] | None = None) -> list[str]:
        return [one for one in lint_policies(rules, evaluated=evaluated) if one.startswith("hybrid")]

    assert told(sound, ["blended"]) == []
    unasked = sound.model_copy(update={"hybrid": Policy(requirements=(ONLINE,))})
    (found,) = told(unasked)
    assert "no offline evidence about blended, which it would serve, and the pilot serves generative" in found
    assert told(unasked.model_copy(update={"hybrid_path": PathName.GENERATIVE})) == []
    (unmeasured,) = told(sound, ["rerank"])
    assert unmeasured.endswith("nothing measures blended (offline); add it to evaluation.composed")


def test_a_canary_is_asked_something_before_it_begins() -> None:
    """Its online requirements guard it; without others its gate could never fail, and the deployment refuses that."""
    of_canary = ONLINE.model_copy(update={"path": "canary"})
    rules = SETTINGS.model_copy(
        update={
            "refresh_recipe": Policy(requirements=(ONLINE,)),
            "canary_incumbent": Policy(requirements=(of_canary,)),
            "holdback_share": 0.05,
        }
    )
    for target in (Target.CANARY, Target.CANARY_INCUMBENT):
        with pytest.raises(ConfigurationError, match="has no requirement"):
            gate(target, [], bundle("D"), rules)
    recipe, incumbent = lint_policies(rules)
    assert recipe.startswith(
        "refresh_recipe asks for online evidence alone, and its canary would begin unasked"
    )
    assert incumbent.startswith("canary_incumbent asks for online evidence alone")
    asked = rules.model_copy(
        update={
            "refresh_recipe": Policy(requirements=(VALID, ONLINE)),
            "canary_incumbent": Policy(requirements=(VALID, of_canary)),
        }
    )
    assert lint_policies(asked) == []


def test_an_interval_that_has_not_begun_is_told_as_too_few_users() -> None:
    status, reason = judge(ONLINE, online(low=None, high=None, n=797))
    assert status is Status.NON_FINITE  # it holds like any other
    assert reason.endswith("too early; too few users have counted yet for this interval (n = 797)")
    assert "no number" in judge(ONLINE, online(estimate=None, low=None, high=None))[1]
