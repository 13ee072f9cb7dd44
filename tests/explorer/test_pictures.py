from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from explored import BROKEN, EVIL, GONE, Explored
from unlabeled.data.pixels import ValueRange
from unlabeled.errors import DataError
from unlabeled.explorer.thumbnails import Pictures, encode, shown_channels, shrunk


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def of(explored: Explored, **changes: int) -> Pictures:
    return Pictures(explored.run.record, explored.run.names, **changes)


def test_pictures_are_those_of_the_files(explored: Explored):
    pictures = of(explored)
    for name in ("kind0/004.png", "kind3/003.png", EVIL):
        index = explored.index(name)
        wanted = decoded((explored.photos / name).read_bytes())
        for made in (pictures.thumbnail(index), pictures.large(index)):
            assert made.media_type == "image/png"  # so small that nothing may be lost
            assert np.array_equal(decoded(made.content), wanted)


def test_images_that_had_accidents(explored: Explored):
    pictures = of(explored)
    for name, reason in ((GONE, "no longer in"), (BROKEN, "cannot be shown: ")):
        with pytest.raises(DataError, match=reason) as caught:
            pictures.thumbnail(explored.index(name))
        assert name in str(caught.value)


def test_memory_is_bounded_and_old_pictures_go_first(explored: Explored, monkeypatch: pytest.MonkeyPatch):
    pictures = of(explored, kept_bytes=6000)
    made: list[int] = []
    pixels = pictures.pixels
    monkeypatch.setattr(pictures, "pixels", lambda index, side=0: made.append(index) or pixels(index, side))
    shown = [i for i in range(40) if explored.run.names[i] not in (GONE, BROKEN)]
    for index in shown:
        pictures.thumbnail(index)
        assert sum(len(picture.content) for picture in pictures._kept.values()) == pictures._bytes <= 6000
    pictures.thumbnail(shown[-1])
    assert made == shown
    pictures.thumbnail(shown[0])
    assert made == [*shown, shown[0]]


def test_large_photographs_become_small_and_stay_whole(tmp_path: Path, explored: Explored):
    y, x = np.mgrid[:1000, :3000]
    photo = np.stack([x * 255 // 3000, y * 255 // 1000, np.zeros_like(x)], axis=2).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    pictures = Pictures(replace(explored.run.record, data=str(tmp_path)), ["photo.jpg"])
    small, large = decoded(pictures.thumbnail(0).content), decoded(pictures.large(0).content)
    assert small.shape == (128, 384, 3)
    assert large.shape == (533, 1600, 3)
    assert np.abs(large[266, ::100].astype(int) - photo[500, ::188][: len(large[266, ::100])]).max() < 12
    assert np.abs(small[:, 192, 1].astype(int) - np.linspace(1, 254, 128)).max() < 6


def test_many_channels_and_many_bits_are_shown_as_three_of_eight():
    values = ValueRange((0.0,) * 5, (4000.0,) * 5, 0.0)
    image = np.zeros((4, 6, 5), np.uint16)
    image[..., 1] = 2000
    shown = shown_channels(image, values)
    assert shown.shape == (4, 6, 3)
    assert shown[0, 0].tolist() == [0, 128, 0]
    assert shown_channels(image[..., :2], ValueRange((0.0,) * 2, (1.0,) * 2, 0.0)).shape == (4, 6, 1)
    # A grey file of 16 bits among coloured ones.
    assert shown_channels(image[..., 1:2], values).max() == 128


def test_small_pictures_are_as_they_were_and_grey_ones_stay_grey():
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8, 1)
    assert shrunk(grey, 8) is grey
    assert shrunk(grey, 4).shape == (3, 4, 1)
    assert np.array_equal(decoded(encode(grey).content), grey[:, :, 0])
    assert encode(np.zeros((200, 10, 3), np.uint8)).media_type == "image/jpeg"
