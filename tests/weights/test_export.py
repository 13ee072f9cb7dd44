"""Exported weights in the hands of other programs: features made there, from the file and its preprocessing, equal ours."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms.v2 import functional as vision

import unlabeled
from pictures import SETTINGS, Trained
from unlabeled import cli
from unlabeled.config import Config
from unlabeled.errors import ConfigError, MissingExtraError, RunError
from unlabeled.models import build_backbone
from unlabeled.runs.images import DataRecord
from unlabeled.weights import export as exporting
from unlabeled.weights import formats
from unlabeled.weights.export import Trained as Weights
from unlabeled.weights.export import unlike_torchvision
from unlabeled.weights.formats import FORMATS, check, export
from unlabeled.weights.importing import describe

EIGHT_BITS = {"low": [0.0], "high": [255.0], "share_clipped": 0.0}
STATISTICS = {"mean": (0.45, 0.4, 0.35), "std": (0.3, 0.2, 0.25)}


def weights(backbone: str, size: int, **settings: Any) -> Weights:
    """An untrained network whose running statistics are no longer 0 and 1."""
    config = Config().replace(
        backbone=backbone, image_size=size, resize=size + size // 8, store_size=2 * size, **STATISTICS, **settings
    )
    network = build_backbone(
        backbone,
        stem=config.stem,
        image_size=size,
        mean=config.mean,
        std=config.std,
        normalize=config.normalize,
        generator=torch.Generator().manual_seed(0),
    )
    network.train()
    with torch.no_grad():
        network(views(8, size))
    return Weights(network.eval(), config, DataRecord.without_images(2 * size, EIGHT_BITS, None), "a test")


def views(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def outside(file: Path, steps: dict[str, Any]) -> torch.Tensor:
    """A view [1, 3, S, S] of a picture in [0, 1], by the numbers of the preprocessing and nothing of ours."""
    return outside_view(vision.pil_to_tensor(Image.open(file).convert("RGB"))[None], steps)


def outside_view(pixels: torch.Tensor, steps: dict[str, Any]) -> torch.Tensor:
    """The same of uint8 [1, C, H, W], as docs/weights.md tells people to."""
    short = min(pixels.shape[2:])
    if short > steps["short_side"]:
        sides = [round(side * steps["short_side"] / short) for side in pixels.shape[2:]]
        pixels = vision.resize(pixels, sides, antialias=True)
    side = round(min(pixels.shape[2:]) * steps["square_share"])
    pixels = vision.center_crop(pixels, [side, side])
    pixels = vision.resize(pixels, [steps["size"], steps["size"]], antialias=True)
    view = pixels.float() / 255
    if steps["normalisation"] == "outside":
        mean, std = (torch.tensor(steps[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
        view = (view - mean) / std
    return view


def assert_same(given: torch.Tensor, ours: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert given.shape == ours.shape
    assert (given - ours).abs().max() <= tolerance * ours.abs().max()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> unlabeled.run.Run:
    """A run with a ResNet-18, in float32 as an outside program computes."""
    made = weights("resnet18", 64, precision="float32")
    file = tmp_path_factory.mktemp("resnet") / "a.safetensors"
    export(made, "safetensors", file)
    return unlabeled.import_weights(file, file.parent / "run", cache=trained.cache)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of several sizes, larger and smaller than what is stored."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number, (height, width) in enumerate([(300, 200), (90, 120), (128, 128), (60, 301)]):
        small = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_torchvision_loads_it_strictly_and_gives_our_features(resnet: Any, photographs: Path, tmp_path: Path):
    from torchvision.models import resnet18

    out = tmp_path / "deep" / "resnet18.pth"
    written = resnet.export("torchvision", out)
    assert "torchvision.models.resnet18(num_classes=512)" in written.loading
    network = resnet18(num_classes=512).eval()
    network.load_state_dict(torch.load(out), strict=True)
    steps = json.loads((tmp_path / "deep" / "resnet18.pth.preprocessing.json").read_text())
    ours = resnet.embed(photographs)
    with torch.no_grad():
        theirs = torch.cat([network(outside(photographs / name, steps)) for name in ours.names])
    assert_same(theirs, ours.features, 1e-3)
    resnet.export("torchvision", tmp_path / "a.safetensors")
    network.load_state_dict(load_file(tmp_path / "a.safetensors"), strict=True)


def odd_pictures(kind: str, folder: Path) -> tuple[Path, list[np.ndarray]]:
    """Noise, which forgives no shift, in sizes whose long side is no whole number once the short one is reduced."""
    random, sizes = np.random.default_rng(1), [(111, 112), (106, 119), (103, 86), (65, 93)]
    if kind == "channels":
        # Of one size all are cut as one batch, rounded once and not twice: of noise that would be more than it is of pictures.
        rows = random.normal(0, 40, (4, 103, 111, 5)).cumsum(1).cumsum(2).astype(np.float32)
        np.save(folder / "rows.npy", rows)
        return folder / "rows.npy", list(rows)
    (folder / "odd").mkdir()
    pictures: list[np.ndarray] = []
    for number, size in enumerate(sizes):
        shape, top, depth = (size, 60_000, np.uint16) if kind == "grey16" else ((*size, 3), 256, np.uint8)
        pictures.append(random.integers(0, top, shape).astype(depth))
        Image.fromarray(pictures[-1]).save(folder / "odd" / f"{number}.png")
    return folder / "odd", pictures


@pytest.mark.parametrize("kind", ["photographs", "sobel", "grey16", "channels"])
def test_an_outsider_with_the_file_alone_gets_our_features(kind: str, trained: Trained, tmp_path: Path):
    data, pictures = odd_pictures(kind, tmp_path)
    settings = SETTINGS | {"num_clusters": 2, "pca_dims": 3, "epochs": 1, "batch_size": 4}
    settings |= {"store_size": 64, "resize": 36, "stem": "sobel" if kind == "sobel" else "rgb"}
    run = unlabeled.train(data, tmp_path / "run", cache=trained.cache, **settings)
    # The file beside every format; that each computes what the backbone does is for other tests, and takes them longer.
    run.export("safetensors", tmp_path / "a.safetensors")
    steps = json.loads((tmp_path / "a.safetensors.preprocessing.json").read_text())
    low, high = (np.array(steps["value_range"][name], np.float32) for name in ("low", "high"))
    views: list[torch.Tensor] = []
    for pixels in pictures:
        values = pixels.reshape(*pixels.shape[:2], -1)
        values = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        views.append(outside_view(torch.from_numpy(values).permute(2, 0, 1)[None], steps))
    with torch.no_grad():
        given = run.backbone(torch.cat(views).to(next(run.backbone.parameters()).device)).cpu()
    # A pixel may differ by a grey level. Half a pixel of shift is more than ten times as much.
    assert_same(given, run.embed(data).features, 1e-2)


def loaded_strictly(
    name: str, side: int, network: nn.Module, loading: str, file: Path
) -> tuple[nn.Module, torch.Tensor]:
    """A backbone of ours, and what torchvision's `network` makes of two views with its exported weights, [2, D]."""
    made = weights(name, side)
    assert loading in export(made, "torchvision", file).loading
    network.eval().load_state_dict(torch.load(file), strict=True)
    mean, std = (torch.tensor(STATISTICS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return made.backbone, network((views(2, side) - mean) / std)


def test_resnet50_loads_strictly_and_gives_our_features(tmp_path: Path):
    from torchvision.models import resnet50

    network, loading = resnet50(num_classes=2048), "torchvision.models.resnet50(num_classes=2048)"
    backbone, theirs = loaded_strictly("resnet50", 64, network, loading, tmp_path / "resnet50.pth")
    with torch.no_grad():
        assert_same(theirs, backbone(views(2, 64)))


@pytest.mark.slow
def test_vgg16_loads_strictly_and_gives_our_features(tmp_path: Path):
    """138 million numbers, twice in memory and once on disk. Its features are those before the last ReLU."""
    from torchvision.models import vgg16_bn

    network, loading = vgg16_bn(num_classes=4096), "torchvision.models.vgg16_bn(num_classes=4096)"
    before: list[torch.Tensor] = []
    network.classifier[3].register_forward_hook(lambda _module, _given, z: before.append(z.clone()))
    backbone, theirs = loaded_strictly("vgg16", 224, network, loading, tmp_path / "vgg16.pth")
    with torch.no_grad():
        ours = backbone(views(2, 224))
    assert_same(before[0], ours)
    assert_same(theirs, ours.relu())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for an address or opens a connection fails the test."""

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("offline")
def test_a_hub_folder_that_timm_loads(resnet: Any, photographs: Path, tmp_path: Path):
    timm = pytest.importorskip("timm")
    out = tmp_path / "hub"
    resnet.export("hub", out, license="cc-by-nc-4.0")
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json"
    }  # fmt: skip
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-4.0\nlibrary_name: timm\n") and "timm.create_model" in card
    config = json.loads((out / "config.json").read_text())
    network = timm.create_model(
        config["architecture"], num_classes=0, checkpoint_path=str(out / "model.safetensors")
    ).eval()
    assert config["pretrained_cfg"]["mean"] == list(STATISTICS["mean"])
    steps = json.loads((out / "preprocessor_config.json").read_text())
    ours = resnet.embed(photographs)
    with torch.no_grad():
        theirs = torch.cat([network(outside(photographs / name, steps)) for name in ours.names])
    assert_same(theirs, ours.features, 1e-3)
    with pytest.raises(ConfigError, match="holds files already"):
        resnet.export("hub", out)


def test_the_files_take_batches_of_any_size_and_the_normalisation_is_inside(trained: Trained, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    run = unlabeled.load(trained.run)
    files = [tmp_path / "a.onnx", tmp_path / "a.pt2"]
    run.export("onnx", files[0])
    run.export("torch-export", files[1])
    ours = run.embed(trained.new)
    session = onnxruntime.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    program = torch.export.load(files[1]).module()
    for file in files:
        steps = json.loads(file.with_name(f"{file.name}.preprocessing.json").read_text())
        assert steps["normalisation"] == "inside"
    made = torch.cat([outside(trained.new / name, steps) for name in ours.names])
    for count in (1, 7, 40):
        given = torch.from_numpy(session.run(None, {"views": made[:count].numpy()})[0])
        # Small images are cut as a batch, which rounds once where others round twice.
        assert_same(given, ours.features[:count], 0.03)
        assert_same(program(made[:count]), given, 1e-4)
        with torch.no_grad():
            assert_same(given, run.backbone(made[:count]), 1e-4)
    # One file each, and no leftovers.
    assert len(list(tmp_path.iterdir())) == 4
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["preprocessing"])["size"] == 32 and "deepcluster" in metadata["kind"]


def test_a_residual_network_becomes_onnx_at_other_batch_sizes(tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    made = weights("resnet18", 64)
    export(made, "onnx", tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 64, 64]
    for count in (1, 5):
        given = torch.from_numpy(session.run(None, {"views": views(count, 64).numpy()})[0])
        with torch.no_grad():
            assert_same(given, made.backbone(views(count, 64)))


@pytest.mark.parametrize("stem", ["sobel", "sobel_nat", "highpass"])
def test_every_stem_becomes_a_program(stem: str, tmp_path: Path):
    made = weights("alexnet_small", 32, stem=stem, normalize="image" if stem == "sobel_nat" else "dataset")
    export(made, "torch-export", tmp_path / "a.pt2")
    with torch.no_grad():
        assert_same(torch.export.load(tmp_path / "a.pt2").module()(views(5, 32)), made.backbone(views(5, 32)))


def test_sobel_becomes_onnx_and_a_program_that_disagrees_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    made = weights("alexnet_small", 32, stem="sobel")
    export(made, "onnx", tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        given = torch.from_numpy(session.run(None, {"views": views(5, 32).numpy()})[0])
        assert_same(given, made.backbone(views(5, 32)))
    monkeypatch.setattr(exporting, "ONNX_TOLERANCE", 0.0)
    with pytest.raises(RunError, match="nothing was written"):
        exporting._check_onnx(made, (tmp_path / "a.onnx").read_bytes())


def test_our_own_format_comes_back_as_it_went(trained: Trained, tmp_path: Path):
    run = unlabeled.load(trained.run)
    out = tmp_path / "mine.safetensors"
    out.write_text("an elder file")
    run.export("safetensors", out)
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["preprocessing"])["size"] == 32
    again = unlabeled.import_weights(out, tmp_path / "run", cache=trained.cache)
    assert torch.equal(again.embed(trained.new).features, run.embed(trained.new).features)
    assert again.origin["kind"].startswith("deepcluster, 2 epochs on 120 images")


@pytest.mark.usefixtures("offline")
def test_a_hub_folder_of_a_network_that_only_we_have(trained: Trained, tmp_path: Path):
    run = unlabeled.load(trained.run)
    run.export("hub", tmp_path / "hub")
    assert "library_name: unlabeled" in (tmp_path / "hub" / "README.md").read_text()
    hub = unlabeled.import_weights(tmp_path / "hub" / "model.safetensors", tmp_path / "run2", cache=trained.cache)
    assert torch.equal(hub.embed(trained.new).features, run.embed(trained.new).features)


def test_sixteen_bits_travel_in_the_value_range():
    made = weights("alexnet_small", 32)
    record = replace(made.record, channels=2, value_range={"low": [10, 20], "high": [4000, 5000], "share_clipped": 0.0})
    told = describe(made.config, record, "inside")
    assert told["value_range"] == {"low": [10.0, 20.0], "high": [4000.0, 5000.0]}
    assert told["input"] == "float32 [batch, 2, 32, 32] in [0, 1]"


def test_the_identity_makes_vgg_say_its_feature():
    """Without the 138 million numbers: the last layer of torchvision's class is the identity of 4096."""

    class Small(nn.Module):
        feature_dim = 4096

    made = replace(weights("alexnet_small", 32), backbone=Small(), config=Config(backbone="vgg16", image_size=64))  # type: ignore[arg-type]
    assert torch.equal(exporting.with_identity(made)["classifier.6.weight"], torch.eye(4096))


def test_what_torchvision_cannot_hold():
    record = DataRecord.without_images(256, EIGHT_BITS, None)
    config = Config(backbone="resnet18", image_size=224, resize=256, store_size=256)
    assert unlike_torchvision(config, record) == ""
    assert "no network like alexnet" in unlike_torchvision(config.replace(backbone="alexnet"), record)
    assert "through a sobel stem" in unlike_torchvision(config.replace(stem="sobel"), record)
    assert "sees 6 channels" in unlike_torchvision(config, replace(record, channels=6))
    assert "every image by its own" in unlike_torchvision(config.replace(normalize="image"), record)
    assert "for 224 pixels" in unlike_torchvision(config.replace(backbone="vgg16", image_size=96), record)


def test_mistakes_are_said_before_any_work(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = unlabeled.load(trained.run)
    for format, out, wanted in (
        ("onxx", "a.onnx", "did you mean 'onnx'"),
        ("onnx", "a.pth", r"must end in \.onnx"),
        ("torchvision", "a.pth", "no network like alexnet_small"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            run.export(format, tmp_path / out)
    (tmp_path / "file").write_text("x")
    for format, out in (("safetensors", "file/a.safetensors"), ("hub", "file/hub")):
        with pytest.raises(RunError, match="cannot"):
            run.export(format, tmp_path / out)
    with pytest.raises(ConfigError, match="is a file"):
        run.export("hub", tmp_path / "file")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="onnx"):
        check(run.config, run.record, "onnx", tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_line_names_the_formats(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from typing import get_args

    from unlabeled.cli.weights import Format

    assert set(get_args(Format)) == {*FORMATS, "hub"}
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(trained.run), "--format", "safetensors", "--out", str(tmp_path / "a.safetensors")])
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "Written: " in out and "Load it: unlabeled import" in out
