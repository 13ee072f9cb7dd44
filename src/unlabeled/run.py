"""A trained run in the hand: embed, cluster, search, evaluate, report. Each method is also a verb of the command line.

Shapes: M images asked about, D feature dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from unlabeled import progress
from unlabeled.cluster.batches import BatchCorrection
from unlabeled.cluster.novelty import FALSE_ALARM_RATE
from unlabeled.config import Precision
from unlabeled.data.display import display_of, parse_channels
from unlabeled.data.in_memory import Images
from unlabeled.data.labels import read_labels
from unlabeled.data.store import ImageStore
from unlabeled.distributed import is_main
from unlabeled.errors import ConfigError, DataError, UnreadableError, unknown_name
from unlabeled.runs.images import DataRecord, same_images, told_metadata
from unlabeled.runs.index import Catalogue, batch_of, recluster, standardized
from unlabeled.runs.opened import OpenedRun
from unlabeled.runs.outputs import (
    Clustered,
    Embedding,
    clustered,
    locations_of,
    require_sortable,
    require_table,
    sort_into_folders,
    write_clusters,
    write_skipped,
    writer,
)
from unlabeled.writing import require_writable, write_json

if TYPE_CHECKING:
    from unlabeled.explorer.notebook import Query, Shown
    from unlabeled.explorer.queries import Answers
    from unlabeled.weights.export import Exported


@dataclass(frozen=True)
class Hit:
    """A found image and its cosine similarity to the query."""

    path: str
    similarity: float


class Run(OpenedRun):
    """A run folder opened for use; `backbone` is a plain torch Module (image tensor in, feature out)."""

    def embed(
        self,
        data: Images,
        out: str | Path | None = None,
        *,
        precision: Precision | None = None,
        batch: str | None = None,
        strict: bool = False,
    ) -> Embedding:
        """Features of images. Those that cannot be read are left out, named in a warning and in OUT.skipped.csv.

        Args:
            data: a folder, list, manifest, array or archive, as for training; arrays, tensors, Pillow images, lists of them.
            out: where to write them: `.npy` (rows in order, names beside X.npy in X.names.txt), `.npz` or `.parquet`.
            precision: `auto`, `float32` or `bfloat16`, in which the network computes; the run's where not given. The
                features are float32 in any case.
            batch: `folder`, a column or FILE.csv:column with the batch (plate, date, camera) of each image; features are then
                of length one and standardized batch by batch. The run's, where it was trained with one.
            strict: raise UnreadableError at the end if images could not be read.

        Raises:
            ConfigError: a precision that is none of these.
            DataError: no readable image, an ending of `out` that is none of these, or `out` would replace `data`.
            RunError: `out` cannot be written.
            UnreadableError: see `strict`.
        """
        if precision is not None and precision not in get_args(Precision):
            raise ConfigError(unknown_name("precision", precision, get_args(Precision)))
        out = Path(out).expanduser() if out else None
        write = writer(out, data) if out else None
        source = self.record.source_of(data)
        store = self.record.open(source)
        features = self.features_of(store, precision=precision)
        spec = batch or self.record.batch
        if spec:
            features = standardized(features, source, store, spec, self._known_batches)
        result = Embedding(store.names, features, [*source.skipped, *store.skipped])
        if write and out and is_main():
            write(out, result)
            if result.skipped:
                write_skipped(out, result.skipped)
        self._told(result.skipped, strict)
        return result

    @property
    def _known_batches(self) -> BatchCorrection | None:
        return self.catalogue.batches if self.record.batch else None

    @staticmethod
    def _told(skipped: Sequence[tuple[str, str]], strict: bool) -> None:
        """Name images that could not be read, and raise UnreadableError where they must not be left out."""
        if not skipped:
            return
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3]) + ("; …" if len(skipped) > 3 else "")
        sentence = f"{progress.counted(len(skipped), 'file')} could not be read and {'is' if len(skipped) == 1 else 'are'} left out"
        if strict:
            raise UnreadableError(
                f"{sentence} ({shown}); everything else was done: mend or remove them, or leave strict out."
            )
        progress.say(f"Warning: {sentence} ({shown}).")

    def cluster(
        self,
        data: Images | None = None,
        out: str | Path | None = None,
        to_folders: str | Path | None = None,
        *,
        num_clusters: int | None = None,
        batch: str | None = None,
        false_alarm_rate: float = FALSE_ALARM_RATE,
        strict: bool = False,
    ) -> list[Clustered]:
        """Which image is in which cluster: the training images, or new ones.

        Args:
            data: new images, in any form `embed` takes; the training images where not given.
            out: table to write, `.csv`, `.tsv`, `.json` or `.parquet`: path, cluster, distance, unlike, novelty.
            to_folders: folder in which to make one subfolder a cluster, holding links to (or copies of) the images; one that
                an earlier call made is made anew.
            num_clusters: merge the most alike clusters until so many are left; as many as were made where not given.
            batch: `folder`, a column or FILE.csv:column with the batch (plate, date, camera) of each image: features are
                standardized batch by batch, and the training images clustered anew; see docs/batches.md.
            false_alarm_rate: share of images of the kind seen in training that are called unlike it.
            strict: raise UnreadableError at the end if images could not be read.

        Raises:
            ConfigError: there are fewer clusters than `num_clusters`, or a rate outside (0, 1).
            DataError: no readable image, an ending of `out` that no table has, or `to_folders` holds something else.
            RunError: `out` or `to_folders` cannot be written.
            UnreadableError: see `strict`.
        """
        out, folder = (Path(place).expanduser() if place else None for place in (out, to_folders))
        if out:
            require_table(out)
            if is_main():
                require_writable(out)
        if folder:
            require_sortable(folder)
        catalogue = self.catalogue if batch is None else self._reclustered(batch)
        limit = catalogue.novelty.threshold(false_alarm_rate)
        if num_clusters is not None:
            catalogue = catalogue.merged(num_clusters)
        skipped: list[tuple[str, str]] = []
        if data is None:
            novelty = catalogue.scores
            rows = clustered(self.names, catalogue.clusters, catalogue.distances, novelty > limit, novelty)
            locations = locations_of(self.names, self.record.source()) if folder else []
        else:
            source = self.record.source_of(data)
            store = self.record.open(source)
            found = catalogue.assign_images(self.features_of(store), source, store, batch or self.record.batch)
            rows = clustered(store.names, found.cluster, found.distance, found.novelty > limit, found.novelty)
            locations = [source.location(int(i)) for i in store.index_in_source] if folder else []
            skipped = [*source.skipped, *store.skipped]
        if out and is_main():
            write_clusters(out, rows, skipped)
        if folder and is_main():
            sort_into_folders(folder, rows, locations)
        self._told(skipped, strict)
        return rows

    def _reclustered(self, batch: str) -> Catalogue:
        """The training images clustered anew after batch correction; nothing is stored."""
        if self.catalogue.batches is not None:
            raise ConfigError(
                f"the run was trained with --batch {self.record.batch}, so its features are corrected already; leave --batch out."
            )
        source = self.record.source()
        store = self.record.open(source)
        same_images(store, self.record, self.path)
        return recluster(self.catalogue.features, self.config, batch_of(source, store, batch))

    def search(
        self, queries: Images | Sequence[Images], k: int = 10, *, json: str | Path | None = None, strict: bool = False
    ) -> dict[str, list[Hit]]:
        """The k training images most similar to each query image, best first, by the path of the query.

        An image file is named as it was given, an image of a folder (list, archive, array) by that path joined with its
        name in there. Where a name comes twice, the later ones end in ` (2)`, ` (3)` …: every query has its answer.

        Args:
            queries: image files, or folders of them; arrays, tensors or Pillow images.
            k: how many to find for each.
            json: file to write the result to: for each query its hits with path, similarity and `file`, where the image lies.
            strict: raise UnreadableError at the end if images could not be read.

        Raises:
            ConfigError: k is below 1.
            DataError: no query can be read; where some can, the others are named in a warning.
            RunError: `json` cannot be written.
            UnreadableError: see `strict`.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}; 10 is a good number.")
        json = Path(json).expanduser() if json else None
        if json and is_main():
            require_writable(json)
        found: dict[str, list[Hit]] = {}
        unread: list[tuple[str, str]] = []
        is_several = isinstance(queries, Sequence) and not isinstance(queries, str)
        for query in cast("Sequence[Images]", queries) if is_several else [queries]:
            place = str(query) if isinstance(query, (str, Path)) else ""
            try:
                source = self.record.source_of(query)
                store = self.record.open(source, title="reading queries")
            except DataError as error:
                unread.append((place or "a query in memory", str(error)))
                continue
            similarity, index = self.catalogue.nearest(self.features_of(store), k)
            for name, values, rows in zip(store.names, similarity.tolist(), index.tolist(), strict=True):
                path = place if source.kind == "file" else os.path.join(place, name)  # noqa: PTH118  ("./" stays)
                found[_unused(path, found)] = [
                    Hit(self.names[row], value) for row, value in zip(rows, values, strict=True)
                ]
            unread += [(os.path.join(place, name), why) for name, why in (*source.skipped, *store.skipped)]  # noqa: PTH118
        if not found and unread:
            raise DataError(" ".join(why for _, why in unread))
        if json and is_main():
            rows = {
                query: [vars(hit) | {"file": self.file_of(hit.path)} for hit in hits] for query, hits in found.items()
            }
            write_json(json, rows)
            if unread:
                write_skipped(json, unread)
        self._told(unread, strict)
        return found

    def evaluate(
        self,
        protocol: str,
        data: str | Path | None = None,
        *,
        labels: str = "folder",
        test: str | Path | None = None,
        json: str | Path | None = None,
        quick: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Score the run against labels, beside the untrained network; see `unlabeled.protocols`.

        A call that was stopped goes on where it was when it is made again.

        Args:
            protocol: `knn`, `linear` and so on: a name of `unlabeled.protocols.PROTOCOLS`.
            data: labelled images; the training images where not given.
            labels: `folder`, a CSV with path and label columns, or an array file.
            test: labelled images to score on; without it, a fifth of `data` is held out.
            json: file to write the numbers to.
            quick: take a minute or two: less data, fewer epochs.
            options: the protocol's own, for example `neighbors` of knn; and `compare`, a list of other runs that are
                asked the same.

        Raises:
            ConfigError: unknown protocol or option.
            DataError: labels or images do not fit.
            RunError: `json` cannot be written.
        """
        from unlabeled import protocols
        from unlabeled.report import comparison

        return protocols.evaluate(
            self,
            protocol,
            data,
            labels=labels,
            test=test,
            json=json,
            quick=quick,
            known=comparison.protocols(),
            **options,
        )

    def export(self, format: str, out: str | Path, *, license: str = "other") -> Exported:
        """Write the backbone for other programs; see `unlabeled.weights.formats` and docs/weights.md.

        Args:
            format: `safetensors`, `torchvision`, `onnx`, `torch-export` or `hub`.
            out: the file, or the folder of `hub`.
            license: licence of the weights in the model card of `hub`.

        Raises:
            ConfigError: unknown format, wrong ending, or a network this format cannot hold.
            RunError: no checkpoint, or `out` cannot be written.
        """
        from unlabeled.weights import formats
        from unlabeled.weights.export import Exported, Trained

        formats.check(self.config, self.record, format, Path(out))
        kind = (
            self.origin.get("kind")
            or f"{self.config.method}, {progress.counted(len(self.history), 'epoch')} on "
            f"{progress.counted(self.record.count, 'image')}"
        )
        # A network of its own on the CPU: exporters leave traces in what they trace.
        trained = Trained(deepcopy(self.backbone).cpu().eval(), self.config, self.record, kind)
        return formats.export(trained, format, Path(out), license) if is_main() else Exported([], "")

    def visualize(
        self, what: str, data: str | Path | None = None, *, out: str | Path | None = None, **options: Any
    ) -> list[Path]:
        """Draw a picture of the run and write it with its numbers; returns the files. See `unlabeled.visualize`.

        Args:
            what: `filters`, `neighbors` and so on: a name of `unlabeled.visualize.PICTURES`.
            data: images; the training images where not given.
            out: folder to write to; RUN/pictures where not given.
            options: the picture's own, for example `stage` of ascent.

        Raises:
            ConfigError: unknown picture or option.
            DataError: images or labels do not fit.
            RunError: the run lacks what is to be drawn, or `out` cannot be written.
        """
        from unlabeled import visualize

        return visualize.draw(self, what, data, out, options)

    def report(
        self,
        out: str | Path | None = None,
        *,
        labels: str | None = None,
        metadata: str | Path | None = None,
        show_channels: str | Sequence[int] | None = None,
        store: ImageStore | None = None,
    ) -> Path:
        """Write the report, one HTML file that opens from disk without a network; returns where it is.

        Args:
            out: the file; RUN/report.html where not given.
            labels: labels of the training images as in `evaluate`, to colour the map by; the run remembers them.
            metadata: CSV, TSV or Parquet table with a path column and others (plate, date, camera), which are explained as
                brightness is and offered as colours; the run remembers it.
            show_channels: one channel, or three as red, green and blue, counted from 1, that pictures show; remembered too.
            store: the training images, if they are open already.

        Raises:
            DataError: labels or metadata do not fit the images, or these are gone.
            RunError: `out` cannot be written, or the run has not ended.
        """
        from unlabeled.report.collect import write

        if out:
            require_writable(Path(out))
        if labels is not None or metadata is not None:
            self._remember(labels, metadata)
        if show_channels is not None:
            store = store or self.record.open(self.record.data)
            store.display = display_of(store, parse_channels(show_channels))
            self._keep(replace(self.record, display=asdict(store.display)))
        return write(self, store or self.record.open(self.record.data), Path(out) if out else self.folder.report)

    def _remember(self, labels: str | None, metadata: str | Path | None) -> None:
        """Keep labels and metadata of the training images in data.json once they were read."""
        source, known = self.record.source(), self.record
        if labels is not None:
            for sentence in read_labels(source, labels).sentences():
                progress.say(sentence)
            known = replace(known, labels=labels)
        if metadata is not None:
            known = replace(known, metadata=told_metadata(source, metadata))
        self._keep(known)

    def _keep(self, record: DataRecord) -> None:
        if is_main():
            write_json(self.folder.data, asdict(record))
        self.record = record

    @cached_property
    def answers(self) -> Answers:
        """The training images and their clusters, opened for looking at. Raises RunError or DataError where one is gone."""
        from unlabeled.explorer.queries import Answers

        return Answers(self)

    def explore(self, port: int = 8765, *, browser: bool = True, token: bool = True) -> None:
        """Serve the explorer on 127.0.0.1 until Ctrl-C; see docs/explorer.md. Port 0 is any that is free.

        Only who knows the token in the printed address can look; without `token` every user of this machine can.

        Raises:
            ConfigError: the port is taken.
            RunError, DataError: the run has not ended, or its images are gone.
        """
        from unlabeled.explorer.server import serve

        serve(self.answers, port, browser, token)

    def show_clusters(self, count: int = 12, images: int = 10) -> Shown:
        """The `count` largest clusters with their most typical images, for a notebook. Raises ConfigError below 1."""
        from unlabeled.explorer.notebook import show_clusters

        return show_clusters(self.answers, count, images)

    def show_neighbors(self, queries: Query | Sequence[Query], k: int = 8) -> Shown:
        """The k images most like each query, for a notebook: numbers of training images, or image files.

        Raises:
            ConfigError: k is below 1.
            DataError: there is no such image, or it cannot be read.
        """
        from unlabeled.explorer.notebook import show_neighbors

        return show_neighbors(self.answers, queries, k)


def _unused(name: str, taken: Container[str]) -> str:
    names = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(one for one in names if one not in taken)
