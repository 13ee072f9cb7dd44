"""The command line: help, every verb, and every mistake as one readable box with exit status 2."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from command_line import Call, assert_one_box, call, process, words
from pictures import Trained, flags
from unlabeled.cli import evaluate
from unlabeled.cli.options import BACKBONES, SECTIONS
from unlabeled.config import Config
from unlabeled.models import known_backbones
from unlabeled.recipes import RECIPES
from unlabeled.report.comparison import protocols

__all__ = ["call"]  # a fixture

SNAPSHOTS = Path(__file__).parent / "snapshots"
VERBS = (
    "demo",
    "check",
    "train",
    "resume",
    "embed",
    "cluster",
    "search",
    "evaluate",
    "import",
    "export",
    "report",
    "visualize",
    "explore",
)

# Help


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_as_it_was_read(verb: str, call: Call, monkeypatch: pytest.MonkeyPatch):
    """Read by a person before it was stored; UPDATE_SNAPSHOTS=1 stores it again."""
    monkeypatch.setenv("COLUMNS", "100")
    status, out, err = call(*verb.split(), "--help")
    assert status == 0, err
    text = "".join(f"{line.rstrip()}\n" for line in out.splitlines())
    # Settings come and go with the methods; the test below holds that all of them are there.
    text = text.partition("╭─ Settings: ")[0]
    path = SNAPSHOTS / f"help{verb and '-'}{verb}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_help_answers_without_torch():
    code = (
        "import sys\nfrom unlabeled.cli import main\n"
        f"for verb in {VERBS}:\n    try: main([verb, '--help'])\n    except SystemExit: pass\n"
        "print([name for name in ('torch', 'PIL', 'scipy', 'sklearn', 'pyarrow') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_every_setting_has_a_flag_with_a_description(call: Call):
    text = words(call("train", "--help")[1])
    for name, field in Config.model_fields.items():
        assert field.description, name
        assert f"--{name.replace('_', '-')} " in text
    assert set(SECTIONS) <= set(Config.model_fields)


def test_names_in_help_are_those_that_exist(call: Call):
    assert sorted(BACKBONES) == known_backbones()
    assert set(get_args(evaluate.Protocol)) == set(protocols())
    text = words(call("train", "--help")[1])
    assert all(name in text for name in [*RECIPES, *BACKBONES])


def test_version(call: Call):
    assert re.fullmatch(r"\d+\.\d+\.\d+\s*", call("--version")[1])


# Verbs


def test_the_whole_way_through(trained: Trained, tmp_path: Path, call: Call):
    """From a folder to a report by the command line alone, in processes of their own."""
    out = tmp_path / "run"
    result = process("train", trained.photos, "--out", out, "--cache", trained.cache, *flags(epochs=2))
    assert result.returncode == 0, result.stderr
    assert "Health: " in result.stdout and "report.html" in result.stdout
    assert "120 images, typically 20 x 20 pixels, 3 channels" in result.stderr
    first, last = (line for line in result.stderr.splitlines() if line.startswith("epoch "))
    assert re.search(r"\d images/s, about \d+ \w+ to go in all$", first) and last.endswith("images/s")
    assert ", loss " not in first + last, "it stands at the beginning"
    phases = ("Embedding 120 images", "Clustering", "How stable are the clusters?", "Writing the report")
    assert all(phase in result.stderr for phase in phases)
    assert call("resume", out)[0] == 0


def test_check_counts_and_writes_json(trained: Trained, tmp_path: Path, call: Call):
    status, out, _ = call("check", trained.photos, "--json", tmp_path / "found.json")
    assert status == 0
    assert "120 PNG" in out
    assert json.loads((tmp_path / "found.json").read_text())["readable"] == 120


@pytest.mark.parametrize("ending", ["npy", "npz", "parquet"])
def test_embed_writes_what_was_asked(trained: Trained, tmp_path: Path, call: Call, ending: str):
    out = tmp_path / "deep" / f"features.{ending}"
    status, text, _ = call("embed", trained.run, trained.new, "--out", out)
    assert status == 0
    assert "40 features of 256 numbers" in text
    if ending == "npy":
        features, names = np.load(out), out.with_suffix(".names.txt").read_text().splitlines()
    elif ending == "npz":
        features, names = np.load(out)["features"], np.load(out)["names"].tolist()
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        assert table.column_names == ["path", "feature"]
        features, names = np.stack(table["feature"].to_numpy()), table["path"].to_pylist()
    assert features.shape == (40, 256) and features.dtype == np.float32
    assert names == sorted(path.relative_to(trained.new).as_posix() for path in trained.new.rglob("*.png"))
    assert {path.name for path in out.parent.iterdir()} <= {out.name, "features.names.txt"}


def test_cluster_prints_writes_and_sorts(trained: Trained, tmp_path: Path, call: Call):
    status, out, _ = call("cluster", trained.run, trained.new)
    assert status == 0 and out.splitlines()[0].startswith("40 images in ")
    # The summary, what the columns are, the first twenty, and where the others are.
    assert out.splitlines()[1].startswith("Sizes (")
    assert out.splitlines()[2].split() == ["path", "cluster", "distance", "novelty", "unlike"]
    assert len(out.splitlines()) == 24 and "20 more" in out.splitlines()[-1]
    # The table in the run has the clusters that were not merged.
    assert "clusters.csv" in call("cluster", trained.run)[1].splitlines()[-1]
    assert "--out FILE.csv" in call("cluster", trained.run, "--num-clusters", "2")[1].splitlines()[-1]
    status, out, _ = call("cluster", trained.run, "--out", tmp_path / "c.csv", "--to-folders", tmp_path / "sorted")
    assert status == 0 and len(out.splitlines()) == 3 and "unlike the rest" in out
    assert (tmp_path / "c.csv").read_text() == (trained.run / "clusters.csv").read_text()
    links = sorted((tmp_path / "sorted").glob("cluster-*/*"))
    assert len(links) == 120 and all(link.resolve().is_relative_to(trained.photos) for link in links)


def test_search_finds_the_picture_itself(trained: Trained, tmp_path: Path, call: Call):
    query = trained.photos / "kind1" / "001.png"
    status, out, _ = call("search", trained.run, query, "-k", 3, "--json", tmp_path / "hits.json")
    assert status == 0
    assert out.splitlines()[0].split()[0] == "similarity"
    assert out.splitlines()[2].split() == ["1.000", str(query)], "it opens from here"
    hits = json.loads((tmp_path / "hits.json").read_text())[str(query)]
    assert [set(hit) for hit in hits] == 3 * [{"path", "file", "similarity"}]
    assert all(Path(hit["file"]).is_file() for hit in hits)
    folder = call("search", trained.run, trained.new, "-k", 1)[1]
    assert folder.count("kind") == 80
    assert hits[0]["path"] == "kind1/001.png", "the name in the run, wherever the images are"


def test_evaluate_writes_the_promised_keys(trained: Trained, tmp_path: Path, call: Call):
    file = tmp_path / "scores.json"
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    status, out, _ = call("evaluate", "knn", run, trained.photos, "--labels", "folder", "--json", file)
    assert status == 0 and "kNN accuracy" in out
    assert all(name in out for name in ("raw pixels", "untrained network", "trained network", "two standard errors"))
    held_out = json.loads(file.read_text())
    assert {"knn", "untrained", "raw_pixels"} <= set(held_out)
    assert held_out["train_images"] + held_out["test_images"] == 120
    assert held_out["knn"] > held_out["chance"]
    call("evaluate", "knn", run, trained.photos, "--test", trained.new, "--json", file)
    assert json.loads(file.read_text())["test_images"] == 40
    labels = tmp_path / "labels.csv"
    rows = [f"{p.relative_to(trained.photos)},{p.parent.name}\n" for p in sorted(trained.photos.rglob("*.png"))]
    labels.write_text("path,label\n" + "".join(rows))
    call("evaluate", "knn", run, trained.photos, "--labels", labels, "--json", file)
    assert json.loads(file.read_text()) == held_out | {"labels": "labels.csv"}
    assert call("evaluate", "nmi", run, "--json", file)[0] == 0
    assert 0 < json.loads(file.read_text())["nmi"] <= 1
    assert set(json.loads((run / "scores.json").read_text())) == {"knn", "nmi", "by_labels"}


def test_what_may_be_chance_is_called_so():
    assert evaluate.what_training_did(0.6, 0.5, 400) == (
        "Trained is above untrained by 10.0 points, more than two standard errors of 400 test images (7.0 points)."
    )
    assert evaluate.what_training_did(0.6, 0.5, 100) == (
        "Trained and untrained differ by 10.0 points, within two standard errors of 100 test images (14.0 points): "
        "it may be chance."
    )
    assert "below untrained" in evaluate.what_training_did(0.1, 0.9, 100)
    assert "differ by 0.0 points" in evaluate.what_training_did(1.0, 1.0, 10)


def test_report(trained: Trained, tmp_path: Path, call: Call):
    status, out, _ = call("report", trained.run, "--out", tmp_path / "report.html")
    assert status == 0 and str(tmp_path / "report.html") in out
    assert "<html" in (tmp_path / "report.html").read_text()[:200]


@pytest.mark.slow
def test_demo(tmp_path: Path, call: Call):
    pytest.importorskip("skimage")
    status, out, err = call("demo", "--out", tmp_path / "demo", "--epochs", 1)
    assert status == 0, err
    assert {"raw_pixels", "untrained", "trained"} <= set(json.loads((tmp_path / "demo" / "demo.json").read_text()))
    assert "Health: " in out


# Mistakes


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("trian photos", 'Did you mean "train"?'),
        ("train photos --out r --recpie x", "--recpie. Did you mean --recipe?"),
        ("train photos --out r --epochs 3.5", "--epochs must be a whole number, got '3.5'"),
        ("train photos --out r --epochs many", "--epochs must be a whole number, got 'many'"),
        ("train photos --out r --lr fast", "--lr must be a number, got 'fast'"),
        ("train photos --out r --epochs -1", "epochs = -1 does not fit"),
        ("train photos --out r --lr -1", "lr = -1.0 does not fit"),
        ("train photos --out r --grey 2", "grey = 2.0 does not fit"),
        ("train photos --out r --seed -1", "seed = -1 does not fit"),
        (
            "train photos --out r --std 0 1 1 --mean 0 0 0",
            "std = (0.0, 1.0, 1.0) does not fit: each of its numbers must be greater than 0, got 0.0; give such a value",
        ),
        ("train photos --out r --std 1 1 1 --mean 0 0 2", "mean = (0.0, 0.0, 2.0) does not fit"),
        ("train photos --out r --brightness 1000", "brightness = 1000.0 does not fit: it must be at most 10"),
        ("train photos --out r --crop-area 0.9 0.2", "swap the two"),
        (
            "train photos --out r --crop-area 2 1",
            "crop_area = (2.0, 1.0) does not fit: each of its numbers must be at most 1, got 2.0",
        ),
        ("train photos --out r --crop-area nan 1", "each of its numbers must be"),
        (
            "train photos --out r --crop-area 0 1",
            "crop_area must begin above 0, got (0.0, 1.0); 0.2 is a good beginning",
        ),
        ("train photos --out r --lr inf", "lr = inf does not fit: it must be a finite number"),
        ("train photos --out r --weight-decay nan", "weight_decay = nan does not fit"),
        ("train photos --out r --image-size 64 --resize 32", "raise the one or lower the other"),
        ("train photos --out r --crop-area 0.9", "--crop-area requires 2"),
        ("train photos --out r --mean 0.5 0.5 0.5", "give both or neither"),
        ("train photos --out r --mean 0.5 --std 0.5", "the images have 3 channels"),
        ("train photos --out r --stem sobol", "--stem must be 'rgb', 'sobel'"),
        ("train photos --out r --compile maybe", "cannot use 'maybe'"),
        ("train photos --out r --epochs 2 --epochs 3", "--epochs is given more than once"),
        ("train photos --out r --device gpu", 'Choose from: "auto", "cpu", "cuda"'),
        ("train photos", "train needs --out with a value"),
        ("train photos --out", "train needs --out with a value"),
        ("train", "train needs DATA"),
        ("embed run", "embed needs DATA"),
        ("train nowhere --out r", "no file or folder nowhere"),
        ("train empty --out r", "no images in the folder"),
        ("train broken --out r", "none of the 2 images can be read"),
        ("train text.bin --out r", "text.bin"),
        ("train photos --out run", "already holds a run"),
        ("train photos --out photos", "files that are not a run"),
        ("train photos --out text.bin", "is a file"),
        ("train photos --out text.bin/r", "cannot make the folder"),
        ("train photos --out r --recipe defualt", "did you mean 'default'?"),
        ("train photos --out r --backbone resnet19", "did you mean 'resnet18'?"),
        (
            "train photos --out r --num-clusters 121 --batch-size 8",
            "must be at most the number of images clustered (120)",
        ),
        ("train photos --out r --batch-size 1000", "batch_size (1,000)"),
        ("train photos --out r --labels nowhere.csv", "neither 'folder' nor a file"),
        ("train one --out r", "nothing to learn from fewer than 2"),
        ("embed nowhere photos --out f.npy", "no run folder"),
        ("embed photos photos --out f.npy", "not a run"),
        ("embed run photos --out f.txt", "must end in .npy, .npz or .parquet"),
        ("embed run photos --out text.bin/f.npy", "cannot write"),
        ("embed run photos --out folder.npy", "is a folder"),
        ("embed run nowhere --out f.npy", "no file or folder nowhere"),
        ("cluster run --out text.bin/f.csv", "cannot write"),
        ("cluster run --to-folders photos", "is not empty"),
        ("cluster run --to-folders text.bin", "is a file"),
        ("search run", "at least one query"),
        ("search run photos/kind0/000.png -k 0", "at least 1"),
        ("search run photos/kind0/000.png -k ten", "-k must be a whole number, got 'ten'"),
        ("search run nowhere.png", "no file or folder"),
        ("search run broken/a.jpg", "the only image cannot be read (a.jpg: it is text, not an image)"),
        ("search run photos/kind0/000.png --json text.bin/f.json", "cannot write"),
        ("evaluate knm run", 'Did you mean "nmi"?'),
        ("evaluate knn run one --labels folder", "labels 'folder' need one folder for each class"),
        ("evaluate knn run --labels nowhere.csv", "neither 'folder' nor a file"),
        ("evaluate knn run --labels short.csv", "no image of"),
        ("evaluate knn run --neighbors 0", "neighbors must be at least 1"),
        ("evaluate knn run --json text.bin/f.json", "cannot write"),
        ("evaluate nmi run --test photos", "no --test"),
        ("check nowhere", "no file or folder nowhere"),
        ("check photos --json text.bin/f.json", "cannot write"),
        ("resume nowhere", "no run folder"),
        ("report photos", "not a run"),
        ("report run --out text.bin/r.html", "cannot"),
    ],
)
def test_a_mistake_is_one_box(line: str, wanted: str, place: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    before = sorted(path.name for path in place.iterdir())
    assert_one_box(call(*line.split()), wanted)
    assert sorted(path.name for path in place.iterdir()) == before


@pytest.fixture(scope="module")
def place(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything mistakes are made with."""
    place = tmp_path_factory.mktemp("place")
    os.symlink(trained.photos, place / "photos")
    os.symlink(trained.run, place / "run")
    for name in ("empty", "broken", "one", "folder.npy"):
        (place / name).mkdir()
    for name in ("a.jpg", "b.jpg"):
        (place / "broken" / name).write_text("this is no picture")
    shutil.copy(trained.photos / "kind0" / "000.png", place / "one")
    (place / "text.bin").write_bytes(bytes(range(256)))
    (place / "short.csv").write_text("path,label\nelsewhere.png,cat\n")
    return place


def test_asking_for_a_gpu_where_there_is_none(trained: Trained, call: Call, monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_box(call("embed", trained.run, trained.new, "--out", "f.npy", "--device", "cuda"), "--device cpu")


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path):
    result = process("train", tmp_path, "--out", tmp_path / "r", "--epochs", "3.5")
    assert result.returncode == 2 and result.stdout == ""
    assert_one_box((2, "", result.stderr), "--epochs must be a whole number")
    assert not (tmp_path / "r").exists()


def test_output_cut_short_by_its_reader_is_silent():
    line = f"{sys.executable} -m unlabeled train --help | true"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.stderr == ""
