"""Files of torch before 1.6, in which most of the papers' weights were published, read without running anything in them.

Such a file is five pickles (a magic number, a version, facts about the system, the object, the keys of its storages) and then the
storages: the number of elements, int64, and the elements. Torch's own restricted reader refuses those that hold a module, as the
memory bank of instance discrimination does. Here every name in the pickle is looked up in a short list: tensors, storages, ordered
dictionaries, sizes and types, and stand-ins without any code. A name that is not in the list ends the reading before anything
is made of it.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import torch

from unlabeled.data.cifar import ListedUnpickler

HEAD: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How such a file begins: a pickled number of ten bytes."""

_STORAGES: Final = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class _Storage:
    """Numbers that come later in the file."""

    dtype: torch.dtype
    key: str
    count: int
    start: int = 0


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose numbers come later in the file."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Names(ListedUnpickler):
    """Knows tensors, storages, plain containers and the stand-ins it is given."""

    def __init__(self, file: IO[bytes], standins: Mapping[str, Any]) -> None:
        # Made for this file alone: whatever it does to them concerns no other.
        def tensor(storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> _Tensor:
            return _Tensor(storage, offset, tuple(size), tuple(stride))

        def parameter(data: _Tensor, *_: object) -> _Tensor:
            return data

        known: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "__builtin__.set": set,
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": tensor,
            "torch._utils._rebuild_parameter": parameter,
            "torch.Size": tuple,
            "torch.device": str,
            **{str(dtype): dtype for dtype in _STORAGES.values()},
            **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
            **{f"torch.cuda.{name}": dtype for name, dtype in _STORAGES.items()},
            **standins,
        }
        super().__init__(file, known, encoding="latin1")

    def persistent_load(self, pid: Any) -> Any:
        """A storage to come, or the class of a module, whose source the file has too and nobody looks at."""
        if pid[0] == "module":
            return pid[1]
        if pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise pickle.UnpicklingError(f"persistent object {str(pid[0])[:40]}")
        view = pid[5] if len(pid) > 5 else None
        if view is not None:
            # (key, offset, count): a part of the storage.
            return _Storage(pid[1], str(pid[2]), int(pid[4]), int(view[1]))
        return _Storage(pid[1], str(pid[2]), int(pid[4]))


def load(path: Path, standins: Mapping[str, Any]) -> Any:
    """The object of the file. `standins`: what takes the place of other classes, by full name.

    Raises:
        pickle.UnpicklingError: a name that is neither known here nor a stand-in, the sentence of which begins with GLOBAL.
        ValueError, EOFError: the file is cut short or altered; and whatever else a damaged pickle ends in.
    """
    with path.open("rb") as file:
        for _ in range(3):
            _Names(file, {}).load()
        made = _Names(file, standins).load()
        keys = _Names(file, {}).load()
        wanted = _dtypes(made)
        numbers: dict[str, torch.Tensor] = {}
        size = path.stat().st_size
        for key in map(str, keys):
            count = int.from_bytes(file.read(8), "little", signed=True)
            dtype = wanted.get(key, torch.uint8)
            length = count * dtype.itemsize
            if key not in wanted or not 0 <= length <= size - file.tell():
                raise ValueError(f"storage {key[:40]} claims {length / 1e9:,.2f} GB")
            content = bytearray(file.read(length))
            numbers[key] = torch.frombuffer(content, dtype=dtype) if length else torch.empty(0, dtype=dtype)
    return _filled(made, numbers)


def _dtypes(value: Any) -> dict[str, torch.dtype]:
    """The type of every storage that a tensor in `value` names."""
    found: dict[str, torch.dtype] = {}
    for part in _parts(value):
        if isinstance(part, _Tensor):
            found[part.storage.key] = part.storage.dtype
        elif isinstance(part, _Storage):
            found[part.key] = part.dtype
    return found


def _parts(value: Any) -> list[Any]:
    """Everything inside `value`, itself included, each object once: a file may refer to itself."""
    seen: set[int] = set()
    waiting, found = [value], list[Any]()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        found.append(part)
        if isinstance(part, Mapping):
            waiting += cast("Mapping[Any, Any]", part).values()
        elif isinstance(part, (list, tuple)):
            waiting += cast("Sequence[Any]", part)
        elif hasattr(part, "__dict__") and not isinstance(part, (type, _Tensor, _Storage)):
            waiting += vars(part).values()
    return found


def _filled(made: Any, numbers: Mapping[str, torch.Tensor]) -> Any:
    """`made` with tensors in the place of their descriptions, in dictionaries at any depth; lists keep theirs."""
    if isinstance(made, _Tensor):
        return _tensor(made, numbers)
    for part in _parts(made):
        holder = part if isinstance(part, dict) else vars(part) if hasattr(part, "__dict__") else None
        if isinstance(holder, dict) and not isinstance(part, (type, _Tensor, _Storage)):
            for name, value in cast("dict[Any, Any]", holder).items():
                if isinstance(value, _Tensor):
                    holder[name] = _tensor(value, numbers)
    return made


def _tensor(described: _Tensor, numbers: Mapping[str, torch.Tensor]) -> torch.Tensor:
    storage = numbers[described.storage.key]
    if storage.dtype != described.storage.dtype:
        raise ValueError(f"storage {described.storage.key[:40]} has two types")
    return storage.as_strided(described.size, described.stride, described.storage.start + described.offset)
