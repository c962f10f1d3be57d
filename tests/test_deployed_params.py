from __future__ import annotations

from pathlib import Path

import pytest

from segue.deployed_params import load_or_remembered, remember
from segue.errors import ConfigurationError
from segue.params import load_params
from segue.workspace import Workspace


def test_what_the_deployment_was_written_under_stands_in_for_a_broken_profile(
    workspace_root: Path, repository: Path
) -> None:
    workspace = Workspace(workspace_root)
    for profile in sorted((repository / "profiles").glob("*.yaml")):
        name, told = profile.stem, list[str]()
        params = load_params(workspace, name, ["migration.pilot_share=0.125"])
        remember(workspace, name, params)
        assert load_or_remembered(workspace, name, told.append) == load_params(workspace, name)
        assert told == []
        text = workspace.profile_file(name).read_text()
        workspace.profile_file(name).write_text(text.replace("migration:", "migrashun: {}\nmigration:"))
        assert load_or_remembered(workspace, name, told.append) == params
        [warning] = told
        assert "there is no section 'migrashun'; did you mean 'migration'?" in warning
        assert "the parameters of the last deployment hold" in warning


def test_without_them_a_broken_profile_is_refused(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    workspace.profile_file("ml-100k").write_text(
        "migrashun: {}\n" + workspace.profile_file("ml-100k").read_text()
    )
    with pytest.raises(ConfigurationError, match="migrashun"):
        load_or_remembered(workspace, "ml-100k", lambda _: None)
