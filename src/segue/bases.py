"""``bases/<dataset>.json``: what the graph keeps instead of rebuilding it.

The file maps a step's name to the content hash of an artifact in ``state/<dataset>/kept/``, or to null. No step writes
it; ``segue keep`` and the day-two job do.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from segue.artifacts import read_json, read_manifest, replace_folder, temporary_folder, verify, write_json
from segue.errors import ArtifactError, ConfigurationError
from segue.workspace import Workspace

KEEPABLE: tuple[str, ...] = (
    "splits",
    "attribute_embeddings",
    "collaborative_embeddings",
    "codebook",
    "item_map",
    "incumbent",
    "incumbent_refit",
    "tuning",
    "generative_model",
    "refit",
    "bundle",
)
# Not kept in its place, but measured beside the one that a retrain puts there.
REPLACED_MODEL = "replaced_model"
ENTRIES: tuple[str, ...] = (*KEEPABLE, REPLACED_MODEL)
_STORED_AS = {REPLACED_MODEL: "generative_model"}


def read_base(workspace: Workspace, dataset: str) -> dict[str, str | None]:
    """What is kept. Raises ConfigurationError where the file is missing or names something that cannot be kept."""
    path = workspace.base_file(dataset)
    if not path.is_file():
        raise ConfigurationError(
            f"{path} is missing: `segue keep --nothing --dataset {dataset}` writes an empty one"
        )
    value = read_json(path)
    if not isinstance(value, dict) or not set(KEEPABLE) <= set(value) <= set(ENTRIES):
        raise ConfigurationError(f"{path} must hold exactly the keys {', '.join(ENTRIES)}")
    return {name: None if value.get(name) is None else str(value[name]) for name in ENTRIES}


def write_base(workspace: Workspace, dataset: str, base: Mapping[str, str | None]) -> None:
    write_json(workspace.base_file(dataset), {name: base.get(name) for name in ENTRIES})


def keep(workspace: Workspace, dataset: str, steps: Iterable[str]) -> dict[str, str | None]:
    """Copy the current artifacts of ``steps`` into the kept store and name them in the base; the others become null.

    Raises ArtifactError where one of them is missing or damaged, before anything is written.
    """
    wanted = tuple(steps)
    if unknown := sorted(set(wanted) - set(KEEPABLE)):
        raise ConfigurationError(f"{', '.join(unknown)} cannot be kept; what can: {', '.join(KEEPABLE)}")
    manifests = {name: verify(workspace.step(dataset, name)) for name in wanted}
    base: dict[str, str | None] = dict.fromkeys(KEEPABLE)
    for name, manifest in manifests.items():
        base[name] = manifest.content_sha256
        store_copy(workspace.step(dataset, name), workspace.kept(dataset) / name / manifest.content_sha256)
    write_base(workspace, dataset, base)
    return base


def store_copy(source: Path, target: Path) -> None:
    """Copy a whole artifact to a content-addressed place, once."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        replace_folder(temporary, target)


def kept_path(workspace: Workspace, dataset: str, step: str, content_sha256: str) -> Path:
    """The kept artifact's folder, verified to be the one that the base names.

    Raises ArtifactError where the store lacks it or holds something else.
    """
    path = workspace.kept(dataset) / _STORED_AS.get(step, step) / content_sha256
    remedy = f"restore state/, or let it go with `segue keep` for {dataset}"
    if not path.is_dir():
        raise ArtifactError(
            f"bases/{dataset}.json keeps {step} {content_sha256[:12]}, which {path} lacks: {remedy}"
        )
    if read_manifest(path, remedy=remedy).content_sha256 != content_sha256:
        raise ArtifactError(f"{path} is not the artifact it is named after: {remedy}")
    return path
