"""A run in the hand: what its verbs give in Python, how a damaged, full or moved one answers, and folders of few images."""

from __future__ import annotations

import csv
import errno
import json
import os
import resource
import shutil
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unlabeled
from pictures import SETTINGS, Trained, pictures, write_pictures
from unlabeled import features
from unlabeled.errors import ConfigError, DataError, RunError
from unlabeled.run import Run
from unlabeled.runs import checkpoint
from unlabeled.runs.images import make_loader


@pytest.fixture
def copy(trained: Trained, tmp_path: Path) -> Path:
    """The trained run, to be spoiled."""
    return Path(shutil.copytree(trained.run, tmp_path / "copy"))


def test_embedding_the_training_images_again_gives_the_stored_features(trained: Trained):
    run = unlabeled.load(trained.run)
    found = run.embed(trained.photos)
    assert found.names == run.names and not found.skipped
    unit = torch.nn.functional.normalize(found.features, dim=1)
    torch.testing.assert_close(unit, run.catalogue.features, atol=1e-5, rtol=0)


def test_the_backbone_is_a_plain_module_that_takes_images(trained: Trained):
    run = unlabeled.load(trained.run, device="cpu")
    pixels = np.asarray(Image.open(trained.photos / "kind0" / "000.png").resize((32, 32)))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        from_bytes, from_floats = run.backbone(image), run.backbone(image.float() / 255)
    assert from_bytes.shape == (1, 256)
    torch.testing.assert_close(from_bytes, from_floats)
    assert not torch.equal(next(run.untrained_backbone().parameters()), next(run.backbone.parameters()))


def test_new_images_are_clustered_as_the_training_images_were(trained: Trained):
    run = unlabeled.load(trained.run)
    old, again = run.cluster(), run.cluster(trained.photos)
    assert [row.path for row in again] == [row.path for row in old]
    assert np.mean([a.cluster == b.cluster for a, b in zip(old, again, strict=True)]) > 0.98
    sizes = np.bincount([row.cluster for row in old])
    assert (np.diff(sizes) <= 0).all(), "cluster 0 is the largest"


def test_a_run_is_found_from_another_folder(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert len(unlabeled.load(trained.run).cluster()) == 120


def test_python_takes_what_the_command_line_takes_and_refuses_alike(trained: Trained, tmp_path: Path):
    for settings, wanted in (
        ({"epochs": 3.5}, "epochs = 3.5"),
        ({"image_size": 33.3}, "image_size = 33.3"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"recipe": "paper"}, "unknown recipe"),
        ({"device": "gpu"}, "auto, cpu or cuda"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            unlabeled.train(trained.photos, tmp_path / "run", cache=trained.cache, **settings)  # pyright: ignore
        assert not (tmp_path / "run").exists()
    run = unlabeled.load(trained.run)
    with pytest.raises(ConfigError, match="did you mean 'knn'"):
        run.evaluate("kn")
    with pytest.raises(ConfigError, match="at least 1"):
        run.search(trained.new, 0)


def test_every_query_has_its_answer_under_its_path(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where folders hold files of the same name, a folder holds one image, or an image is given twice."""
    monkeypatch.chdir(tmp_path)
    files = [f"{folder}/{name}.png" for folder in ("a", "b") for name in "123"] + ["one/1.png"]
    for number, file in enumerate(files):
        Path(file).parent.mkdir(exist_ok=True)
        shutil.copy(trained.photos / f"kind{number % 4}" / f"{number:03d}.png", file)
    run = unlabeled.load(trained.run)
    found = run.search(["a", "./b/", Path("one"), "a/1.png", "one/1.png"], 1)
    in_folders = [*files[:3], *(f"./{file}" for file in files[3:6]), files[6]]
    assert list(found) == [*in_folders, "a/1.png (2)", "one/1.png (2)"]
    numbers = [*range(7), 0, 6]
    assert [hits[0].path for hits in found.values()] == [f"kind{number % 4}/{number:03d}.png" for number in numbers]


# Replacing and resuming


def test_an_earlier_run_survives_a_mistake_in_its_replacement(trained: Trained, copy: Path):
    before = sorted(path.name for path in copy.iterdir())
    with pytest.raises(ConfigError, match="unknown backbone"):
        unlabeled.train(trained.photos, copy, cache=trained.cache, if_exists="replace", backbone="vgg")
    assert sorted(path.name for path in copy.iterdir()) == before
    assert len(unlabeled.load(copy).cluster()) == 120


def test_a_run_is_replaced_as_a_whole(trained: Trained, copy: Path):
    (copy / "scores.json").write_text("{}")
    changes = SETTINGS | {"epochs": 1, "num_clusters": 4}
    run = unlabeled.train(trained.photos, copy, cache=trained.cache, if_exists="replace", **changes)
    assert [record["epoch"] for record in run.history] == [1]
    assert len(run.catalogue.centroids) == 4 and not run.scores
    again = unlabeled.train(trained.photos, copy, cache=trained.cache, if_exists="resume", **changes)
    assert [record["epoch"] for record in again.history] == [1]


def test_resuming_without_the_images_says_so(trained: Trained, tmp_path: Path):
    photos = Path(shutil.copytree(trained.photos, tmp_path / "photos"))
    unlabeled.train(photos, tmp_path / "run", cache=trained.cache, **SETTINGS | {"epochs": 1})
    photos.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"looked for in .*photos.*nothing is there"):
        unlabeled.resume(tmp_path / "run")
    # What needs no training images still works.
    assert unlabeled.load(tmp_path / "run").embed(trained.new).features.shape == (40, 256)
    with pytest.raises(DataError, match="looked for in"):
        unlabeled.load(tmp_path / "run").cluster(to_folders=tmp_path / "sorted")


# Damage


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"data": 3}', "\0\1"])
@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_damaged_file_is_named(copy: Path, trained: Trained, name: str, content: str):
    (copy / name).write_text(content)
    if (name, content) == ("config.json", "{}"):
        pytest.skip("an empty configuration is the default one, and then the checkpoint does not fit")
    with pytest.raises((RunError, ConfigError), match=name.replace(".", r"\.")):
        unlabeled.load(copy).embed(trained.new)


def test_a_configuration_of_another_network_does_not_load_the_checkpoint(copy: Path, trained: Trained):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"backbone": "resnet18_small"}))
    with pytest.raises(RunError, match="another network"):
        unlabeled.load(copy).embed(trained.new)
    with pytest.raises(RunError, match="does not fit"):
        unlabeled.resume(copy)


def test_a_damaged_journal_is_named_with_its_line(copy: Path):
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join(["{broken", *lines]) + "\n")
    with pytest.raises(RunError, match=r"line 1 of .*metrics\.jsonl"):
        unlabeled.load(copy).report()


@pytest.mark.parametrize("spoil", ["path\n", "nothing\n1\n", None])
def test_damaged_clusters_are_made_again_by_resume(copy: Path, trained: Trained, spoil: str | None):
    clusters = copy / "clusters.csv"
    good = clusters.read_text()
    clusters.unlink() if spoil is None else clusters.write_text(spoil)
    with pytest.raises(RunError, match=r"clusters\.csv is damaged"):
        unlabeled.load(copy).cluster()
    (copy / "features.safetensors").unlink()
    unlabeled.resume(copy)
    assert clusters.read_text() == good


def test_damaged_features_are_made_again_by_resume(copy: Path):
    features = copy / "features.safetensors"
    good = features.read_bytes()
    features.write_bytes(good[: len(good) // 2])
    with pytest.raises(RunError, match="delete it and run `unlabeled resume"):
        unlabeled.load(copy).cluster()
    features.unlink()
    unlabeled.resume(copy)
    assert features.read_bytes() == good


def test_damaged_checkpoints_fall_back_and_then_are_refused(copy: Path, trained: Trained):
    files = sorted((copy / "checkpoints").glob("*.safetensors"))
    for number, path in enumerate(reversed(files), start=1):
        path.write_bytes(path.read_bytes()[:1000])
        if number < len(files):
            found = checkpoint.load(copy / "checkpoints")
            assert found is not None and len(found.damaged) == number
    with pytest.raises(RunError, match="every checkpoint"):
        unlabeled.load(copy).embed(trained.new)


def test_an_unfinished_run_says_how_to_finish_it(copy: Path, trained: Trained):
    (copy / "features.safetensors").unlink()
    run = unlabeled.load(copy)
    with pytest.raises(RunError, match="unlabeled resume"):
        run.cluster()
    with pytest.raises(RunError, match="unlabeled resume"):
        run.search(trained.new)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="unlabeled resume"):
        unlabeled.load(copy).embed(trained.new)


# Disks


def test_a_run_nobody_can_write_to_still_answers(copy: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch):
    real = os.replace

    def refuse(source: object, target: object) -> None:
        if Path(str(target)).is_relative_to(copy):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(source, target)  # pyright: ignore

    monkeypatch.setattr(os, "replace", refuse)
    run = unlabeled.load(copy)
    assert run.evaluate("knn", trained.photos)["knn"] > 0
    assert not run.scores
    assert run.embed(trained.new).features.shape == (40, 256)


@contextmanager
def files_up_to(limit: int) -> Generator[None]:
    """No file may grow beyond `limit` bytes, which is how a full disk looks from inside."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_in_words_and_what_was_saved_goes_on(trained: Trained, tmp_path: Path):
    """Checkpoints of megabytes do not fit; then there is room again, and the run becomes what it would have been."""
    with pytest.raises(RunError, match="free some space"), files_up_to(1_000_000):
        unlabeled.train(trained.photos, tmp_path / "run", cache=trained.cache, **SETTINGS)
    assert not list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    run = unlabeled.resume(tmp_path / "run")
    assert torch.equal(run.catalogue.clusters, unlabeled.load(trained.run).catalogue.clusters)
    # A result that does not fit leaves what was there.
    out = tmp_path / "features.npy"
    out.write_bytes(b"precious")
    with pytest.raises(RunError, match="cannot write"), files_up_to(60_000):
        run.embed(trained.photos, out)
    assert out.read_bytes() == b"precious"
    assert not list(tmp_path.glob(".*.partial"))


def test_embedding_a_list_of_paths_leaves_the_list(trained: Trained, tmp_path: Path):
    run, names = unlabeled.load(trained.run), ["kind0/000.png", "kind1/001.png"]
    listing, beside = tmp_path / "list.txt", tmp_path / "list.names.txt"
    listing.write_text("".join(f"{trained.new / name}\n" for name in names))
    wanted = listing.read_text()
    assert run.embed(listing, tmp_path / "list.npy").features.shape == (2, 256)
    assert listing.read_text() == wanted
    assert [line[-len(names[0]) :] for line in beside.read_text().splitlines()] == names
    # What would be replaced in the end is refused before the work, and so is a name that cannot be written.
    listing.rename(beside)
    for data, out, file in ((beside, "list.npy", "list.names.txt"), (tmp_path / "list.npy", "list.npy", "list.npy")):
        before = data.read_bytes()
        with pytest.raises(DataError, match=f"would replace .*{file}, the images"):
            run.embed(data, tmp_path / out)
        assert data.read_bytes() == before
    (tmp_path / "folder.names.txt").mkdir()
    with pytest.raises(RunError, match=r"folder\.names\.txt is a folder"):
        run.embed(trained.new, tmp_path / "folder.npy")
    assert not (tmp_path / "folder.npy").exists()


# Odd folders


def test_the_folder_of_odd_images_trains_from_end_to_end(shared_data: Path, tmp_path: Path):
    (archive,) = (shared_data / "odd-images").glob("*.zip")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "odd")
    settings = SETTINGS | {"num_clusters": 4, "batch_size": 8, "epochs": 1}
    run = unlabeled.train(tmp_path / "odd", tmp_path / "run", cache=tmp_path / "cache", **settings)
    broken = {name for name, _ in unlabeled.check(tmp_path / "odd").broken}
    with (tmp_path / "run" / "skipped.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert broken and broken <= {row["file"] for row in rows}
    assert all(row["reason"] for row in rows)
    assert not broken & set(run.names)
    assert len(run.cluster()) == len(run.names) == len(run.catalogue.features)
    assert (tmp_path / "run" / "report.html").is_file()


def train_on(images: np.ndarray, tmp_path: Path, **changes: object) -> Run:
    np.save(tmp_path / "few.npy", images)
    small = {"backbone": "alexnet_small", "image_size": 32, "epochs": 1, "precision": "float32"}
    return unlabeled.train(tmp_path / "few.npy", tmp_path / "run", cache=tmp_path / "cache", **small | changes)  # pyright: ignore


def test_one_image_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="fewer than 2"):
        train_on(pictures(1)[0], tmp_path)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_handful_of_images_is_no_crash(tmp_path: Path, count: int):
    run = train_on(pictures(count)[0], tmp_path)
    rows = run.cluster()
    assert len(rows) == count
    assert len(run.search(tmp_path / "few.npy", 10)) == count


def test_identical_images_are_all_alike(tmp_path: Path):
    run = train_on(np.repeat(pictures(1)[0], 40, axis=0), tmp_path)
    assert not any(row.unlike for row in run.cluster())
    assert not any(row.unlike for row in run.cluster(tmp_path / "few.npy"))


def test_blank_images_train(tmp_path: Path):
    run = train_on(np.zeros((40, 16, 16, 3), np.uint8), tmp_path)
    assert run.history[-1]["epoch"] == 1


def test_tensorboard_gets_every_epoch_and_goes_on_after_resume(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    photos = write_pictures(tmp_path / "photos", 48)
    unlabeled.train(photos, out, cache=trained.cache, tensorboard=True, **SETTINGS | {"epochs": 1})
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"epochs": 2}))
    unlabeled.resume(out)
    assert scalars(out / "tensorboard", "loss") == [(r["epoch"], pytest.approx(r["loss"])) for r in Run(out).history]
    unlabeled.train(photos, out, cache=trained.cache, if_exists="replace", **SETTINGS | {"epochs": 1})
    assert not (out / "tensorboard").exists()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_rank_without_images_knows_how_long_features_are(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run = unlabeled.load(trained.run, device="cpu")
    loader = make_loader(run.record.open(trained.photos), run.config, torch.device("cpu"))
    monkeypatch.setattr(features, "shard", lambda count: slice(count, count))
    assert features.embed(run.backbone, loader).shape == (0, run.backbone.feature_dim)
    assert features.embed(run.backbone, loader, torch.empty(0, dtype=torch.int64)).shape == (0, 0)


def test_queries_that_can_be_read_are_answered_beside_one_that_cannot(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, good = tmp_path / "broken.jpg", trained.photos / "kind0" / "000.png"
    broken.write_text("no image")
    run = unlabeled.load(trained.run, device="cpu")
    assert list(run.search([broken, good], k=2)) == [str(good)]
    assert f"left out ({broken}" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"broken\.jpg.* it is text"):
        run.search([broken, broken])
