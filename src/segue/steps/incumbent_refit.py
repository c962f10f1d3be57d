"""Step incumbent_refit: the chosen incumbent on all events of the regular users; this one is served."""

from __future__ import annotations

from collections.abc import Mapping

from segue.cascade.incumbent import item_content, refit_incumbent, refresh_incumbent
from segue.data.sequences import Sequences
from segue.items import Items, ItemVectors
from segue.steps.incumbent import CONTENT_STEPS
from segue.steps.runner import StepContext
from segue.steps.tracking import close_run, open_run


def run(context: StepContext) -> None:
    """Writes an incumbent's folder. A kept refit keeps its weights; its counts follow the events."""
    items = Items.load(context.inputs["splits"])
    regular = Sequences.load(context.inputs["sequences"] / "regular")
    content = item_content([ItemVectors.load(context.inputs[name]) for name in CONTENT_STEPS], items)
    kept = context.kept("incumbent_refit")
    if kept is None:
        run = open_run(context)
        speeds: dict[str, Mapping[str, float]] = {}
        facts = refit_incumbent(
            context.output,
            chosen=context.inputs["incumbent"],
            items=items,
            sequences=regular,
            content=content,
            settings=context.params.cascade,
            progress=context.progress,
            checkpoints=context.checkpoints,
            measured=speeds.__setitem__,
        )
        close_run(context, run, speeds, facts["settings"])
    else:
        context.progress("the weights are kept; popularity and item-to-item are counted anew")
        facts = refresh_incumbent(
            context.output,
            kept=kept,
            items=items,
            sequences=regular,
            content=content,
            settings=context.params.cascade,
        )
    for model, epochs in facts["epochs"].items():
        context.metrics[f"{model}_epochs"] = epochs
    context.metrics["incumbent_id"] = facts["incumbent_id"]
