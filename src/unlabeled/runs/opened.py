"""A run opened for reading: its settings, images, network, features, clusters and scores. The verbs are `unlabeled.run.Run`.

Shapes: N training images, M images asked about, D feature dimensions.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from unlabeled.config import Config, Precision
from unlabeled.data.store import ImageStore
from unlabeled.device import DeviceKind, resolve_device, resolve_precision, torch_device
from unlabeled.distributed import all_gather_rows
from unlabeled.errors import ConfigError, RunError, typed
from unlabeled.features import embed
from unlabeled.methods import build_method, build_network
from unlabeled.methods.base import Method
from unlabeled.models import Backbone
from unlabeled.runs import checkpoint, cluster_history
from unlabeled.runs.folder import RunFolder, find
from unlabeled.runs.images import DataRecord, make_loader, same_on_every_rank
from unlabeled.runs.index import Catalogue
from unlabeled.runs.journal import epochs

BY_LABELS = "by_labels"
"""Key of scores.json under which the scores of each set of labels stand."""


class OpenedRun:
    """A run folder opened for use; `backbone` is a plain torch Module (image tensor in, feature out)."""

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        """Raises RunError where `path` is no run."""
        self.folder: RunFolder = find(path)
        self.path = self.folder.path
        self.config = Config.load(self.folder.config)
        self.device_kind: DeviceKind = resolve_device(device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, method={self.config.method!r}, backbone={self.config.backbone!r})"

    def another(self, path: str | Path) -> OpenedRun:
        """Another run, opened on the same device. Raises RunError where `path` is no run."""
        return OpenedRun(path, self.device_kind)

    @cached_property
    def record(self) -> DataRecord:
        """Which images the run was trained on."""
        return DataRecord.read(self.folder)

    @cached_property
    def backbone(self) -> Backbone:
        """The trained network without head, in evaluation mode, on the run's device.

        Takes uint8 images [B, C, H, W] or floats in [0, 1] and gives features [B, D]; normalisation is inside.
        """
        found = checkpoint.load(self.folder.checkpoints)
        if found is None:
            raise RunError(f"{self.path} has no checkpoint yet; run `unlabeled resume {typed(self.path)}`.")
        backbone = self.untrained_backbone()
        prefix = "method.backbone."
        own = {name.removeprefix(prefix): value for name, value in found.tensors.items() if name.startswith(prefix)}
        try:
            backbone.load_state_dict(own)
        except RuntimeError:
            raise RunError(
                f"{found.path} holds another network than {self.folder.config} describes ({self.config.backbone}); put the "
                "configuration back as it was, or train again with `--if-exists replace`."
            ) from None
        return backbone

    def untrained_backbone(self) -> Backbone:
        """The same network as it was before the first step: the baseline every score is held against."""
        backbone = build_network(self.config, self.record.channels)
        if self.folder.start.is_file():
            backbone.load_state_dict(load_file(self.folder.start))
        return backbone.to(torch_device(self.device_kind)).eval()

    @cached_property
    def method(self) -> Method:
        """The trained method, in evaluation mode: backbone, head, and its table (memory bank, places of codes, clusters).

        Raises:
            RunError: no checkpoint, or it holds another method than the configuration describes.
        """
        method = self.untrained_method()
        found = checkpoint.load(self.folder.checkpoints)
        stored = {} if found is None else found.tensors
        own = {name.removeprefix("method."): value for name, value in stored.items() if name.startswith("method.")}
        try:
            method.load_state_dict(own)
        except (RuntimeError, KeyError):
            raise RunError(
                f"{self.path} holds no {self.config.method} as {self.folder.config} describes it (imported weights have no head); "
                "score the space `backbone`, or train again with `--if-exists replace`."
            ) from None
        return method.to(torch_device(self.device_kind)).eval()

    def untrained_method(self) -> Method:
        """The method as it was before the first step."""
        found = checkpoint.load(self.folder.checkpoints)
        labels = found.tensors.get("method.labels") if found else None
        method = build_method(self.config, self.record.count, self.record.channels, labels)
        return method.to(torch_device(self.device_kind)).eval()

    @cached_property
    def catalogue(self) -> Catalogue:
        """Features and clusters of the training images.

        Raises:
            RunError: there are none yet, or the run was imported without images.
        """
        if self.folder.imported.is_file() and not self.folder.features.is_file():
            raise RunError(
                f"{self.path} was imported and has no catalogue of images to look in; import the weights again with `--data DATA "
                "--if-exists replace`."
            )
        return Catalogue.load(self.folder.features)

    @cached_property
    def names(self) -> list[str]:
        """Names of the training images, in index order."""
        path, wanted = self.folder.clusters, len(self.catalogue.features)
        try:
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                names = [row["path"] for row in csv.DictReader(file)]
        except (OSError, KeyError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else f"no column {error}"
        else:
            if len(names) == wanted:
                return names
            reason = f"it has {len(names):,} rows, the features are of {wanted:,} images"
        raise RunError(
            f"{path} is damaged ({reason}); delete {self.folder.features.name} beside it and run "
            f"`unlabeled resume {typed(self.path)}`, which makes both again."
        )

    @property
    def beginning(self) -> dict[str, Any]:
        """Where the weights of `init` came from: init, kind, sha256, license; empty for a run that began from nothing."""
        found = self.folder.beginning
        return self.folder.read_object(found, "init", "kind", "sha256", "license") if found.is_file() else {}

    @property
    def baseline(self) -> str:
        """What its scores are held against, in words: the untrained network, or the weights it began from."""
        return "untrained network" if self.config.init == "none" else f"start ({self.config.init.partition('@')[0]})"

    @property
    def history(self) -> list[dict[str, Any]]:
        """The journal: one record an epoch."""
        return epochs(self.folder.journal, whole=False)

    @property
    def clustered_epochs(self) -> list[int]:
        """Epochs, from 1, that began with a clustering which was kept; see `assignments`."""
        return cluster_history.epochs(self.folder.assignments)

    def assignments(self, epoch: int | None = None) -> torch.Tensor:
        """The pseudo-labels of the training images while `epoch` was trained, from 1; of the last epoch where not given.

        int64 [N] in the order of `names`, -1 = in no cluster. Numbers of one clustering mean nothing in another. The
        clusters of the finished run, `cluster`, are others: they come from one last k-means on the final features.

        Raises:
            RunError: none were kept up to that epoch: the method makes none.
        """
        return cluster_history.read(self.folder.assignments, max(self.config.epochs, 1) if epoch is None else epoch)

    @property
    def stability_found(self) -> dict[str, Any]:
        """How stable the clusters are and which number of them the images support; empty for a run without it."""
        return self.folder.read_object(self.folder.stability) if self.folder.stability.is_file() else {}

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Results of earlier `evaluate` calls on this run, by protocol."""
        if not self.folder.scores.is_file():
            return {}
        found = self.folder.read_object(self.folder.scores)
        return {name: value for name, value in found.items() if isinstance(value, dict) and name != BY_LABELS}

    @property
    def scores_by_labels(self) -> dict[str, dict[str, Any]]:
        """The last result of each protocol with each set of labels."""
        if not self.folder.scores.is_file():
            return {}
        found = self.folder.read_object(self.folder.scores).get(BY_LABELS, {})
        return found if isinstance(found, dict) else {}

    @property
    def label_specs(self) -> list[str]:
        """Labels of the training images: those of the training, then those of every `evaluate` on these images."""
        given = [] if self.record.labels is None else [self.record.labels]
        scored = (one.get("labels_of_training") for one in self.scores_by_labels.values())
        return list(dict.fromkeys([*given, *(spec for spec in scored if isinstance(spec, str))]))

    def features_of(
        self,
        store: ImageStore,
        backbone: Backbone | None = None,
        title: str = "features",
        precision: Precision | None = None,
    ) -> torch.Tensor:
        """Features [M, D] of opened images, in order, the same on every rank; in the run's precision unless told."""
        same_on_every_rank(store.source.path, store.names, store.contents)
        device = torch_device(self.device_kind)
        loader = make_loader(store, self.config, device)
        dtype = resolve_precision(precision or self.config.precision, device)
        network = backbone or self.backbone
        return all_gather_rows(embed(network, loader, dtype=dtype, batch_size=2 * self.config.batch_size, title=title))

    def file_of(self, name: str) -> str:
        """Where a training image lies, as it opens from here; in an array or an archive there is no file, only its name."""
        path = Path(self.record.data) / name
        return str(path) if path.is_file() else name

    @property
    def origin(self) -> dict[str, Any]:
        """Where imported weights came from (kind, file, sha256 and so on); empty for a run that was trained."""
        return self.folder.read_object(self.folder.imported) if self.folder.imported.is_file() else {}


def named_runs(run: OpenedRun, compare: Path | str | Sequence[Path | str] | None) -> dict[str, OpenedRun]:
    """This run and others by names of their own: the folder's, with the folder above it where two are called the same.

    Raises:
        ConfigError: a run is compared with itself.
        RunError: `compare` names no run.
    """
    others = [compare] if isinstance(compare, (str, Path)) else list(compare or ())
    runs = [run, *(run.another(path) for path in others)]
    paths = [one.path.resolve() for one in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"{path} is compared with itself; give other runs to --compare.")
    for parts in (1, 2):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    return dict(zip(map(str, paths), runs, strict=True))
