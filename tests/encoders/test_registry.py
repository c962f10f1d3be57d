"""Encoders by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from segue.encoders import registry
from segue.encoders.registry import EncoderEntry, image_encoder, names, text_encoder
from segue.encoders.settings import EncoderSettings
from segue.errors import ConfigurationError


class Pixels:
    """An image encoder as another package would bring it."""

    name = "pixels"
    weights_sha256 = "0" * 64
    dimensions = 2

    def encode(self, images, progress=None):  # type: ignore[no-untyped-def]
        return np.zeros((len(images), 2), dtype=np.float32)


PIXELS = EncoderEntry("image", lambda settings: Pixels())


def wrong() -> str:
    return "no entry"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(
        EntryPoint(name, f"{__name__}:{attribute}", registry.GROUP)
        for name, attribute in (("pixels", "PIXELS"), ("broken", "wrong"), ("gone", "removed"))
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))


def test_built_in_names() -> None:
    assert "minilm" in names()


@pytest.mark.usefixtures("installed")
def test_an_encoder_of_another_package_is_found() -> None:
    assert image_encoder("pixels", EncoderSettings()).dimensions == 2


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [("pixels", "reads image, not text"), ("broken", "gives no EncoderEntry"), ("gone", "cannot be loaded")],
)
def test_a_wrong_entry_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        text_encoder(EncoderSettings(text_model=name))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"no text encoder 'minlim' .*minilm.*folder"):
        text_encoder(EncoderSettings(text_model="minlim"))
