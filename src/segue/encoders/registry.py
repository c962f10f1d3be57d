"""Encoders by name: the built-in ones and those of the entry point group ``segue.encoders``.

An entry point loads an :class:`EncoderEntry`, or a function without arguments that returns one::

    [project.entry-points."segue.encoders"]
    my_encoder = "my_package.encoders:ENTRY"
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from segue.encoders.protocol import ImageEncoder, TextEncoder
from segue.encoders.settings import EncoderSettings
from segue.errors import ConfigurationError

GROUP = "segue.encoders"
Kind = Literal["text", "image"]


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """What an encoder reads, and how to make it: only ``load`` may import heavy libraries."""

    kind: Kind
    load: Callable[[EncoderSettings], Any]


def _minilm(settings: EncoderSettings) -> TextEncoder:
    from segue.encoders.text import SentenceEncoder, minilm_folder

    return SentenceEncoder.from_folder(minilm_folder(), "minilm", settings)


BUILT_IN: dict[str, EncoderEntry] = {"minilm": EncoderEntry("text", _minilm)}


def names() -> tuple[str, ...]:
    """The names of all encoders, built in or installed. None of them is loaded."""
    return tuple(sorted({*BUILT_IN, *entry_points(group=GROUP).names}))


def text_encoder(settings: EncoderSettings) -> TextEncoder:
    """The encoder that ``settings.text_model`` names: a registered one, or a sentence-transformers folder.

    Raises ConfigurationError where it is neither, or an encoder of another kind.
    """
    name = settings.text_model
    if name not in names() and Path(name).is_dir():
        from segue.encoders.text import SentenceEncoder

        return SentenceEncoder.from_folder(Path(name), Path(name).resolve().name, settings)
    encoder = _load(name, "text", settings)
    if not isinstance(encoder, TextEncoder):
        raise ConfigurationError(f"encoders.text_model: {name!r} does not load a TextEncoder")
    return encoder


def image_encoder(name: str, settings: EncoderSettings) -> ImageEncoder:
    """The image encoder called ``name``. Raises ConfigurationError where there is none."""
    encoder = _load(name, "image", settings)
    if not isinstance(encoder, ImageEncoder):
        raise ConfigurationError(f"the image encoder {name!r} does not load an ImageEncoder")
    return encoder


def _load(name: str, kind: Kind, settings: EncoderSettings) -> object:
    if name not in names():
        raise ConfigurationError(
            f"there is no {kind} encoder {name!r} (known: {', '.join(names())})"
            + ("; a folder with a sentence-transformers model may be named, too" if kind == "text" else "")
        )
    entry = _entry(name)
    if entry.kind != kind:
        raise ConfigurationError(f"the encoder {name!r} reads {entry.kind}, not {kind}: name another")
    made: object = entry.load(settings)
    return made


def _entry(name: str) -> EncoderEntry:
    found = entry_points(group=GROUP)
    if name not in found.names:
        return BUILT_IN[name]
    try:
        loaded = found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the entry point {name!r} of {GROUP} cannot be loaded: {error}") from error
    entry = loaded if isinstance(loaded, EncoderEntry) else loaded()
    if not isinstance(entry, EncoderEntry):
        raise ConfigurationError(f"the entry point {name!r} of {GROUP} gives no EncoderEntry")
    return entry
