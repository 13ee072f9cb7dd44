"""One annotation file of PASCAL VOC, read without trusting it.

Annotations come from strangers. A document with a DOCTYPE is refused before anything in it is expanded, so entities
can neither grow without end nor name other files, and sizes and depths are bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from unlabeled.data.pixels import Undecodable
from unlabeled.data.source import read_file

BYTES = 16 << 20
"""Largest annotation that is read: a thousand objects take half a MiB."""
DEPTH = 32
"""Deepest nesting; VOC's own files go to four."""


@dataclass(frozen=True)
class VocObject:
    """One object as the file has it."""

    name: str
    """Of its class."""
    box: tuple[float, float, float, float]
    """xmin, ymin, xmax, ymax, as they stand: pixels counted from 1."""
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """The objects of one picture."""

    objects: tuple[VocObject, ...]
    faults: tuple[str, ...]
    """Clauses about objects that could not be read."""


def read_annotation(path: Path) -> Annotation:
    """The objects in an annotation file.

    Raises:
        Undecodable: it cannot be read or is no annotation; the reason is a clause.
    """
    content = read_file(str(path))
    if len(content) > BYTES:
        raise Undecodable(f"it has {len(content):,} bytes, more than the {BYTES:,} allowed")
    root = _parse(content)
    if root.tag != "annotation":
        raise Undecodable(f"it begins with <{root.tag[:40]}>, not with <annotation>")
    objects: list[VocObject] = []
    faults: list[str] = []
    for number, element in enumerate(root.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        box = _box(element.find("bndbox"))
        if not name:
            faults.append(f"object {number} has no name and is left out")
        elif box is None:
            faults.append(f"object {number} ('{name}') has no box of four numbers and is left out")
        else:
            objects.append(VocObject(name, box, (element.findtext("difficult") or "0").strip() == "1"))
    return Annotation(tuple(objects), tuple(faults))


def _box(element: Element | None) -> tuple[float, float, float, float] | None:
    if element is None:
        return None
    try:
        x1, y1, x2, y2 = (float(element.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return None
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


def _parse(content: bytes) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH:
            raise Undecodable(f"its elements are nested more than {DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: object) -> None:
        raise Undecodable("it has a DOCTYPE, which annotations do not need and which is never read")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Undecodable(f"it is no well-formed XML ({error})") from None
    return builder.close()
