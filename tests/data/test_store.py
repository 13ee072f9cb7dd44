"""The store: never stale, never half-written, the same pixels whichever way they got there."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data import ingest, pixel_cache, store
from unlabeled.data.decode import Decoded, decode, examine
from unlabeled.data.pixels import Undecodable, ValueRange
from unlabeled.data.sources import open_source
from unlabeled.data.store import ImageStore, open_store
from unlabeled.errors import DataError

RANDOM = np.random.default_rng(0)


def picture(height: int = 20, width: int = 30, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six RGB pictures of different sizes."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(6):
        (images / f"{i}.png").write_bytes(png(picture(20 + i, 30, seed=i)))
    settle(images)
    return images


def settle(images: Path) -> None:
    """Make `stat` say that the files are old, so that the shortcut by time stamps is used."""
    for file in images.iterdir():
        os.utime(file, (1e9, 1e9))


@pytest.fixture(autouse=True)
def trust_recent_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "RACY_SECONDS", 0.0)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images decoded."""
    names: list[str] = []

    def counted(content: bytes | np.ndarray, name: str = "", **more: int) -> Decoded:
        names.append(name)
        return examine(content, name, **more)

    monkeypatch.setattr(ingest, "examine", counted)
    return names


def opened(images: Path, cache: Path | None, short_side: int = 16, **more: object) -> ImageStore:
    return open_store(open_source(images), short_side=short_side, cache=cache, workers=2, **more)  # pyright: ignore


def assert_holds(made: ImageStore, images: Path, short_side: int = 16) -> None:
    """Every image of the store is the file's, decoded and reduced now."""
    assert len(made)
    for i, name in enumerate(made.names):
        expected = ingest.reduce(decode((images / name).read_bytes()), short_side)
        np.testing.assert_array_equal(made.pixels(i).numpy(), expected)


def test_pixels_names_and_sizes(folder: Path) -> None:
    made = opened(folder, None)
    assert made.names == [f"{i}.png" for i in range(6)]
    assert made.channels == 3
    assert made.is_colour
    assert made.uniform is None
    assert made.original_sizes.tolist() == [[20 + i, 30] for i in range(6)]
    assert made.sizes[0].tolist() == [16, 24]
    assert made.facts("cpu").height == 22
    assert "memory" in made.location
    assert_holds(made, folder)


def test_disk_and_memory_agree_and_the_second_opening_decodes_nothing(
    folder: Path, tmp_path: Path, decodes: list[str]
) -> None:
    first = opened(folder, tmp_path / "cache")
    assert len(decodes) == 6
    again = opened(folder, tmp_path / "cache")
    assert len(decodes) == 6
    in_memory = opened(folder, None)
    for i in range(6):
        assert torch.equal(first.pixels(i), again.pixels(i))
        assert torch.equal(first.pixels(i), in_memory.pixels(i))
    assert again.channel_statistics() == first.channel_statistics()


def test_the_second_opening_does_not_even_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(folder, tmp_path / "cache")
    source = open_source(folder)
    monkeypatch.setattr(type(source), "read", lambda *_: pytest.fail("read"))
    assert len(open_store(source, short_side=16, cache=tmp_path / "cache")) == 6


def test_a_file_changed_in_place_with_equal_size_and_time(folder: Path, tmp_path: Path) -> None:
    opened(folder, tmp_path / "cache")
    file = folder / "2.png"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.write(png(picture(22, 30, seed=77)))
    os.utime(file, (1e9, 1e9))
    assert file.stat().st_size == size
    assert_holds(opened(folder, tmp_path / "cache"), folder)


def test_a_file_changed_again_within_one_time_stamp(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coarse clock may give both versions the same stamp: files touched just before they were read are read again."""
    monkeypatch.setattr(ingest, "RACY_SECONDS", 2.0)
    source = open_source(folder)
    stamp = time.time_ns()
    monkeypatch.setattr(type(source), "fingerprint", lambda _, i: (100, stamp, stamp))
    open_store(source, short_side=16, cache=tmp_path / "cache")
    (folder / "2.png").write_bytes(png(picture(22, 30, seed=78)))
    assert_holds(open_store(source, short_side=16, cache=tmp_path / "cache"), folder)


def test_replaced_added_and_removed_files(folder: Path, tmp_path: Path, decodes: list[str]) -> None:
    opened(folder, tmp_path / "cache")
    replacement = tmp_path / "new.png"
    replacement.write_bytes(png(picture(22, 30, seed=55)))
    replacement.replace(folder / "1.png")
    (folder / "6.png").write_bytes(png(picture(40, 17, seed=6)))
    (folder / "0.png").unlink()
    decodes.clear()
    made = opened(folder, tmp_path / "cache")
    assert sorted(decodes) == ["1.png", "6.png"]
    assert made.names == [f"{i}.png" for i in range(1, 7)]
    assert_holds(made, folder)


def test_renamed_and_copied_files_are_not_decoded_again(folder: Path, tmp_path: Path, decodes: list[str]) -> None:
    opened(folder, tmp_path / "cache")
    (folder / "0.png").rename(folder / "zero.png")
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    decodes.clear()
    assert_holds(opened(folder, tmp_path / "cache"), folder)
    assert decodes == []


def test_another_short_side_is_another_store(folder: Path, tmp_path: Path) -> None:
    opened(folder, tmp_path / "cache", 16)
    assert_holds(opened(folder, tmp_path / "cache", 8), folder, 8)
    assert_holds(opened(folder, tmp_path / "cache", 16), folder, 16)


KILLED = """
import os, signal, sys
from pathlib import Path
from unlabeled.data import ingest as fill
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store

fill.FLUSH_IMAGES = 8
def progress(done, note):
    if done >= 32:
        os.kill(os.getpid(), signal.SIGKILL)
open_store(open_source(sys.argv[1]), short_side=16, cache=Path(sys.argv[2]), workers=1, progress=progress)
"""


def test_killed_half_way_and_resumed(tmp_path: Path, decodes: list[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(60):
        (images / f"{i:02d}.png").write_bytes(png(picture(20, 20, seed=i)))
    settle(images)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(images), str(tmp_path / "cache")], check=False)
    assert killed.returncode == -signal.SIGKILL
    made = opened(images, tmp_path / "cache")
    assert 20 <= len(decodes) <= 36
    assert len(made) == 60
    assert_holds(made, images)


@pytest.mark.parametrize("file", ["pixels.bin", "images.bin", "files.bin", "sealed.json"])
@pytest.mark.parametrize("damage", ["flipped", "shortened", "gone", "longer"])
def test_damaged_cache_files_are_rebuilt(folder: Path, tmp_path: Path, file: str, damage: str) -> None:
    opened(folder, tmp_path / "cache")
    path = tmp_path / "cache" / "16px" / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "shortened":
        path.write_bytes(content[: len(content) // 2 + 1])
    elif damage == "longer":
        path.write_bytes(content + b"\xaa" * 7)
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    for _ in range(2):
        made = opened(folder, tmp_path / "cache")
        assert len(made) == 6
        assert_holds(made, folder)


def test_only_the_damaged_image_is_decoded_again(folder: Path, tmp_path: Path, decodes: list[str]) -> None:
    opened(folder, tmp_path / "cache")
    with (tmp_path / "cache" / "16px" / "pixels.bin").open("r+b") as file:
        file.seek(3)
        byte = file.read(1)[0]
        file.seek(3)
        file.write(bytes([byte ^ 1]))
    decodes.clear()
    assert_holds(opened(folder, tmp_path / "cache"), folder)
    assert decodes == ["0.png"]


def test_full_disk_says_how_much_is_needed_and_keeps_what_is_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodes: list[str]
) -> None:
    monkeypatch.setattr(ingest, "FLUSH_IMAGES", 1)
    real = pixel_cache.DiskLog.put

    def put(
        self: pixel_cache.DiskLog, key: bytes, image: pixel_cache.Image, pixels: np.ndarray | None
    ) -> pixel_cache.Image:
        if len(self._checked) >= 3:  # pyright: ignore
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, key, image, pixels)

    monkeypatch.setattr(pixel_cache.DiskLog, "put", put)
    with pytest.raises(DataError, match=r"disk is full.*\(\d[\d,]* bytes\) more in .*make room.*--cache"):
        opened(folder, tmp_path / "cache")
    monkeypatch.setattr(pixel_cache.DiskLog, "put", real)
    decodes.clear()
    assert_holds(opened(folder, tmp_path / "cache"), folder)
    assert len(decodes) == 3


def assert_same_pixels(one: ImageStore, other: ImageStore) -> None:
    assert one.names == other.names
    assert torch.equal(one.sizes, other.sizes)
    assert all(torch.equal(one.pixels(i), other.pixels(i)) for i in range(len(one)))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Colour, grey and 16-bit pictures, some larger than the store keeps them."""
    images = tmp_path / "mixed"
    images.mkdir()
    for i in range(3):
        (images / f"colour{i}.png").write_bytes(png(picture(40 + i, 30, seed=i)))
        (images / f"grey{i}.png").write_bytes(png(picture(20, 50, 1, seed=i)))
        wide = np.random.default_rng(i).integers(0, 60000, (24, 36), dtype=np.uint16)
        Image.fromarray(wide).save(images / f"wide{i}.png")
    return images


def test_images_without_room_are_decoded_again_to_the_same_pixels(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened(mixed, tmp_path / "cache")
    assert whole.num_decoded_again == 0
    real = pixel_cache.shutil.disk_usage(tmp_path)
    room = iter([2**40, 2**40, *[0] * 100])
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda _: real._replace(free=next(room)))
    partly = opened(mixed, tmp_path / "cache2")
    assert partly.num_decoded_again == 7
    assert_same_pixels(partly, whole)
    monkeypatch.setattr(store, "available_memory", lambda: 3000)
    in_memory = opened(mixed, None)
    assert 0 < in_memory.num_decoded_again < 9
    assert_same_pixels(in_memory, whole)
    assert in_memory.uniform is None
    assert in_memory.channel_statistics() == whole.channel_statistics()


def test_what_found_room_later_is_kept_then(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pixel_cache.shutil.disk_usage
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda path: real(path)._replace(free=0))
    assert opened(folder, tmp_path / "cache").num_decoded_again == 6
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", real)
    again = opened(folder, tmp_path / "cache")
    assert again.num_decoded_again == 0
    assert_holds(again, folder)


def test_a_file_that_changes_while_it_is_not_kept_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "available_memory", lambda: 0)
    images = opened(folder, None)
    (folder / "2.png").write_bytes(png(picture(8, 8)))
    with pytest.raises(DataError, match=r"2\.png changed after it was first read \(it is now 8 × 8 pixels\).*--cache"):
        images.pixels(2)
    (folder / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png changed after it was first read"):
        images.pixels(2)


def test_a_folder_that_cannot_be_written_falls_back_to_memory(folder: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    made = opened(folder, in_the_way / "cache")
    assert "in memory" in made.location
    assert "cannot be written" in made.location
    assert_holds(made, folder)


def test_a_read_only_folder_that_is_complete_is_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decodes: list[str]
) -> None:
    opened(folder, tmp_path / "cache")
    # Tests may run as root, whom permissions do not stop.
    monkeypatch.setattr(pixel_cache, "_open_lock", lambda _: None)
    decodes.clear()
    made = opened(folder, tmp_path / "cache")
    assert decodes == []
    assert made.location == str(tmp_path / "cache" / "16px")
    (folder / "9.png").write_bytes(png(picture(seed=9)))
    made = opened(folder, tmp_path / "cache")
    assert "in memory" in made.location
    assert_holds(made, folder)


def test_two_processes_at_once_build_one_store(folder: Path, tmp_path: Path) -> None:
    made: list[ImageStore] = []
    threads = [threading.Thread(target=lambda: made.append(opened(folder, tmp_path / "cache"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    for one in made:
        assert_holds(one, folder)
    stored = (tmp_path / "cache" / "16px" / "pixels.bin").stat().st_size
    assert stored == int(made[0].sizes.prod(1).sum()) * made[0].channels


def test_broken_files_are_listed_with_their_reason(folder: Path, tmp_path: Path) -> None:
    (folder / "3.png").write_bytes(b"")
    (folder / "4.png").write_bytes((folder / "5.png").read_bytes()[:100])
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        made = opened(folder, cache)
        assert made.names == ["0.png", "1.png", "2.png", "5.png"]
        assert made.index_in_source.tolist() == [0, 1, 2, 5]
        assert [name for name, _ in made.skipped] == ["3.png", "4.png"]
        assert made.skipped[0][1] == "the file is empty"
        assert_holds(made, folder)
    for file in folder.iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of the 6 images can be read \(the first, 0\.png"):
        opened(folder, None)


def test_grey_among_colour_is_seen_in_colour(folder: Path) -> None:
    (folder / "1.png").write_bytes(png(picture(21, 30, 1)))
    made = opened(folder, None)
    grey = made.pixels(1)
    assert made.channels == 3
    assert grey.shape == (16, 23, 3)
    assert torch.equal(grey[..., 0], grey[..., 2])
    only_grey = opened(folder, None, channels=1)
    assert only_grey.channels == 1
    assert not only_grey.is_colour
    assert torch.equal(only_grey.pixels(1)[..., 0], grey[..., 0])
    assert only_grey.pixels(0).shape == (16, 24, 1)


def arrays(path: Path, images: np.ndarray) -> Path:
    np.save(path, images)
    return path


def test_equal_sizes_are_one_tensor(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (9, 12, 10, 3), dtype=np.uint8)
    for cache in (None, tmp_path / "cache"):
        made = opened(arrays(tmp_path / "x.npy", images), cache)
        assert made.uniform is not None
        np.testing.assert_array_equal(made.uniform.numpy(), images)
    mean, std = made.channel_statistics()
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, atol=1e-5)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, atol=1e-5)
    # The other order and a duplicate: no longer in a row on disk.
    shuffled = images[[3, 1, 1, 8]]
    made = opened(arrays(tmp_path / "y.npy", shuffled), tmp_path / "cache")
    assert made.uniform is not None
    np.testing.assert_array_equal(made.uniform.numpy(), shuffled)


def test_sixteen_bits_are_scaled_with_one_range_for_all(tmp_path: Path, decodes: list[str]) -> None:
    images = RANDOM.integers(1000, 5000, (5, 20, 20), dtype=np.uint16)
    path = arrays(tmp_path / "x.npy", images)
    made = opened(path, tmp_path / "cache", 32)
    low, high = made.value_range.low[0], made.value_range.high[0]
    assert 1000 <= low < 1020
    assert 4980 < high <= 5000
    expected = np.rint(np.clip((images.astype(float) - low) / (high - low), 0, 1) * 255)
    np.testing.assert_allclose(torch.stack([made.pixels(i)[..., 0] for i in range(5)]).numpy(), expected, atol=1)
    decodes.clear()
    assert torch.equal(opened(path, tmp_path / "cache", 32).pixels(2), made.pixels(2))
    assert len(decodes) == 5  # those that the range is taken from
    given = opened(path, tmp_path / "cache", 32, value_range=ValueRange((0.0,), (10000.0,), 0.0))
    assert given.value_range.high == (10000.0,)
    np.testing.assert_allclose(given.pixels(0)[..., 0].numpy(), images[0] / 10000 * 255, atol=1)


def test_other_channel_counts_are_skipped(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, channels in enumerate((5, 5, 3, 5)):
        np.save(images / f"{i}.npy", RANDOM.integers(0, 256, (20, 21, channels), dtype=np.uint8))
    made = opened(images, None)
    assert made.channels == 5
    assert made.names == ["0.npy", "1.npy", "3.npy"]
    assert made.skipped == [
        (
            "2.npy",
            "it has 3 channels and most images have 5: it can be read, and takes no part (train it with others of its kind)",
        )
    ]
    assert not made.is_colour


def test_reduce_keeps_small_images_and_cuts_panoramas() -> None:
    small = picture(10, 12)
    np.testing.assert_array_equal(ingest.reduce(small, 16), small)
    assert ingest.reduce(picture(64, 32), 16).shape == (32, 16, 3)
    panorama = picture(32, 400)
    middle = ingest.reduce(panorama, 16)
    assert middle.shape == (16, 64, 3)
    np.testing.assert_array_equal(middle, ingest.reduce(panorama[:, 136:264], 16))
    assert ingest.reduce(picture(10, 400), 16).shape == (10, 64, 3)


def test_a_file_that_vanishes_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(folder)
    (folder / "4.png").unlink()
    made = open_store(source, short_side=16, cache=None)
    assert made.skipped == [("4.png", "there is no such file")]
    with pytest.raises(Undecodable):
        source.read(4)


RANK = """
import json, sys
from pathlib import Path
from unlabeled.data import ingest as fill
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.distributed import process_group

decoded, real = [], fill.examine
fill.examine = lambda content, name="", **more: (decoded.append(name), real(content, name, **more))[1]
with process_group("cpu"):
    for cache in ("cache", "in_the_way/cache"):
        store = open_store(open_source(sys.argv[1]), short_side=16, cache=Path(sys.argv[2], cache), workers=1)
        total = sum(int(store.pixels(i).sum()) for i in range(len(store)))
        facts = [len(decoded), len(store), total, "in memory" in store.location]
        print(json.dumps(facts))
        decoded.clear()
"""


def test_the_first_of_two_ranks_builds_for_both(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in_the_way").write_text("no folder")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder), str(tmp_path)],
            env=os.environ | {"RANK": str(r), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    printed = [process.communicate(timeout=120)[0].splitlines() for process in ranks]
    first, second = ([json.loads(line) for line in lines if line.startswith("[")] for lines in printed)
    assert [facts[0] for facts in first] == [6, 6]
    assert [facts[0] for facts in second] == [0, 6]
    assert [facts[1:] for facts in first] == [facts[1:] for facts in second]
    assert [facts[1] for facts in first] == [6, 6]
    assert [facts[3] for facts in first] == [False, True]
