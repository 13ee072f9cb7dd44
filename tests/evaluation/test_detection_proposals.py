"""Proposals: what is visible is proposed, the same every time, and files of them are read or refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rectangles import unpack
from unlabeled.data.voc import VocImage, read_voc
from unlabeled.errors import DataError
from unlabeled.evaluation.detection.boxes import overlap
from unlabeled.evaluation.detection.proposals import _Segments as Segments
from unlabeled.evaluation.detection.proposals import group, propose, read_proposals, segment


def scene() -> tuple[np.ndarray, torch.Tensor]:
    """Two rectangles on noise, and a third that touches the second: together they are one thing of two colours."""
    picture = np.random.default_rng(0).integers(100, 130, (90, 120, 3), dtype=np.uint8)
    boxes = [(10, 12, 40, 60), (60, 20, 85, 70), (85, 20, 110, 70)]
    for (x1, y1, x2, y2), colour in zip(boxes, ((220, 30, 30), (30, 30, 220), (30, 200, 220)), strict=True):
        picture[y1:y2, x1:x2] = colour
    return picture, torch.tensor([*boxes, (60, 20, 110, 70)], dtype=torch.float32)


def test_things_and_their_union_are_proposed():
    picture, things = scene()
    found = torch.from_numpy(propose(picture))
    assert (overlap(found, things).amax(0) > 0.85).all()
    assert (found[:, 2:] > found[:, :2]).all() and found.min() >= 0
    assert found[:, 2].max() <= 120 and found[:, 3].max() <= 90
    assert len(torch.unique(found, dim=0)) == len(found)
    np.testing.assert_array_equal(found, propose(picture))
    np.testing.assert_array_equal(found[:10], propose(picture, limit=10))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 200, 1), (40, 1, 4), (30, 30, 3)])
def test_any_picture_gives_boxes_inside_it(shape: tuple[int, int, int]):
    found = propose(np.full(shape, 7, np.uint8))
    assert found.shape[1] == 4
    if len(found):
        assert found.min() >= 0 and found[:, 2].max() <= shape[1] and found[:, 3].max() <= shape[0]


def test_segments_are_connected_and_by_hand():
    planes = np.zeros((12, 20, 3), np.float32)
    planes[:, 10:] = 200
    labels = segment(planes, k=10.0, least=1)
    # The blur leaves a few columns between; far from the edge there are exactly two even halves.
    assert len(np.unique(labels[:, :7])) == 1 and len(np.unique(labels[:, 13:])) == 1
    assert labels[0, 0] != labels[0, -1]
    assert len(np.unique(segment(planes, k=1e6, least=1))) == 1
    assert len(np.unique(segment(planes, k=0.0, least=12 * 20))) == 1


def test_grouping_joins_the_most_similar_neighbours_first():
    planes = np.zeros((8, 12, 3), np.float32)
    planes[:, 4:8] = 10  # falls in the same bin of colour as the first, so these two are the most similar
    planes[:, 8:] = 200
    labels = np.repeat([[0] * 4 + [1] * 4 + [2] * 4], 8, axis=0).astype(np.int64)
    boxes = group(Segments.of(planes, labels))
    assert boxes.tolist() == [[0, 0, 4, 8], [4, 0, 8, 8], [8, 0, 12, 8], [0, 0, 8, 8], [0, 0, 12, 8]]


def test_objects_of_real_pictures_are_proposed(shared_data: Path, tmp_path: Path):
    images = read_voc(unpack(shared_data, "voc2007-mini", tmp_path), "test").images[::140]
    hits = []
    for image in images:
        found = torch.from_numpy(propose(np.asarray(Image.open(image.path).convert("RGB"))))
        truth = image.boxes[~image.difficult] + torch.tensor([0.0, 0, 1, 1])
        hits += (overlap(found, truth).amax(0) >= 0.5).tolist()
    assert np.mean(hits) > 0.5


def picture(name: str) -> VocImage:
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    return VocImage(name, Path(name), (50, 100), *nothing, None)


def test_files_of_proposals(tmp_path: Path):
    # Counted from 1 with both corners inside: the first is the whole picture; the second reaches out; the third is empty.
    rows = [[1, 1, 100, 50], [91, 41, 130, 60], [5, 5, 4, 9]]
    np.savez(tmp_path / "p.npz", a=np.array(rows), b=np.zeros((0, 4)))
    (tmp_path / "p.json").write_text(json.dumps({"a": rows, "b": []}))
    for name in ("p.npz", "p.json"):
        first, second = read_proposals(tmp_path / name, [picture("a"), picture("b")])
        assert first.tolist() == [[0, 0, 100, 50], [90, 40, 100, 50]] and second.shape == (0, 4)
        assert len(read_proposals(tmp_path / name, [picture("a")], limit=1)[0]) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.mat", b"", "is neither"),
        ("p.json", b"{", "cannot be read"),
        ("p.json", b"[]", "holds a list"),
        ("p.json", b'{"b": []}', "no proposals for a"),
        ("p.json", b'{"a": [[1, 2, 3]]}', "rows of four finite numbers"),
        ("p.json", b'{"a": [["x", 2, 3, 4]]}', "rows of four finite numbers"),
        ("p.json", b'{"a": 5}', "rows of four finite numbers"),
        ("p.npz", b"PK\x03\x04 damaged", "cannot be read"),
        ("p.npz", b"", "cannot be read"),
    ],
)
def test_a_wrong_file_of_proposals_is_a_sentence(tmp_path: Path, name: str, content: bytes, says: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_proposals(tmp_path / name, [picture("a")])


def test_no_file_and_pickled_boxes(tmp_path: Path):
    with pytest.raises(DataError, match="there is no file"):
        read_proposals(tmp_path / "none.npz", [picture("a")])
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        read_proposals(tmp_path / "pickled.npz", [picture("a")])
