"""The numbers by which runs are compared. A measure takes a finished run and the images that score it, and gives scores.

Labelled neighbours are the gallery, the images that are scored are queries the run was not trained on; features are computed
anew from central views. kNN is the weighted vote of Wu et al. with k = 20 and temperature 0.07.
Shapes: G gallery images, Q queries, D feature dims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from benchmarks.claims.imagesets import ImageSet
from benchmarks.claims.sizes import Size
from unlabeled import metrics
from unlabeled.evaluation import fine_tuning
from unlabeled.evaluation.knn import knn_accuracy
from unlabeled.methods import build_method
from unlabeled.methods.base import Method
from unlabeled.methods.clustering import Clusterer
from unlabeled.methods.supervised import ParametricInstance
from unlabeled.models import Backbone
from unlabeled.randomness import numpy_generator, seed_from
from unlabeled.run import Run
from unlabeled.runs import checkpoint
from unlabeled.runs.images import make_loader

NEIGHBORS, TEMPERATURE = 20, 0.07
STAGE_DIMS = 2_500
"""A stage's map is averaged to the most positions that leave its vector this long: layers of about equal length (spec E02)."""
FEW = (4, 10, 50)
"""Labels of each class in the fine-tuning measure."""


@dataclass(frozen=True)
class Trained:
    """A finished run and what it is scored on."""

    run: Run
    images: ImageSet
    size: Size

    @cached_property
    def method(self) -> Method:
        """Head and target table as training left them."""
        run, record = self.run, self.run.record
        found = checkpoint.load(run.folder.checkpoints)
        assert found is not None, f"{run.path} is not finished"
        method = build_method(run.config, record.count, record.channels)
        tensors = {name: value for name, value in found.tensors.items() if name.startswith("method.")}
        method.load_state_dict({name.removeprefix("method."): value for name, value in tensors.items()})
        return method.eval()

    @cached_property
    def features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of gallery [G, D] and queries [Q, D], from the trained backbone."""
        return self.features_of(self.run.backbone)

    def features_of(self, backbone: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Of gallery and queries from any network that maps views to rows."""
        stores = (self.run.record.open(path) for path in (self.images.gallery, self.images.queries))
        gallery, queries = (self.run.features_of(store, backbone) for store in stores)  # pyright: ignore[reportArgumentType]
        return gallery, queries

    @cached_property
    def outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the loss compares, of gallery and queries: the head's outputs."""
        method = self.method
        if isinstance(method, ParametricInstance):
            # Its last layer holds the weight vectors of the images; before it are the outputs they are compared with.
            assert isinstance(method.head, nn.Sequential)
            method.head = method.head[0]
        gallery, queries = map(method.outputs, self.features)
        return gallery, queries

    def knn(
        self, gallery: torch.Tensor, queries: torch.Tensor, k: int = NEIGHBORS, temperature: float = TEMPERATURE
    ) -> float:
        """Accuracy of the vote."""
        labels = self.images.gallery_labels, self.images.query_labels
        return knn_accuracy(gallery, labels[0], queries, labels[1], k=k, temperature=temperature)


def knn(trained: Trained) -> dict[str, float]:
    """`knn` of the backbone's features and `untrained`, the same network before its first step."""
    before = trained.features_of(trained.run.untrained_backbone())
    return {"knn": trained.knn(*trained.features), "untrained": trained.knn(*before)}


def output(trained: Trained) -> dict[str, float]:
    """`knn_output`: of the vectors that the loss compares (Wu et al. section 3.4: the 128 dims on which they score)."""
    return {"knn_output": trained.knn(*trained.outputs)}


def published(trained: Trained) -> dict[str, float]:
    """As Wu et al. score CIFAR-10: k = 200, temperature 0.1, on the outputs. `knn_bank` where there is a bank.

    `untrained_vote`: the backbone's features before the first step, by the same vote. Of very small galleries k is a
    twentieth, or most voters would be of another class whatever the features.
    """
    voters = min(200, len(trained.images.gallery_labels) // 20)
    before = trained.features_of(trained.run.untrained_backbone())
    pairs = {"untrained_vote": before, "knn_recomputed": trained.outputs}
    bank = dict(trained.method.named_buffers()).get("memory.bank")
    if bank is not None:
        pairs["knn_bank"] = bank.cpu(), trained.outputs[1]
    return {name: trained.knn(*pair, k=voters, temperature=0.1) for name, pair in pairs.items()}


def stages(trained: Trained) -> dict[str, float]:
    """kNN on each level of the network, `conv1` and on, its map averaged to about as many numbers as the others'."""
    backbone = trained.run.backbone
    return {name: trained.knn(*trained.features_of(_Stage(backbone, name))) for name in backbone.stages}


class _Stage(nn.Module):
    """One level of a backbone as a feature [B, up to 2,500]."""

    def __init__(self, backbone: Backbone, name: str) -> None:
        super().__init__()
        self.backbone, self.name = backbone, name
        self.feature_dim = 0

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """Views [B, C, S, S] to rows."""
        stage = self.backbone.forward_stages(view)[self.name].float()
        side = min(math.isqrt(STAGE_DIMS // stage.shape[1]), *stage.shape[2:])
        return nn.functional.adaptive_avg_pool2d(stage, max(side, 1)).flatten(1)


def predictions(trained: Trained) -> dict[str, float]:
    """What the last head answers for the training images: is it one and the same, whatever the image?

    `prediction_entropy`: entropy of the answers in units of ln K, 1 where all clusters are answered equally often.
    `top_answer`: share of the commonest. `top_cluster`: share of images in the largest cluster, for comparison.
    """
    method = trained.method
    answers = method.outputs(trained.features[0]).argmax(dim=1)
    counts = torch.bincount(answers)
    labels = method.get_buffer("labels")
    sizes = torch.bincount(labels[labels >= 0])
    clusters = max(int((sizes > 0).sum()), 2)
    return {
        "prediction_entropy": metrics.entropy(counts) / math.log(clusters),
        "top_answer": float(counts.max()) / len(answers),
        "top_cluster": float(sizes.max() / sizes.sum()),
    }


def agreement(trained: Trained) -> dict[str, float]:
    """NMI of clusters with the labels, and with the clusters before (DeepCluster, figure 2a and 2b).

    `nmi_first` of a clustering of the untrained network, `nmi_last` of the trained; `stability_first` and
    `stability_last`: NMI of the second clustering with the first, and of the last with the one before it.
    """
    run, labels = trained.run, trained.images.gallery_labels
    clusterer = Clusterer(run.config)

    def against_labels(backbone: Backbone) -> float:
        features = trained.features_of(backbone)[0]
        found = clusterer.cluster(features, seed_from(run.config.seed, "claims", "clustering"))
        return metrics.nmi(found.labels, labels)

    steady = [record["nmi_previous"] for record in run.history if "nmi_previous" in record]
    return {
        "nmi_first": against_labels(run.untrained_backbone()),
        "nmi_last": against_labels(run.backbone),
        "stability_first": steady[0],
        "stability_last": steady[-1],
    }


def agreement_with_colour(trained: Trained) -> dict[str, float]:
    """`nmi_colour` and `nmi_shape`: what the clusters of the coloured shapes follow; nothing for other images."""
    colours, config = trained.images.gallery_colours, trained.run.config
    if colours is None:
        return {}
    found = Clusterer(config).cluster(trained.features[0].clone(), seed_from(config.seed, "claims", "clustering"))
    return {
        "nmi_colour": metrics.nmi(found.labels, colours),
        "nmi_shape": metrics.nmi(found.labels, trained.images.gallery_labels),
    }


def few_labels(trained: Trained) -> dict[str, float]:
    """`tuned_4`, `tuned_10`, `tuned_50`: accuracy after the whole network was fine-tuned on that many labels of each class.

    70 epochs and a rate of 0.01 that falls to a tenth twice are what Wu et al. section 4.3 state for their sizes; here each
    number of labels gets the same number of steps as 50 would, so that few labels are not also a short training.
    """
    run, size, seed = trained.run, trained.size, trained.run.config.seed
    gallery, queries = (
        make_loader(run.record.open(path), run.config, next(run.backbone.parameters()).device)
        for path in (trained.images.gallery, trained.images.queries)
    )
    labels = trained.images.gallery_labels
    classes = int(labels.max()) + 1
    scores: dict[str, float] = {}
    for count in FEW:
        rows = _of_each_class(labels, count, seed)
        epochs = size.tuning_epochs * max(FEW) // count
        how = fine_tuning.FineTuning(epochs, batch_size=min(64, len(rows)), lr=0.01, seed=seed)
        network = fine_tuning.classifier(run.backbone, classes, seed=seed)
        fine_tuning.fine_tune(network, gallery, rows, labels, how, title=f"fine-tuning on {count} a class")
        everything = torch.arange(len(queries.store))
        found = fine_tuning.outputs(network, queries, everything)
        scores[f"tuned_{count}"] = fine_tuning.accuracy(found, trained.images.query_labels)["top1"]
    return scores


def _of_each_class(labels: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """`count` positions of each class, a draw for each seed; the larger draws hold the smaller ones."""
    random = numpy_generator(seed, "few labels")
    values = labels.numpy()
    chosen = [random.permutation((values == label).nonzero()[0])[:count] for label in range(int(values.max()) + 1)]
    return torch.tensor([int(i) for members in chosen for i in members])


MEASURES: Mapping[str, Callable[[Trained], dict[str, float]]] = {
    measure.__name__: measure
    for measure in (knn, output, published, stages, predictions, agreement, agreement_with_colour, few_labels)
}
