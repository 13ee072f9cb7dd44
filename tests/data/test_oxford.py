"""Lists of the Oxford Buildings layout: the official ones, small ones by hand, and wrong ones."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from unlabeled.data.oxford import CORRUPTED_PARIS, find_images, image_name, read_ground_truth
from unlabeled.errors import DataError


def write_lists(folder: Path, name: str, query: str, good: str = "", ok: str = "", junk: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    for kind, text in (("query", query), ("good", good), ("ok", ok), ("junk", junk)):
        (folder / f"{name}_{kind}.txt").write_text(text)
    return folder


def test_the_official_lists(shared_data: Path, tmp_path: Path):
    archive = shared_data / "retrieval-ground-truth" / "oxford5k_paris6k_gt.zip"
    if not archive.is_file():
        pytest.skip("needs the official lists")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path)
    oxford, paris = read_ground_truth(tmp_path / "oxford5k_gt"), read_ground_truth(tmp_path / "paris6k_gt")
    assert len(oxford) == len(paris) == 55
    first = oxford[0]
    assert (first.name, first.image, first.box) == ("all_souls_1", "all_souls_000013", (136.5, 34.1, 648.5, 955.7))
    assert first.image in first.good and not first.image.startswith("oxc1")
    # A name that a list holds twice is one image.
    assert all(len(set(query.good)) == len(query.good) for query in oxford)
    named = {name for query in paris for name in query.names}
    assert len(CORRUPTED_PARIS) == 20 and not named & CORRUPTED_PARIS
    with pytest.raises(DataError, match="oxford5k_gt, paris6k_gt in it have some: name one"):
        read_ground_truth(tmp_path)
    # The lists of one city and the images of the other do not fit.
    with pytest.raises(DataError, match="none of 55 queries can be asked: the image all_souls_000013"):
        find_images(oxford, [f"paris/{name}.jpg" for name in sorted(named)])
    gallery = find_images(paris, [f"paris/{name}.jpg" for name in sorted(named | CORRUPTED_PARIS)])
    assert len(gallery.rows) == len(named) and len(gallery.queries) == 55
    assert gallery.notes == ["20 corrupted images of Paris6k are left out."]


def test_positions_missing_images_and_queries_without_an_answer(tmp_path: Path):
    write_lists(tmp_path, "a_1", "oxc1_x 0 0 5 5.5\n", good="x\ny\n", ok="gone", junk="z\nlost\n")
    write_lists(tmp_path, "b_1", "y 1 1 2 2", junk="x")
    write_lists(tmp_path, "c_1", "nowhere 1 1 2 2", good="x")
    queries = read_ground_truth(tmp_path)
    assert [query.name for query in queries] == ["a_1", "b_1", "c_1"]
    gallery = find_images(queries, ["s/w.png", "s/y.png", "t/x.v2.png", "t/x.png", "z"])
    assert [query.name for query in gallery.queries] == ["a_1"]
    assert gallery.images.tolist() == [3]
    # What is not there has a number beyond the images, and counts as not found.
    assert gallery.positive[0].tolist() == [3, 1, 5] and gallery.junk[0].tolist() == [4]
    notes = " ".join(gallery.notes)
    assert "1 images to be found are not among the 5 given (the first: gone)" in notes
    assert "nowhere of c_1" in notes and "name nothing to find (the first: b_1)" in notes


def test_names_of_images():
    assert image_name("jpg/all_souls_000013.jpg") == "all_souls_000013"
    assert image_name("a.b.png") == "a.b"
    assert image_name("plain") == "plain"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("x 1 2 3", "left, top, right and bottom of a box, got 'x 1 2 3'"),
        ("x 1 2 3 four", "got 'x 1 2 3 four'"),
        ("", "name of an image"),
        ("x 5 2 5 4", "the box 5 2 5 4 is empty"),
        ("x nan 2 5 4", "is empty"),
    ],
)
def test_a_query_file_that_is_wrong(tmp_path: Path, query: str, sentence: str):
    with pytest.raises(DataError, match=sentence):
        read_ground_truth(write_lists(tmp_path, "a_1", query))


def test_folders_and_lists_that_are_wrong(tmp_path: Path):
    with pytest.raises(DataError, match="is not there"):
        read_ground_truth(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no \*_query.txt; name the folder of the lists"):
        read_ground_truth(tmp_path)
    folder = write_lists(tmp_path / "gt", "a_1", "x 0 0 1 1", good="x")
    with pytest.raises(DataError, match="is a file: unpack it first"):
        read_ground_truth(folder / "a_1_ok.txt")
    with pytest.raises(DataError, match=r"the images a/x.png and b/x.jpg have one name"):
        find_images(read_ground_truth(folder), ["a/x.png", "b/x.jpg"])
    (folder / "a_1_junk.txt").unlink()
    with pytest.raises(DataError, match=r"a_1_junk.txt is missing"):
        read_ground_truth(folder)
    empty = read_ground_truth(write_lists(tmp_path / "empty", "a_1", "x 0 0 1 1"))
    with pytest.raises(DataError, match=r"the lists a_1_good.txt and a_1_ok.txt name nothing to find"):
        find_images(empty, ["x.png"])
