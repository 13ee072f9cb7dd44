"""libtiff's complaints reach who decodes, and nobody's terminal."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from unlabeled.data.decode import examine

DAMAGED = "a part is damaged, and what could be decoded is used"


def fax(damaged: bool) -> bytes:
    """A TIFF of one bit, compressed as a fax is; damaged, some of its bytes are no code."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).random((64, 64)) < 0.5
    Image.fromarray(pixels).save(stream, "TIFF", compression="group4")
    content = bytearray(stream.getvalue())
    if damaged:
        with Image.open(io.BytesIO(bytes(content))) as image:
            start = image.tag_v2[273][0]
        content[start + 100 : start + 140] = b"\xff" * 40
    return bytes(content)


def test_a_damaged_tiff_is_noted_and_silent(capfd: pytest.CaptureFixture[str]):
    assert examine(fax(damaged=True)).notes == (DAMAGED,)
    assert examine(fax(damaged=False)).notes == ()
    assert capfd.readouterr() == ("", "")


def test_threads_hear_of_their_own_files_only(capfd: pytest.CaptureFixture[str]):
    files = [fax(damaged=number % 3 == 0) for number in range(60)]
    with ThreadPoolExecutor(4) as pool:
        notes = [decoded.notes for decoded in pool.map(examine, files)]
    assert notes == [(DAMAGED,) if number % 3 == 0 else () for number in range(60)]
    assert capfd.readouterr() == ("", "")
