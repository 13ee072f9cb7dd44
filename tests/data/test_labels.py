"""Labels by folder, table, column and array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unlabeled.data.labels import Labels, read_labels
from unlabeled.data.sources import Subset, open_source
from unlabeled.errors import DataError


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def named(labels: Labels) -> list[str]:
    return [labels.class_names[k] if k >= 0 else "-" for k in labels.ids]


def test_class_folders(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, "train/dog/1.jpg", "train/cat/a/2.jpg", "train/cat/b/3.jpg", "train/4.jpg"))
    labels = read_labels(source, "folder")
    assert labels.class_names == ["cat", "dog"] and labels.ids.dtype == np.int64
    assert dict(zip(source.names, named(labels), strict=True)) == {
        "train/4.jpg": "-",
        "train/cat/a/2.jpg": "cat",
        "train/cat/b/3.jpg": "cat",
        "train/dog/1.jpg": "dog",
    }


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 images .* are in no folders: put each class"):
        read_labels(open_source(folder(tmp_path / "flat", "1.jpg", "2.jpg")), "folder")
    with pytest.raises(DataError, match="all in one folder, a"):
        read_labels(open_source(folder(tmp_path / "one", "a/1.jpg", "a/2.jpg")), "folder")


@pytest.mark.parametrize("style", ["{n}", "./{n}", "../images/{n}", "{root}/{n}", "{base}"])
def test_a_table_finds_images_however_it_names_them(tmp_path: Path, style: str) -> None:
    images = folder(tmp_path / "images", "x/1.jpg", "y/2.jpg", "y/3.jpg")
    rows = [("x/1.jpg", "10"), ("y/2.jpg", "9"), ("z/9.jpg", "7")]
    lines = [style.format(n=n, root=images, base=Path(n).name) + "," + label for n, label in rows]
    table = tmp_path / "tables" / "labels.csv"
    table.parent.mkdir()
    table.write_text("file,label\n" + "\n".join(lines), "utf-8")
    labels = read_labels(open_source(images), str(table))
    assert named(labels) == ["10", "9", "-"]
    assert labels.class_names == ["9", "10"], "numbers sort as numbers"


def test_columns_and_faults(tmp_path: Path) -> None:
    folder(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    table = tmp_path / "t.csv"
    table.write_text("path,colour,size\n1.jpg,red,S\n2.jpg,,L\n3.jpg,blue,S\n", "utf-8")
    source = open_source(table)
    assert named(read_labels(source, "colour")) == ["red", "-", "blue"]
    assert named(read_labels(Subset(source, [2, 0]), "size")) == ["S", "S"]
    assert named(read_labels(open_source(tmp_path), f"{table}:size")) == ["S", "L", "S"]
    with pytest.raises(DataError, match="none named label, class, target, category: name the column"):
        read_labels(source, str(table))
    with pytest.raises(DataError, match="no column 'shape': it has path, colour, size"):
        read_labels(source, f"{table}:shape")
    with pytest.raises(DataError, match="neither 'folder' nor a file that exists nor a column of"):
        read_labels(source, "weight")
    other = tmp_path / "other.csv"
    other.write_text("path,label\nq/8.jpg,1\n", "utf-8")
    with pytest.raises(DataError, match=r"names like '1\.jpg', the table like 'q/8\.jpg'"):
        read_labels(source, str(other))


def test_arrays_follow_the_rows_of_the_list(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("b.jpg\na.jpg\nb.jpg\nc.jpg\n", "utf-8")
    source = open_source(listing)
    np.save(tmp_path / "y.npy", np.array([5, -1, 8, 7]))
    assert named(read_labels(source, str(tmp_path / "y.npy"))) == ["5", "-", "7"]
    np.savez(tmp_path / "y.npz", y=np.array(["u", "v", "w", "x"]), other=np.zeros(9))
    assert named(read_labels(Subset(source, [2, 1]), str(tmp_path / "y.npz"))) == ["x", "v"]
    np.save(tmp_path / "short.npy", np.array([5, 1]))
    with pytest.raises(DataError, match=r"shape \(2,\).* has 4 rows"):
        read_labels(source, str(tmp_path / "short.npy"))
    np.save(tmp_path / "float.npy", np.array([0.5, 1, 2, 3]))
    with pytest.raises(DataError, match="labels are integers or text"):
        read_labels(source, str(tmp_path / "float.npy"))


def test_alignment_of_test_labels_with_training_labels() -> None:
    test = Labels(np.array([1, 0, -1]), ["bird", "cat"])
    aligned = test.aligned_to(["ant", "bird", "cat"], "test")
    assert aligned.ids.tolist() == [2, 1, -1]
    assert test[[2, 0]].ids.tolist() == [-1, 1]
    with pytest.raises(
        DataError, match=r"test has the class 'bird', which the training images do not have.*theirs: cat"
    ):
        test.aligned_to(["cat"], "test")
    # Only a class in use has to be known.
    assert test[[0, 2]].aligned_to(["cat"], "test").ids.tolist() == [0, -1]
