from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unlabeled.errors import RunError
from unlabeled.runs import checkpoint


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "weight": torch.full((3, 4), value),
        "count": torch.tensor(7),
        "half": torch.full((5,), value).bfloat16(),
        "strided": torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last) + value,
        "flag": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }


def test_what_is_read_is_what_was_written(tmp_path: Path):
    checkpoint.save(tmp_path, 3, 14, tensors(1.5), keep=2, extra={"loss_sum": 0.1 + 0.2, "images": 9})
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert (found.epoch, found.step, found.extra) == (3, 14, {"loss_sum": 0.1 + 0.2, "images": 9})
    for name, value in tensors(1.5).items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)


def test_none_where_nothing_was_saved(tmp_path: Path):
    assert checkpoint.load(tmp_path / "nowhere") is None


def test_only_the_newest_are_kept(tmp_path: Path):
    for epoch in range(5):
        checkpoint.save(tmp_path, epoch, 0, tensors(epoch), keep=2)
    assert [path.name for path in sorted(tmp_path.glob("*.safetensors"))] == [
        "epoch-00003-step-0000000.safetensors",
        "epoch-00004-step-0000000.safetensors",
    ]
    assert (tmp_path / "latest").read_text() == "epoch-00004-step-0000000.safetensors\n"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "not safetensors"])
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path: Path, damage: str):
    checkpoint.save(tmp_path, 1, 0, tensors(1), keep=3)
    newest = checkpoint.save(tmp_path, 2, 0, tensors(2), keep=3)
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[-3] ^= 64
    elif damage == "emptied":
        content = bytearray()
    else:
        content = bytearray(b"\x80\x04pickle?" * 100)
    newest.write_bytes(content)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.epoch == 1
    assert len(found.damaged) == 1
    assert newest.name in found.damaged[0]


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path):
    checkpoint.save(tmp_path, 1, 0, tensors(1), keep=3).write_bytes(b"")
    with pytest.raises(RunError, match="damaged"):
        checkpoint.load(tmp_path)


def test_a_full_disk_is_a_sentence_and_leaves_the_elder_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoint.save(tmp_path, 1, 0, tensors(1), keep=3)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match=r"No space left on device.*unlabeled resume"):
        checkpoint.save(tmp_path, 2, 0, tensors(2), keep=3)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.epoch == 1
    assert not list(tmp_path.glob(".*partial"))


def test_killed_inside_a_write_nothing_is_lost(tmp_path: Path):
    """A process that only writes checkpoints is killed at random points; the newest whole file is always readable."""
    code = (
        "import sys, torch; from pathlib import Path; from unlabeled.runs import checkpoint\n"
        "for n in range(10**6): checkpoint.save(Path(sys.argv[1]), n, 0, {'x': torch.full((300_000,), float(n))}, keep=2);"
        "print(n, flush=True)"
    )
    last = -1
    for wait in (0.0, 0.013, 0.031, 0.057):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            reported = int(process.stdout.readline())
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            # What was reported before the kill is on disk, whole.
            reported = max([reported, *(int(line) for line in process.stdout.read().splitlines() if line.isdigit())])
        found = checkpoint.load(tmp_path)
        assert found is not None
        assert not found.damaged
        assert found.epoch >= reported
        assert torch.equal(found.tensors["x"], torch.full((300_000,), float(found.epoch)))
        last = max(last, found.epoch)
        for path in tmp_path.glob("epoch-*"):
            path.unlink()
    assert last >= 0
