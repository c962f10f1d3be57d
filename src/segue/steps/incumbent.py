"""Step incumbent: popularity, item-to-item, two-tower and a tuned SASRec on the training part."""

from __future__ import annotations

from collections.abc import Mapping

from segue.cascade.incumbent import fit_incumbent, item_content, refresh_incumbent
from segue.data.sequences import Sequences
from segue.items import Items, ItemVectors
from segue.steps.runner import StepContext
from segue.steps.tracking import close_run, open_run
from segue.training.provenance import hand_on_trained_on, write_trained_on

CONTENT_STEPS = ("text_embeddings", "attribute_embeddings")


def run(context: StepContext) -> None:
    """Writes an incumbent's folder. A kept incumbent keeps its weights; its counts follow the events."""
    items = Items.load(context.inputs["splits"])
    regular = Sequences.load(context.inputs["sequences"] / "regular")
    content = item_content([ItemVectors.load(context.inputs[name]) for name in CONTENT_STEPS], items)
    kept = context.kept("incumbent")
    if kept is None:
        run = open_run(context)
        speeds: dict[str, Mapping[str, float]] = {}
        facts = fit_incumbent(
            context.output,
            items=items,
            sequences=regular,
            content=content,
            settings=context.params.cascade,
            progress=context.progress,
            checkpoints=context.checkpoints,
            measured=speeds.__setitem__,
        )
        close_run(context, run, speeds, facts["settings"])
        write_trained_on(context.output, context.input_hashes["sequences"])
    else:
        context.progress("the weights are kept; popularity and item-to-item are counted anew")
        facts = refresh_incumbent(
            context.output,
            kept=kept,
            items=items,
            sequences=regular.training_part(),
            content=content,
            settings=context.params.cascade,
        )
        hand_on_trained_on(kept, context.output)
    for model, value in facts["validation_ndcg_at_10"].items():
        context.metrics[f"{model}_validation_ndcg_at_10"] = value
    context.metrics["trials"] = len(facts["trials"])
    context.metrics["incumbent_id"] = facts["incumbent_id"]
    context.record["trials"] = facts["trials"]
