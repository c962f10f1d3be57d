from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from segue.errors import ArtifactError, BindingError
from segue.tokenizers.codebook import DESCRIPTION, TENSORS, Codebook, EncoderIdentity

from .examples import ENCODERS, SMALL, codebook, modalities


def test_saved_and_loaded_is_the_same_codebook(tmp_path: Path) -> None:
    made = codebook()
    made.save(tmp_path)
    loaded = Codebook.load(tmp_path)
    assert (
        loaded.codebook_id
        == made.codebook_id
        == json.loads((tmp_path / DESCRIPTION).read_text())["codebook_id"]
    )
    new = modalities(20, seed=3, first=500)
    vectors, present = made.fuse(new)
    again, present_again = loaded.fuse(new)
    np.testing.assert_array_equal(vectors, again)
    np.testing.assert_array_equal(present, present_again)
    np.testing.assert_array_equal(made.encode(vectors), loaded.encode(again))
    np.testing.assert_array_equal(
        made.reconstruct(made.encode(vectors)), loaded.reconstruct(made.encode(vectors))
    )


def test_fitting_twice_writes_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        codebook().save(tmp_path / name)
    for file in (TENSORS, DESCRIPTION):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_id_follows_encoders_weights_seeds_and_sizes() -> None:
    given = modalities(60)
    other_encoder = {**ENCODERS, "text": EncoderIdentity(name="text", weights_sha256="text-2")}
    ids = {
        codebook().codebook_id,
        Codebook.fit(given, other_encoder, SMALL).codebook_id,
        Codebook.fit(given, ENCODERS, SMALL.model_copy(update={"seed": 5})).codebook_id,
        Codebook.fit(given, ENCODERS, SMALL.model_copy(update={"level_sizes": (6, 4, 5)})).codebook_id,
    }
    assert len(ids) == 4


def test_a_changed_tensor_is_refused(tmp_path: Path) -> None:
    codebook().save(tmp_path)
    arrays = load_file(tmp_path / TENSORS)
    arrays["quantizer.0"][0, 0] += 1e-3
    save_file(arrays, tmp_path / TENSORS)
    with pytest.raises(ArtifactError, match="changed after it was made"):
        Codebook.load(tmp_path)


@pytest.mark.parametrize("key", ["level_sizes", "encoders", "tokenizer"])
def test_a_changed_or_incomplete_description_is_refused(tmp_path: Path, key: str) -> None:
    codebook().save(tmp_path)
    path = tmp_path / DESCRIPTION
    description = json.loads(path.read_text())
    del description[key]
    path.write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match="damaged"):
        Codebook.load(tmp_path)


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        Codebook.load(tmp_path)
    codebook().save(tmp_path)
    (tmp_path / TENSORS).write_bytes((tmp_path / TENSORS).read_bytes()[:100])
    with pytest.raises(ArtifactError, match="damaged"):
        Codebook.load(tmp_path)


def test_vectors_of_another_encoder_are_refused() -> None:
    made = codebook()
    made.require_encoders(ENCODERS)
    with pytest.raises(BindingError, match="keep collaborative_embeddings together with the codebook"):
        made.require_encoders({**ENCODERS, "collaborative": EncoderIdentity(name="x", weights_sha256="y")})
    with pytest.raises(BindingError, match="no encoder"):
        made.require_encoders({"text": ENCODERS["text"]})


def test_an_encoder_file_without_its_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text('{"name": "minilm"}')
    with pytest.raises(ArtifactError, match="weights_sha256"):
        EncoderIdentity.load(tmp_path)
