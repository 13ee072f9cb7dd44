"""The map of the explorer: where every image of a run lies, and what it can be coloured by, packed for the wire.

Made when someone first asks for it, on a thread of its own, and kept in memory: nothing is written. Where the report has
left its places in the run, the map is the report's; in a run too large for the report every other image goes beside those.
Shapes: N images, n of them in the report.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.data.image_statistics import described, of_files
from unlabeled.errors import DataError, UnlabeledError
from unlabeled.explorer.thumbnails import Pictures
from unlabeled.report.atlas import coded, even_sample
from unlabeled.report.facts import Colouring
from unlabeled.report.overview import colourings, kept_measurements, kept_positions, of_labels, of_metadata
from unlabeled.report.page import printable
from unlabeled.report.projection import LANDMARKS, project
from unlabeled.runs.opened import OpenedRun

NONE = 65_535
"""Stands for no category."""


class Places:
    """The map of one run. May be asked from several threads."""

    def __init__(self, run: OpenedRun, pictures: Pictures) -> None:
        self._run, self._catalogue = run, run.catalogue
        self._pictures = pictures
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._placed = 0
        self._error: UnlabeledError | None = None
        self._about: dict[str, Any] = {}
        self._packed: dict[str, bytes] = {}

    def state(self) -> dict[str, Any]:
        """What the map holds, or how far it is; the first to ask begins it. Raises DataError where it cannot be made."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._make, daemon=True)
                self._thread.start()
            # Small runs are ready before anyone would ask again.
            elif self._error is not None:
                raise self._error
        self._thread.join(0.3)
        if self._about:
            return self._about
        return {"ready": False, "placed": self._placed, "count": len(self._catalogue.features)}

    def packed(self, what: str) -> bytes:
        """`positions`: uint16 [N, 2]; `clusters`: uint16 or uint32 [N], as `state` says; a number: that colouring's values.

        All little-endian. Raises DataError for what is not there, or not yet.
        """
        try:
            return self._packed[what]
        except KeyError:
            raise DataError("the map has no such part, or is still being made; ask /api/map first.") from None

    def _make(self) -> None:
        try:
            features = self._catalogue.features.float().contiguous()
            seed, kept = self._run.config.seed, self._run.folder.projection
            sample = even_sample(len(features))
            known = kept_positions(kept, features[torch.from_numpy(sample)], seed)
            if known is not None and len(known) == len(features):
                places = known
            else:
                places = project(features.numpy(), seed, sample=sample, placed=known, update=self._update)
            measured = kept_measurements(self._run.folder.statistics)
            if measured is not None and len(measured) != len(features):
                measured = None
            shown = self._colourings(measured)
        except UnlabeledError as error:
            self._error = error
            return
        clusters = self._catalogue.clusters.numpy()
        wide = len(self._catalogue.centroids) > NONE
        packed = {
            "positions": _little(np.round(places * NONE), "<u2"),
            "clusters": _little(clusters, "<u4" if wide else "<u2"),
        }
        words: list[dict[str, Any]] = []
        for i, one in enumerate(shown):
            said, values = coded(one)
            packed[str(i)] = _little(values, "<u2" if one.categories else "u1")
            words.append(said)
        self._packed = packed
        self._about = {
            "ready": True,
            "count": len(places),
            "clusters": len(self._catalogue.centroids),
            "wide": wide,
            "arranged": min(len(sample), LANDMARKS),
            "colourings": words,
            "measured": measured is not None,
        }

    def _update(self, placed: int) -> None:
        self._placed = placed

    def _colourings(self, measured: NDArray[np.float32] | None) -> list[Colouring]:
        # What is known of every image without looking at a pixel, and what the report has found out by looking.
        statistics = [] if measured is None else described(measured, self._run.record.is_colour)
        statistics += of_files(self._run.names, self._pictures.source, self._pictures.place)
        record, source, place = self._run.record, self._pictures.source, self._pictures.place
        statistics += of_metadata(record, source, place, {one.name for one in statistics})
        found = [*of_labels(self._run, source, place), *colourings(statistics)]
        distance = self._catalogue.distances.double().numpy()
        found.append(Colouring("distance from the centre", distance, ends=("more typical", "less typical")))
        unlike = self._catalogue.unlike().double().numpy()
        if unlike.any():
            found.append(Colouring("unlike the rest", unlike, ("like others", "unlike the rest")))
        return [
            Colouring(one.name, one.values, [printable(name) for name in one.categories], one.ends, one.scale)
            for one in found
        ]


def _little(values: NDArray[Any], kind: str) -> bytes:
    return np.ascontiguousarray(values).astype(kind).tobytes()
