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

from segue.encoders.protocol import FileEncoder, ImageEncoder, TextEncoder
from segue.encoders.settings import EncoderSettings
from segue.errors import ConfigurationError

GROUP = "segue.encoders"
FileKind = Literal["image", "audio", "video"]
Kind = Literal["text"] | FileKind
_ALSO: dict[Kind, str] = {
    "text": "; a folder with a sentence-transformers model may be named, too",
    "image": "; the path of an .onnx file may be named, too",
}


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """What an encoder reads, and how to make it: only ``load`` may import heavy libraries."""

    kind: Kind
    load: Callable[[EncoderSettings], Any]


def _minilm(settings: EncoderSettings) -> TextEncoder:
    from segue.encoders.text import SentenceEncoder, minilm_folder

    return SentenceEncoder.from_folder(minilm_folder(), "minilm", settings)


def _efficientnet_lite0(settings: EncoderSettings) -> ImageEncoder:
    from segue.encoders.image import efficientnet_lite0

    return efficientnet_lite0(settings)


BUILT_IN: dict[str, EncoderEntry] = {
    "minilm": EncoderEntry("text", _minilm),
    "efficientnet_lite0": EncoderEntry("image", _efficientnet_lite0),
}


def names() -> tuple[str, ...]:
    """The names of all encoders, built in or installed. None of them is loaded."""
    return tuple(sorted({*BUILT_IN, *entry_points(group=GROUP).names}))


def check_encoders(settings: EncoderSettings) -> None:
    """Raises ConfigurationError where ``settings`` name an encoder that there is not; loads none."""
    text, image = settings.text_model, settings.image_model
    if text not in names() and not Path(text).is_dir():
        raise _unknown("text", text)
    if image not in names() and Path(image).suffix != ".onnx":
        raise _unknown("image", image)


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
    """The image encoder called ``name``: a registered one, or an ``.onnx`` file on disk.

    Raises ConfigurationError where it is neither, or an encoder of another kind.
    """
    if name not in names() and Path(name).suffix == ".onnx":
        from segue.encoders.onnx_image import OnnxImageEncoder

        return OnnxImageEncoder.from_file(Path(name), settings)
    return file_encoder("image", name, settings)


def file_encoder(kind: FileKind, name: str, settings: EncoderSettings) -> FileEncoder:
    """The encoder called ``name`` of files of this kind. Raises ConfigurationError where there is none."""
    encoder = _load(name, kind, settings)
    if not isinstance(encoder, FileEncoder):
        raise ConfigurationError(f"the {kind} encoder {name!r} does not load a FileEncoder")
    return encoder


def _load(name: str, kind: Kind, settings: EncoderSettings) -> object:
    if name not in names():
        raise _unknown(kind, name)
    entry = _entry(name)
    if entry.kind != kind:
        raise ConfigurationError(f"the encoder {name!r} reads {entry.kind}, not {kind}: name another")
    made: object = entry.load(settings)
    return made


def _unknown(kind: Kind, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"there is no {kind} encoder {name!r} (known: {', '.join(names())})" + _ALSO.get(kind, "")
    )


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
