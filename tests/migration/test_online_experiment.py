"""Which exposures count, as the ledger goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from segue.migration.decide import Target
from segue.migration.online import About, online_evidence
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.online_users import OnlineUsers
from segue.migration.state_machine import StateMachine
from segue.schema import PathName, Stage
from segue.serving.store.attribution import EXPOSURES, FEEDBACK, attribute
from segue.serving.store.windows import user_windows
from tests.migration.builders import NOON, SETTINGS, bundle, machine, promote
from tests.migration.experiments import CONTENDER, INCUMBENT_ALONE, at_pilot


def running(machine: StateMachine) -> Experiment:
    found = running_experiment(machine.state)
    assert found is not None
    return found


def test_nothing_is_an_experiment_before_the_pilot(tmp_path: Path) -> None:
    empty = machine(tmp_path)
    assert running_experiment(empty.state) is None
    empty.bootstrap(INCUMBENT_ALONE)
    assert running_experiment(empty.state) is None


def test_a_pilot_compares_its_treatment_with_the_cascade(tmp_path: Path) -> None:
    found = running(at_pilot(tmp_path))
    assert (found.entry, found.target, found.stage) == (2, Target.HYBRID, Stage.PILOT)
    assert found.began_at == NOON.timestamp()
    assert found.baseline is not None
    assert (found.baseline.name, found.baseline.label) == ("control", "cascade")
    assert [arm.label for arm in found.contenders] == ["generative"]
    assert found.on_trial.facts == CONTENDER
    served = {(revision, arm) for revision, arm, _ in found.served}
    assert {(2, "control"), (2, "treatment")} <= served
    assert {revision for revision, _ in served} == {2}


def test_refreshes_go_on_with_it_and_another_stage_does_not(tmp_path: Path) -> None:
    found = at_pilot(tmp_path, SETTINGS.model_copy(update={"hybrid_path": PathName.BLENDED}))
    before = running(found)
    tomorrow = bundle("C")  # the same recipe and weights
    found.refresh(promote(Target.REFRESH_DATA, tomorrow), tomorrow)
    after = running(found)
    assert after.identity == before.identity
    assert after.served > before.served
    assert {(3, "treatment", "C"), (2, "treatment", "B")} <= after.served
    found.advance(promote(Target.HYBRID, tomorrow), tomorrow)
    hybrid = running(found)
    assert hybrid.identity != after.identity
    assert {revision for revision, *_ in hybrid.served} == {4}
    assert (hybrid.target, hybrid.on_trial.path) == (Target.FULL, PathName.BLENDED)
    found.advance(promote(Target.FULL, tomorrow), tomorrow)
    assert running(found).target is Target.FULL
    found.rollback(actor="segue", reason="a guardrail", experiment=True)
    back = running(found)
    assert back.stage is Stage.HYBRID
    # Back where it was: the stage's first revision counts on, the one in between never did.
    assert {revision for revision, *_ in back.served} == {4, 6}


def test_a_stage_in_between_never_counts_however_like_it_is(tmp_path: Path) -> None:
    """Hybrid as the pilot was: the same path and shares, holdback and interleaved lists."""
    alike = {"pilot_path": "blended", "hybrid_path": "blended", "pilot_share": 0.5, "hybrid_share": 0.5}
    settings = SETTINGS.model_validate(
        SETTINGS.model_dump() | alike | {"holdback_share": 0.05, "interleaved_share": 0.1}
    )
    found = at_pilot(tmp_path, settings)
    found.advance(promote(Target.HYBRID, CONTENDER), CONTENDER)
    assert {revision for revision, *_ in running(found).served} == {3}
    found.rollback(actor="segue", reason="a guardrail", experiment=True)
    back = running(found)
    assert back.stage is Stage.PILOT
    assert {(revision, arm) for revision, arm, _ in back.served} == {
        (revision, arm) for revision in (2, 4) for arm in ("holdback", "interleaved", "control", "treatment")
    }


def test_other_shares_are_another_experiment(tmp_path: Path) -> None:
    found = at_pilot(tmp_path, SETTINGS.model_copy(update={"pilot_share": 0.05}))
    before = running(found)
    found.advance(promote(Target.HYBRID, CONTENDER), CONTENDER)
    wider = machine(tmp_path, SETTINGS.model_copy(update={"pilot_share": 0.3}))
    wider.demote(actor="a person", reason="not yet")
    after = running(wider)
    assert (after.entry, after.stage, after.began_at) == (before.entry, Stage.PILOT, before.began_at)
    assert {revision for revision, *_ in after.served} == {4}
    assert after.identity != before.identity
    tomorrow = bundle("C")
    wider.refresh(promote(Target.REFRESH_DATA, tomorrow), tomorrow)
    assert running(wider).identity == after.identity
    assert {revision for revision, *_ in running(wider).served} == {4, 5}


def test_pooled_periods_of_different_shares_show_no_effect_where_there_is_none(tmp_path: Path) -> None:
    """5 % treated in a bad week, then 30 % in a good one, and in neither week any difference between the arms."""
    found = at_pilot(tmp_path, SETTINGS.model_copy(update={"pilot_share": 0.05}))
    found.advance(promote(Target.HYBRID, CONTENDER), CONTENDER)
    wider = machine(tmp_path, SETTINGS.model_copy(update={"pilot_share": 0.3}))
    wider.demote(actor="a person", reason="not yet")
    experiment = running(wider)
    random = np.random.default_rng(0)
    rows, clicked = [], []
    for revision, week, treated, ctr in ((2, 0, 0.05, 0.05), (4, 1, 0.3, 0.15)):
        for user in range(4000):
            shown = {
                "exposure_id": f"{week}-{user}", "user_hash": f"u{week}-{user}", "bundle": "B",
                "arm": "treatment" if user < 4000 * treated else "control", "path": "cascade",
                "deployment": revision, "item_ids": list("abcdefghij"), "latency_ms": 10.0,
                "sequence": len(rows), "shown_at": NOON.timestamp() + 7e5 * week + user,
            }  # fmt: skip
            rows.append(shown)
            clicked += [
                {"feedback_id": f"{item}{week}-{user}", "exposure_id": shown["exposure_id"], "item_id": item,
                 "sequence": len(clicked) + place, "kind": "click", "happened_at": shown["shown_at"],
                 "received_at": shown["shown_at"]}
                for place, item in enumerate("abcdefghij"[: random.binomial(10, ctr)])
            ]  # fmt: skip
    exposures = pl.DataFrame(rows, schema=EXPOSURES, orient="row")
    attributed = attribute(exposures, pl.DataFrame(clicked, schema=FEEDBACK, orient="row"))
    counted = user_windows(
        exposures, attributed, served=experiment.served, past=experiment.past, seconds=60.0
    )
    users = OnlineUsers(
        feedback=counted, serving=counted, assigned=dict(counted.group_by("arm").len().iter_rows())
    )
    evidence = online_evidence(experiment, users, SETTINGS, About("toy", "s", "c")).evidence
    (ctr,) = [one for one in evidence if one.metric == "ctr" and one.is_difference]
    (ratio,) = [one for one in evidence if one.metric == "sample_ratio_deviation"]
    assert ctr.n == 4000
    assert ctr.low is not None
    assert ctr.high is not None
    assert ctr.low < 0 < ctr.high
    assert ratio.low == 0.0


def test_another_recipe_begins_anew(tmp_path: Path) -> None:
    found = at_pilot(tmp_path)
    before = running(found)
    found.abandon(actor="a person", reason="another idea")
    assert running_experiment(found.state) is None
    other = bundle("D", model="M2", recipe="R2")
    found.advance(promote(Target.PILOT, other), other)
    after = running(found)
    assert after.on_trial.facts.recipe == "R2"
    assert not before.served & after.served


def test_lists_of_the_recipe_before_never_count_though_stage_paths_and_shares_are_the_same(
    tmp_path: Path,
) -> None:
    """At stage full a recipe gives way to its canary, and the arms are again what they were."""
    found = at_pilot(tmp_path, SETTINGS.model_copy(update={"holdback_share": 0.05}))
    for target in (Target.HYBRID, Target.FULL):
        found.advance(promote(target, CONTENDER), CONTENDER)
    before = running(found)
    other = bundle("D", model="M2", recipe="R2")
    found.canary(promote(Target.REFRESH_RECIPE, other, "begins"), other)
    found.refresh(promote(Target.REFRESH_RECIPE, other, "takes over"), other)
    after = running(found)
    assert [(arm.name, arm.path, arm.share) for arm in after.arms] == [
        (arm.name, arm.path, arm.share) for arm in before.arms
    ]
    assert (after.entry, after.stage, after.on_trial.facts) == (before.entry, Stage.FULL, other)
    assert {revision for revision, *_ in before.served} == {4}
    assert {revision for revision, *_ in after.served} == {6}
    assert after.identity != before.identity


def test_a_canary_of_another_incumbent_goes_by_its_name(tmp_path: Path) -> None:
    found = machine(tmp_path)
    found.bootstrap(INCUMBENT_ALONE)
    other = bundle("E", model=None, incumbent="incumbent-2")
    found.canary(promote(Target.CANARY_INCUMBENT, other), other)
    canary = running(found)
    assert [arm.label for arm in canary.contenders] == ["canary"]
    assert canary.baseline is not None
    assert canary.baseline.label == "cascade"
    assert canary.on_trial.facts == other
