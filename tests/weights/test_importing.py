"""Imported runs: every verb works on them or says in one sentence why not."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unlabeled
from pictures import Trained, write_pictures
from published import lemniscate_file
from unlabeled import cli
from unlabeled.errors import ConfigError, DataError, RunError, UnlabeledError
from unlabeled.run import Run

SMALL: dict[str, Any] = {"image_size": 64, "resize": 73}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("published") / "resnet18-f37072fd.pth"
    torch.save(resnet18(num_classes=10).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def plain(file: Path, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run imported without images."""
    return unlabeled.import_weights(file, tmp_path_factory.mktemp("plain") / "run", cache=trained.cache, **SMALL)


def test_features_are_those_of_the_published_network(file: Path, plain: Run):
    from torchvision.models import resnet18

    network = resnet18(num_classes=10).eval()
    network.load_state_dict(torch.load(file))
    network.fc = torch.nn.Identity()
    views = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(plain.backbone(views), network((views - mean) / std), atol=1e-4, rtol=1e-4)
    assert plain.origin["file"] == file.name and plain.origin["head"] is True


def test_verbs_that_need_no_training_images(plain: Run, trained: Trained):
    assert plain.embed(trained.new).features.shape == (40, 512)
    scores = plain.evaluate("knn", trained.new)
    assert 0 <= scores["knn"] <= 1 and "untrained" in scores
    assert plain.history == []


@pytest.mark.parametrize(
    ("verb", "wanted"),
    [
        (lambda run, new: run.cluster(), "no catalogue of images"),
        (lambda run, new: run.cluster(new), "no catalogue of images"),
        (lambda run, new: run.search(new / "kind0" / "000.png"), "no catalogue of images"),
        (lambda run, new: run.evaluate("knn"), "give DATA"),
        (lambda run, new: run.evaluate("knn-bank", new, test=new), "has no memory bank"),
        (lambda run, new: run.report(), "imported without images"),
        (lambda run, new: unlabeled.resume(run.path), "no training to resume"),
    ],
)
def test_verbs_that_need_training_images_say_so(verb: Any, wanted: str, plain: Run, trained: Trained):
    with pytest.raises(UnlabeledError, match=wanted):
        verb(plain, trained.new)


def test_with_images_every_verb_works(file: Path, trained: Trained, tmp_path: Path):
    settings = SMALL | {"num_clusters": 4}
    run = unlabeled.import_weights(file, tmp_path / "run", data=trained.new, cache=trained.cache, **settings)
    hit = run.search(trained.new / "kind1" / "001.png", 3)[str(trained.new / "kind1" / "001.png")][0]
    assert hit.path == "kind1/001.png" and hit.similarity == pytest.approx(1, abs=1e-3)
    assert len(run.cluster()) == 40 and len({row.cluster for row in run.cluster(trained.new)}) == 4
    assert 0 <= run.evaluate("nmi")["nmi"] <= 1
    assert "<html" in run.report().read_text()[:200]
    assert run.record.data == str(trained.new) and run.config.store_size == 256


def test_a_run_in_the_way_and_the_wrong_network(file: Path, plain: Run, tmp_path: Path):
    with pytest.raises(RunError, match="already holds a run"):
        unlabeled.import_weights(file, plain.path)
    with pytest.raises(ConfigError, match=r"holds resnet18 .* --backbone says resnet50"):
        unlabeled.import_weights(file, tmp_path / "run", backbone="resnet50")
    (tmp_path / "broken.pth").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged or cut short"):
        unlabeled.import_weights(tmp_path / "broken.pth", tmp_path / "run")
    # A refused command leaves no traces.
    assert not (tmp_path / "run").exists()
    replaced = unlabeled.import_weights(file, tmp_path / "twice", **SMALL)
    again = unlabeled.import_weights(file, replaced.path, if_exists="replace", image_size=96, resize=96)
    assert again.config.image_size == 96


def test_neighbours_in_the_published_bank(tmp_path: Path, trained: Trained):
    """Rows of the bank made by the network itself: the vote must find the kinds as it does among outputs."""
    from unlabeled.models import build_backbone, l2_head

    network = build_backbone("resnet18_small", image_size=32, generator=torch.Generator().manual_seed(0)).eval()
    head = l2_head(network, 128, generator=torch.Generator().manual_seed(1))
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("stem.")}
    state |= {f"linear.{name.removeprefix('linear.')}": value for name, value in head.state_dict().items()}
    bank = torch.randn(120, 128, generator=torch.Generator().manual_seed(2))
    first = lemniscate_file(state, tmp_path / "a.pth", bank)
    run = unlabeled.import_weights(first, tmp_path / "a", cache=trained.cache)
    with torch.no_grad():
        bank = head(run.embed(trained.photos).features)
    second = lemniscate_file(state, tmp_path / "b.pth", bank)
    run = unlabeled.import_weights(second, tmp_path / "b", cache=trained.cache)
    scores = run.evaluate("knn-bank", trained.photos, test=trained.photos, neighbors=1)
    assert scores["knn_bank"] == 1.0 and scores["train_images"] == 120 and scores["neighbors"] == 1
    with pytest.raises(DataError, match=r"120 rows and .* 40 images"):
        run.evaluate("knn-bank", trained.new, test=trained.photos)
    with pytest.raises(DataError, match="needs --test"):
        run.evaluate("knn-bank", trained.photos)


def test_the_command_line(file: Path, tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]):
    data = write_pictures(tmp_path / "few", 8)
    line = ["import", file, "--out", tmp_path / "run", "--data", data, "--image-size", 64, "--cache", trained.cache]
    for words in (line, ["embed", tmp_path / "run", data, "--out", tmp_path / "f.npy"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        assert not stop.value.code
    assert "torchvision or timm resnet18: resnet18 with stem rgb, views of 64 pixels" in capsys.readouterr().out
    assert np.load(tmp_path / "f.npy").shape == (8, 512)
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(SystemExit) as stop:
        cli.main(["import", str(tmp_path / "page.pth"), "--out", str(tmp_path / "other")])
    box = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert stop.value.code == 2 and "is a web page, not weights" in box
    assert not (tmp_path / "other").exists()


def test_real_images_through_every_verb(
    file: Path, shared_data: Path, tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
):
    """What a user does with a published file and a folder of photographs, line by line."""
    photos, run = tmp_path / "photos", tmp_path / "run"
    with zipfile.ZipFile(shared_data / "tiny-imagenet-10" / "tiny-imagenet-10.zip") as archive:
        for name in sorted(archive.namelist()):
            if Path(name).suffix == ".JPEG" and "/val/" in name and name.endswith(("0.JPEG", "5.JPEG")):
                target = photos / Path(name).parent.name / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    found = sorted(photos.rglob("*.JPEG"))
    query = found[len(found) // 2]
    lines = [
        ["import", file, "--out", run, "--data", photos, "--image-size", 64, "--resize", 64, "--cache", trained.cache],
        ["embed", run, photos, "--out", tmp_path / "f.npy"],
        ["cluster", run, "--out", tmp_path / "c.csv"],
        ["cluster", run, photos, "--out", tmp_path / "again.csv", "--to-folders", tmp_path / "clusters"],
        ["search", run, query, "-k", 2],
        ["report", run],
        ["evaluate", "knn", run, "--json", tmp_path / "knn.json"],
    ]
    for line in lines:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in line])
        assert not stop.value.code, (line, capsys.readouterr().err)
    assert np.load(tmp_path / "f.npy").shape == (len(found), 512) and len(found) >= 50
    for name in ("c.csv", "again.csv"):
        rows = (tmp_path / name).read_text().splitlines()[1:]
        assert [photos / row.split(",")[0] for row in rows] == found
    assert len([path for path in (tmp_path / "clusters").glob("cluster-*/*") if path.is_file()]) == len(found)
    assert re.search(rf"1\.0+  {re.escape(str(query))}", capsys.readouterr().out)
    assert "<html" in (run / "report.html").read_text()[:200]
    scores = json.loads((tmp_path / "knn.json").read_text())
    assert 0 <= scores["knn"] <= 1 and scores["train_images"] + scores["test_images"] == len(found)
