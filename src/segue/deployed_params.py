"""The parameters under which the deployment was last written: what guards it while a profile is broken.

The step ``deployment`` keeps them in ``state/<dataset>/deployment/params.json``. A watcher must not stay away because somebody
misspelt a key.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from segue.artifacts import read_json, write_json
from segue.errors import ConfigurationError
from segue.params import Params, load_params
from segue.workspace import Workspace

FILE: Final = "params.json"


def remember(workspace: Workspace, dataset: str, params: Params) -> None:
    """Keep ``params`` as those that the deployment was written under."""
    path = _path(workspace, dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, params.model_dump(mode="json"))


def load_or_remembered(workspace: Workspace, dataset: str, warn: Callable[[str], None]) -> Params:
    """The parameters of ``dataset``; where they are wrong, those of the last deployment, and ``warn`` hears why.

    Raises ConfigurationError where they are wrong and none are kept.
    """
    try:
        return load_params(workspace, dataset)
    except ConfigurationError as error:
        path = _path(workspace, dataset)
        if not path.is_file():
            raise
        try:
            found = Params.model_validate(read_json(path))
        except ValidationError:  # of another version of this code
            raise error from None
        warn(f"{error}; until that is mended, the parameters of the last deployment hold ({path})")
        return found


def _path(workspace: Workspace, dataset: str) -> Path:
    return workspace.state(dataset) / "deployment" / FILE
