"""A file of weights, opened without running anything that stands in it.

A `.pth` file is a program for Python's unpickler, so it goes through torch's own restricted one (`weights_only`), which
knows tensors and plain containers, or if it is older than that through `legacy`, which knows as little. The memory bank of
instance discrimination was published as an object of its authors' classes, and training programs keep their arguments and
best scores beside the weights, as numpy's numbers or argparse's: these few names are read as an empty `Standin` that keeps
an object's attributes and none of its code. Whatever asks for anything else is refused by name.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import safe_globals

from unlabeled.data.kinds import kind_of
from unlabeled.data.source import kind_of_entry
from unlabeled.errors import DataError
from unlabeled.weights import legacy

STATE_KEYS: Final = ("state_dict", "model", "net", "model_state_dict")
"""Where training programs put the state dict inside a checkpoint."""

_STANDINS: Final = (
    "lib.NCEAverage.NCEAverage",
    "lib.LinearAverage.LinearAverage",
    "lib.alias_multinomial.AliasMethod",
    "torch.nn.backends.thnn._get_thnn_function_backend",
    # What stands beside the weights: options (torchvision's own training programs), numpy's scores and arrays.
    "argparse.Namespace",
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "_codecs.encode"),
)
"""Names that files ask for and nothing here needs. None is ever looked up: all stand for one empty class."""

# Whatever torch raises over a damaged or a made-up file; none of it may end in a traceback.
_DAMAGE: Final = (
    RuntimeError,
    OSError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)


class Standin:
    """Takes the place of an object of a published checkpoint: keeps its attributes, runs nothing of it."""

    def __new__(cls, *_: object) -> Standin:
        """Whatever arguments the file gives are of no use here."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Attributes are kept; what is no dictionary of them, as numpy's state, is let go."""
        if isinstance(state, dict):
            vars(self).update({str(name): value for name, value in cast("dict[Any, Any]", state).items()})


@dataclass(frozen=True)
class Contents:
    """What a file holds: the state dict by key, and beside it what is known to be of use."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    """Header of a safetensors file."""
    bank: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    """`memory` [N, D] and `params` of instance discrimination, where the file has them."""


def read(path: Path) -> Contents:
    """The tensors of a torch file (zip or the older pickle) or a safetensors file, on the CPU.

    Tensors of a zip file still lie in it and are read when they are used, so a file may be larger than memory.

    Raises:
        DataError: no such file, no file of weights, a damaged one, or one that needs more than tensors and containers.
    """
    head = _head(path)
    if _is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return _contents(_load(path, mapped=True), path)
    if head.startswith(legacy.HEAD):
        return _contents(_load(path, mapped=False), path)
    raise DataError(_no_weights(path, head))


def _head(path: Path) -> bytes:
    if path.is_dir():
        hint = "it is the folder of a run, which needs no import" if (path / "config.json").is_file() else ""
        hint = hint or "give the file with the weights inside it"
        raise DataError(f"{path} is a folder and a file of weights is wanted: {hint}.")
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is {kind_of_entry(path.stat().st_mode)}, and a file of weights is wanted.")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; give a .pth, .pt or .safetensors file with weights.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    if not head:
        raise DataError(f"{path} is empty; download it again.")
    return head


def _is_safetensors(head: bytes) -> bool:
    # The length of a JSON header, then the header itself.
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30


def _no_weights(path: Path, head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of git-lfs, not the weights themselves; fetch them with `git lfs pull`."
    if head[257:262] == b"ustar":
        return (
            f"{path} is a tar archive: unpack it if it holds a file of weights; the tar format of torch before 2017 cannot be read "
            "without running code in it."
        )
    if head[:1] == b"\x80":
        return (
            f"{path} is a pickle that torch.save did not write, and reading it could run any code; save the state dict with "
            "torch.save or as safetensors where you trust the file."
        )
    kind = kind_of(head)
    if kind in ("a web page", "text"):
        return (
            f"{path} is {kind}, not weights: the download brought an error message or a log-in page; download it again."
        )
    return f"{path} is {kind or 'of an unknown format'}, not weights; give a .pth, .pt or .safetensors file."


def _read_safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            return Contents(tensors, dict(file.metadata() or {}))
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is a damaged safetensors file ({_line(error)}); download it again.") from None


def _check_zip(path: Path) -> None:
    """Refuse what torch.save does not write; a compressed entry could unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or cut short ({_line(error)}); download it again.") from None
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "data.pkl" not in names:
        raise DataError(f"{path} is a zip archive but no file of torch.save (no data.pkl in it); unpack it first.")
    if "constants.pkl" in names:
        raise DataError(
            f"{path} is a TorchScript program, not weights; save the state dict of the model, torch.save(model.state_dict(), FILE)."
        )
    claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if claimed > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise DataError(
            f"{path} claims {claimed / 1e9:,.2f} GB in a file of {size / 1e9:,.2f} GB: its entries are compressed, which "
            "torch.save does not do; save it again with torch.save or as safetensors."
        )


def _load(path: Path, *, mapped: bool) -> Any:
    standins: list[Any] = [(Standin, name) for name in _STANDINS]
    try:
        if not mapped:
            # A class of its own for each file: what a file does to it concerns no other.
            inert = type("Standin", (Standin,), {})
            return legacy.load(path, dict.fromkeys(_STANDINS, inert))
        # Mapped: a storage that claims to be larger than its entry ends at the end of the file.
        with warnings.catch_warnings(), safe_globals(standins):
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise DataError(_unsafe(path, str(error))) from None
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged, cut short or made by hand ({_line(error)}); download it again.") from None


def _unsafe(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL (\S+)|add_safe_globals\(\[(\S+?)\]\)", message)
    wanted = f"`{found[1] or found[2]}`" if found else "more than tensors and plain containers"
    return (
        f"{path} needs {wanted} to be read, and nothing in a file of weights is run here: where you trust it, load it with the "
        "program that wrote it and save the state dict alone, torch.save(model.state_dict(), FILE)."
    )


def _contents(loaded: Any, path: Path) -> Contents:
    if not isinstance(loaded, Mapping):
        raise DataError(f"{path} holds {_described(loaded)}, and a state dict (tensors by name) is wanted.")
    top = cast("Mapping[Any, Any]", loaded)
    state = _tensors(top)
    for key in STATE_KEYS:
        if isinstance(top.get(key), Mapping):
            state = _tensors(top[key])
            break
    if not state:
        keys = ", ".join(str(key) for key in list(top)[:12]) or "nothing"
        raise DataError(
            f"{path} holds no state dict: it has {keys}, and one of {', '.join(STATE_KEYS)} or tensors by name are wanted."
        )
    bank = _bank(top.get("lemniscate"))
    for name, tensor in (state | bank).items():
        if tensor.layout != torch.strided or tensor.is_meta:
            form = "no numbers, only a shape" if tensor.is_meta else f"the layout {tensor.layout}"
            raise DataError(
                f"{path}: {name} has {form}, and dense tensors are wanted: save the state dict of the whole model on the CPU."
            )
        # A view with stride 0 may claim any size; weights have all the numbers they say they have.
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise DataError(
                f"{path} is made by hand: {name} claims {tensor.nbytes / 1e9:,.2f} GB and has fewer; download it again."
            )
    return Contents(state, bank=bank)


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    # A name that is no text is kept as one, so that it is refused as unknown and not overlooked.
    return {str(name): value.detach() for name, value in mapping.items() if isinstance(value, torch.Tensor)}


def _bank(holder: Any) -> dict[str, torch.Tensor]:
    """The bank's tensors, of an object of the authors' class or of its state dict."""
    if isinstance(holder, Standin):
        holder = vars(holder).get("_buffers")
    if not isinstance(holder, Mapping):
        return {}
    found = _tensors(cast("Mapping[Any, Any]", holder))
    return {name: found[name] for name in ("memory", "params") if name in found}


def _described(value: Any) -> str:
    return "one tensor" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160].rstrip(".")
