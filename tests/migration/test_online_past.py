"""What of a user's past may explain their clicks: nothing that an arm of the experiment can have moved."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from segue.migration.decide import Target
from segue.migration.deployment import CANARY, HOLDBACK, TREATMENT, Arm, Deployment
from segue.migration.online import About, online_evidence
from segue.migration.online_experiment import Experiment, Past, running_experiment
from segue.migration.online_users import OnlineUsers
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import StateMachine
from segue.schema import PathName, Stage
from segue.serving.routing import arm_for
from segue.serving.store.attribution import EXPOSURES
from segue.serving.store.windows import user_windows
from tests.migration.builders import NOON, SETTINGS, bundle, ledger, promote, requirement
from tests.migration.experiments import CONTENDER, INCUMBENT_ALONE

ANOTHER = bundle("D", model="M2", recipe="R2")
DAY = 86_400.0


def daily(folder: Path, settings: MigrationSettings = SETTINGS) -> StateMachine:
    """A machine whose every revision is a day later than the one before: revision n is of day n."""
    rows = ledger(folder)

    def now() -> str:
        newest = rows.current()
        return (NOON + timedelta(days=1 + (0 if newest is None else newest.revision))).isoformat()

    found = StateMachine(rows, settings, clock=now)
    found.bootstrap(INCUMBENT_ALONE)
    return found


def advanced(machine: StateMachine, *targets: Target) -> None:
    for target in targets:
        machine.advance(promote(target, CONTENDER), CONTENDER)


def of_day(number: int) -> float:
    return NOON.timestamp() + DAY * number


def running(machine: StateMachine) -> Experiment:
    found = running_experiment(machine.state)
    assert found is not None
    return found


# -- when the past ends


def test_the_past_ends_where_the_users_were_dealt_out_and_not_with_the_stage(tmp_path: Path) -> None:
    found = daily(tmp_path)
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        advanced(found, target)
        experiment = running(found)
        assert experiment.past == Past(2, of_day(2))
        assert experiment.began_at == of_day(experiment.entry)
    tomorrow = bundle("C")
    found.refresh(promote(Target.REFRESH_DATA, tomorrow), tomorrow)
    assert running(found).past == Past(2, of_day(2))
    found.rollback(actor="segue", reason="a guardrail", experiment=True)
    assert (running(found).stage, running(found).past) == (Stage.HYBRID, Past(2, of_day(2)))


def test_a_fresh_draw_begins_with_all_that_was_before(tmp_path: Path) -> None:
    """Whom the last experiment treated is in each arm of the next alike."""
    found = daily(tmp_path)
    advanced(found, Target.PILOT)
    found.abandon(actor="a person", reason="another idea")
    found.advance(promote(Target.PILOT, ANOTHER), ANOTHER)
    assert running(found).past == Past(4, of_day(4))


def test_of_two_draws_that_both_count_the_older_ends_the_past(tmp_path: Path) -> None:
    """The canary's draw stays when it is abandoned, and the hybrid that is gone back to was dealt out by another."""
    found = daily(tmp_path, SETTINGS.model_copy(update={"holdback_share": 0.05}))
    advanced(found, Target.PILOT, Target.HYBRID, Target.FULL)
    found.canary(promote(Target.REFRESH_RECIPE, ANOTHER), ANOTHER)
    assert running(found).past == Past(5, of_day(5))
    found.abandon(actor="a person", reason="another idea")
    found.demote(actor="a person", reason="not yet")
    back = running(found)
    assert {revision for revision, *_ in back.served} == {3, 7}
    assert len({found.state.revision(number).deployment.salt for number in (3, 7)}) == 2
    assert back.past == Past(2, of_day(2))


def test_another_past_is_another_experiment(tmp_path: Path) -> None:
    """A reader that has counted users with the one must not go on with the other."""
    experiment = running(_at(tmp_path, Target.PILOT))
    assert replace(experiment, past=Past(1, of_day(1))).identity != experiment.identity


def _at(folder: Path, *targets: Target, settings: MigrationSettings = SETTINGS) -> StateMachine:
    found = daily(folder, settings)
    advanced(found, *targets)
    return found


# -- what it does to the evidence

WORSE = 0.81  # of the clicks, whatever path it is but the cascade
CTR = 0.1
LISTS = {1: 20, 2: 40}  # items of a list in the first revisions; later ones are short
NAMES = [f"u{number}" for number in range(3000)]
TIMES = 20


def dealt(machine: StateMachine) -> list[tuple[Deployment, list[Arm]]]:
    """Every document, and which arm the router gives to each of NAMES."""
    documents = [revision.deployment for revision in machine.state.revisions]
    return [(document, [arm_for(document, name) for name in NAMES]) for document in documents]


def lived_through(
    days: list[tuple[Deployment, list[Arm]]], random: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Exposures and clicks of users who come once a day, each day under that day's document."""
    taste = random.beta(CTR * 10, (1 - CTR) * 10, len(NAMES))
    shown, clicked = [], []
    for document, arms in days:
        items = [f"i{place:02d}" for place in range(LISTS.get(document.revision, 10))]
        factor = np.where([arm.path is PathName.CASCADE for arm in arms], 1.0, WORSE)
        day = pl.DataFrame(
            {
                "exposure_id": [f"{document.revision}-{name}" for name in NAMES], "user_hash": NAMES,
                "arm": [arm.name for arm in arms], "path": [arm.path.value for arm in arms],
                "bundle": [arm.bundle for arm in arms], "sequence": np.arange(len(NAMES)),
                "shown_at": of_day(document.revision) + np.arange(len(NAMES)), "latency_ms": np.ones(len(NAMES)),
                "clicks": random.binomial(len(items), taste * factor),
            }
        ).with_columns(
            deployment=pl.lit(document.revision), item_ids=pl.lit(items, dtype=pl.List(pl.String)),
            sources=pl.lit(None), fallback=pl.lit(None), warnings=pl.lit(None),
        )  # fmt: skip
        shown.append(day.select(pl.col(name).cast(kind) for name, kind in EXPOSURES.items()))
        clicked.append(
            day.select(
                attributed_to="exposure_id", received_at="shown_at", kind=pl.lit("click"),
                item_id=pl.col("item_ids").list.head(pl.col("clicks")),
            ).explode("item_id").drop_nulls("item_id")
        )  # fmt: skip
    return pl.concat(shown), pl.concat(clicked)


def covered(machine: StateMachine, experiment: Experiment) -> tuple[float, set[bool]]:
    """How often all evidence about clicks covers what was planted, and whether it was ever adjusted."""
    wanted = [
        requirement(metric="ctr", kind="online", path=label)
        for label in {one.label for one in experiment.contenders}
    ]
    days, random = dealt(machine), np.random.default_rng(0)
    hits, adjusted = 0, set()
    for _ in range(TIMES):
        table = user_windows(
            *lived_through(days, random), served=experiment.served, past=experiment.past, seconds=60.0
        )
        found = OnlineUsers(feedback=table.sort("closes_at"))
        measured = online_evidence(
            experiment, found, machine.settings, About("toy", "s", "c"), only=wanted
        ).evidence
        assert len(measured) == len(experiment.contenders)
        for ctr in measured:
            assert ctr.low is not None
            assert ctr.high is not None
            adjusted.add("CUPED" in ctr.protocol)
        hits += all(one.low <= CTR * (WORSE - 1.0) <= one.high for one in measured)
    return hits / TIMES, adjusted


HALVES = {"pilot_share": 0.5, "hybrid_share": 0.5, "holdback_share": 0.0}


def test_a_later_stage_covers_what_is_planted_though_its_users_were_treated_before(tmp_path: Path) -> None:
    """At one look; that every look covers is what benchmarks.gates holds."""
    machine = _at(tmp_path, Target.PILOT, Target.HYBRID, settings=SETTINGS.model_copy(update=HALVES))
    experiment = running(machine)
    rate, adjusted = covered(machine, experiment)
    assert rate >= 0.95
    assert adjusted == {True}
    # With all that was before the stage for a past it does not: the pilot has moved it, mostly less than would be noticed.
    moved = replace(experiment, past=Past(experiment.entry, experiment.began_at))
    rate, adjusted = covered(machine, moved)
    assert rate < 0.7
    assert True in adjusted


def test_those_who_are_held_back_are_compared_without_a_past(tmp_path: Path) -> None:
    """A canary at stage full has a draw of its own, and those who are held back were never dealt out by any."""
    settings = SETTINGS.model_copy(update={"holdback_share": 0.3, "pilot_share": 0.5})
    machine = _at(tmp_path, Target.PILOT, Target.HYBRID, Target.FULL, settings=settings)
    machine.canary(promote(Target.REFRESH_RECIPE, ANOTHER), ANOTHER)
    experiment = running(machine)
    assert experiment.baseline is not None
    assert experiment.baseline.name == HOLDBACK
    assert {one.name for one in experiment.contenders} == {TREATMENT, CANARY}
    rate, adjusted = covered(machine, experiment)
    assert rate >= 0.95
    assert adjusted == {False}
