"""The images a Bento is containerized with: one for NVIDIA GPUs, one for CPUs.

No container can be built where there is no Docker; ``bentoml build`` still renders the Dockerfile, which
the tests read. Both images hold what serving needs and none of the training side's tools. Versions come
from ``constraints.txt`` where the checkout has one, else from this environment, in which the service was
tested.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from bentoml.images import Image

Kind = Literal["gpu", "cpu"]

CUDA_BASE = "nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04"
PYTHON = "3.11"
# The base dependencies of pyproject.toml and its extra `serving`; typer not: a Bento has no command line.
SERVING = (
    "alembic",
    "faiss-cpu",
    "fsspec",
    "numpy",
    "polars",
    "prometheus-client",
    "psycopg[binary]",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scipy",
    "sqlalchemy",
)
TORCH = "torch"


def image(kind: Kind | None = None, constraints: Path | None = None) -> Image:
    """The image of ``kind`` (default: ``SEGUE_IMAGE``, else ``gpu``).

    The CUDA base is chosen on purpose: BentoML's own base stays plain Python whatever resources a service
    asks for.
    """
    chosen = kind or os.environ.get("SEGUE_IMAGE", "gpu")
    if chosen not in ("gpu", "cpu"):
        raise ValueError(f"SEGUE_IMAGE is {chosen!r}: it is 'gpu' or 'cpu'")
    file = constraints or Path(__file__).resolve().parent.parent / "constraints.txt"
    pinned = pins(file)
    torch = f"{TORCH}=={pinned[TORCH].partition('+')[0]}"
    # Without locking, a build asks no package index; every direct dependency is pinned all the same.
    made = Image(
        base_image=CUDA_BASE if chosen == "gpu" else "",
        distro=""
        if chosen == "gpu"
        else "debian",  # of a distro BentoML installs a compiler and git, unasked
        python_version=PYTHON,
        lock_python_packages=False,
    )
    if chosen == "gpu":
        # Unlike BentoML's own bases a CUDA image has no Python; uv brings the one that is asked for.
        made.run(
            "apt-get update && apt-get install -y --no-install-recommends bash ca-certificates python3-pip"
        )
        made.run("pip install --break-system-packages uv")
    if index := os.environ.get("SEGUE_TORCH_INDEX"):  # such as an index of CPU wheels, which are smaller
        made.python_packages(f"--extra-index-url {index}")
    made.python_packages(
        torch, *(f"{name}=={pinned[_plain(name)]}" for name in SERVING if _plain(name) in pinned)
    )
    if chosen == "gpu":
        # The default wheel of torch for Linux is its CUDA build; with another one there must be no image.
        made.run("python -c 'import torch; assert torch.version.cuda, torch.__version__'")
    return made


def pins(constraints: Path) -> dict[str, str]:
    """Package -> version of everything the image installs directly."""
    listed: dict[str, str] = {}
    if constraints.is_file():
        for line in constraints.read_text(encoding="utf-8").splitlines():
            name, separator, number = line.partition("#")[0].strip().partition("==")
            if separator:
                listed[_plain(name)] = number.partition(";")[0].strip()
    for name in (*SERVING, TORCH):
        plain = _plain(name)
        if plain not in listed:
            try:
                listed[plain] = version(plain)
            except (
                PackageNotFoundError
            ):  # an optional database driver, or a Bento that runs without its checkout
                continue
    return listed


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()
