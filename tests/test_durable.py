"""Full caches, flipped bits, changed pictures, folders that go away and files that were edited: the same run, or a sentence."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unlabeled
from command_line import Call, call, words
from pictures import Trained, flags, pictures
from runs import SMALL, final_tensors
from unlabeled.config import Config
from unlabeled.data import pixel_cache
from unlabeled.data.augment import Views
from unlabeled.data.loading import Loader
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.errors import DataError, RunError
from unlabeled.runs import checkpoint
from unlabeled.training import signals

__all__ = ["call"]  # a fixture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k, image in enumerate(pictures(48, side=20)[0]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / f"{k:02d}.png")
    return tmp_path / "photos"


def with_room_for(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that keeps only this share of the images, evenly among them."""
    seen = iter(range(10**6))
    put = pixel_cache.DiskLog.put

    def some(
        self: pixel_cache.DiskLog, key: bytes, image: pixel_cache.Image, pixels: np.ndarray | None
    ) -> pixel_cache.Image:
        number = next(seen)
        if pixels is not None and int(number * share) == int((number + 1) * share):
            return image._replace(offset=pixel_cache.NOT_KEPT)
        return put(self, key, image, pixels)

    monkeypatch.setattr(pixel_cache.DiskLog, "put", some)


@pytest.mark.parametrize("mixed", [False, True])
def test_views_do_not_depend_on_the_room_in_the_cache(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixed: bool
):
    if mixed:
        for file in sorted(photos.iterdir())[::3]:
            Image.open(file).resize((26, 22)).save(file)
    views = Views.from_config(Config().replace(image_size=16, resize=18, store_size=20), True)
    found: list[torch.Tensor] = []
    for share in (1.0, 0.5, 0.0):
        with monkeypatch.context() as patch:
            with_room_for(share, patch)
            store = open_store(open_source(photos), short_side=20, cache=tmp_path / f"cache{share}")
            assert store.num_decoded_again == round(48 * (1 - share))
            loader = Loader(store, views, device="cpu", seed=3)
            batches = [view for _, view in loader.train_batches(torch.arange(48), 0, 12)]
            batches += [view.float() for _, view in loader.center_batches(torch.arange(48), 16)]
            found.append(torch.cat(batches))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_training_does_not_depend_on_the_room_in_the_cache(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    torch.set_num_threads(1)
    whole = unlabeled.train(photos, tmp_path / "whole", cache=tmp_path / "cache", **SMALL | {"epochs": 2})
    with_room_for(0.4, monkeypatch)
    other = unlabeled.train(photos, tmp_path / "other", cache=tmp_path / "full", **SMALL | {"epochs": 2})
    assert "has no room for 29 of 48 images" in capsys.readouterr().err
    ours, theirs = final_tensors(whole.path), final_tensors(other.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_flipped_bit_of_the_header_is_noticed(tmp_path: Path):
    extra = {"images": 96, "loss_sum": 3.5, "elapsed": 1.25, "batch": 12}
    tensors = {"weight": torch.arange(6.0)}
    elder = checkpoint.save(tmp_path, 3, 0, tensors, keep=3, extra=extra)
    path = checkpoint.save(tmp_path, 4, 7, tensors, keep=3, extra=extra)
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    believed = 0
    for position in range(8, length):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(bytes(damaged))
            found = checkpoint.load(tmp_path)
            assert found is not None
            told = (found.epoch, found.step, found.extra)
            if found.path == path:
                believed += 1
                assert told == (4, 7, extra) and torch.equal(found.tensors["weight"], tensors["weight"])
            else:
                assert found.path == elder and told == (3, 0, extra) and len(found.damaged) == 1
    # Bits that only change white space or an escape of the same letter say the same.
    assert believed < length


def test_checkpoints_of_the_first_format_are_read(tmp_path: Path):
    from safetensors.torch import save_file

    tensors = {"weight": torch.arange(6.0)}
    header = {"format": "1", "epoch": "2", "step": "0", "extra": "{}"}
    header["checksum"] = str(checkpoint._checksum(tensors, header))
    save_file(tensors, tmp_path / "epoch-00002-step-0000000.safetensors", metadata=header)
    found = checkpoint.load(tmp_path)
    assert found is not None and found.epoch == 2 and found.extra == {}
    for bad in ({"epoch": "-5"}, {"epoch": "x"}, {"extra": "[" * 100_000}, {"extra": "7"}):
        save_file(tensors, tmp_path / "epoch-00003-step-0000000.safetensors", metadata=header | bad)
        found = checkpoint.load(tmp_path)
        assert found is not None and found.epoch == 2 and "header" in found.damaged[0]
    (tmp_path / "epoch-00003-step-0000000.safetensors").unlink()
    os.mkfifo(tmp_path / "epoch-00003-step-0000000.safetensors")
    found = checkpoint.load(tmp_path)
    assert found is not None and found.epoch == 2


def test_pictures_that_changed_are_named_before_resume(photos: Path, tmp_path: Path):
    unlabeled.train(photos, tmp_path / "run", cache=tmp_path / "cache", **SMALL | {"epochs": 1})
    Image.fromarray(pictures(1, side=20, seed=9)[0][0]).save(photos / "07.png")
    (tmp_path / "run" / "features.safetensors").unlink()
    with pytest.raises(DataError, match=r"1 image of .*photos changed since the run .* began \(07\.png\)"):
        unlabeled.resume(tmp_path / "run")


def test_a_picture_deleted_while_training_leaves_a_whole_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from unlabeled.training import loop

    finish = loop.finish_epoch

    def deleting(*arguments: object, **others: object) -> object:
        (photos / "11.png").unlink(missing_ok=True)
        return finish(*arguments, **others)  # pyright: ignore

    monkeypatch.setattr(loop, "finish_epoch", deleting)
    run = unlabeled.train(photos, tmp_path / "run", cache=tmp_path / "cache", **SMALL | {"epochs": 1})
    assert run.folder.report.is_file() and len(run.cluster()) == 48


def test_a_closed_terminal_saves(monkeypatch: pytest.MonkeyPatch):
    with signals.stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.asked()


def test_a_run_that_is_moved_while_it_trains_stops_at_the_next_save(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from unlabeled.training import loop

    finish = loop.finish_epoch

    def moving(*arguments: object, **others: object) -> object:
        if (tmp_path / "run").is_dir():
            shutil.move(tmp_path / "run", tmp_path / "elsewhere")
        return finish(*arguments, **others)  # pyright: ignore

    monkeypatch.setattr(loop, "finish_epoch", moving)
    with pytest.raises(RunError, match="was moved, renamed or removed while it was trained"):
        unlabeled.train(
            photos, tmp_path / "run", cache=tmp_path / "cache", **SMALL | {"epochs": 4, "save_minutes": 1e-9}
        )
    assert not (tmp_path / "run" / "checkpoints").exists()
    monkeypatch.setattr(loop, "finish_epoch", finish)
    assert len(unlabeled.resume(tmp_path / "elsewhere").history) == 4


def test_an_absurd_rate_ends_in_advice_that_works(photos: Path, tmp_path: Path, call: Call):
    out = tmp_path / "run"
    status, _, err = call("train", photos, "--out", out, "--cache", tmp_path / "cache", *flags(epochs=3, lr=1e12))
    assert status == 2 and "training broke down" in words(err) and "lr = 1e+12" in words(err)
    assert "resume with" not in words(err) and "--lr 0.05 --if-exists replace" in words(err)
    status, _, err = call("report", out)
    assert status == 2 and "training broke down" in words(err) and "has not ended" not in words(err)
    again = ("train", photos, "--out", out, "--cache", tmp_path / "cache", "--if-exists", "replace", *flags(epochs=1))
    assert call(*again)[0] == 0 and not (out / "failure.json").exists()
    assert call("train", photos, "--out", tmp_path / "one", *flags(num_clusters=1))[0] == 2


LINES = [
    '{"loss": 1.0}',
    '{"epoch": "x", "loss": 1.0}',
    '{"epoch": 1, "loss": null, "lr": 1, "seconds": 1, "images_per_second": 1, "status": "", "verdict": ""}',
    '{"epoch": 1, "loss": "low", "lr": 1, "seconds": 1, "images_per_second": 1, "status": "", "verdict": ""}',
    "[" * 100_000,
    "7",
]


@pytest.mark.parametrize("line", LINES, ids=["no epoch", "epoch x", "null", "text", "brackets", "number"])
def test_an_edited_journal_is_a_sentence(trained: Trained, tmp_path: Path, call: Call, line: str):
    run = shutil.copytree(trained.run, tmp_path / "run")
    journal = run / "metrics.jsonl"
    journal.write_text(line + "\n" + journal.read_text())
    for verb in ("report", "resume"):
        status, _, err = call(verb, run)
        assert status == 2 and "line 1 of" in words(err), words(err)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[" * 100_000),
        ("config.json", '{"schedule_steps": [' + "1," * 200_000 + "1]}"),
        ("environment.json", "{}"),
        ("environment.json", "[]"),
        ("scores.json", "[1]"),
        ("stability.json", "7"),
        ("data.json", '{"data": 1}'),
    ],
)
def test_edited_files_are_a_sentence(trained: Trained, tmp_path: Path, call: Call, name: str, content: str):
    run = shutil.copytree(trained.run, tmp_path / "run")
    (run / name).write_text(content)
    status, _, err = call("report", run)
    assert status in (0, 2) and (status == 0 or name in words(err)) and len(err) < 3000, words(err)[:500]


def test_features_of_three_images_are_a_sentence(trained: Trained, tmp_path: Path, call: Call):
    from safetensors.torch import load_file, save_file

    run = shutil.copytree(trained.run, tmp_path / "run")
    tensors = load_file(run / "features.safetensors")
    save_file(tensors | {"features": tensors["features"][:3].clone()}, run / "features.safetensors")
    status, _, err = call("cluster", run)
    assert status == 2 and "is damaged" in words(err)


def test_what_is_missing_or_left_over_is_put_right(trained: Trained, tmp_path: Path, call: Call):
    run = shutil.copytree(trained.run, tmp_path / "run")
    before = (run / "clusters.csv").read_text()
    (run / "clusters.csv").unlink()
    (run / ".features.safetensors.123.partial").write_bytes(b"x" * 1000)
    status, _, err = call("resume", run)
    assert status == 0 and "is missing and is made again" in words(err)
    assert (run / "clusters.csv").read_text() == before
    assert not list(run.glob(".*.partial"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["GPU", "CPU", "Python"],
)
@pytest.mark.parametrize("where", ["unlabeled.training.loop.Optimizer.load_state_tensors", "unlabeled.session.embed"])
def test_memory_that_runs_out_is_a_sentence_that_deletes_nothing(
    trained: Trained, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str
):
    run = shutil.copytree(trained.run, tmp_path / "run")
    (run / "features.safetensors").unlink()

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fails)
        status, _, err = call("resume", run)
    assert status == 2 and "memory ran out" in words(err) and "--batch-size" in words(err)
    assert "replace" not in words(err) and "Traceback" not in err
    assert call("resume", run)[0] == 0
