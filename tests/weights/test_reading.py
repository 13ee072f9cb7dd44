"""Files of weights: every known container, and every wrong or hostile one ends in one sentence and runs nothing."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from published import lemniscate_file
from unlabeled.errors import DataError
from unlabeled.weights.reading import STATE_KEYS, read

STATE = OrderedDict([("conv.weight", torch.arange(24.0).view(2, 3, 2, 2)), ("conv.bias", torch.tensor([1.0, -1.0]))])


class Call:
    """A pickle of this calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Unknown:
    pass


def refused(path: Path, *wanted: str) -> None:
    with pytest.raises(DataError) as error:
        read(path)
    sentence = str(error.value)
    assert str(path) in sentence and sentence.endswith(".")
    for part in wanted:
        assert part in sentence, sentence


def rewritten(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """The zip file with other contents: `change(name, bytes) -> bytes`."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, change(name, archive.read(name))) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_the_same_tensors_from_every_container(container: str, tmp_path: Path):
    path = tmp_path / "weights.pth.tar"
    if container == "safetensors":
        save_file(dict(STATE), path, {"format": "pt"})
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=container == "zip")
    found = read(path).tensors
    assert list(found) == list(STATE) or container == "safetensors"
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("key", STATE_KEYS)
def test_a_state_dict_inside_a_checkpoint(key: str, tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"epoch": 3, "arch": "x", key: STATE, "optimizer": {"lr": [0.1]}}, path)
    assert set(read(path).tensors) == set(STATE)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_bank_inside_an_object_is_read_without_its_class(zipped: bool, tmp_path: Path):
    bank = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    found = read(lemniscate_file(dict(STATE), tmp_path / "lemniscate.pth.tar", bank, zipped=zipped))
    assert torch.equal(found.bank["memory"], bank)
    assert found.bank["params"].tolist() == pytest.approx([4096, 0.07, 2876934.25, 0.5])
    assert set(found.tensors) == {f"module.{name}" for name in STATE}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("function", [os.system, eval, Path.touch])
def test_a_pickle_that_would_run_code_runs_nothing(form: str, function: Any, tmp_path: Path):
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    text = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w').close()"
    trap = Call(function, mark if function is Path.touch else text)
    if form == "pickle":
        path.write_bytes(pickle.dumps({"state_dict": STATE, "x": trap}))
        refused(path, "could run any code")
    else:
        torch.save({"state_dict": STATE, "x": trap}, path, _use_new_zipfile_serialization=form == "zip")
        refused(path, "nothing in a file of weights is run here")
    assert not mark.exists()


BESIDE: dict[str, Any] = {
    "args": argparse.Namespace(lr=0.1, output=Path("out")),
    "best_acc1": np.float64(71.2),
    "losses": np.arange(4.0),
    "size": torch.Size([3]),
    "device": torch.device("cpu"),
    "dtype": torch.float32,
}
"""What training programs keep beside the weights: torchvision's own its arguments, ImageNet's example its best score."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", [*BESIDE, "all"])
def test_what_programs_keep_beside_the_weights_is_no_hindrance(what: str, zipped: bool, tmp_path: Path):
    path, found = tmp_path / "a.pth", BESIDE if what == "all" else {what: BESIDE[what]}
    torch.save({"state_dict": STATE, **found}, path, _use_new_zipfile_serialization=zipped)
    read_back = read(path).tensors
    assert set(read_back) == set(STATE) and all(torch.equal(read_back[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["numpy._core.multiarray scalar", "argparse Namespace", "_codecs encode"])
def test_a_standin_given_something_to_run_stays_empty(name: str, zipped: bool, tmp_path: Path):
    """Names that are known let nothing else in: what they are called with is still looked up, and refused."""
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=zipped)
    module, attribute = name.split()
    call = b"\x80\x02" + f"c{module}\n{attribute}\n(cposix\nsystem\n(X".encode()
    call += len(f"touch {mark}").to_bytes(4, "little") + f"touch {mark}".encode() + b"tRtR."
    if zipped:
        rewritten(path, lambda entry, content: call if entry.endswith("data.pkl") else content)
    else:
        content = path.read_bytes()
        body = content.index(b"\x80", content.index(b"little_endian"))
        path.write_bytes(content[:body] + call + content[body:])
    refused(path, "`posix.system`")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("tensor", "wanted"),
    [
        (torch.empty(2, 3, 2, 2, device="meta"), "has no numbers, only a shape"),
        (torch.eye(3).to_sparse(), "has the layout torch.sparse_coo"),
    ],
)
def test_tensors_without_plain_numbers(tensor: torch.Tensor, wanted: str, tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save(STATE | {"conv.weight": tensor}, path)
    refused(path, "conv.weight", wanted)


def test_names_that_are_no_text_are_kept_and_so_refused_later(tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": STATE | {7: torch.zeros(2)}}, path)
    assert set(read(path).tensors) == {*STATE, "7"}


def test_an_object_of_an_unknown_class_is_named(tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": STATE, "args": Unknown()}, path)
    refused(path, "Unknown`", "save the state dict alone")


def test_what_a_standin_would_call_is_not_called(tmp_path: Path):
    """A known name may stand for an empty object only: giving it a function to call on itself does nothing."""
    mark = tmp_path / "mark"
    path = lemniscate_file(dict(STATE), tmp_path / "a.pth", torch.zeros(2, 2), zipped=True)
    # Protocol 2 by hand: the stand-in's name, called with a text that would be a command elsewhere.
    call = (
        b"\x80\x02clib.NCEAverage\nNCEAverage\n(X" + len(str(mark)).to_bytes(4, "little") + str(mark).encode() + b"tR."
    )
    rewritten(path, lambda name, content: call if name.endswith("data.pkl") else content)
    refused(path, "a Standin")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"Access denied\n", "is text, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (bytes(range(256)) * 4, "of an unknown format"),
        (b"\x1f\x8b\x08" + bytes(64), "a gzip archive"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "is PNG"),
        (b"\x10\0\0\0\0\0\0\0{" + bytes(15), "damaged safetensors"),
        (b"\0\0\0\x10\0\0\0\0{", "damaged safetensors"),
    ],
)
def test_files_that_are_no_weights(content: bytes, wanted: str, tmp_path: Path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    refused(path, wanted)


def test_places_that_are_no_files(tmp_path: Path):
    refused(tmp_path / "nowhere.pth", "there is no file")
    refused(tmp_path, "is a folder", "give the file")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "needs no import")


def test_archives_that_torch_did_not_write(tmp_path: Path):
    path = tmp_path / "a.pth"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    refused(path, "tar archive")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/a.jpg", b"x")
    refused(path, "no file of torch.save")
    torch.save(STATE, path)
    rewritten(path, lambda name, content: content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/constants.pkl", b"x")
    refused(path, "TorchScript")


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_a_file_that_is_cut_short(container: str, tmp_path: Path):
    path = tmp_path / "a.pth"
    if container == "safetensors":
        save_file(dict(STATE), path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=container == "zip")
    whole = path.read_bytes()
    for length in (9, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)


def test_a_storage_that_claims_ten_gigabytes(tmp_path: Path):
    path = tmp_path / "a.pth"
    before, huge = b"K" + bytes([77]), b"J" + (2_000_000_000).to_bytes(4, "little")
    for zipped in (True, False):
        torch.save({"w": torch.zeros(77)}, path, _use_new_zipfile_serialization=zipped)
        if zipped:
            rewritten(path, lambda _, content: content.replace(before, huge))
        else:
            path.write_bytes(path.read_bytes().replace(before, huge))
        refused(path)


def test_a_tensor_that_repeats_itself_to_ten_gigabytes(tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(1).expand(2_500_000_000)}, path)
    refused(path, "claims 10.00 GB")


def test_a_zip_that_unpacks_to_more_than_it_is(tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(1_000_000)}, path)
    rewritten(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    refused(path, "its entries are compressed")


@pytest.mark.parametrize("loaded", [torch.zeros(3), [STATE], "weights", {"epoch": 1}, {}, {"state_dict": {}}])
def test_a_file_without_a_state_dict(loaded: Any, tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save(loaded, path)
    refused(path, "state dict")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_end_in_a_sentence(zipped: bool, tmp_path: Path):
    """A hundred files with a few bytes changed: each is read or refused, none ends in another error."""
    path = tmp_path / "a.pth"
    torch.save({"state_dict": STATE, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error)
