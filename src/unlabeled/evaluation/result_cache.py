"""Results of a protocol so far, on disk, so that one that was stopped goes on where it was.

Every rank reads what the first one wrote: the same decisions everywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unlabeled.distributed import barrier, broadcast_object, is_main
from unlabeled.writing import replacing


@dataclass(frozen=True)
class Partial:
    """A folder of finished parts by name. Without a folder nothing is kept."""

    folder: Path | None = None
    untrained: Path | None = None
    """Another folder for the parts of the untrained network, whose names begin so: runs that are compared share it."""

    def _file(self, name: str) -> Path | None:
        """Where a part is kept, without its ending."""
        place = self.untrained if self.untrained and name.startswith("untrained") else self.folder
        return place and place / name

    def read(self, name: str) -> Any:
        """Numbers kept under this name, None where there are none."""
        found = None
        if (file := self._file(f"{name}.json")) and is_main():
            # A damaged file is as good as none: the part is computed again.
            with suppress(OSError, ValueError, RecursionError):
                found = json.loads(file.read_text())
        return broadcast_object(found)

    def write(self, name: str, value: Any) -> None:
        """Keep numbers.

        Raises:
            RunError: the folder cannot be written.
        """
        if (place := self._file(f"{name}.json")) and is_main():
            with replacing(place) as file:
                file.write_text(json.dumps(value))
        barrier()

    def load(self, name: str) -> dict[str, torch.Tensor] | None:
        """Tensors kept under this name, None where there are none."""
        found = None
        if (file := self._file(f"{name}.safetensors")) and is_main():
            with suppress(OSError, SafetensorError):
                found = load_file(file)
        return broadcast_object(found)

    def save(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep tensors, for example a classifier between two epochs.

        Raises:
            RunError: the folder cannot be written.
        """
        if (place := self._file(f"{name}.safetensors")) and is_main():
            with replacing(place) as file:
                save_file({key: value.detach().contiguous() for key, value in tensors.items()}, file)
        barrier()

    def forget(self, name: str) -> None:
        """Let go of the tensors kept under this name: what they were kept for is done."""
        if (file := self._file(f"{name}.safetensors")) and is_main():
            with suppress(OSError):
                file.unlink(missing_ok=True)

    @contextmanager
    def told(self) -> Generator[None]:
        """Inside, a KeyboardInterrupt gets a note where parts are kept; the command line shows it and adds the command."""
        try:
            yield
        except KeyboardInterrupt as stop:
            if self.folder and self.folder.is_dir():
                stop.add_note("what is done is kept, and the same command goes on from there:")
            raise

    def finish(self) -> None:
        """Forget all parts: the result is whole."""
        if self.folder and is_main() and self.folder.exists():
            with suppress(OSError):
                shutil.rmtree(self.folder)
                self.folder.parent.rmdir()  # goes only when no other protocol was stopped
        barrier()
