from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from segue.errors import ConfigurationError
from segue.params import SECTIONS, load_params
from segue.workspace import Workspace


def test_every_committed_profile_loads(repository: Path, workspace_root: Path) -> None:
    names = [path.stem for path in (repository / "profiles").glob("*.yaml")]
    assert "ml-100k" in names
    for name in names:
        load_params(Workspace(workspace_root), name)


def test_params_file_states_every_section(repository: Path) -> None:
    stated = yaml.safe_load((repository / "params.yaml").read_text())
    assert set(stated) == {"datasets", *SECTIONS}


def test_order_is_defaults_profile_override(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    profile = yaml.safe_load(workspace.profile_file("ml-100k").read_text())
    profile["generative"] = {"dropout": 0.11}
    workspace.profile_file("ml-100k").write_text(yaml.safe_dump(profile))
    assert load_params(workspace, "ml-100k").generative.dropout == 0.11
    assert load_params(workspace, "ml-100k", ["generative.dropout=0.22"]).generative.dropout == 0.22


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("generative.no_such=1", "no_such"),
        ("generative.dropout=abc", "dropout"),
        ("nonsense", "section.key=value"),
    ],
)
def test_a_wrong_key_or_value_is_named(workspace_root: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load_params(Workspace(workspace_root), "ml-100k", [override])


def test_an_unknown_dataset_names_those_that_exist(workspace_root: Path) -> None:
    with pytest.raises(ConfigurationError, match="ml-100k"):
        load_params(Workspace(workspace_root), "nothing")


def test_a_profile_that_lacks_a_section_says_which(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    profile = yaml.safe_load(workspace.profile_file("ml-100k").read_text())
    del profile["decoding"]
    workspace.profile_file("ml-100k").write_text(yaml.safe_dump(profile))
    with pytest.raises(ConfigurationError, match="decoding"):
        load_params(workspace, "ml-100k")


def test_only_the_named_sections_decide_the_hash(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    before, after = load_params(workspace, "ml-100k"), load_params(workspace, "ml-100k", ["splits.seed=99"])
    assert before.sections_hash(["generative"]) == after.sections_hash(["generative"])
    assert before.sections_hash(["splits"]) != after.sections_hash(["splits"])
