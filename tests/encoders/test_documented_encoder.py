"""The encoder of docs/encoders.md, as it stands there: loaded through the registry, and fused."""

from __future__ import annotations

import re
import sys
import wave
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

from segue.encoders import registry
from segue.encoders.protocol import FileEncoder
from segue.encoders.registry import file_encoder, image_encoder, names
from segue.encoders.settings import EncoderSettings
from segue.errors import ConfigurationError, DataError
from segue.items import ItemVectors
from segue.tokenizers.fusion import Fusion

RATE = 8000


def tone(path: Path, pitches: tuple[float, ...], *, channels: int = 1, loudness: float = 0.5) -> Path:
    time = np.arange(RATE) / RATE
    wave_ = sum(np.sin(2 * np.pi * pitch * time) for pitch in pitches) * loudness / len(pitches)
    samples = np.repeat((wave_ * 32767).astype("<i2")[:, None], channels, axis=1)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(samples.tobytes())
    return path


@pytest.fixture
def encoder(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileEncoder:
    page = (repository / "docs" / "encoders.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- example:begin -->\n```python\n(.*?)```\n<!-- example:end -->", page, re.DOTALL)
    assert found is not None
    (tmp_path / "my_sounds.py").write_text(found[1], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_sounds", raising=False)
    entry = re.search(r'^log_mel = "(.*)"$', page, re.MULTILINE)
    assert entry is not None
    points = EntryPoints([EntryPoint("log_mel", entry[1], registry.GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    return file_encoder("audio", "log_mel", EncoderSettings())


def test_sounds_alike_have_vectors_alike(encoder: FileEncoder, tmp_path: Path) -> None:
    paths = [
        tone(tmp_path / "low.wav", (220, 330)),
        tone(tmp_path / "low_stereo.wav", (220, 330), channels=2),
        tone(tmp_path / "low_soft.wav", (220, 330), loudness=0.3),
        tone(tmp_path / "high.wav", (2500, 3100)),
    ]
    vectors = encoder.encode(paths)
    assert vectors.shape == (4, encoder.dimensions)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)
    cosine = vectors @ vectors.T
    assert cosine[0, 2] > cosine[0, 3]
    alone = np.concatenate([encoder.encode([path]) for path in paths])
    assert alone.tobytes() == vectors.tobytes()


def test_it_joins_the_fusion_as_a_modality(encoder: FileEncoder, tmp_path: Path) -> None:
    paths = [tone(tmp_path / f"{pitch}.wav", (100.0 + 40 * pitch,)) for pitch in range(12)]
    ids = [f"i{row}" for row in range(12)]
    present = np.ones(12, dtype=bool)
    audio = ItemVectors(encoder.encode(paths), present, ids)
    text = ItemVectors(np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32), present, ids)
    fusion = Fusion.fit({"audio": audio, "text": text}, {"audio": 1.0, "text": 0.5}, 6)
    assert list(fusion.modalities) == ["audio", "text"]
    assert fusion.fuse({"audio": audio, "text": text})[0].shape == (12, 6)


def test_what_is_no_sound_is_named(encoder: FileEncoder, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound", encoding="utf-8")
    with pytest.raises(DataError, match=r"text\.wav is no WAV file"):
        encoder.encode([tmp_path / "text.wav"])


@pytest.mark.usefixtures("encoder")
def test_it_is_found_by_its_own_kind_only() -> None:
    assert "log_mel" in names()
    with pytest.raises(ConfigurationError, match="reads audio, not image"):
        image_encoder("log_mel", EncoderSettings())
