"""Find the file a table means where it spells the name otherwise: URI, backslashes, Unicode form, case of the ending."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit


class FileFinder:
    """Looks names up in listings of their folders, each made once: a million rows cost no call each."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, str]] = {}

    def exists(self, path: str) -> bool:
        """Whether `path` is there, spelled like this."""
        folder, name = os.path.split(path)
        return name in self._listing(folder) or name in ("", ".", "..")

    def find(self, base: str, path: str) -> tuple[str, str]:
        """The spelling under which `path` (relative to `base`, or absolute) is there, and what was changed; or itself."""
        for candidate, change in _spellings(path):
            full = os.path.normpath(os.path.join(base, candidate))  # noqa: PTH118  (for every row)
            if self.exists(full):
                return candidate, change
        return path, ""

    def _listing(self, folder: str) -> dict[str, str]:
        known = self._listings.get(folder)
        if known is None:
            try:
                known = dict.fromkeys(os.listdir(folder or "."), "")  # noqa: PTH208  (names only)
            except (OSError, ValueError):
                known = {}
            self._listings[folder] = known
        return known


def _spellings(path: str) -> Iterator[tuple[str, str]]:
    """`path` as it stands, then as other systems would write the same file."""
    yield path, ""
    plain, changes = path, list[str]()
    if path.lower().startswith("file:"):
        parts = urlsplit(path)
        plain = unquote(parts.path)
        if os.name == "nt" or plain[2:3] == ":":
            plain = plain.lstrip("/")
        changes.append("file:// is left out")
        yield plain, changes[-1]
    if "\\" in plain:
        plain = plain.replace("\\", "/")
        changes.append("backslashes are read as slashes")
        yield plain, changes[-1]
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, plain)
        if other != plain:
            yield other, "accents are written in another Unicode form"
            yield from _endings(other)
    yield from _endings(plain)


def _endings(path: str) -> Iterator[tuple[str, str]]:
    stem, dot, end = path.rpartition(".")
    if dot and "/" not in end:
        for other in {end.lower(), end.upper(), end.capitalize()} - {end}:
            yield f"{stem}.{other}", "the case of the ending differs"
