"""The loop: order of events, exact resume after any kill, many processes, and what happens when things go wrong."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import unlabeled
from pictures import pictures
from ranks import on_two_ranks
from runs import SMALL, assert_same_run, final_tensors, train_with_stops
from unlabeled import session
from unlabeled.errors import DataError, RunError
from unlabeled.runs import checkpoint
from unlabeled.runs.folder import RunFolder
from unlabeled.runs.journal import read
from unlabeled.training import loop
from unlabeled.training.loop import Meter


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "stripes.npy"
    np.save(path, pictures(96, side=20)[0])
    return path


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never stopped."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    unlabeled.train(data, out, cache=out.parent / "cache", **SMALL)
    return out


def command(*arguments: object, threads: int = 1) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    line = [sys.executable, "-m", "unlabeled", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def flags(**changes: object) -> list[str]:
    return [part for name, value in (SMALL | changes).items() for part in (f"--{name.replace('_', '-')}", str(value))]


def test_a_run_leaves_all_its_files(whole: Path):
    names = {path.name for path in whole.iterdir()}
    wanted = {"config.json", "data.json", "environment.json", "metrics.jsonl", "checkpoints", "features.safetensors"}
    assert wanted | {"clusters.csv", "skipped.csv", "report.html"} <= names
    assert [record["epoch"] for record in read(whole / "metrics.jsonl")] == [1, 2, 3]
    assert len((whole / "clusters.csv").read_text().splitlines()) == 97


@pytest.mark.parametrize("stops", [2, 5])
def test_stopped_and_resumed_is_the_same_run(
    whole: Path, data: Path, tmp_path: Path, stops: int, monkeypatch: pytest.MonkeyPatch
):
    """Asked to stop after a number of steps, again and again, also in the middle of an epoch."""
    out = tmp_path / "run"
    train_with_stops(data, out, stops, monkeypatch, SMALL)
    assert_same_run(out, whole)


def test_a_snapshot_is_the_run_that_was_asked_for_so_many_epochs(whole: Path, data: Path, tmp_path: Path):
    out, cache = tmp_path / "run", tmp_path / "cache"
    unlabeled.train(data, out, cache=cache, **(SMALL | {"epochs": 4, "snapshot_every": 3}))
    kept = out / "snapshots" / "epoch-00003"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    # Its features come from opening it as a run; training has nothing left to do.
    unlabeled.resume(kept)
    ours, theirs = final_tensors(kept), final_tensors(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    weights = checkpoint.load(out / "checkpoints")
    assert weights is not None
    assert weights.epoch == 4
    unlabeled.train(data, out, cache=cache, if_exists="replace", **(SMALL | {"epochs": 0}))
    assert not kept.parent.exists(), "an earlier run's snapshots go with it"


def test_killed_at_random_moments_is_the_same_run(whole: Path, data: Path, tmp_path: Path):
    """kill -9 while it trains and saves after every step, then resume: same weights, clusters and journal, bit for bit."""
    out, dice, killed = tmp_path / "run", random.Random(3), 0
    arguments = ["train", data, "--out", out, "--cache", tmp_path / "cache", *flags(), "--save-minutes", "0.00001"]

    def saved() -> list[Path]:
        return sorted((out / "checkpoints").glob("epoch-*.safetensors"))

    for _ in range(5):
        with command(*(arguments if not (out / "config.json").exists() else ["resume", out])) as process:
            # Counted from the first step it saves, because a loaded machine takes long to begin.
            before = saved()[-1:]
            while saved()[-1:] == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.3))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed += 1
            process.communicate()
    assert killed > 1, "the run ended before it could be killed"
    with command("resume", out) as process:
        text = process.communicate()[0]
    assert process.returncode == 0, text
    # Only how often it was saved differs, and that is no part of any result.
    assert_same_run(out, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(data: Path, tmp_path: Path, number: signal.Signals):
    out = tmp_path / "run"
    with command("train", data, "--out", out, "--cache", tmp_path / "cache", *flags(epochs=500)) as process:
        deadline = time.monotonic() + 300
        while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        text = process.communicate(timeout=300)[0]
    assert process.returncode == 130, text
    assert f"unlabeled resume {out}" in " ".join(text.split())
    assert "Traceback" not in text
    assert checkpoint.load(out / "checkpoints") is not None


def test_resuming_other_images_is_refused(data: Path, tmp_path: Path):
    changed = tmp_path / "changed.npy"
    changed.write_bytes(data.read_bytes())
    out = tmp_path / "run"
    unlabeled.train(changed, out, cache=tmp_path / "cache", **SMALL | {"epochs": 1})
    np.save(changed, pictures(95, side=20)[0])
    with pytest.raises(DataError, match=r"95 readable images.* 96"):
        unlabeled.resume(out)


def test_an_existing_run_is_refused_unless_told(whole: Path, data: Path):
    with pytest.raises(RunError, match="already holds a run"):
        unlabeled.train(data, whole, **SMALL)


def test_going_on_with_a_run_is_asked_for_as_it_was_begun(whole: Path, data: Path, tmp_path: Path):
    ask = {"cache": whole.parent / "cache", "if_exists": "resume"}
    assert len(unlabeled.train(data, whole, **ask, **SMALL).history) == 3
    assert len(unlabeled.train(data, whole, **ask).history) == 3, "what is not given is as it was"
    for wrong, said in (
        ({"epochs": 7}, "was begun with epochs = 3 and epochs = 7 is asked for now"),
        ({"recipe": "small_pic"}, "recipe = default and recipe = small_pic"),
        ({"labels": "folder"}, "labels = None and labels = folder"),
    ):
        with pytest.raises(RunError, match=said):
            unlabeled.train(data, whole, **ask, **wrong)
    with pytest.raises(RunError, match=r"stripes\.npy and data = .*other\.npy"):
        unlabeled.train(tmp_path / "other.npy", whole, **ask)


def test_no_rank_goes_on_before_an_earlier_run_is_gone(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    seen: list[tuple[bool, bool]] = []
    run = RunFolder(out)
    monkeypatch.setattr(session, "barrier", lambda: seen.append((run.checkpoints.exists(), run.config.exists())))
    session.begin(run, str(data), "default", None, "cpu", tmp_path / "cache", dict(SMALL))
    run.release()
    assert seen == [(False, True)]


def test_dropped_images_are_not_counted_as_trained_on(data: Path, tmp_path: Path):
    run = unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", **SMALL | {"epochs": 1, "batch_size": 50})
    assert run.history[0]["images_per_second"] * run.history[0]["seconds"] == pytest.approx(50, rel=0.05)


def test_another_number_of_processes_goes_on_where_the_first_stopped(capsys: pytest.CaptureFixture[str]):
    one = Meter(1, 9, images=216, loss_sum=18.0, batch=24)
    assert one.on(24) == one
    two = one.on(48)
    # 216 images were shown: five steps of 48 are the first that are no fewer.
    assert (two.epoch, two.step, two.batch, two.images) == (1, 5, 48, 216)
    assert two.mean_loss() == pytest.approx(one.mean_loss())
    assert "steps took 24 images in all and now take 48" in capsys.readouterr().err
    assert Meter(1, 1, batch=4).on(400).step == 1, "an epoch that was begun is not begun again"
    assert Meter(1, 9).on(24) == Meter(1, 9, batch=24), "checkpoints of earlier versions do not say"


def test_a_finished_run_stays_the_run_that_was_begun(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(loop, "global_batch", lambda config: 2 * config.batch_size)
    unlabeled.resume(shutil.copytree(whole, tmp_path / "run"))
    assert "steps took" not in capsys.readouterr().err


def test_two_commands_do_not_train_in_one_run(data: Path, tmp_path: Path):
    """One would cut the journal and the checkpoints of the other."""
    out = tmp_path / "run"
    cache = tmp_path / "cache"
    process = command("train", data, "--out", out, "--cache", cache, *flags(epochs=100_000, save_minutes=60))
    try:
        while not (out / "metrics.jsonl").is_file() or not (out / "metrics.jsonl").stat().st_size:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        for again in (
            lambda: unlabeled.resume(out),
            lambda: unlabeled.train(data, out, cache=cache, if_exists="replace", **SMALL),
        ):
            with pytest.raises(RunError, match="another command is training in"):
                again()
        assert process.poll() is None
        assert (out / "config.json").is_file()
    finally:
        process.kill()
        process.communicate()
    # A killed command holds nothing.
    unlabeled.train(data, out, cache=cache, if_exists="replace", **SMALL | {"epochs": 1})


def test_clusters_made_only_once_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = SMALL | {"epochs": 3, "reassign_every": 2}
    unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", **settings)
    assert (
        "clusters are made once, of the untrained network, because new ones come every 2 of 3 epochs"
        in capsys.readouterr().err
    )


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(data: Path, tmp_path: Path):
    with pytest.raises(RunError, match=r"loss became .* lower learning rate"):
        unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", **SMALL | {"lr": 1e12, "epochs": 8})


def test_two_processes_are_one(data: Path, tmp_path: Path):
    """Same targets on every rank, and the run of one process with twice the batch, up to float tolerance."""
    changes = {"epochs": 2, "image_size": 32}
    unlabeled.train(data, tmp_path / "one", cache=tmp_path / "cache", **SMALL | changes)
    line = ["-m", "unlabeled", "train", data, "--out", tmp_path / "two", "--cache", tmp_path / "cache"]
    on_two_ranks(*line, *flags(**changes, batch_size=12))
    one, two = read(tmp_path / "one" / "metrics.jsonl"), read(tmp_path / "two" / "metrics.jsonl")
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=2e-3)
    ours, theirs = final_tensors(tmp_path / "two"), final_tensors(tmp_path / "one")
    labels = "method.labels"
    assert (ours[labels] == theirs[labels]).float().mean() > 0.95
    # Resume with another number of ranks.
    resumed = unlabeled.resume(tmp_path / "two")
    assert resumed.history[-1]["epoch"] == 2


def test_hooks_come_in_order(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from unlabeled.methods.deepcluster import DeepCluster

    seen: list[str] = []
    for name in ("before_epoch", "draw", "targets", "loss", "after_step", "summary"):
        original = getattr(DeepCluster, name)

        def record(self: DeepCluster, *args: object, _name: str = name, _original: object = original) -> object:
            seen.append(_name)
            return _original(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(DeepCluster, name, record)
    unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", **SMALL | {"epochs": 2})
    step = ["targets", "loss", "after_step"]
    assert seen == 2 * ["before_epoch", "draw", *4 * step, "summary"]
