"""Notes on images and rows: whatever was left out, replaced or clipped, counted so that each kind is named once.

A source notes what happened to rows and names before anything was read (`Source.notes`), a store what happened to pixels
(`ImageStore.notes`). `check`, `train`, the report and the JSON files show both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from unlabeled.progress import counted

EXAMPLES = 3
"""Names that stand behind a note."""


class Notes:
    """Kinds of loss or repair, each with a count and a few names.

    A kind is a clause that completes "In 12 images, …" (or "12 rows: …"), without numbers that differ between images.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._examples: dict[tuple[str, str], list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, text: str, name: str = "", *, unit: str = "image", count: int = 1) -> None:
        """Count `text` for one more `unit` (image, row, line, file, folder), with `name` as an example."""
        key = (unit, text)
        self._counts[key] = self._counts.get(key, 0) + count
        examples = self._examples.setdefault(key, [])
        if name and len(examples) < EXAMPLES:
            examples.append(name)

    def extend(self, others: Iterable[Notes]) -> Notes:
        """Add the counts of other notes; returns itself."""
        for other in others:
            for (unit, text), count in other._counts.items():
                self.add(text, unit=unit, count=count)
                for name in other._examples[unit, text]:
                    self.add(text, name, unit=unit, count=0)
        return self

    def sentences(self) -> list[str]:
        """One sentence for each kind, the most frequent first."""
        return [
            f"In {counted(record['count'], record['unit'])}, {record['note']}{_examples(record['examples'], record['count'])}."
            for record in self.to_json()
        ]

    @staticmethod
    def from_json(records: Iterable[Mapping[str, Any]]) -> Notes:
        """What `to_json` gave."""
        notes = Notes()
        for record in records:
            notes.add(str(record["note"]), unit=str(record["unit"]), count=int(record["count"]))
            for name in record["examples"]:
                notes.add(str(record["note"]), str(name), unit=str(record["unit"]), count=0)
        return notes

    def to_json(self) -> list[dict[str, Any]]:
        """`[{"note", "unit", "count", "examples"}]`, the most frequent first."""
        ordered = sorted(self._counts, key=lambda key: -self._counts[key])
        return [
            {
                "note": text,
                "unit": unit,
                "count": self._counts[unit, text],
                "examples": list(self._examples[unit, text]),
            }
            for unit, text in ordered
        ]


_FRAMES = re.compile(r"^the file holds (more than )?[\d,]+ frames")


def countable(note: str, total: int) -> str:
    """A note without its numbers where it is one of `total` > 1 images, so that equal ones can be counted."""
    return _FRAMES.sub("the file holds several frames", note) if total > 1 else note


def _examples(names: list[str], count: int) -> str:
    return f" ({', '.join(names)}{', …' if count > len(names) else ''})" if names else ""
