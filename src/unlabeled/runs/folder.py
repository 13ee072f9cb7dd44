"""The folder of one run: what lies where, and how to make, find or refuse one.

RUN/config.json (everything resolved), data.json (which images), environment.json (versions and hardware), metrics.jsonl,
checkpoints/, features.safetensors (written at the end), clusters.csv, skipped.csv, report.html.
"""

from __future__ import annotations

import fcntl
import json
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal, cast

from unlabeled.errors import RunError, typed
from unlabeled.writing import (
    missing_folders,
    remove_empty,
)

IfExists = Literal["refuse", "resume", "replace"]


class Hold:
    """A lock on a run, so that two commands do not train in it at once; the system lets go of it when the process ends."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def take(self, mark: Path) -> None:
        """Lock the file `mark`, once.

        Raises:
            RunError: another command has it.
        """
        if self._file is not None:
            return
        self._file = mark.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise RunError(
                f"another command is training in {mark.parent} at this moment: wait until it ends, or stop it with Ctrl-C, which "
                "saves; then `unlabeled resume` goes on."
            ) from None
        except OSError:
            pass  # a file system that knows no locks

    def release(self) -> None:
        """Let go."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run."""

    path: Path
    new_folders: tuple[Path, ...] = ()
    """Folders that were not there when the place was reserved, the deepest first: `abandon` takes them back."""
    lock: Hold = field(default_factory=Hold, compare=False, repr=False)

    @property
    def config(self) -> Path:
        """Every setting, resolved."""
        return self.path / "config.json"

    @property
    def data(self) -> Path:
        """Which images the run saw, and how they were prepared."""
        return self.path / "data.json"

    @property
    def environment(self) -> Path:
        """Versions and hardware."""
        return self.path / "environment.json"

    @property
    def journal(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Rolling checkpoints."""
        return self.path / "checkpoints"

    @property
    def start(self) -> Path:
        """The backbone before the first step where its weights came from data or `init`; elsewhere the seed makes it again."""
        return self.path / "start.safetensors"

    @property
    def beginning(self) -> Path:
        """Where the weights of `init` came from: kind, digest, licence."""
        return self.path / "beginning.json"

    @property
    def snapshots(self) -> Path:
        """Copies of the run after some epochs, each a run folder of its own; only where they were asked for."""
        return self.path / "snapshots"

    @property
    def assignments(self) -> Path:
        """The clusters of every epoch that made some, see `unlabeled.runs.cluster_history`."""
        return self.path / "assignments"

    @property
    def features(self) -> Path:
        """Features, clusters and calibration of the training images, written when training ends."""
        return self.path / "features.safetensors"

    @property
    def clusters(self) -> Path:
        """Path, cluster, distance and flag of every training image."""
        return self.path / "clusters.csv"

    @property
    def stability(self) -> Path:
        """How nearly each cluster comes back when parts of the images are clustered again; not of very large sets."""
        return self.path / "stability.json"

    @property
    def projection(self) -> Path:
        """Where the report's map puts the images."""
        return self.path / "projection.safetensors"

    @property
    def statistics(self) -> Path:
        """Brightness, sharpness and so on of every training image."""
        return self.path / "statistics.safetensors"

    @property
    def inside(self) -> Path:
        """What the report shows of the inside of the network."""
        return self.path / "inside.json"

    @property
    def scores(self) -> Path:
        """What `evaluate` found, by protocol."""
        return self.path / "scores.json"

    @property
    def evaluation(self) -> Path:
        """Parts of protocols that were stopped; empty otherwise."""
        return self.path / "evaluation"

    @property
    def duplicates(self) -> Path:
        """Groups of images that are the same picture, exactly or nearly, each with the one to keep; written with the report."""
        return self.path / "duplicates.json"

    @property
    def consistency(self) -> Path:
        """How consistent neighbors are under new views, trained and untrained: a score without labels."""
        return self.path / "consistency.json"

    @property
    def contents(self) -> Path:
        """A few bytes of a digest of each image's content, so that a changed image is noticed."""
        return self.path / "contents.bin"

    @property
    def failure(self) -> Path:
        """Why training broke down, one sentence; only where it did."""
        return self.path / "failure.json"

    @property
    def notes(self) -> Path:
        """What was left out, replaced or clipped while the images were read, counted."""
        return self.path / "notes.json"

    @property
    def skipped(self) -> Path:
        """Files that could not be used, with the reason."""
        return self.path / "skipped.csv"

    @property
    def report(self) -> Path:
        """The report, one file."""
        return self.path / "report.html"

    @property
    def imported(self) -> Path:
        """Where weights that were not trained here came from; other runs have no such file."""
        return self.path / "imported.json"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard, where they were asked for."""
        return self.path / "tensorboard"

    @property
    def events(self) -> Path | None:
        """That folder where this run has one: a resumed run goes on writing to it."""
        return self.tensorboard if self.tensorboard.is_dir() else None

    @property
    def mark(self) -> Path:
        """Says that this folder was made for a run, from its first moment on."""
        return self.path / ".unlabeled"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here: its configuration is the last file written before training."""
        return self.config.is_file()

    def make(self) -> None:
        """Make the folder, marked as ours.

        Raises:
            RunError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.mark.touch()
        except OSError as error:
            raise RunError(f"cannot make the folder {self.path} ({error.strerror}); choose another --out.") from None

    def hold(self) -> None:
        """Keep other commands from training in this run until `release`.

        Raises:
            RunError: another command does, or the folder cannot be written.
        """
        try:
            self.lock.take(self.mark)
        except OSError as error:
            raise RunError(f"cannot write into the run {self.path} ({error.strerror}); make it writable.") from None

    def release(self) -> None:
        """Let other commands have it; nothing where this one does not hold it."""
        self.lock.release()

    def abandon(self) -> None:
        """Take back what `make` made, if nothing has been put there: a command that failed early leaves no traces."""
        with suppress(OSError):
            if list(self.path.iterdir()) == [self.mark]:
                self.mark.unlink()
        remove_empty(self.new_folders)

    def clear(self) -> None:
        """Remove an earlier run and what was computed from it.

        Raises:
            RunError: a file cannot be removed.
        """
        # The configuration first: without it nobody takes the rest for a run.
        files = (
            self.config,
            self.data,
            self.environment,
            self.journal,
            self.start,
            self.beginning,
            self.features,
            self.imported,
        )
        tables = (
            self.clusters,
            self.scores,
            self.skipped,
            self.notes,
            self.consistency,
            self.duplicates,
            self.contents,
            self.failure,
            self.report,
            self.stability,
        )
        seen = (self.projection, self.statistics, self.inside)
        try:
            for file in (*files, *tables, *seen, *self.path.glob("comparison.*")):
                file.unlink(missing_ok=True)
            for folder in (self.checkpoints, self.assignments, self.snapshots, self.evaluation, self.tensorboard):
                if folder.exists():
                    shutil.rmtree(folder)
        except OSError as error:
            raise RunError(f"cannot remove the earlier run in {self.path} ({error}); choose another --out.") from None

    def read_object(self, path: Path, *keys: str) -> dict[str, Any]:
        """Read back a JSON object with these keys.

        Raises:
            RunError: the file is missing or damaged.
        """
        found = self.read_json(path)
        if not isinstance(found, dict) or any(key not in found for key in keys):
            raise RunError(
                f"{path} is damaged (a JSON object{f' with {chr(44).join(keys)}' if keys else ''} is wanted); put it back from a "
                "copy, or train again with `--if-exists replace`."
            )
        return cast("dict[str, Any]", found)

    def sweep(self) -> None:
        """Remove what commands that were killed while writing left; only one command trains here, and it is the caller."""
        for partial in self.path.glob(".*.partial"):
            with suppress(OSError):
                partial.unlink()

    def read_json(self, path: Path) -> Any:
        """Read JSON back.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            raise RunError(f"{path} is missing: {self.path} is not a complete run; train it first.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{path} is damaged ({str(error)[:200]}); put it back from a copy, or train again with `--if-exists replace`."
            ) from None


def reserve(path: Path, if_exists: IfExists = "refuse") -> RunFolder:
    """The place of a new run, after a try whether its folder can be made.

    Nothing is left of the try: `RunFolder.make` makes the folder when all else is known to work. An earlier run in it
    stays as long, see `RunFolder.clear`.

    Raises:
        RunError: a run is there and `if_exists` is "refuse", the folder holds other things, or it cannot be made.
    """
    run = RunFolder(path, missing_folders(path))
    if run.exists and if_exists == "refuse":
        raise RunError(
            f"{path} already holds a run; continue it with `unlabeled resume {typed(path)}`, choose another --out, or "
            "begin anew with `--if-exists replace`."
        )
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, and --out must name a folder; choose another name.")
    is_ours = run.exists or run.mark.is_file()
    try:
        if path.is_dir() and not is_ours and any(path.iterdir()):
            raise RunError(f"{path} holds files that are not a run; choose an empty or new folder for --out.")
    except OSError as error:
        raise RunError(f"cannot look into the folder {path} ({error.strerror}); choose another --out.") from None
    try:
        run.make()
    finally:
        if not is_ours:
            run.abandon()
    return run


def find(path: Path | str) -> RunFolder:
    """The run at `path`.

    Raises:
        RunError: there is none.
    """
    run = RunFolder(Path(path).expanduser())
    if run.path.is_file():
        raise RunError(f"{path} is a file, and a run is a folder: give the folder that `unlabeled train --out` wrote.")
    if not run.path.is_dir():
        raise RunError(f"there is no run folder {path}; train one with `unlabeled train DATA --out {typed(path)}`.")
    if not run.exists:
        raise RunError(
            f"{path} is a folder but not a run (it has no config.json); give the folder that `unlabeled train --out` wrote."
        )
    return run


def environment(device: str, world_size: int) -> dict[str, Any]:
    """Versions and hardware a result depends on; no host name, no user, no path."""
    import torch

    names = ("unlabeled", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "safetensors")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: metadata.version(name) for name in names},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": world_size,
    }
