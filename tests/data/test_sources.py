"""Sources over folders, lists, tables, arrays and archives as people and attackers make them."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabeled.data.decode import decode
from unlabeled.data.pixels import Undecodable
from unlabeled.data.source import display_name, ending
from unlabeled.data.sources import Subset, open_source
from unlabeled.errors import DataError


def picture(value: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 1, 2)).save(stream, "PNG")
    return stream.getvalue()


def put(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture() if content is None else content)
    return path


def value(source: object, index: int) -> int:
    return int(decode(source.read(index))[0, 0, 0])  # type: ignore[attr-defined]


def test_a_nested_folder(tmp_path: Path) -> None:
    for k, name in enumerate(["b/2.png", "a/deep/er/1.JPG", "top.webp", "a/plain", "b.jpg/inside.bmp"]):
        put(tmp_path / name, picture(k))
    for name in [
        ".hidden.png",
        ".git/x.png",
        "__MACOSX/._a.png",
        "Thumbs.db",
        "notes.txt",
        "a/LICENSE",
        "v.mp4",
        "c.TXT",
    ]:
        put(tmp_path / name, b"text")
    put(tmp_path / "phone.HEIC", b"x")
    source = open_source(tmp_path)
    assert source.names == ["a/deep/er/1.JPG", "a/plain", "b.jpg/inside.bmp", "b/2.png", "top.webp"]
    assert [value(source, i) for i in range(5)] == [1, 3, 4, 0, 2]
    assert source.location(1) == tmp_path / "a" / "plain"
    assert source.ignored == {"txt": 2, "": 1, "mp4": 1}
    assert [name for name, _ in source.skipped] == ["phone.HEIC"]
    assert source.describe() == (
        f"5 images in the folder {tmp_path} (1 skipped; 4 other files passed over: 2 .txt, 1 .mp4, 1 without ending)"
    )


def test_devious_names(tmp_path: Path) -> None:
    names = [
        "a\nb.png",
        "<script>alert(1)<.png",
        "tab\t.png",
        " lead.png",
        "\u202egpj.png",
        "日本 語.png",
        "'\";--.png",
    ]
    for name in names:
        put(tmp_path / name)
    with open(os.fsencode(tmp_path) + b"/latin-\xe9.png", "wb") as file:
        file.write(picture(9))
    source = open_source(tmp_path)
    assert len(source) == len(set(source.names)) == 8
    assert all(len(name.splitlines()) == 1 and name.encode("utf-8") for name in source.names)
    assert {"a\\x0ab.png", "<script>alert(1)<.png", "tab\\x09.png", "\\u202egpj.png", "latin-\\xe9.png"} < set(
        source.names
    )
    assert value(source, source.names.index("latin-\\xe9.png")) == 9
    assert all(decode(source.read(i)).shape == (4, 5, 3) for i in range(8))


def test_names_that_escaping_makes_equal_stay_apart(tmp_path: Path) -> None:
    put(tmp_path / "a\nb.png", picture(1))
    put(tmp_path / "a\\x0ab.png", picture(2))
    source = open_source(tmp_path)
    assert len(set(source.names)) == 2
    assert {value(source, 0), value(source, 1)} == {1, 2}


def test_links_loops_pipes_and_sockets(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root / "real" / "1.png")
    put(tmp_path / "outside" / "2.png")
    (root / "real" / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "real")
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "file.png").symlink_to(tmp_path / "outside" / "2.png")
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "self.png").symlink_to(root / "self.png")
    os.mkfifo(root / "pipe.png")
    (root / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # the names of sockets are short
        server.bind("socket.png")
        os.chdir(here)
        source = open_source(root)
    assert source.names == ["file.png", "linked/2.png", "real/1.png"]
    reasons = dict(source.skipped)
    assert reasons["pipe.png"] == "it is a pipe, not a file"
    assert reasons["socket.png"] == "it is a socket, not a file"
    assert reasons["device.png"] == "it is a device, not a file"
    assert reasons["gone.png"] == "it is a link to a file that does not exist"
    assert "leads nowhere" in reasons["self.png"]
    assert reasons["again"] == reasons["real/loop"] == "it links to a folder that is already read"


def test_files_that_change_under_our_hands(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path / name)
    source = open_source(tmp_path)
    before = source.fingerprint(0)
    put(tmp_path / "a.png", picture(200) + b"more")
    assert source.fingerprint(0) != before
    (tmp_path / "b.png").unlink()
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").unlink()
    with pytest.raises(Undecodable, match="it is a pipe, not a file"):
        source.read(1)
    with pytest.raises(Undecodable, match="there is no such file"):
        source.read(2)
    assert source.fingerprint(2) == (-1, -1, -1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions(tmp_path: Path) -> None:
    put(tmp_path / "a.png").chmod(0)
    with pytest.raises(Undecodable, match="permission"):
        open_source(tmp_path).read(0)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for files ending in \.jpg.*it is empty"):
        open_source(tmp_path)
    put(tmp_path / "a.txt", b"x")
    put(tmp_path / "b.zip", b"x")
    with pytest.raises(DataError, match=r"found 2 other files \(1 \.\w+, 1 \.\w+\)\. Archives inside are not opened"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="Did you mean"):
        open_source(tmp_path / "a.tx")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe, not a folder or a file"):
        open_source(tmp_path / "pipe")


def test_a_list_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "sub" / "b.png", picture(1))
    put(tmp_path / "sub" / "with, comma.png", picture(2))
    listing = put(
        tmp_path / "list.txt", "\ufeff# mine\nsub/with, comma.png\n\nsub/b.png\r\n./sub/b.png\nmissing.png\n".encode()
    )
    source = open_source(listing)
    assert source.names == ["sub/with, comma.png", "sub/b.png", "missing.png"], "the order is the user's"
    assert [value(source, 0), value(source, 1)] == [2, 1]
    assert source.skipped == [("./sub/b.png (row 3)", "it is listed before")]
    assert [source.listed_row(i) for i in range(3)] == [0, 1, 3] and source.rows_listed == 4
    with pytest.raises(Undecodable, match="no such file"):
        source.read(2)
    elsewhere = put(tmp_path / "elsewhere" / "list.txt", b"sub/b.png\n")
    monkeypatch.chdir(tmp_path)
    assert value(open_source(elsewhere), 0) == 1, "paths may count from the working folder"
    absolute = put(tmp_path / "absolute", f"{tmp_path}/sub/b.png\n{tmp_path}/other/c.png\n".encode())
    assert open_source(absolute).names == ["sub/b.png", "other/c.png"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "semicolon", "parquet"])
def test_tables(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "a.png", picture(7))
    path = tmp_path / f"table.{'csv' if kind == 'semicolon' else kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"File": ["a.png", "b.png"], "label": [3, None], "nested": [[1], [2]]}), path)
    else:
        mark = {"csv": ",", "tsv": "\t", "semicolon": ";"}[kind]
        put(path, f"label{mark}File\n3{mark}a.png\n{mark}b.png\n".encode())
    source = open_source(path)
    assert source.names == ["a.png", "b.png"]
    assert value(source, 0) == 7
    assert source.column("label") == ["3", ""]
    assert source.column("nothing") is None
    assert Subset(source, [1]).column("label") == [""]


def test_tables_with_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns 'name', 'label', but none named path, file, filename, image"):
        open_source(put(tmp_path / "a.csv", b"name,label\nx.png,1\n"))
    with pytest.raises(DataError, match="row 2: 3 values for 2 columns"):
        open_source(put(tmp_path / "b.csv", b"path,label\nx.png,1,2\n"))
    with pytest.raises(DataError, match="is not text"):
        open_source(put(tmp_path / "c.csv", b"\0\1\2"))
    with pytest.raises(DataError, match="Parquet"):
        open_source(put(tmp_path / "d.parquet", b"nonsense"))
    with pytest.raises(DataError, match="empty"):
        open_source(put(tmp_path / "e.csv", b""))
    with pytest.raises(DataError, match="no images in the list"):
        open_source(put(tmp_path / "f.txt", b"\n"))


@pytest.mark.parametrize(
    ("shape", "dtype", "count", "image"),
    [
        ((7, 9, 8), "uint8", 7, (9, 8, 1)),
        ((7, 9, 8, 3), "uint16", 7, (9, 8, 3)),
        ((7, 3, 9, 8), "float32", 7, (9, 8, 3)),
        ((7, 6, 19, 18), "float64", 7, (19, 18, 6)),
        ((19, 18, 3), "uint8", 1, (19, 18, 3)),
    ],
)
def test_arrays(tmp_path: Path, shape: tuple[int, ...], dtype: str, count: int, image: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", images=array, labels=np.arange(shape[0]))
    for source in (open_source(tmp_path / "x.npy"), open_source(tmp_path / "x.npz")):
        assert len(source) == count and source.names == sorted(source.names)
        pixels = decode(source.read(count - 1))
        assert pixels.shape == image
        last = array if count == 1 else array[-1]
        last = last[:, :, None] if last.ndim == 2 else np.moveaxis(last, 0, -1) if last.shape[0] in {3, 6} else last
        assert np.array_equal(pixels, last.astype(pixels.dtype))
        assert source.fingerprint(0) != source.fingerprint(count - 1) or count == 1


def test_arrays_with_faults(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x_train=np.zeros((3, 4, 4), np.uint8), x_test=np.ones((2, 4, 4), np.uint8))
    with pytest.raises(
        DataError, match=r"several arrays.*x_train 3×4×4, x_test 2×4×4: name one, for example two.npz:x_train"
    ):
        open_source(tmp_path / "two.npz")
    assert len(open_source(f"{tmp_path}/two.npz:x_test")) == 2
    with pytest.raises(DataError, match="no array 'y'"):
        open_source(f"{tmp_path}/two.npz:y")
    np.save(tmp_path / "flat.npy", np.zeros((50, 784), np.uint8))
    with pytest.raises(DataError, match=r"shape \(50, 784\).*reshape"):
        open_source(tmp_path / "flat.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "none.npy", np.zeros((0, 4, 4)))
    put(tmp_path / "bad.npy", b"\x93NUMPY....")
    put(tmp_path / "bad.npz", b"PK\x03\x04....")
    for name in ("objects.npy", "none.npy", "bad.npy", "bad.npz"):
        with pytest.raises(DataError):
            open_source(tmp_path / name)


def test_zip_members_that_must_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlabeled.data.archives.BYTES_LIMIT", 10_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k, name in enumerate(["b/2.png", "a/1.jpg", "c/plain", "win\\dir.png"]):
            archive.writestr(name, picture(k))
        for name in [
            "../up.png",
            "a/../../up.png",
            "/etc/x.png",
            "C:\\x.png",
            "bomb.png",
            "__MACOSX/._1.jpg",
            "read.me",
            ".h.png",
        ]:
            archive.writestr(name, b"\0" * (20_000 if name == "bomb.png" else 10))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    source = open_source(path)
    assert source.names == ["a/1.jpg", "b/2.png", "c/plain", "win/dir.png"]
    assert [value(source, i) for i in range(4)] == [1, 0, 2, 3]
    reasons = dict(source.skipped)
    for name in ("../up.png", "a/../../up.png", "/etc/x.png", "C:\\x.png"):
        assert reasons[name] == "its path leads outside the archive"
    assert reasons["bomb.png"] == "it unpacks to 20,000 bytes, more than the 10,000 allowed"
    assert reasons["link.png"].startswith("it is a link")
    assert len(reasons) == 6 and source.ignored == {"me": 1}
    assert source.location(0) is None


def test_damaged_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", picture(1))
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    with pytest.raises(Undecodable, match="damaged in the archive"):
        open_source(path).read(0)
    with pytest.raises(DataError, match="cannot be read as a zip or tar archive"):
        open_source(put(tmp_path / "b.zip", b"PK nonsense"))


def add(
    archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_tar(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"a.tar{mode[1:].replace(':', '.')}"
    with tarfile.open(path, mode) as archive:
        add(archive, "./b/2.png", picture(2))
        add(archive, "a/1.png", picture(1))
        add(archive, "plain", picture(3))
        add(archive, "README", b"text")
        add(archive, "../up.png", picture())
        add(archive, "/abs.png", picture())
        add(archive, "soft.png", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add(archive, "hard.png", kind=tarfile.LNKTYPE, link="../../x")
        add(archive, "pipe.png", kind=tarfile.FIFOTYPE)
        add(archive, "device.png", kind=tarfile.CHRTYPE)
        add(archive, "a/1.png", picture(9))
        add(archive, "notes.txt", b"x")
    source = open_source(path)
    assert source.names == ["b/2.png", "a/1.png", "plain"] or source.names == ["a/1.png", "b/2.png", "plain"]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: (source.names[k % 3], value(source, k % 3)), range(60)))
    assert set(found) == {("a/1.png", 1), ("b/2.png", 2), ("plain", 3)}
    reasons = dict(source.skipped)
    assert reasons["../up.png"] == reasons["/abs.png"] == "its path leads outside the archive"
    assert all("link" in reasons[name] for name in ("soft.png", "hard.png"))
    assert reasons["pipe.png"] == reasons["device.png"] == "it is a pipe or a device, not a file"
    assert "earlier member" in reasons["a/1.png"]
    assert source.ignored == {"txt": 1, "": 1}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar_cut_short(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tar"
    noise = np.random.default_rng(0).bytes(40_000)
    with tarfile.open(path, mode) as archive:
        add(archive, "a.png", picture(1))
        add(archive, "b.png", noise)
    path.write_bytes(path.read_bytes()[:30_000])
    source = open_source(path)
    assert source.names == ["a.png"] and value(source, 0) == 1
    assert {name for name, _ in source.skipped} <= {"a.tar", "b.png"} and source.skipped


def test_one_file_and_its_subset(tmp_path: Path) -> None:
    source = open_source(put(tmp_path / "query.jpg", picture(5)))
    assert source.names == ["query.jpg"] and value(source, 0) == 5
    assert open_source(put(tmp_path / "no_ending", picture(6))).kind == "file"
    folder = open_source(tmp_path)
    subset = Subset(folder, np.array([1]))
    assert subset.names == ["query.jpg"] and subset.location(0) == tmp_path / "query.jpg"
    assert subset.fingerprint(0) == folder.fingerprint(1) and len(subset) == 1
    with pytest.raises(DataError, match="a PDF document"):
        open_source(put(tmp_path / "x.pdf", b"%PDF-1.4\n\xff\xfe"))


def test_ending_and_display_name() -> None:
    assert [ending(n) for n in ("a.JPG", "a", ".png", "a.b/c", "x/.png", "a.tar.gz")] == ["jpg", "", "", "", "", "gz"]
    assert display_name("plain/näme.png") == "plain/näme.png"
    assert display_name("a\x1b[31mb") == "a\\x1b[31mb"


def test_indexing_asks_for_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(300):
        put(tmp_path / f"{k % 3}" / f"{k}.jpg", b"")
    asked: list[object] = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: (asked.append(a), real(*a, **k))[1])
    assert len(open_source(tmp_path)) == 300
    assert len(asked) <= 12, "one call for each folder, none for each file"
