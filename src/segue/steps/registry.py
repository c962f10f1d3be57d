"""The graph, once: every step with its inputs, parameters and code.

Dagster's assets are made from this table, ``dvc.yaml`` is rendered from it, and ``segue step <name>`` runs it. Nothing
heavy is imported here: a step's function is named, and loaded only when it must run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["deterministic", "measured", "effect"]
EMBEDDINGS = ("text_embeddings", "image_embeddings", "attribute_embeddings", "collaborative_embeddings")
# Modules that decide what a list of either path holds.
LIST_MAKING = (
    "cascade",
    "generative",
    "decoding",
    "ranking",
    "tokenizers.item_map",
    "data.sequences",
    "data.context",
    "items",
)
EVIDENCE_STEPS = (
    "offline_evaluation",
    "refit_check",
    "serving_check",
    "online_evidence",
)  # what the decisions read


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A node of the graph.

    ``deterministic``: equal inputs give equal output hashes, whichever engine runs it. ``measured``: run once, its
    record adopted by the other engine. ``effect``: acts on the world outside the artifacts; what it leaves behind is a
    receipt, which no engine caches.
    """

    name: str
    description: str
    group: str
    inputs: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    code: tuple[str, ...] = ()  # modules or packages under ``segue`` that decide its output
    keeps: tuple[str, ...] = ()  # the entries of bases/<dataset>.json that it obeys
    kind: Kind = "deterministic"
    always: bool = False  # runs at every run, and says "no change" where nothing changed
    together: bool = False  # the processes of torchrun may run it as one

    @property
    def function(self) -> str:
        """Where it is implemented: ``segue.steps.<name>:run``."""
        return f"segue.steps.{self.name}:run"


STEPS: tuple[Step, ...] = (
    Step(
        name="ingest",
        group="data",
        description="Read the sources and everything appended since into two canonical tables; hash the pictures.",
        params=("data",),
        code=(
            "data.sources",
            "data.csv_shape",
            "data.readers",
            "data.fetch",
            "data.append",
            "data.context",
            "data.erasure",
            "data.images",
            "schema",
            "steps.erasing",
        ),
        always=True,
    ),
    Step(
        name="validation",
        group="data",
        description="Great Expectations over both tables; bad rows are quarantined with their reason, or stop the run.",
        inputs=("ingest",),
        params=("validation",),
        code=("data.validation", "data.expectations", "schema"),
    ),
    Step(
        name="splits",
        group="data",
        description="Items and events in order, users set aside, train / validation / test.",
        inputs=("validation",),
        params=("splits",),
        code=("data.splits", "schema", "items"),
    ),
    Step(
        name="readiness",
        group="data",
        description="What the data can carry: lengths, churn, cold share, splits, the smallest detectable difference.",
        inputs=("validation", "splits"),
        params=("evaluation",),
        code=("data.readiness", "items", "schema"),
    ),
    Step(
        name="sequences",
        group="data",
        description="Jagged, memory-mapped event sequences of every group of users.",
        inputs=("splits",),
        params=("data",),
        code=("data.sequences", "data.context", "schema"),
    ),
    Step(
        name="text_embeddings",
        group="semantic_ids",
        description="A vector for every item's text.",
        inputs=("splits",),
        params=("encoders",),
        code=("encoders", "items"),
    ),
    Step(
        name="image_embeddings",
        group="semantic_ids",
        description="A vector for every item's picture; who has none, and why.",
        inputs=("ingest", "splits"),
        params=("data", "encoders"),
        code=("encoders", "data.images", "items", "schema"),
    ),
    Step(
        name="attribute_embeddings",
        group="semantic_ids",
        description="A vector for every item's structured attributes.",
        inputs=("splits",),
        params=("encoders",),
        code=("encoders", "items"),
        keeps=("attribute_embeddings",),
    ),
    Step(
        name="collaborative_embeddings",
        group="semantic_ids",
        description="A vector for every item from who consumed it with what, on the training part alone.",
        inputs=("splits", "sequences"),
        params=("encoders",),
        code=("encoders", "data.sequences", "items", "schema"),
        keeps=("collaborative_embeddings",),
    ),
    Step(
        name="content_quality",
        group="semantic_ids",
        description="Modality by modality: who has content, what is the same twice or nearly, blank, short or broken.",
        inputs=(
            "splits",
            *EMBEDDINGS,
        ),
        params=("encoders",),
        code=("encoders", "items", "reporting"),
    ),
    Step(
        name="codebook",
        group="semantic_ids",
        description="The frozen quantizers that turn item vectors into codes.",
        inputs=(
            "splits",
            "sequences",
            *EMBEDDINGS,
        ),
        params=("tokenizer",),
        code=("tokenizers", "encoders.collaborative", "data.sequences", "items", "schema"),
        keeps=("codebook",),
    ),
    Step(
        name="item_map",
        group="semantic_ids",
        description="Every item's semantic ID under the codebook; grows by revisions.",
        inputs=(
            "splits",
            *EMBEDDINGS,
            "codebook",
        ),
        params=("tokenizer",),
        code=("tokenizers", "items"),
        keeps=("item_map",),
    ),
    Step(
        name="semantic_id_report",
        group="semantic_ids",
        description="What the semantic IDs say: quality, the theme of each prefix, and a page to browse them.",
        inputs=("splits", "sequences", "item_map"),
        params=("data", "semantic_ids", "encoders"),
        code=("tokenizers", "encoders.collaborative", "data.images", "data.sequences", "items", "schema"),
    ),
    Step(
        name="incumbent",
        group="cascade",
        description="Popularity, item-to-item, two-tower recall and a tuned SASRec, fitted on the training part.",
        inputs=("splits", "sequences", "text_embeddings", "attribute_embeddings"),
        params=("cascade", "rules"),
        code=("cascade", "training", "ranking", "data.sequences", "items"),
        keeps=("incumbent",),
    ),
    Step(
        name="incumbent_refit",
        group="cascade",
        description="The same incumbent with the chosen settings, on all events of the regular users.",
        inputs=("splits", "sequences", "text_embeddings", "attribute_embeddings", "incumbent"),
        params=("cascade", "rules"),
        code=("cascade", "training", "ranking", "data.sequences", "items", "steps.incumbent"),
        keeps=("incumbent_refit",),
    ),
    Step(
        name="incumbent_bundle",
        group="serving",
        description="The first bundle: the incumbent alone.",
        inputs=("splits", "incumbent_refit"),
        params=("rules", "serving"),
        code=("registry.bundle", "migration.recipe", "data.context", "items", "serving.settings"),
    ),
    Step(
        name="bootstrap",
        group="migration",
        description="Revision 1: the incumbent serves everybody before any generative model exists.",
        inputs=("incumbent_bundle", "validation"),
        params=("migration",),
        code=("migration", "registry", "pyfunc_model", "steps.day_two"),
        kind="effect",
        always=True,
    ),
    Step(
        name="tuning",
        group="generative",
        description="An Optuna study with pruning chooses the generative model's settings on validation.",
        inputs=("splits", "sequences", "item_map"),
        params=("generative", "tuning", "decoding"),
        code=(
            "generative",
            "training",
            "decoding",
            "data.sequences",
            "data.context",
            "tokenizers.item_map",
            "schema",
        ),
        keeps=("tuning",),
    ),
    Step(
        name="generative_model",
        group="generative",
        description="The generative model with the chosen settings, on the training part.",
        inputs=("splits", "sequences", "item_map", "tuning"),
        params=("generative", "decoding"),
        code=(
            "generative",
            "training",
            "decoding",
            "data.sequences",
            "tokenizers.item_map",
            "protocols",
            "schema",
            "steps.tuning",
        ),
        keeps=("generative_model",),
        together=True,
    ),
    Step(
        name="offline_evaluation",
        group="evaluation",
        description="What each path would serve, ranked over the full catalogue, with intervals, slices and differences.",
        inputs=("splits", "sequences", "item_map", "incumbent", "generative_model"),
        params=("evaluation", "decoding", "rules"),
        keeps=("replaced_model",),
        code=(
            *LIST_MAKING,
            "blending",
            "evaluation",
            "migration.evidence",
            "migration.recipe",
            "training.provenance",
            "registry.bundle",
            "paths",
            "protocols",
            "schema",
        ),
    ),
    Step(
        name="refit",
        group="generative",
        description="The generative model again, on all events of the regular users: this one is served.",
        inputs=("splits", "sequences", "item_map", "generative_model"),
        params=("generative", "decoding"),
        code=(
            "generative",
            "training",
            "decoding",
            "data.sequences",
            "tokenizers.item_map",
            "schema",
            "steps.generative_model",
        ),
        keeps=("refit",),
        together=True,
    ),
    Step(
        name="bundle",
        group="serving",
        description="Everything that serving needs, in one immutable folder.",
        inputs=("splits", "sequences", "item_map", "semantic_id_report", "incumbent_refit", "refit"),
        params=("rules", "serving", "decoding"),
        code=("registry.bundle", "migration.recipe", "data.context", "items", "serving.settings"),
    ),
    Step(
        name="refit_check",
        group="evaluation",
        description="Are the refitted models still those that were judged? Their lists side by side.",
        inputs=(
            "splits",
            "sequences",
            "item_map",
            "incumbent",
            "incumbent_refit",
            "generative_model",
            "refit",
            "bundle",
        ),
        params=("evaluation", "decoding", "rules"),
        code=(
            *LIST_MAKING,
            "evaluation",
            "migration.evidence",
            "paths",
            "registry.bundle",
            "schema",
        ),
    ),
    Step(
        name="bento",
        group="serving",
        description="`bentoml build`, and the GPU image's Dockerfile.",
        inputs=("bundle",),
        params=("serving",),
        code=("serving", "registry.bundle"),
        kind="measured",
    ),
    Step(
        name="serving_check",
        group="serving",
        description="The bundle behind a real server: validity, seen items, latency under load, overlap with what serves.",
        inputs=("bundle", "bento", "splits"),
        params=("serving",),
        code=("serving", "items", "migration.evidence", "registry.bundle", "schema"),
        keeps=("bundle",),
        kind="measured",
    ),
    Step(
        name="online_evidence",
        group="migration",
        description="What the running experiment shows by now, from exposures and feedback: confidence sequences over users.",
        inputs=("bundle",),
        params=("migration", "evaluation"),
        code=("migration", "serving.store", "database", "items", "evaluation.metrics", "registry.bundle"),
        kind="measured",
        always=True,
    ),
    Step(
        name="drift",
        group="day_two",
        description="How far the new data is from what is kept: retrain, or keep.",
        inputs=("splits", "sequences", "item_map", "codebook"),
        params=("drift",),
        code=("tokenizers", "items"),
        keeps=("splits", "codebook", "item_map"),
    ),
    Step(
        name="refresh_decision",
        group="migration",
        description="May the new bundle take the place of the one that serves, at the same stage?",
        inputs=("drift", "bundle", *EVIDENCE_STEPS),
        params=("migration",),
        code=("migration",),
        keeps=("codebook", "tuning", "generative_model", "bundle"),
    ),
    Step(
        name="pilot_decision",
        group="migration",
        description="May the generative path begin to serve?",
        inputs=("bundle", *EVIDENCE_STEPS),
        params=("migration",),
        code=("migration",),
    ),
    Step(
        name="hybrid_decision",
        group="migration",
        description="May the generative path serve most users?",
        inputs=("bundle", *EVIDENCE_STEPS),
        params=("migration",),
        code=("migration",),
    ),
    Step(
        name="full_decision",
        group="migration",
        description="May the generative path serve everybody?",
        inputs=("bundle", *EVIDENCE_STEPS),
        params=("migration",),
        code=("migration",),
    ),
    Step(
        name="deployment",
        group="migration",
        description="Publish the bundle and apply what the decisions allow: the only step that changes what serves.",
        inputs=(
            "bundle",
            "bento",
            "bootstrap",
            "validation",
            *EVIDENCE_STEPS,
            "refresh_decision",
            "pilot_decision",
            "hybrid_decision",
            "full_decision",
        ),
        params=("migration",),
        code=(
            "migration",
            "registry",
            "pyfunc_model",
            "deployed_params",
            "params",
            "serving.readable",
            "steps.actors",
            "steps.day_two",
            "steps.offers",
        ),
        kind="effect",
        always=True,
    ),
    Step(
        name="summary",
        group="evaluation",
        description="The pages and reports/<dataset>/summary.json.",
        inputs=(
            "readiness",
            *EVIDENCE_STEPS,
            "drift",
            "refresh_decision",
            "pilot_decision",
            "hybrid_decision",
            "full_decision",
            "bundle",
            "bento",
            "item_map",
            "semantic_id_report",
            "deployment",
        ),
        code=("reporting", "steps.migration_report"),
        kind="effect",
        always=True,
    ),
)

BY_NAME: dict[str, Step] = {step.name: step for step in STEPS}


def get(name: str) -> Step:
    """The step called ``name``. Raises KeyError naming the steps that exist."""
    try:
        return BY_NAME[name]
    except KeyError:
        raise KeyError(f"there is no step {name!r}; steps: {', '.join(BY_NAME)}") from None


def in_order(names: Iterable[str] | None = None) -> tuple[Step, ...]:
    """The named steps (default: all) in an order in which each comes after its inputs."""
    wanted = set(BY_NAME if names is None else names)
    return tuple(step for step in STEPS if step.name in wanted)


def upstream(names: Iterable[str]) -> set[str]:
    """The named steps and everything that they need."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(get(name).inputs)
    return found
