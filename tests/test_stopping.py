"""Ctrl-C outside of the training loop: no error, what is kept is said, and the command that goes on can be copied."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from command_line import Call, call, words
from pictures import Trained, flags
from unlabeled import demonstration, session
from unlabeled.training import signals

__all__ = ["call"]  # a fixture


def stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def assert_stopped(result: tuple[int, str, str], *wanted: str) -> None:
    status, _, err = result
    assert status == 130 and "Error" not in err and "╭" not in err, err
    for part in wanted:
        assert part in words(err), words(err)


@pytest.mark.parametrize(
    ("late", "kept"),
    [
        ("unlabeled.session.embed", "the whole training is kept"),
        ("unlabeled.runs.index.build", "the whole training is kept"),
        ("unlabeled.session.stability", "the whole training is kept"),
        ("unlabeled.report.collect.write_report", "training, features and clusters are kept"),
        ("unlabeled.training.loop.finish_epoch", "everything up to the last checkpoint is kept"),
    ],
)
def test_a_stop_after_the_epochs_says_what_is_kept_and_resume_ends_the_run(
    late: str, kept: str, trained: Trained, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    command = ("train", trained.photos, "--out", out, "--cache", trained.cache, *flags(epochs=1))
    with monkeypatch.context() as patch:
        patch.setattr(late, stopped)
        assert_stopped(call(*command), kept, f"Continue with unlabeled resume {out}")
        assert_stopped(call("resume", out), kept, f"Continue with unlabeled resume {out}")
    assert call("resume", out)[0] == 0
    assert (out / "report.html").is_file() and (out / "stability.json").is_file()


def test_where_nothing_is_left_to_save_the_first_signal_ends_it():
    with signals.stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()
    with signals.stop_on_signals() as stop:
        stop.at_once = True
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_import_says_what_is_there(
    trained: Trained, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    file, out = tmp_path / "weights.safetensors", tmp_path / "run"
    assert call("export", trained.run, "--format", "safetensors", "--out", file)[0] == 0
    command = ("import", file, "--out", out, "--data", trained.photos, "--cache", trained.cache)
    with monkeypatch.context() as patch:
        patch.setattr(session, "stability", stopped)
        assert_stopped(call(*command), "the weights are kept", "--if-exists replace")
    with monkeypatch.context() as patch:
        patch.setattr("unlabeled.report.collect.write_report", stopped)
        result = call(*command, "--if-exists", "replace")
        assert_stopped(result, "weights, features and clusters are kept", f"unlabeled report {out}")


def test_a_stopped_score_goes_on_with_the_same_command(
    trained: Trained, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
):
    run = Path(shutil.copytree(trained.run, tmp_path / "my run"))
    command = ("evaluate", "linear", run, trained.photos, "--epochs", 2, "--lr", 0.1, "--stages", "conv1")
    with monkeypatch.context() as patch:
        patch.setattr("unlabeled.protocols.score", stopped)
        status, _, err = call(*command)
        assert (status, err.split()) == (130, ["Stopped."]), "nothing is kept, so nothing is promised"
        patch.setattr(
            "unlabeled.protocols.score", lambda _run, _name, asked, *_: asked.partial.write("a", 1) or stopped()
        )
        result = call(*command)
    again = f"unlabeled evaluate linear '{run}' {trained.photos} --epochs 2 --lr 0.1 --stages conv1"
    assert_stopped(result, "what is done is kept", again)
    assert f"    {again}" in result[2].splitlines()
    assert call(*command, "--json", tmp_path / "scores.json")[0] == 0
    assert json.loads((tmp_path / "scores.json").read_text())["stages"]
    assert not list((run / "evaluation").glob("linear-*")), "it is finished"


def test_a_stopped_demonstration_goes_on_to_its_scores(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demonstration, "photograph_files", list)
    monkeypatch.setattr(demonstration, "write_photographs", lambda train, test, seed: test.mkdir(parents=True))
    monkeypatch.setattr(session, "begin", lambda *_: (None, None, None))
    monkeypatch.setattr(session, "execute", lambda *_, **__: None)
    monkeypatch.setattr(demonstration, "Run", lambda *_: None)
    monkeypatch.setattr(demonstration, "_scored", stopped)
    result = call("demo", "--out", tmp_path / "demo")
    assert_stopped(result, "the training is kept", f"unlabeled demo --out {tmp_path / 'demo'} --if-exists resume")
