"""Images inside zip and tar archives, read in place; nothing is ever unpacked to a path an archive names.

Compressed tar archives cannot be read at random, so their images are unpacked once into an unnamed temporary file.
"""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
import threading
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from unlabeled.data.decode import DECODER_ERRORS
from unlabeled.data.kinds import IMAGE_KINDS, kind_of
from unlabeled.data.pixels import Undecodable
from unlabeled.data.source import (
    BYTES_LIMIT,
    IMAGE_ENDINGS,
    MARK,
    UNREADABLE_ENDINGS,
    Source,
    display_name,
    ending,
    ends_oddly,
    file_fingerprint,
    is_hidden,
    require_images,
    unique_names,
    written_by_us,
)
from unlabeled.errors import DataError

UNPACKED_LIMIT: Final = 64 << 30
"""Images of a compressed tar archive may take this many bytes unpacked (64 GiB); more must be unpacked by the user."""

_ARCHIVE_ERRORS: Final = (*DECODER_ERRORS, zipfile.BadZipFile, tarfile.TarError)


class _ArchiveSource(Source):
    """What zip and tar have in common: which members count, and names."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(path, kind, [])
        self._fingerprint = file_fingerprint(path)
        self._seen: set[str] = set()
        self._own: tuple[str, ...] = ()

    def _pass_over_own(self, names: Sequence[str]) -> None:
        """Folders of these members that this program wrote."""
        folders: dict[str, set[str]] = {}
        for name in names:
            folder, slash, last = name.rpartition("/")
            if slash and (last == MARK or last.endswith(".json")):
                folders.setdefault(folder + slash, set()).add(last)
        self._own = tuple(folder for folder, entries in folders.items() if written_by_us(entries))

    def _accepts(self, name: str, size: int, fault: str) -> bool:
        """Whether a member may be an image; otherwise it is counted, or reported with the fault."""
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
            self.skipped.append((display_name(name), "its path leads outside the archive"))
            return False
        if any(is_hidden(part) for part in parts if part != "."):
            return False
        if any(name.startswith(prefix) for prefix in self._own):
            self.notes.add(
                "a file in a folder that this program wrote was passed over", display_name(name), unit="file"
            )
            return False
        end = ending(parts[-1])
        if end in UNREADABLE_ENDINGS:
            fault = fault or UNREADABLE_ENDINGS[end]
        elif end and end not in IMAGE_ENDINGS and not ends_oddly(parts[-1]):
            self.ignored[end] += 1
            return False
        if not fault and size > BYTES_LIMIT:
            fault = f"it unpacks to {size:,} bytes, more than the {BYTES_LIMIT:,} allowed"
        if not fault and name in self._seen:
            fault = "the archive has an earlier member of the same name"
        if fault:
            self.skipped.append((display_name(name), fault))
            return False
        self._seen.add(name)
        return True

    def _order(self, members: list[str]) -> list[int]:
        """Fill in the names, sorted; the members' positions in that order."""
        order = sorted(range(len(members)), key=members.__getitem__)
        shown = [display_name(members[k].replace("\\", "/").removeprefix("./")) for k in order]
        self.names = unique_names(shown)
        self._seen.clear()
        return order


class ZipSource(_ArchiveSource):
    """Images of a zip archive."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "zip archive")
        self._archive = zipfile.ZipFile(path)
        members: list[zipfile.ZipInfo] = []
        self._pass_over_own(self._archive.namelist())
        for info in self._archive.infolist():
            if not info.is_dir() and self._accepts(info.filename, info.file_size, _zip_fault(info)):
                if ending(info.filename) not in IMAGE_ENDINGS and not self._looks_like_image(info):
                    self.ignored[ending(info.filename)] += 1
                    continue
                members.append(info)
        self._members = [members[k] for k in self._order([info.filename for info in members])]

    def read(self, index: int) -> bytes:
        """The unpacked member. Raises Undecodable if it is damaged. Threads may read at once: zipfile locks."""
        return self._unpack(self._members[index], BYTES_LIMIT)

    def _unpack(self, info: zipfile.ZipInfo, limit: int) -> bytes:
        try:
            with self._archive.open(info) as member:
                return member.read(limit)
        except _ARCHIVE_ERRORS as error:
            raise Undecodable(f"it is damaged in the archive: {' '.join(str(error).split())}") from error

    def _looks_like_image(self, info: zipfile.ZipInfo) -> bool:
        try:
            return kind_of(self._unpack(info, 32)) in IMAGE_KINDS
        except Undecodable:
            return False

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """Name, checksum and size of the member: they survive a copy of the archive."""
        info = self._members[index]
        return (info.filename, info.CRC, info.file_size, *self._fingerprint)


def _zip_fault(info: zipfile.ZipInfo) -> str:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a link, and links in archives are not followed"
    return "it is encrypted" if info.flag_bits & 1 else ""


class TarSource(_ArchiveSource):
    """Images of a tar archive, plain or compressed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "tar archive")
        self._is_plain = _is_plain_tar(path)
        # Open for as long as the source lives: every read goes through it.
        self._content: IO[bytes] = path.open("rb") if self._is_plain else tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._content.close)
        self._lock = threading.Lock()
        end = path.stat().st_size if self._is_plain else UNPACKED_LIMIT
        members: list[tuple[str, int, int]] = []
        with tarfile.open(path, "r:" if self._is_plain else "r|*") as archive:
            if self._is_plain:
                self._pass_over_own([info.name for info in self._infos(archive)])
                self.skipped.clear()
            for info in self._infos(archive):
                if info.isdir() or not self._accepts(info.name, info.size, _tar_fault(info)):
                    continue
                start = info.offset_data if self._is_plain else self._keep(archive, info)
                if start is None or start + info.size > end:
                    self.skipped.append((display_name(info.name), "the archive is cut short inside it"))
                elif (
                    ending(info.name) not in IMAGE_ENDINGS
                    and kind_of(self._at(start, min(info.size, 32))) not in IMAGE_KINDS
                ):
                    self.ignored[ending(info.name)] += 1
                else:
                    members.append((info.name, start, info.size))
        self._members = [members[k] for k in self._order([name for name, _, _ in members])]

    def _infos(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        """Members up to the first damage, which is reported."""
        try:
            yield from archive
        except _ARCHIVE_ERRORS as error:
            self.skipped.append(
                (self.path.name, f"the archive is damaged, its rest is lost: {' '.join(str(error).split())}")
            )

    def _keep(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> int | None:
        """Append a compressed member to the temporary file; where it starts there, None if the archive ends inside."""
        start = self._content.tell()
        if start + info.size > UNPACKED_LIMIT:
            raise DataError(
                f"{self.path} unpacks to more than {UNPACKED_LIMIT:,} bytes: unpack it yourself and give the folder."
            )
        try:
            member = archive.extractfile(info)
            content = member.read() if member else b""
        except (EOFError, tarfile.TarError):
            return None
        try:
            self._content.write(content)
            self._content.flush()
        except OSError as error:
            raise DataError(
                f"{self.path} does not fit into the folder for temporary files, {tempfile.gettempdir()} "
                f"({error.strerror}): set TMPDIR to a larger one, or unpack it and give the folder."
            ) from error
        return start if len(content) == info.size else None

    def _at(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._content.fileno(), size, start)  # no shared position, so no lock
        with self._lock:
            self._content.seek(start)
            return self._content.read(size)

    def read(self, index: int) -> bytes:
        """The member. Raises Undecodable if the archive has become shorter."""
        _, start, size = self._members[index]
        try:
            content = self._at(start, size)
        except OSError as error:
            raise Undecodable(f"the archive cannot be read: {error.strerror}") from error
        if len(content) < size:
            raise Undecodable("the archive is cut short inside it")
        return content

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """Name, place and size of the member, and the archive's own fingerprint."""
        return (*self._members[index], *self._fingerprint)


def _tar_fault(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "it is a link, and links in archives are not followed"
    if info.issparse():
        return "it is a sparse file"
    return "" if info.isreg() else "it is a pipe or a device, not a file"


def _is_plain_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except _ARCHIVE_ERRORS:
        return False


def open_archive(path: Path) -> Source:
    """Images of a zip or tar archive (tar also gzip, bzip2 or xz compressed). Raises DataError."""
    try:
        source = ZipSource(path) if zipfile.is_zipfile(path) else TarSource(path)
    except _ARCHIVE_ERRORS as error:
        raise DataError(f"{path} cannot be read as a zip or tar archive: {' '.join(str(error).split())}.") from error
    source.skipped.sort()
    return require_images(source)
