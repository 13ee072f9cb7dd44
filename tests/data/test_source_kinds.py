"""Labels and rows that vanish without a word, our own output taken for data, tables as other programs write them."""

from __future__ import annotations

import io
import os
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data.labels import read_labels
from unlabeled.data.pixels import Undecodable
from unlabeled.data.source import read_file
from unlabeled.data.sources import open_source
from unlabeled.errors import DataError

RNG = np.random.default_rng(3)


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path, "JPEG")
    return path


def notes(source: object) -> str:
    return " ".join(source.notes.sentences())  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("names", [("none", "scratch"), ("null", "NA", "nan"), ("-1", "0"), ("N_A", "n")])
def test_the_name_of_a_folder_is_always_a_class(tmp_path: Path, names: tuple[str, ...]):
    for name in names:
        save(tmp_path / name / "0.jpg")
    labels = read_labels(open_source(tmp_path), "folder")
    assert labels.class_names == sorted(names) and (labels.ids >= 0).all()


def test_in_tables_only_an_empty_cell_is_no_label(tmp_path: Path):
    rows = [("0.jpg", "none"), ("1.jpg", "NULL"), ("2.jpg", ""), ("3.jpg", "nan")]
    for name, _ in rows:
        save(tmp_path / "images" / name)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    labels = read_labels(open_source(tmp_path / "images"), str(tmp_path / "labels.csv"))
    assert labels.class_names == ["NULL", "nan", "none"] and labels.ids.tolist() == [2, 0, -1, 1]


def test_rows_that_meet_no_image_are_counted_and_named(tmp_path: Path):
    for k in range(6):
        save(tmp_path / "images" / f"{k}.jpg")
    rows = [(f"{k}.jpg" if k < 2 else f"img_{k}.jpg", f"c{k % 2}") for k in range(6)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    labels = read_labels(open_source(tmp_path / "images"), str(tmp_path / "labels.csv"))
    first, second = labels.sentences()
    assert first == "Labels: 2 classes (c0, c1); 2 of 6 images have a label."
    assert second == (
        "In 4 rows, a row of the table names no image that is among these (img_2.jpg, img_3.jpg, img_4.jpg, …)."
    )
    assert labels.to_json()["notes"][0]["count"] == 4


def test_names_that_differ_in_their_unicode_form_meet(tmp_path: Path):
    for form, folder in (("NFD", "mac"), ("NFC", "linux")):
        for name in ("café", "plane"):
            save(tmp_path / folder / unicodedata.normalize(form, name) / "0.jpg")
    mac, linux = (read_labels(open_source(tmp_path / folder), "folder") for folder in ("mac", "linux"))
    assert mac.class_names == linux.class_names
    assert linux.aligned_to(mac.class_names, "linux").ids.tolist() == mac.ids.tolist()
    save(tmp_path / "both" / unicodedata.normalize("NFD", "café") / "0.jpg")
    save(tmp_path / "both" / "café" / "1.jpg")
    save(tmp_path / "both" / "Plane" / "1.jpg")
    save(tmp_path / "both" / "plane" / "1.jpg")
    both = read_labels(open_source(tmp_path / "both"), "folder")
    assert both.class_names == ["Plane", "café", "plane"]
    assert "two Unicode forms" in notes(both) and "upper and lower case only (Plane / plane" in notes(both)


def test_numbers_are_one_class_however_they_are_written(tmp_path: Path):
    for k in range(4):
        save(tmp_path / "images" / f"{k}.jpg")
    (tmp_path / "floats.csv").write_text("path,label\n0.jpg,0.0\n1.jpg,1.0\n2.jpg,1\n3.jpg,10\n")
    labels = read_labels(open_source(tmp_path / "images"), str(tmp_path / "floats.csv"))
    assert labels.class_names == ["0", "1", "10"] and labels.ids.tolist() == [0, 1, 1, 2]
    (tmp_path / "mixed.csv").write_text("path,label\n0.jpg,0.5\n1.jpg,1.0\n2.jpg,cat\n3.jpg,1.0\n")
    assert read_labels(open_source(tmp_path / "images"), str(tmp_path / "mixed.csv")).class_names == [
        "0.5",
        "1.0",
        "cat",
    ]


def test_parts_of_a_set_are_no_classes(tmp_path: Path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            save(tmp_path / "set" / part / name / "0.jpg")
        save(tmp_path / "flat" / part / "0.jpg")
    labels = read_labels(open_source(tmp_path / "set"), "folder")
    assert labels.class_names == ["cat", "dog"]
    assert "the folders train, val are parts of the set" in notes(labels)
    with pytest.raises(DataError, match=r"parts of a data set, not classes.*--test .*val"):
        read_labels(open_source(tmp_path / "flat"), "folder")
    save(tmp_path / "kinds" / "train" / "0.jpg")
    save(tmp_path / "kinds" / "bus" / "0.jpg")
    assert read_labels(open_source(tmp_path / "kinds"), "folder").class_names == ["bus", "train"]


def test_labels_in_a_column_vector_are_labels(tmp_path: Path):
    images = RNG.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "med.npz", train_images=images, train_labels=np.arange(6, dtype=np.uint8)[:, None] % 2)
    labels = read_labels(open_source(f"{tmp_path}/med.npz:train_images"), f"{tmp_path}/med.npz:train_labels")
    assert labels.ids.tolist() == [0, 1, 0, 1, 0, 1]


def test_lines_of_a_list_that_name_files_are_files(tmp_path: Path):
    names = ["#2.jpg", " lead.jpg", "trail .jpg", "a, b.jpg", "100%23.jpg", "[bold]x[/].jpg", "plain.jpg"]
    for name in names:
        save(tmp_path / name)
    (tmp_path / "list.txt").write_text("# a comment\n" + "\n".join(names) + "\n\n#gone.jpg\n")
    source = open_source(tmp_path / "list.txt")
    assert source.names == names
    assert "In 2 lines, a line that begins with # is a comment" in notes(source)
    assert all(source.read(k) for k in range(len(source)))


def test_a_list_may_carry_a_label_behind_each_path(tmp_path: Path):
    for k in range(4):
        save(tmp_path / f"a b {k}.jpg")
    (tmp_path / "train.txt").write_text("".join(f"a b {k}.jpg {k % 2}\n" for k in range(4)))
    source = open_source(tmp_path / "train.txt")
    assert source.names == [f"a b {k}.jpg" for k in range(4)]
    assert read_labels(source, "label").ids.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("packed", ["folder", "zip", "tar"])
def test_what_this_program_wrote_is_no_image(tmp_path: Path, packed: str):
    root = tmp_path / "photos"
    for k in range(3):
        save(root / f"{k}.jpg")
    for name in ("config.json", "data.json", "environment.json"):
        (root / "run" / name).parent.mkdir(exist_ok=True)
        (root / "run" / name).write_text("{}")
    save(root / "run" / "pictures" / "filters.jpg")
    save(root / "sorted" / "cluster-0000" / "0.jpg")
    (root / "sorted" / ".unlabeled").touch()
    data = root
    if packed == "zip":
        data = tmp_path / "photos.zip"
        with zipfile.ZipFile(data, "w") as archive:
            for file in sorted(root.rglob("*")):
                archive.write(file, file.relative_to(root).as_posix())
    elif packed == "tar":
        data = tmp_path / "photos.tar"
        with tarfile.open(data, "w") as archive:
            archive.add(root, ".")
    else:
        np.save(root / "features.npy", np.zeros((3, 4), np.float32))
        (root / "features.names.txt").write_text("0\n1\n2\n")
        np.save(root / "real.npy", RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    source = open_source(data)
    assert source.names == ["0.jpg", "1.jpg", "2.jpg", *(["real.npy"] if packed == "folder" else [])]
    assert "passed over" in notes(source)
    assert len(open_source(root / "run" / "pictures")) == 1, "what is named explicitly is taken"


def test_one_folder_among_the_rows_is_skipped_by_name(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for name, reason in (("folder", "it is a folder"), ("pipe", "it is a pipe"), ("gone", "no such file")):
        with pytest.raises(Undecodable, match=reason):
            read_file(str(tmp_path / name))
    assert not before or len(list(Path("/proc/self/fd").iterdir())) == before, "no descriptor is left open"


CAPTIONS = ["plain", "two\u2028lines", "next\x85line", "vt\x0btab", "ff\x0cfeed", "fs\x1csep"]


def test_only_line_ends_end_a_row(tmp_path: Path):
    for k in range(6):
        save(tmp_path / f"{k}.jpg")
    text = "path,caption\n" + "".join(f"{k}.jpg,{caption}\n" for k, caption in enumerate(CAPTIONS))
    (tmp_path / "m.csv").write_text(text, "utf-8", newline="")
    source = open_source(tmp_path / "m.csv")
    assert len(source) == 6 and source.column("caption") == CAPTIONS


def rows(separator: str = ",", end: str = "\n", tail: str = "") -> str:
    return end.join(separator.join(row) + tail for row in [("path", "label"), *TABLE]) + end


TABLE = [(f"{name}_{k}.jpg", name) for name in ("café", "Straße") for k in range(2)]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (rows(";", "\r\n"), "utf-8-sig"),
        ("sep=;\r\n" + rows(";", "\r\n"), "utf-8"),
        (rows(tail=",,"), "utf-8"),
        (rows(end="\r"), "utf-8"),
        (rows(", "), "utf-8"),
        (unicodedata.normalize("NFD", rows()), "utf-8"),
        (rows().replace("\ncafé", "\n.\\café"), "utf-8"),
        (rows().replace(".jpg", ".JPG"), "utf-8"),
        (rows("\t"), "utf-16"),
        (rows().replace("path,label", "path,label,rle").replace("\n", f",{'1 ' * 80_000}\n").replace("rle,1", "rle,1", 1)
         .replace(f"rle,{'1 ' * 80_000}", "rle"), "utf-8"),
    ],
    ids=["bom", "sep", "tail", "old mac", "spaces", "nfd", "backslash", "upper", "utf-16", "long"],
)  # fmt: skip
def test_tables_as_other_programs_write_them(tmp_path: Path, text: str, encoding: str):
    for name, _ in TABLE:
        save(tmp_path / name)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    source = open_source(tmp_path / "t.csv")
    assert all(source.read(k) for k in range(4))
    labels = read_labels(source, "label")
    assert labels.class_names == ["Straße", "café"] and (labels.ids >= 0).all()
    beside = read_labels(open_source(tmp_path), str(tmp_path / "t.csv"))
    assert (beside.ids >= 0).all()


def test_uris_and_named_columns(tmp_path: Path):
    for name, _ in TABLE:
        save(tmp_path / "my images" / name)
    uris = [(tmp_path / "my images" / name).as_uri() for name, _ in TABLE]
    (tmp_path / "t.csv").write_text("img_uri,label\n" + "".join(f"{u},x\n" for u in uris))
    with pytest.raises(DataError, match=r"t\.csv:img_uri"):
        open_source(tmp_path / "t.csv")
    source = open_source(f"{tmp_path / 't.csv'}:img_uri")
    assert all(source.read(k) for k in range(4)) and "file:// is left out" in notes(source)
    with pytest.raises(DataError, match="no column 'url': it has img_uri, label"):
        open_source(f"{tmp_path / 't.csv'}:url")


def test_a_row_that_does_not_fit_is_named(tmp_path: Path):
    save(tmp_path / "0.jpg")
    (tmp_path / "t.csv").write_text("path,label\n0.jpg,a\n0.jpg,a,b\n")
    with pytest.raises(DataError, match=r"t\.csv, row 3: 3 values for 2 columns"):
        open_source(tmp_path / "t.csv")


@pytest.mark.parametrize("shards", [1, 2])
def test_parquet_with_pictures_inside(tmp_path: Path, shards: int):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pictures: list[tuple[bytes, str | None, int]] = []
    for k in range(6):
        stream = io.BytesIO()
        Image.fromarray(RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
        pictures.append((stream.getvalue(), f"{k}.png" if k else None, k % 2))
    each = 6 // shards
    for number in range(shards):
        part = pictures[number * each : (number + 1) * each]
        table = pa.table({"image": [{"bytes": b, "path": p} for b, p, _ in part], "label": [c for *_, c in part]})
        pq.write_table(table, tmp_path / f"train-{number:05d}.parquet", row_group_size=2)
    source = open_source(tmp_path if shards > 1 else tmp_path / "train-00000.parquet")
    assert [source.read(k) for k in range(6)] == [content for content, *_ in pictures]
    assert read_labels(source, "label").ids.tolist() == [0, 1] * 3


def test_content_decides_where_a_name_goes_on_behind_its_ending(tmp_path: Path):
    for name in ("0.jpg", "1.jpg?width=640&fit=crop", "2.jpg.1", "3.jpg_large"):
        save(tmp_path / "real.jpg").rename(tmp_path / name)
    (tmp_path / "4.jpg.txt").write_text("no picture")
    source = open_source(tmp_path)
    assert len(source) == 4 and "In 3 files, the name goes on behind the ending" in notes(source)
    assert source.ignored == {"txt": 1}


def test_dicom_without_an_ending_and_pointers_are_called_by_name(tmp_path: Path):
    save(tmp_path / "ok.jpg")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(100))
    (tmp_path / "pointer.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n")
    source = open_source(tmp_path)
    assert source.skipped == [("IM0001", "DICOM files cannot be read: convert them to 16-bit TIFF or PNG")]
    from unlabeled.data.decode import examine

    with pytest.raises(Undecodable, match="git-lfs"):
        examine(source.read(source.names.index("pointer.jpg")))
    for name in ("set.csv", "set.npy", "set.zip"):
        (tmp_path / name).write_bytes((tmp_path / "pointer.jpg").read_bytes())
        with pytest.raises(DataError, match="git lfs pull"):
            open_source(tmp_path / name)


def test_images_in_memory_are_images(tmp_path: Path):
    file = save(tmp_path / "0.jpg")
    array = RNG.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(open_source(array).read(3), array[3])
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    assert np.array_equal(open_source(tensor).read(3), array[3])
    mixed = open_source([file, str(file), array[0], Image.fromarray(array[1]), tensor[2]])
    assert len(mixed) == 5 and mixed.read(0) == file.read_bytes()
    assert [np.array_equal(mixed.read(k + 2), array[k]) for k in range(3)] == [True] * 3
    assert open_source(mixed) is mixed
    for wrong, sentence in (([], "empty"), ([{}], "item 0 of the list is a dict"), (3, "a int was given")):
        with pytest.raises(DataError, match=sentence):
            open_source(wrong)  # pyright: ignore[reportArgumentType]
