"""Step ``bundle``: everything that serving needs, in one immutable folder."""

from __future__ import annotations

from segue.registry.bundle import write_bundle
from segue.serving.settings import bundled
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Write the refitted model, the item map and the refitted incumbent as a bundle."""
    manifest = write_bundle(
        context.output,
        dataset=context.dataset,
        splits=context.inputs["splits"],
        incumbent=context.inputs["incumbent_refit"],
        model=context.inputs["refit"],
        item_map=context.inputs["item_map"],
        rules=context.params.rules.model_dump(mode="json"),
        serving=bundled(context.params.serving),
        decoding=context.params.decoding.model_dump(mode="json"),
        themes=context.inputs["semantic_id_report"],
    )
    context.metrics["bundle"] = manifest.bundle_id
    context.metrics["recipe"] = manifest.recipe
    context.metrics["items"] = manifest.items
    context.progress(
        f"bundle {manifest.bundle_id[:12]}: {manifest.items} items, recipe {manifest.recipe[:12]}, "
        f"model {str(manifest.model_id)[:12]}"
    )
