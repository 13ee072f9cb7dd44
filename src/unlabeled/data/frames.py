"""Every frame of every file as an image of its own (`ReadOptions.frames = all`): stacks, time series, animations."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from unlabeled.data.decode import DECODER_ERRORS, examine, pillow_warnings_ignored
from unlabeled.data.kinds import TIFF
from unlabeled.data.pixels import Undecodable
from unlabeled.data.salvage import frame_count
from unlabeled.data.source import Source


class FrameSource(Source):
    """The frames of the images of another source, in order; `stack.tif` gives `stack.tif#1`, `stack.tif#2` …

    Opening reads every file once, to count its frames; a file of one frame keeps its name.
    """

    def __init__(self, source: Source) -> None:
        names: list[str] = []
        self._place: list[tuple[int, int | None]] = []
        unread: list[tuple[str, str]] = []
        for i, name in enumerate(source.names):
            try:
                frames = count_frames(source.read(i))
            except Undecodable as error:
                unread.append((name, error.reason))
                continue
            names += [f"{name}#{number + 1}" for number in range(frames)] if frames > 1 else [name]
            self._place += [(i, number) for number in range(frames)] if frames > 1 else [(i, None)]
        super().__init__(source.path, source.kind, names)
        self._source = source
        self.skipped = sorted([*source.skipped, *unread])
        self.ignored, self.notes, self.options = source.ignored, source.notes, source.options

    def read(self, index: int) -> bytes | np.ndarray:
        """The pixels of one frame H×W×C, or the file where it has one frame."""
        i, frame = self._place[index]
        content = self._source.read(i)
        if frame is None or isinstance(content, np.ndarray):
            return content
        return examine(content, self._source.names[i], options=self.options, frame=frame).pixels

    def location(self, index: int) -> Path | None:
        """The file that holds the frame."""
        return self._source.location(self._place[index][0])

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """That of the file, and which frame."""
        i, frame = self._place[index]
        return (*self._source.fingerprint(i), f"frame {frame}")

    def listed_row(self, index: int) -> int:
        """The row of the file."""
        return self._source.listed_row(self._place[index][0])

    @property
    def rows_listed(self) -> int:
        """See Source.rows_listed."""
        return self._source.rows_listed

    def column(self, name: str) -> list[str] | None:
        """The value of the file, for each of its frames."""
        values = self._source.column(name)
        return None if values is None else [values[i] for i, _ in self._place]


def count_frames(content: bytes | np.ndarray) -> int:
    """Frames of an encoded file; 1 for arrays and for what cannot be read, which the decoder names later."""
    if isinstance(content, np.ndarray):
        return 1
    try:
        if content[:4] in TIFF:
            from unlabeled.data.tiff import count_frames as count

            with pillow_warnings_ignored:
                return count(content)
        with pillow_warnings_ignored, Image.open(io.BytesIO(content), formats=("GIF", "PNG", "WEBP", "AVIF")) as image:
            return frame_count(lambda: int(getattr(image, "n_frames", 1)))[0]
    except (ImportError, *DECODER_ERRORS):
        return 1
