"""From a bundle to a Bento: the service, the library's sources and the bundle itself, under an exact tag."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import segue
from segue.artifacts import hash_files, write_json
from segue.canonical import sha256_of
from segue.errors import ArtifactError, ConfigurationError
from segue.registry.bundle import BUNDLE_FILE, read_bundle

BENTO_FOLDER = "bento"
_CODE = ("*.py", "py.typed")


@dataclass(frozen=True, slots=True)
class BuiltBento:
    """A Bento in a Bento store."""

    tag: str
    folder: Path
    reused: bool  # the store held it already


def bento_name(dataset: str) -> str:
    """A name that BentoML accepts: lower case letters, digits, ``_``, ``-`` and ``.``."""
    return f"segue_{re.sub(r'[^a-z0-9_.-]+', '-', dataset.lower()).strip('-._') or 'dataset'}"


def build_bento(bundle: Path, dataset: str, root: Path, home: Path, *, image: str = "gpu") -> BuiltBento:
    """Build ``segue_<dataset>:<first 12 of the bundle id>`` in the Bento store ``home``, or find it there.

    Args:
        bundle: the bundle's folder; it is verified, and copied into the Bento.
        dataset: the dataset's name.
        root: the checkout, which holds ``bento/``.
        home: ``BENTOML_HOME``; outside the build context.
        image: ``gpu`` or ``cpu``.

    No network is used. A Bento of the same tag with other code in it is replaced. Raises ArtifactError
    where BentoML refuses, with its words.
    """
    service = root / BENTO_FOLDER
    if not (service / "service.py").is_file():
        raise ConfigurationError(f"{service} holds no service: run this inside a checkout")
    manifest = read_bundle(bundle)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="segue-bento-") as temporary:
        work = Path(temporary)
        context = work / "context"
        _copy_code(service, context / BENTO_FOLDER)
        _copy_code(Path(segue.__file__).parent, context / "segue")
        for name in (*manifest.files, BUNDLE_FILE):
            target = context / "bundle" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, target)
        constraints = root / "constraints.txt"
        if constraints.is_file():
            shutil.copyfile(constraints, context / "constraints.txt")
        (context / "README.md").write_text(_readme(dataset, manifest.bundle_id), encoding="utf-8")
        code = sha256_of({name: entry.sha256 for name, entry in hash_files(context).items()})
        request = work / "request.json"
        write_json(
            request,
            {
                "context": str(context),
                "name": bento_name(dataset),
                "version": manifest.bundle_id[:12],
                "labels": {"bundle": manifest.bundle_id, "content": code[:63], "image": image},
            },
        )
        environment = os.environ | {
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
            "SEGUE_IMAGE": image,
            # The context's packages, not this checkout's: what is described is what goes into the Bento.
            "PYTHONPATH": str(context),
        }
        done = subprocess.run(
            [sys.executable, "-m", f"{BENTO_FOLDER}.build", str(request)],
            cwd=context,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        answer_file = work / "answer.json"
        if done.returncode != 0 or not answer_file.is_file():
            raise ArtifactError(f"`bentoml build` failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
        answer = json.loads(answer_file.read_text(encoding="utf-8"))
    return BuiltBento(tag=answer["tag"], folder=Path(answer["path"]), reused=answer["reused"])


def dockerfile(bento: BuiltBento) -> Path:
    """The Dockerfile that ``bentoml containerize`` would build. Raises ArtifactError where it is missing."""
    path = bento.folder / "env" / "docker" / "Dockerfile"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: build the Bento again")
    return path


def requirements(bento: BuiltBento) -> Path:
    """The pinned packages of the image. Raises ArtifactError where they are missing."""
    path = bento.folder / "env" / "python" / "requirements.txt"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: build the Bento again")
    return path


def _copy_code(source: Path, target: Path) -> None:
    for pattern in _CODE:
        for path in sorted(source.rglob(pattern)):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _readme(dataset: str, bundle_id: str) -> str:
    return (
        f"# Segue: {dataset}\n\nA recommender with its bundle {bundle_id}. "
        'POST `/recommend` with `{"history": ["<item id>"], "k": 10}`; `GET /health` says what serves.\n'
    )
