"""Step ``bento``: ``bentoml build`` of the bundle. No container is built: that needs Docker."""

from __future__ import annotations

import shutil

from segue.artifacts import write_json
from segue.canonical import sha256_of_file
from segue.registry.bundle import read_bundle
from segue.serving.packaging import build_bento, dockerfile, requirements
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Build into ``state/bentoml``, and keep the Dockerfile and the pinned packages beside the record."""
    bundle = context.inputs["bundle"]
    manifest = read_bundle(bundle, verify=False)
    built = build_bento(
        bundle,
        context.dataset,
        context.workspace.root,
        context.workspace.root / "state" / "bentoml",
        image=context.params.serving.image,
    )
    shutil.copyfile(dockerfile(built), context.output / "Dockerfile")
    shutil.copyfile(requirements(built), context.output / "requirements.txt")
    write_json(
        context.output / "bento.json",
        {
            "tag": built.tag,
            "bundle": manifest.bundle_id,
            "image": context.params.serving.image,
            "dockerfile_sha256": sha256_of_file(context.output / "Dockerfile"),
            "requirements_sha256": sha256_of_file(context.output / "requirements.txt"),
        },
    )
    context.metrics["tag"] = built.tag
    context.record["store"] = str(built.folder)
    context.progress(f"{built.tag} {'was there already' if built.reused else 'built'}")
