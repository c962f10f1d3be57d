from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from segue.errors import ArtifactError
from segue.serving.readable import require_readable, why_unreadable
from tests.serving.worlds import as_an_earlier_version_wrote


def test_a_bundle_that_serves_has_nothing_to_say(full: Path, incumbent_only: Path) -> None:
    assert why_unreadable(full) is None
    assert why_unreadable(incumbent_only) is None


def test_a_model_of_an_earlier_version_is_told_in_the_words_of_its_loading(
    full: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(full, folder)
    as_an_earlier_version_wrote(folder / "model")
    with pytest.raises(
        ArtifactError, match=r"model\.safetensors does not hold the weights .*train the model again"
    ):
        require_readable(folder)
