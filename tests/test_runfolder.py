"""Files of a run appear whole or not at all, and a folder that is not ours is never touched."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from unlabeled.errors import RunError
from unlabeled.runs.folder import RunFolder, environment, find, reserve
from unlabeled.writing import csv_text, replacing, require_writable, write_csv, write_json


def test_files_have_the_rights_of_new_files(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.touch()
    with replacing(tmp_path / "tensors") as partial:
        partial.touch(0o600)
    assert (tmp_path / "tensors").stat().st_mode == plain.stat().st_mode


def test_a_run_is_held_by_one_command_at_a_time(tmp_path: Path):
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.make()
    first.hold()
    first.hold()
    with pytest.raises(RunError, match=r"another command is training in .*run at this moment"):
        second.hold()
    second.release()
    with pytest.raises(RunError, match="another command"):
        second.hold()
    first.release()
    second.hold()
    second.release()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "deep" / "f.txt"
    with replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with (
        pytest.raises(RunError, match=r"cannot write .*f\.txt \(No space left on device\)"),
        replacing(path) as partial,
    ):
        partial.write_text("half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half of")
        raise KeyboardInterrupt
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a folder"):
        require_writable(tmp_path)
    with pytest.raises(RunError, match="cannot write"):
        require_writable(tmp_path / "file" / "f.npy")
    assert require_writable(tmp_path / "file") == tmp_path / "file"
    assert (tmp_path / "file").read_text() == "x"
    require_writable(tmp_path / "new" / "and newer" / "f.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "a try leaves no folders"


def test_a_folder_of_other_things_is_refused_and_ours_is_not(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    for if_exists in ("refuse", "resume", "replace"):
        with pytest.raises(RunError, match="not a run"):
            reserve(tmp_path / "mine", if_exists)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    run = reserve(tmp_path / "run")
    run.make()
    reserve(tmp_path / "run")
    run.config.write_text("{}")
    with pytest.raises(RunError, match="already holds a run"):
        reserve(tmp_path / "run")
    assert reserve(tmp_path / "run", "replace").exists, "only `clear` removes what is there"


def test_a_place_is_reserved_without_a_trace(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    run = reserve(tmp_path / "some" / "where" / "run")
    with pytest.raises(RunError, match="cannot make the folder"):
        reserve(tmp_path / "file" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    run.make()
    assert run.mark.exists()
    reserve(run.path)
    assert run.mark.exists(), "a folder that was ours stays ours"


def test_abandoning_leaves_nothing_or_everything(tmp_path: Path):
    run = reserve(tmp_path / "some" / "where" / "run")
    run.make()
    run.abandon()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    run = reserve(tmp_path / "empty")
    run.make()
    run.abandon()
    assert list((tmp_path / "empty").iterdir()) == [], "a folder that was there before stays"
    run = reserve(tmp_path / "run")
    run.make()
    run.skipped.write_text("")
    run.abandon()
    assert run.skipped.exists() and run.mark.exists()


def test_clearing_removes_the_run_and_nothing_else(tmp_path: Path):
    run = reserve(tmp_path / "run")
    run.make()
    for path in (run.config, run.data, run.journal, run.clusters, run.path / "notes.txt"):
        path.write_text("x")
    run.checkpoints.mkdir()
    (run.checkpoints / "latest").write_text("x")
    run.tensorboard.mkdir()
    assert run.events == run.tensorboard
    run.clear()
    assert sorted(path.name for path in run.path.iterdir()) == [".unlabeled", "notes.txt"]
    assert run.events is None


def test_find_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(RunError, match="no run folder"):
        find(tmp_path / "none")
    with pytest.raises(RunError, match=r"no config\.json"):
        find(tmp_path)


def test_json_goes_out_and_comes_back(tmp_path: Path):
    run = RunFolder(tmp_path)
    value = {"a": [1, 2.5, None], "name": "Zoë"}
    write_json(run.data, value)
    assert run.read_json(run.data) == value
    for content in (b"{", b"\xff\xfe"):
        run.data.write_bytes(content)
        with pytest.raises(RunError, match=r"data\.json is damaged"):
            run.read_json(run.data)
    with pytest.raises(RunError, match="is missing"):
        run.read_json(run.config)


def test_devious_names_survive_csv(tmp_path: Path):
    run = RunFolder(tmp_path)
    names = ['a,"b".png', "line\nbreak.png", "\udcff\udcfe.png", "Zoë ☃.png", " =1+1"]
    write_csv(run.skipped, ("file", "reason"), [(name, "why") for name in names])
    with run.skipped.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["file"] for row in csv.DictReader(file)] == names
    assert csv_text(("a",), []) == "a\n"


def test_environment_names_versions_and_no_person():
    found = environment("cpu", 2)
    assert found["processes"] == 2 and found["packages"]["torch"]
    assert os.uname().nodename not in str(found) and str(Path.home()) + "/" not in str(found)
