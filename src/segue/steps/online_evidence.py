"""Step ``online_evidence``: what the running experiment shows by now, from the online store.

It looks at every run; where nobody has come since, its artifact stays as it is: also where an experiment has just begun, so
that a run which promotes is not the reason for the next run's decisions. Without an experiment, or before its first user,
there is no evidence, and the gates that ask for some hold.
"""

from __future__ import annotations

from typing import Any

from segue.artifacts import write_json
from segue.migration.evidence import EVIDENCE_FILE, write_evidence
from segue.migration.ledger import Ledger
from segue.migration.online import About, Measured, online_evidence
from segue.migration.online_catalogue import catalogue_facts
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.online_users import OnlineUsers
from segue.migration.state import State
from segue.registry.bundle import read_bundle
from segue.serving.store import open_store, store_exists
from segue.steps.runner import StepContext, code_version

EXPERIMENT_FILE = "experiment.json"


def run(context: StepContext) -> None:
    """Writes ``evidence.json``, and ``experiment.json``: whose exposures counted, and how many users."""
    experiment = _running(context)
    users = OnlineUsers() if experiment is None else _users(context, experiment)
    if experiment is None or not users.assigned:
        write_evidence(context.output / EVIDENCE_FILE, [])
        write_json(context.output / EXPERIMENT_FILE, {"experiment": None})
        context.progress(
            "no experiment runs: there is nothing to measure online"
            if experiment is None
            else f"{experiment.stage}, since revision {experiment.entry}: nobody has come yet"
        )
        return
    measured = online_evidence(
        experiment,
        users,
        context.params.migration,
        About(
            dataset=context.dataset,
            snapshot=read_bundle(context.inputs["bundle"], verify=False).histories_snapshot,
            code_version=code_version((*context.step.code, f"steps.{context.step.name}")),
        ),
        catalogue=catalogue_facts(
            context.workspace.bundles(context.dataset), experiment, context.params.evaluation.long_tail_share
        ),
    )
    write_evidence(context.output / EVIDENCE_FILE, measured.evidence)
    write_json(context.output / EXPERIMENT_FILE, _told(experiment, users, measured))
    for arm in experiment.arms:
        context.metrics[f"users/{arm.name}"] = users.assigned.get(arm.name, 0)
    context.metrics["counted_users"] = users.feedback.height
    for note in measured.notes:
        context.progress(note)
    context.progress(
        f"{experiment.stage}, since revision {experiment.entry}: {sum(users.assigned.values())} users, of whom "
        f"{users.feedback.height} count by their feedback and {users.serving.height} by what they were served; "
        f"{len(measured.evidence)} pieces of evidence"
    )


def _running(context: StepContext) -> Experiment | None:
    ledger = Ledger.open(context.workspace, context.dataset)
    try:
        ledger.verify()
        return running_experiment(State.of(context.dataset, ledger.rows()))
    finally:
        ledger.close()


def _users(context: StepContext, experiment: Experiment) -> OnlineUsers:
    if not store_exists(context.workspace, context.dataset):
        return OnlineUsers()
    store = open_store(context.workspace, context.dataset)
    try:
        return store.online_users(experiment, context.params.migration.online)
    finally:
        store.close()


def _told(experiment: Experiment, users: OnlineUsers, measured: Measured) -> dict[str, Any]:
    return {
        "experiment": {
            "entry": experiment.entry,
            "revision": experiment.revision,
            "stage": experiment.stage.value,
            "target": experiment.target.value,
            "began_at": experiment.began_at,
            "recipe": experiment.on_trial.facts.recipe,
            "arms": [
                {"name": arm.name, "path": arm.path.value, "label": arm.label, "share": arm.share}
                for arm in experiment.arms
            ],
        },
        "users": {
            arm.name: {
                "assigned": users.assigned.get(arm.name, 0),
                "counted_by_feedback": _of(users.feedback, arm.name),
                "counted_by_serving": _of(users.serving, arm.name),
            }
            for arm in experiment.arms
        },
        "first_exposed_at": users.first_exposed_at,
        "last_exposed_at": users.last_exposed_at,
        "feedback": {"rows": users.feedback_rows, "attributed": users.attributed},
        "notes": measured.notes,
    }


def _of(table: Any, arm: str) -> int:
    return int((table["arm"] == arm).sum())
