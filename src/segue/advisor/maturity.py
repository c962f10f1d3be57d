"""Technical maturity: a list of checks on what was measured, each passed, failed, or not possible yet."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from segue.advisor.answers import Answers
from segue.advisor.facts import Facts
from segue.advisor.framework import Factor, Finding, Framework, Level
from segue.migration.policy import Status

SHORTEST_MEDIAN = 5.0  # events of a user, below which there is little to generate from
LEAST_CONTENT = 0.9  # of the items must have a title or a text


class Check(BaseModel):
    """``passed`` null: it could not be made, and ``told`` says why. ``mend``: what to do where it failed or could not be
    made. A failed ``essential`` one puts maturity at low, whatever else passed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool | None
    told: str
    mend: str
    essential: bool = False


def maturity_checks(facts: Facts, answers: Answers) -> list[Check]:
    """Every check, in the order in which a team would mend them."""
    return [
        *_of_data(facts),
        *_of_evidence(facts),
        *_of_serving(facts, answers),
    ]


def maturity(checks: Sequence[Check], table: Framework) -> Finding:
    """The level, by the share of the checks that passed among those that could be made."""
    made = [check for check in checks if check.passed is not None]
    if not made:
        return Finding(level=Level.LOW, told="nothing was measured yet: run `segue run` first")
    failed = [check for check in made if not check.passed]
    told = f"{len(made) - len(failed)} of {len(made)} checks passed"
    if len(made) < len(checks):
        told += f", {len(checks) - len(made)} could not be made yet"
    if failed:
        told += f"; failed: {', '.join(check.name for check in failed)}"
    unmet = [check for check in checks if check.essential and not check.passed]
    shares = table.factors[Factor.MATURITY].shares
    assert shares is not None
    passed = 1 - len(failed) / len(made)
    if unmet:
        return Finding(level=Level.LOW, told=f"{told}; essential: {', '.join(check.name for check in unmet)}")
    if passed >= shares[Level.HIGH]:
        return Finding(level=Level.HIGH, told=told)
    return Finding(level=Level.MEDIUM if passed >= shares[Level.MEDIUM] else Level.LOW, told=told)


def _of_data(facts: Facts) -> list[Check]:
    report = facts.readiness
    if report is None:
        return [
            Check(
                name="the data were looked at",
                passed=None,
                told="there is no readiness report",
                mend="`segue init` writes a profile from your table, `segue run` looks at it",
                essential=True,
            )
        ]
    possible = [name for name, split in report["splits"].items() if split["possible"]]
    refused = "; ".join(
        f"{name.replace('_', ' ')}: {split['reason']}"
        for name, split in report["splits"].items()
        if not split["possible"]
    )
    median = float(report["sequence_length"]["quantiles"]["0.5"])
    catalogue = report["catalogue"]
    content = max(float(catalogue["title"]), float(catalogue["text"]))
    times = bool(report["ties"]["known"])
    return [
        Check(
            name="a fair test is possible",
            passed=bool(possible),
            told=f"possible: {', '.join(name.replace('_', ' ') for name in possible) or 'none'}"
            + (f" ({refused})" if refused else ""),
            mend="collect interactions for longer, or of more users",
            essential=True,
        ),
        Check(
            name="events carry times",
            passed=times,
            told="they do" if times else "they carry an order at most",
            mend="log a time with every event: drift, churn and a split by time need it",
        ),
        Check(
            name="histories are long enough",
            passed=median >= SHORTEST_MEDIAN,
            told=f"the median user has {median:g} events, {SHORTEST_MEDIAN:g} are asked for",
            mend="log more kinds of events (views, carts), or join devices of one user",
        ),
        Check(
            name="items describe themselves",
            passed=content >= LEAST_CONTENT,
            told=f"{content:.0%} of the items have a title or a text, {LEAST_CONTENT:.0%} are asked for",
            mend="fill titles or texts in the catalogue: new items get their codes from them",
        ),
    ]


def _of_evidence(facts: Facts) -> list[Check]:
    if facts.pilot is None or not facts.pilot.verdicts:
        return [
            Check(
                name="a contender was measured beside the incumbent",
                passed=None,
                told="there is no decision about a pilot",
                mend="`segue run` trains and judges one",
            )
        ]
    offline = [verdict for verdict in facts.pilot.verdicts if verdict.requirement.kind == "offline"]
    failed = [verdict for verdict in offline if verdict.status is Status.FAILED]
    undecided = [verdict for verdict in offline if verdict.status is Status.UNDERPOWERED]
    return [
        Check(
            name="the contender keeps the offline margins",
            passed=not failed,
            told="; ".join(verdict.reason for verdict in failed)
            or "no offline requirement of the pilot is broken",
            mend="tune longer, or give the model more content, before anything is served",
        ),
        Check(
            name="the test set resolves the margins",
            passed=not undecided,
            told="; ".join(verdict.reason for verdict in undecided)
            or "every offline margin could be decided",
            mend="more test users, or a wider margin on the slice, set in a commit of its own",
        ),
    ]


def _of_serving(facts: Facts, answers: Answers) -> list[Check]:
    found = []
    generative = None if facts.check is None else facts.check["paths"].get("generative")
    if generative is None:
        found.append(
            Check(
                name="the generative path was served",
                passed=None,
                told="there is no serving check of it",
                mend="`segue run` builds a Bento and asks it",
            )
        )
    else:
        faults = int(generative["errors"]) + int(generative["invalid_items"]) + int(generative["seen_items"])
        p99 = generative["latency_p99_ms"]
        found += [
            Check(
                name="served lists are sound",
                passed=faults == 0,
                told=f"{faults} errors, invalid or seen items in {generative['requests']} requests",
                mend="look at reports/<dataset>/serving_check.log",
                essential=True,
            ),
            Check(
                name="answers come in time",
                passed=None if p99 is None else p99 <= answers.latency_p99_ms,
                told="no request was answered"
                if p99 is None
                else f"99 % within {p99:.0f} ms on this machine, {answers.latency_p99_ms:g} ms are asked for",
                mend="a narrower beam, fewer dense candidates, a faster machine, or a wider target",
            ),
        ]
    found += [
        Check(
            name="what is shown is logged",
            passed=facts.exposures > 0,
            told=f"the online store holds {facts.exposures:,} exposures",
            mend="serve with the online store (`make serve`): no online gate can be decided without exposures",
        ),
        Check(
            name="what users do is logged",
            passed=facts.feedback > 0,
            told=f"the online store holds {facts.feedback:,} feedbacks",
            mend="post clicks and purchases to /feedback, with the exposure_id of the answer",
        ),
    ]
    return found
