"""Clustering against the libraries a user would otherwise take, interleaved in one process, one thread each.

Rows: {"name", "ours", "reference", "ratio", "unit", "detail"}; times are the best of the repeats, in seconds, so that
other load on the machine counts least. `python -m benchmarks.clustering [--quick]` prints them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from unlabeled.cluster.assignment import assign_batch
from unlabeled.cluster.graph import knn_graph
from unlabeled.cluster.kmeans import assign, kmeans
from unlabeled.cluster.pic import pic
from unlabeled.cluster.whitening import fit

Row = dict[str, Any]


def run(quick: bool) -> list[Row]:
    """Every comparison; `quick` takes sizes of seconds instead of minutes."""
    with _one_thread():
        rows: list[Row] = []
        sizes = [(10_000, 500, 10)] if quick else [(50_000, 1_000, 20), (200_000, 1_000, 10), (50_000, 10_000, 10)]
        if not quick:
            sizes.append((200_000, 10_000, 5))
        for total, clusters, iterations in sizes:
            rows += kmeans_rows(total, clusters, iterations, with_sklearn=total <= 50_000 and clusters <= 1_000)
        rows.append(whitening_row(*((5_000, 1_536, 64) if quick else (50_000, 4_096, 256))))
        rows.append(graph_row(*((8_000, 10) if quick else (50_000, 10))))
        rows.append(pic_row(10_000 if quick else 200_000))
        rows += assignment_rows(256)
    return rows


def kmeans_rows(total: int, clusters: int, iterations: int, *, with_sklearn: bool) -> list[Row]:
    """Lloyd iterations and final labels from the same initial centroids, whitened-like unit rows of 256 dimensions."""
    import faiss

    x = unit_rows(total, 256)
    init = x[torch.randperm(total, generator=torch.Generator().manual_seed(1))[:clusters]].clone()
    table = x.numpy()
    found: dict[str, float] = {}

    def ours() -> None:
        result = kmeans(x, clusters, seed=0, init=init, iterations=iterations)
        found["ours"] = float(result.distances.sum()) / total

    def library(points_per_centroid: int | None) -> None:
        clustering = faiss.Clustering(256, clusters)
        clustering.niter = iterations
        if points_per_centroid:
            clustering.max_points_per_centroid = points_per_centroid
        faiss.copy_array_to_vector(init.numpy().ravel(), clustering.centroids)
        index = faiss.IndexFlatL2(256)
        clustering.train(table, index)
        found["faiss"] = float(index.search(table, 1)[0].sum()) / total

    def sklearn() -> None:
        from sklearn.cluster import KMeans

        fitted = KMeans(clusters, init=init.numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(table)
        found["scikit-learn"] = fitted.inertia_ / total

    rivals: dict[str, Callable[[], None]] = {"faiss, all points": lambda: library(10**9)}
    if total > 256 * clusters:
        rivals["faiss, its default of 256 points per centroid"] = lambda: library(None)
    if with_sklearn:
        rivals["scikit-learn"] = sklearn
    rows: list[Row] = []
    for name, rival in rivals.items():
        mine, other = interleaved(ours, rival, repeats=2 if total * clusters <= 5e7 else 1)
        objective = found["scikit-learn" if name == "scikit-learn" else "faiss"]
        rows.append(
            row(
                f"k-means {total} x 256, k = {clusters}, {iterations} iterations and labels, against {name}",
                mine,
                other,
                f"objective per row {found['ours']:.5f} against {objective:.5f}",
            )
        )
    return rows


def whitening_row(total: int, width: int, dims: int) -> Row:
    """Fit and apply on features with a decaying spectrum and an offset, as ReLU-less features have."""
    import faiss

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(total, width, generator=generator)
    x *= torch.arange(1, width + 1).float().pow(-0.35)
    block = torch.linalg.qr(torch.randn(512, 512, generator=generator)).Q
    for start in range(0, width, 512):
        x[:, start : start + 512] = x[:, start : start + 512] @ block
    x += 0.5
    table = x.numpy()
    out: dict[str, Any] = {}

    def ours() -> None:
        whitening = fit(x, dims)
        out["ours"], out["values"] = whitening.apply(x, normalize_rows=False), whitening.eigenvalues

    def library() -> None:
        matrix = faiss.PCAMatrix(width, dims, -0.5, False)
        matrix.train(table)
        matrix.apply(table)
        out["faiss"] = faiss.vector_to_array(matrix.eigenvalues)[:dims]

    mine, other = interleaved(ours, library, repeats=1)
    covariance = torch.cov(out["ours"].T, correction=0)
    error = float((covariance - torch.eye(dims)).abs().max())
    expected = out["faiss"] / (out["faiss"].sum() / float(out["values"].sum()))
    ratio = float(np.abs(out["values"].numpy() / expected - 1).max())
    return row(
        f"PCA-whitening {total} x {width} to {dims}, fit and apply, against faiss PCAMatrix",
        mine,
        other,
        f"whitened covariance off by {error:.1e}, eigenvalues by {ratio:.1e}",
    )


def graph_row(total: int, k: int) -> Row:
    """The exact graph of unit rows of 256 dimensions."""
    import faiss

    x = unit_rows(total, 256)
    table = x.numpy()
    out: dict[str, np.ndarray] = {}

    def ours() -> None:
        out["ours"] = knn_graph(x, k)[0].numpy()

    def library() -> None:
        index = faiss.IndexFlatL2(256)
        index.add(table)
        out["faiss"] = index.search(table, k + 1)[1]

    mine, other = interleaved(ours, library, repeats=1)
    sample = range(0, total, max(1, total // 2000))
    shared = [len(set(out["ours"][i]) & set(out["faiss"][i])) / k for i in sample]
    return row(
        f"exact {k}-NN graph {total} x 256, against faiss flat", mine, other, f"recall of faiss's {np.mean(shared):.5f}"
    )


def pic_row(total: int) -> Row:
    """PIC of a given 5-NN graph against the same steps, all 200 products and pointers followed one row at a time."""
    generator = torch.Generator().manual_seed(0)
    neighbors = (torch.arange(total)[:, None] + torch.randint(1, 60, (total, 5), generator=generator)) % total
    distances = torch.rand(total, 5, generator=generator, dtype=torch.float64) * 0.1
    out: dict[str, Any] = {}

    def ours() -> None:
        out["ours"] = pic(neighbors, distances, singletons="keep").labels.numpy()

    def plain() -> None:
        out["plain"] = plain_pic(neighbors.numpy(), distances.numpy())

    mine, other = interleaved(ours, plain, repeats=3)
    found = len(set(out["plain"]))
    pairs = len(set(zip(out["ours"].tolist(), out["plain"], strict=True)))
    return row(
        f"PIC of a given 5-NN graph of {total} rows, against a plain equivalent of 200 iterations",
        mine,
        other,
        f"{found} clusters, same partition: {pairs == found == out['ours'].max() + 1}",
    )


def plain_pic(neighbors: np.ndarray, distances: np.ndarray, sigma: float = 0.2, alpha: float = 0.001) -> list[int]:
    """The thesis' algorithm written down step by step: sparse products, then every row walks uphill by itself."""
    from scipy.sparse import csr_matrix

    total, k = neighbors.shape
    weights = np.exp(-distances / sigma**2)
    directed = csr_matrix((weights.ravel(), neighbors.ravel(), np.arange(0, total * k + 1, k)), shape=(total, total))
    graph = (directed + directed.T).tocsr()
    v = np.full(total, 1 / total)
    for _ in range(200):
        v = alpha * graph.T.dot(v) + (1 - alpha) / total
        v /= v.sum()
    parents: list[int] = []
    for i in range(total):
        part = slice(graph.indptr[i], graph.indptr[i + 1])
        gains = graph.data[part] * (v[graph.indices[part]] - v[i])
        best = int(gains.argmax()) if len(gains) else -1
        parents.append(int(graph.indices[part][best]) if best >= 0 and gains[best] > 0 else i)
    roots: list[int] = []
    for i in range(total):
        while parents[i] != i:
            i = parents[i]
        roots.append(i)
    return roots


def assignment_rows(size: int) -> list[Row]:
    """One batch of Noise As Targets, collapsed features and features that follow their codes, against SciPy."""
    from scipy.optimize import linear_sum_assignment

    rows: list[Row] = []
    generator = torch.Generator().manual_seed(0)
    codes = torch.nn.functional.normalize(torch.randn(size, 128, generator=generator))
    noise = torch.randn(size, 128, generator=generator)
    for name, outputs in (("early", codes[:1] + 0.02 * noise), ("late", codes + 0.03 * noise)):
        scores = torch.nn.functional.normalize(outputs) @ codes.t()
        table = scores.numpy()
        mine, other = interleaved(
            lambda scores=scores: assign_batch(scores),
            lambda table=table: linear_sum_assignment(table, maximize=True),
            repeats=10,
        )
        value = table[np.arange(size), assign_batch(scores).numpy()].sum()
        best = table[linear_sum_assignment(table, maximize=True)].sum()
        rows.append(
            row(
                f"assignment of a batch of {size}, {name}, against SciPy",
                mine,
                other,
                f"value off by {best - value:.1e}",
            )
        )
    return rows


def unit_rows(total: int, width: int) -> torch.Tensor:
    """Rows in loose, unequal groups, as whitened features are: neither pure noise nor well separated."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2000, width, generator=generator)
    group = (torch.rand(total, generator=generator).square() * 2000).long()
    return torch.nn.functional.normalize(0.6 * centres[group] + torch.randn(total, width, generator=generator))


def interleaved(ours: Callable[[], object], reference: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Best seconds of each, measured in turns A B A B."""
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        for which, work in enumerate((ours, reference)):
            start = time.perf_counter()
            work()
            best[which] = min(best[which], time.perf_counter() - start)
    return best[0], best[1]


def row(name: str, ours: float, reference: float, detail: str) -> Row:
    """One line of the result."""
    return {
        "name": name,
        "ours": round(ours, 5),
        "reference": round(reference, 5),
        "ratio": round(reference / ours, 2),
        "unit": "s",
        "detail": detail,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    import faiss
    from threadpoolctl import threadpool_limits

    threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1):
            assign(torch.zeros(4, 4), torch.zeros(2, 4))  # libraries load outside the clock
            yield
    finally:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(faiss_threads)


if __name__ == "__main__":
    for line in run("--quick" in sys.argv):
        print(json.dumps(line))
