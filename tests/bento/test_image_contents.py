"""What serving imports is in its image: the packages that it installs, and what these require."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from bento.image import SERVING, TORCH

# Everything that answering imports, models of every kind included.
ANSWERING = (
    "segue.serving.service",
    "segue.serving.batch",
    "segue.cascade.cascade",
    "segue.generative.path",
    "segue.generative.house",
    "segue.generative.tiger",
    "segue.generative.hstu",
    "segue.generative.cobra",
    "segue.tokenizers.item_map",
)
BLOCKED = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
"""


def plain(requirement: str) -> str:
    """The package's name alone, as indexes compare it."""
    name = re.split(r"[\s;\[<>=!~(]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(names: set[str]) -> set[str]:
    """``names`` and everything that they require without extras."""
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        try:
            needed = requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        names |= {plain(one) for one in needed if "extra ==" not in one} - found
    return found


def test_what_serving_imports_is_in_its_image() -> None:
    there = installed_with({"bentoml", TORCH, *map(plain, SERVING)})
    missing = [
        module
        for module, owners in packages_distributions().items()
        if not {plain(owner) for owner in owners} & {*there, "segue"} and module.isidentifier()
    ]
    assert {"mlflow", "dagster", "optuna"} <= set(missing)  # or nothing would be blocked
    missing = [name for name in missing if name not in sys.stdlib_module_names]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, json.dumps(missing), json.dumps(ANSWERING)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
