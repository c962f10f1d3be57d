"""Step ``incumbent_bundle``: the first bundle, which serves before any generative model exists."""

from __future__ import annotations

from segue.registry.bundle import write_incumbent_bundle
from segue.serving.settings import bundled
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Write the incumbent alone as a bundle."""
    manifest = write_incumbent_bundle(
        context.output,
        dataset=context.dataset,
        splits=context.inputs["splits"],
        incumbent=context.inputs["incumbent_refit"],
        rules=context.params.rules.model_dump(mode="json"),
        serving=bundled(context.params.serving),
    )
    context.metrics["bundle"] = manifest.bundle_id
    context.metrics["items"] = manifest.items
    context.progress(f"bundle {manifest.bundle_id[:12]}: the incumbent over {manifest.items} items")
