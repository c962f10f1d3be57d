from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from segue.errors import ConfigurationError
from segue.generative.settings import GenerativeSettings
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


def test_params_file_states_every_key_of_the_generative_model(repository: Path) -> None:
    """With the value that the code has for it, so that neither can drift from the other."""
    stated = yaml.safe_load((repository / "params.yaml").read_text())
    assert stated["generative"] == GenerativeSettings().model_dump(mode="json")


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
        (
            "splits.sed=1",
            r"--set splits\.sed=1: splits has no key 'sed'; did you mean 'seed'\? keys of splits: seed, primary",
        ),
        (
            "splts.seed=1",
            r"--set .*: there is no section 'splts'; did you mean 'splits'\? sections: splits, data, ",
        ),
        ("zzz.seed=1", r"there is no section 'zzz'; sections: data, validation, splits"),
        ("cascade.sasrec.layer=1", r"cascade\.sasrec has no key 'layer'; did you mean 'layers'\?"),
        ("data.catalogue.pth=1", r"data\.catalogue has no key 'pth'; did you mean 'path'\?"),
        ("generative.dropout=abc", r"--set generative\.dropout=abc: generative\.dropout: .*number"),
        (
            "migration.blend={generative: -1}",
            r"migration\.blend.*blend\.generative is -1\.0: a weight is a number of at least 0",
        ),
        ("splits.seed=[1", r"--set 'splits\.seed=\[1': '\[1' is no value in YAML"),
        ("nonsense", r"--set 'nonsense' is not of the form section\.key=value"),
    ],
)
def test_a_wrong_override_is_named_with_what_there_is(workspace_root: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        load_params(Workspace(workspace_root), "ml-100k", ["splits.seed=3", override])
    assert "\n" not in str(caught.value)


def test_a_wrong_key_or_value_names_the_file_that_says_it(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    profile = yaml.safe_load(workspace.profile_file("ml-100k").read_text())
    for section, told in (
        ({"seeed": 1}, "splits has no key 'seeed'"),
        ({"seed": "x"}, r"splits\.seed: .*integer"),
    ):
        workspace.profile_file("ml-100k").write_text(yaml.safe_dump({**profile, "splits": section}))
        with pytest.raises(ConfigurationError, match=rf"^profiles/ml-100k\.yaml: {told}"):
            load_params(workspace, "ml-100k")
    workspace.profile_file("ml-100k").write_text(yaml.safe_dump(profile))
    defaults = yaml.safe_load(workspace.params_file.read_text())
    defaults["splits"]["seed"] = "x"
    workspace.params_file.write_text(yaml.safe_dump(defaults))
    with pytest.raises(ConfigurationError, match=r"^params\.yaml: splits\.seed"):
        load_params(workspace, "ml-100k")
    with pytest.raises(ConfigurationError, match=r"^elsewhere splits\.seed=y: splits\.seed"):
        load_params(workspace, "ml-100k", ["splits.seed=y"], origin="elsewhere")


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


def test_a_profile_declares_context_features_under_names_of_its_own(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    profile = yaml.safe_load(workspace.profile_file("ml-100k").read_text())
    declared = {"device": {"kind": "category"}, "kind": {"kind": "hour", "utc_offset_hours": 1}}
    profile["data"]["context"] = declared
    workspace.profile_file("ml-100k").write_text(yaml.safe_dump(profile))
    context = load_params(workspace, "ml-100k").data.context
    assert {name: feature.kind for name, feature in context.items()} == {"device": "category", "kind": "hour"}
    profile["data"]["context"]["device"]["colum"] = "browser"
    workspace.profile_file("ml-100k").write_text(yaml.safe_dump(profile))
    told = r"^profiles/ml-100k\.yaml: data\.context\.device has no key 'colum'; did you mean 'column'\?"
    with pytest.raises(ConfigurationError, match=told):
        load_params(workspace, "ml-100k")


def test_what_a_validator_of_ours_says_is_told_without_pydantics_own_word(workspace_root: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is not declared") as error:
        load_params(Workspace(workspace_root), "ml-100k", ["migration.scenario=basket"])
    assert "Value error" not in str(error.value)
