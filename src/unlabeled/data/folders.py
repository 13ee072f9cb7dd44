"""Folders of images: a million names in seconds, because no file is opened or asked for its size."""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path

from unlabeled.data.kinds import DICOM, IMAGE_KINDS, kind_of
from unlabeled.data.notes import Notes
from unlabeled.data.source import (
    IMAGE_ENDINGS,
    UNREADABLE_ENDINGS,
    FileSource,
    cannot_open,
    display_name,
    ending,
    ends_oddly,
    is_hidden,
    kind_of_entry,
    own_features,
    require_images,
    unique_names,
    written_by_us,
)
from unlabeled.errors import DataError


def open_folder(path: Path) -> FileSource:
    """Every image below a folder, sorted by name. Links are followed, each folder is entered once. Raises DataError."""
    walk = _Walk(str(path))
    walk.run()
    pairs = [(display_name(file), file) for file in walk.files]
    pairs.sort()
    names = unique_names([name for name, _ in pairs])
    source = FileSource(path, "folder", [file for _, file in pairs], names, str(path))
    source.skipped = sorted((display_name(file), reason) for file, reason in walk.skipped)
    source.ignored, source.notes = walk.ignored, walk.notes
    require_images(source)
    return source


class _Walk:
    """One walk below `root`: paths relative to it, with `/`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.ignored: Counter[str] = Counter()
        self.notes = Notes()
        self._features: set[str] = set()
        self._entered: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def run(self) -> None:
        """Walk real folders first, then linked ones, so that what is reachable both ways keeps its real name."""
        try:
            os.scandir(self.root).close()
        except OSError as error:
            raise DataError(f"the folder {self.root} cannot be listed: {cannot_open(error)}.") from error
        pending = [""]
        while pending or self._links:
            if not pending:
                self._links.sort(reverse=True)
                pending.append(self._links.pop())
            folder = pending.pop()
            pending.extend(sorted(self._list(folder), reverse=True))

    def _list(self, folder: str) -> list[str]:
        path = f"{self.root}/{folder}" if folder else self.root
        prefix = f"{folder}/" if folder else ""
        inner: list[str] = []
        try:
            facts = os.stat(path)  # noqa: PTH116 - paths stay text here, for speed and for bytes that are no text
            if (facts.st_dev, facts.st_ino) in self._entered:
                self.skipped.append((folder, "it links to a folder that is already read"))
                return inner
            self._entered.add((facts.st_dev, facts.st_ino))
            with os.scandir(path) as entries:
                entries = list(entries)
                if folder and (written := written_by_us({entry.name for entry in entries})):
                    self.notes.add(f"{written} was passed over: it was written by this program", folder, unit="folder")
                    return inner
                self._features = own_features({entry.name for entry in entries})
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    # The kind of entry comes with the listing; only links and strange things cost a call each.
                    if entry.is_file(follow_symlinks=False):
                        self._file(prefix + entry.name, entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        inner.append(prefix + entry.name)
                    else:
                        self._other(prefix + entry.name, entry)
        except OSError as error:
            self.skipped.append((folder or ".", cannot_open(error)))
        return inner

    def _file(self, relative: str, name: str) -> None:
        end = ending(name)
        if name in self._features:
            self.notes.add("a file of features was passed over: it was written by this program", relative, unit="file")
        elif end in IMAGE_ENDINGS:
            self.files.append(relative)
        elif end in UNREADABLE_ENDINGS:
            self.skipped.append((relative, UNREADABLE_ENDINGS[end]))
        elif not end or ends_oddly(name):
            self._by_content(relative, end)
        else:
            self.ignored[end] += 1

    def _other(self, relative: str, entry: os.DirEntry[str]) -> None:
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            is_loop = not isinstance(error, FileNotFoundError)
            reason = (
                f"it is a link that leads nowhere ({cannot_open(error)})"
                if is_loop
                else "it is a link to a file that does not exist"
            )
            self.skipped.append((relative, reason))
            return
        if stat.S_ISREG(mode):
            self._file(relative, entry.name)
        elif stat.S_ISDIR(mode):
            self._links.append(relative)
        else:
            self.skipped.append((relative, f"it is {kind_of_entry(mode)}, not a file"))

    def _by_content(self, relative: str, end: str) -> None:
        """Files without an image's ending are opened for a glance: some well-known sets, and downloads, consist of them."""
        try:
            with open(f"{self.root}/{relative}", "rb", buffering=0) as file:
                head = file.read(132)
        except OSError as error:
            self.skipped.append((relative, cannot_open(error)))
            return
        if kind_of(head) in IMAGE_KINDS:
            self.files.append(relative)
            if end:
                self.notes.add("the name goes on behind the ending; the content is an image", relative, unit="file")
        elif head[128:132] == b"DICM":
            self.skipped.append((relative, DICOM))
        else:
            self.ignored[end] += 1
