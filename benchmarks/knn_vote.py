"""Weighted kNN vote: ours against a plain loop, as the paper describes it, over batches of 100 with one-hot votes.

50,000 x 128 training rows, k = 200, as for CIFAR-10 in Wu et al. (CVPR 2018); one thread, process CPU time, the two
interleaved, medians. The rows are noisy clusters, one for each class, so that many scores lie close together;
`detail` says on how many test rows the two predictions agree.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from unlabeled.evaluation.knn import weighted_knn
from unlabeled.randomness import generator

TRAIN, DIMS, NEIGHBORS, TEMPERATURE = 50_000, 128, 200, 0.07


def run(quick: bool) -> list[dict]:
    """One row for 10 and one for 1,000 classes; `quick` asks for fewer test rows."""
    return [measure(classes, 1_000 if quick else 10_000, 1 if quick else 3) for classes in (10, 1_000)]


def measure(classes: int, queries: int, repeats: int) -> dict:
    """Time both on the same rows."""
    train, labels = clustered(TRAIN, classes, "train")
    test, _ = clustered(queries, classes, "test")
    given = {"k": NEIGHBORS, "temperature": TEMPERATURE, "num_classes": classes}
    weighted_knn(train, labels, test[:300], **given)  # memory and threads are set up outside the measurement
    plain_loop(train, labels, test[:300], classes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, reference = [], []
    for _ in range(repeats):
        seconds, votes = timed(lambda: weighted_knn(train, labels, test, **given))
        ours.append(seconds)
        seconds, predicted = timed(lambda: plain_loop(train, labels, test, classes))
        reference.append(seconds)
    torch.set_num_threads(threads)
    agreement = int((votes.prediction == predicted).sum())
    mine, theirs = statistics.median(ours), statistics.median(reference)
    return {
        "name": f"weighted kNN, {queries:,} queries on {TRAIN:,} x {DIMS}, {classes:,} classes",
        "ours": mine,
        "reference": theirs,
        "ratio": theirs / mine,
        "unit": "s",
        "detail": f"loop: batches of 100, one-hot votes; predictions agree on {agreement:,} of {queries:,}",
    }


def clustered(rows: int, classes: int, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows [rows, DIMS] around one random centre for each class, and their classes."""
    random = generator(0, key)
    centres = torch.randn(classes, DIMS, generator=generator(0, "centres"))
    labels = torch.randint(classes, (rows,), generator=random)
    return F.normalize(centres[labels] + torch.randn(rows, DIMS, generator=random), dim=1), labels


def plain_loop(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, classes: int) -> torch.Tensor:
    """Section 3.4 of the paper written down directly; predictions [M]."""
    predictions = []
    for batch in test.split(100):
        similarity, neighbors = (batch @ train.T).topk(NEIGHBORS, dim=1)
        one_hot = F.one_hot(labels[neighbors], classes).float()
        votes = ((similarity / TEMPERATURE).exp()[:, :, None] * one_hot).sum(dim=1)
        predictions.append(votes.sort(dim=1, descending=True).indices[:, 0])
    return torch.cat(predictions)


def timed(function: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """CPU seconds of this process, and the result."""
    begun = time.process_time()
    result = function()
    return time.process_time() - begun, result
