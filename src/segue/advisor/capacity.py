"""What training and serving take at the stated scale: this machine's measured figures, scaled by stated assumptions."""

from __future__ import annotations

import math
from typing import Final

from pydantic import BaseModel, ConfigDict

from segue.advisor.answers import Answers
from segue.advisor.facts import Facts
from segue.advisor.framework import Assumptions
from segue.migration.costs import HOUR, path_costs
from segue.schema import PathName

_LARGER_CATALOGUE: Final = 2.0  # times the measured one, from which the projection says what it leaves out


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServingCapacity(_Record):
    """One path. Money a month in the declared currency, at the declared price."""

    path: str
    requests_per_second: float  # of one busy machine, measured
    machines: int  # for the peak
    money_a_month: float


class TrainingCapacity(_Record):
    """``hours``: of one machine like this one, for a step at the stated scale. ``measured_hours``: as it ran here.
    ``taken_over``: the step whose weights it took without training itself, and which has the hours."""

    step: str
    hours: float
    measured_hours: float
    scale: float  # events there over events here
    taken_over: str | None = None


class Capacity(_Record):
    """Lists are empty where nothing was measured. ``assumptions``: every one that was used, in sentences."""

    serving: tuple[ServingCapacity, ...] = ()
    training: tuple[TrainingCapacity, ...] = ()
    requests_a_month: float
    training_money_a_month: float | None = None
    replacement_money_a_month: float | None = None  # generative serving for everybody, and training
    currency: str
    assumptions: tuple[str, ...] = ()

    def of(self, path: str) -> ServingCapacity | None:
        return next((one for one in self.serving if one.path == path), None)


def project(facts: Facts, answers: Answers, assumed: Assumptions) -> Capacity:
    """Pure arithmetic over what was measured; what was not is left out, never filled in."""
    price = facts.settings.costs
    mean = answers.requests_per_second / assumed.peak_to_mean
    said = [
        f"the peak is {assumed.peak_to_mean:g} times the month's mean of requests a second",
        f"a machine-hour costs {price.machine_hour:g} {price.currency} (migration.costs, declared)",
    ]
    serving = _serving(facts, answers, assumed, said)
    training = _training(facts, answers, said)
    monthly = None
    if training:
        once = sum(one.hours for one in training if one.step in ("refit", "incumbent_refit"))
        monthly = once * answers.retrains_per_month * price.machine_hour
        said.append(
            f"each of {answers.retrains_per_month:g} retrains a month refits incumbent and generative model once; "
            "studies are run once, at the beginning"
        )
    generative = next((one for one in serving if one.path == PathName.GENERATIVE), None)
    whole = None if generative is None or monthly is None else generative.money_a_month + monthly
    return Capacity(
        serving=serving,
        training=training,
        requests_a_month=mean * assumed.hours_a_month * HOUR,
        training_money_a_month=monthly,
        replacement_money_a_month=whole,
        currency=price.currency,
        assumptions=tuple(said),
    )


def _serving(
    facts: Facts, answers: Answers, assumed: Assumptions, said: list[str]
) -> tuple[ServingCapacity, ...]:
    if facts.check is None:
        return ()
    found = []
    for one in path_costs(facts.check, facts.settings.costs):
        machines = math.ceil(
            answers.requests_per_second / (one.requests_per_second * assumed.machine_utilisation)
        )
        found.append(
            ServingCapacity(
                path=one.path,
                requests_per_second=one.requests_per_second,
                machines=machines,
                money_a_month=machines * assumed.hours_a_month * facts.settings.costs.machine_hour,
            )
        )
    if found:
        said += [
            f"machines are like the one of the serving check, and {assumed.machine_utilisation:.0%} busy at the peak",
            "as many machines run all month as the peak takes; none is switched off at night",
        ]
    if found and facts.readiness is not None:
        said += _catalogue(answers.items, int(facts.readiness["size"]["items"]))
    return tuple(found)


def _training(facts: Facts, answers: Answers, said: list[str]) -> tuple[TrainingCapacity, ...]:
    if facts.readiness is None or not facts.records:
        return ()
    here = int(facts.readiness["size"]["interactions"])
    mean = float(facts.readiness["sequence_length"]["mean"])
    there = answers.monthly_users * mean
    scale = there / here
    found = tuple(
        TrainingCapacity(
            step=step,
            hours=float(record["seconds"]) / HOUR * scale,
            measured_hours=float(record["seconds"]) / HOUR,
            scale=scale,
            taken_over=facts.taken_over.get(step),
        )
        for step, record in facts.records.items()
        if "seconds" in record
    )
    if found:
        said.append(
            f"training takes time in proportion to events: {there:,.0f} there ({answers.monthly_users:,} users with "
            f"{mean:.0f} events each, as here), {here:,} here, the same number of epochs"
        )
        speed = facts.records.get("refit", {}).get("throughput", {}).get("tokens_per_second")
        if speed is not None:
            said.append(f"measured here: the generative model trains on {speed:,.0f} events a second")
    return found


def _catalogue(there: int, here: int) -> list[str]:
    if there <= _LARGER_CATALOGUE * here:
        return []
    return [
        f"{there:,} items there, {here:,} here: the beam's work does not grow with the catalogue, but the cost of dense scores "
        "and of the softmax in training does, and that growth is not in these figures: measure again on your own data"
    ]
