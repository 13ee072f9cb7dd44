from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabeled.cluster import neighbors
from unlabeled.cluster.neighbors import nearest_neighbors, nearest_others
from unlabeled.errors import DataError
from unlabeled.evaluation.knn import KnnProtocol, knn_accuracy, split, weighted_knn
from unlabeled.randomness import generator


def rows(n: int, d: int, key: str, clusters: int = 0, spread: float = 0.1) -> torch.Tensor:
    random = generator(0, key)
    x = torch.randn(n, d, generator=random)
    if clusters:
        centres = torch.randn(clusters, d, generator=generator(0, "centres"))
        x = centres[torch.randint(clusters, (n,), generator=random)] + spread * x
    return x


def cosines(train: torch.Tensor, test: torch.Tensor) -> np.ndarray:
    a, b = train.double().numpy(), test.double().numpy()
    return (b / np.linalg.norm(b, axis=1, keepdims=True)) @ (a / np.linalg.norm(a, axis=1, keepdims=True)).T


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("clusters", "spread"), [(0, 1.0), (7, 0.1), (3, 0.001)])
def test_neighbors_are_those_of_a_float64_search(precision: str, clusters: int, spread: float) -> None:
    # The tightest clusters hold far more rows inside one bfloat16 step than there are candidates.
    train, test = rows(3000, 24, "train", clusters, spread), rows(300, 24, "test", clusters, spread)
    found = nearest_neighbors(train, test, 50, precision=precision)
    exact = cosines(train, test)
    chosen = np.take_along_axis(exact, found.index.numpy(), axis=1)
    best = -np.sort(-exact, axis=1)[:, :50]
    np.testing.assert_allclose(chosen, best, atol=3e-7)  # the same up to swaps of what float32 cannot tell apart
    np.testing.assert_allclose(found.similarity.numpy(), best, atol=5e-7)
    assert all(len(set(row.tolist())) == 50 for row in found.index)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_votes_are_the_formula_of_the_paper(precision: str) -> None:
    train, test = rows(900, 16, "train", 12, 1.0), rows(40, 16, "test", 12, 1.0)
    labels = torch.randint(12, (900,), generator=generator(0, "labels"))
    result = weighted_knn(train, labels, test, k=30, temperature=0.1, num_classes=12, precision=precision)
    exact = cosines(train, test)
    wanted = np.zeros((40, 12))
    for i, scores in enumerate(exact):
        for j in np.argsort(-scores, kind="stable")[:30]:
            wanted[i, labels[j]] += np.exp(scores[j] / 0.1)
    np.testing.assert_allclose(result.votes.numpy(), wanted, rtol=1e-5)
    assert result.prediction.tolist() == wanted.argmax(axis=1).tolist()
    assert result.nearest.tolist() == exact.argmax(axis=1).tolist()


@pytest.mark.parametrize("temperature", [0.02, 0.012, 0.005, 0.001])
def test_the_sharpest_votes_are_right_where_their_weights_are_no_float32(temperature: float) -> None:
    train, test = rows(900, 16, "train", 12, 1.0), rows(200, 16, "test", 12, 1.0)
    labels = torch.randint(12, (900,), generator=generator(0, "labels"))
    exact = cosines(train, test)
    wanted = np.zeros((200, 12))
    for i, scores in enumerate(exact):
        for j in np.argsort(-scores, kind="stable")[:30]:
            wanted[i, labels[j]] += np.exp((scores[j] - scores.max()) / temperature)
    result = weighted_knn(train, labels, test, k=30, temperature=temperature, num_classes=12)
    assert result.votes.isfinite().all()
    assert result.prediction.tolist() == wanted.argmax(axis=1).tolist()


def test_length_of_rows_does_not_matter() -> None:
    train, test = rows(400, 8, "train"), rows(20, 8, "test")
    labels = torch.arange(400) % 5
    scale = torch.rand(400, 1, generator=generator(0, "scale")) * 100 + 0.01
    plain = weighted_knn(train, labels, test, k=20, num_classes=5)
    scaled = weighted_knn(train * scale, labels, test * 7, k=20, num_classes=5)
    torch.testing.assert_close(plain.votes, scaled.votes, rtol=1e-4, atol=0)


def test_more_neighbors_than_rows_means_all_rows() -> None:
    train, test = rows(10, 4, "train"), rows(3, 4, "test")
    found = nearest_neighbors(train, test, 200)
    assert found.index.sort(dim=1).values.tolist() == [list(range(10))] * 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_of_equal_rows_the_first_are_taken(precision: str) -> None:
    train = torch.ones(2000, 8)
    train[:3, 0] = -1
    found = nearest_neighbors(train, torch.ones(5, 8), 10, precision=precision)
    assert found.index.tolist() == [list(range(3, 13))] * 5


@pytest.mark.parametrize("copies", [0, 3, 30])
def test_others_are_all_but_the_row_itself(copies: int) -> None:
    train = rows(60, 4, "train")
    train[:copies] = train[0]  # of 30 equal rows most are not among their own five nearest
    own = torch.cat([torch.arange(0, 60, 7), torch.tensor([-1, -1])])
    test = torch.cat([train[own[:-2]], rows(2, 4, "test")])
    found = nearest_others(train, test, own, 5)
    for place, itself in enumerate(own.tolist()):
        others = torch.tensor([i for i in range(60) if i != itself])
        wanted = nearest_neighbors(train[others], test[place : place + 1], 5)
        assert found.index[place].tolist() == others[wanted.index[0]].tolist()
        torch.testing.assert_close(found.similarity[place], wanted.similarity[0])
    assert nearest_others(train, test, own, 100).index.shape == (11, 59)
    assert nearest_others(train[:1], train[:1], torch.tensor([0]), 5).index.shape == (1, 0)


def test_of_equal_votes_the_smaller_class_wins() -> None:
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    votes = weighted_knn(train, torch.tensor([2, 1]), torch.tensor([[1.0, 0.0]]), k=2, num_classes=4)
    assert votes.prediction.tolist() == [1]


def test_small_temperature_is_the_nearest_neighbor() -> None:
    train, test = rows(500, 8, "train", 5, 1.0), rows(100, 8, "test", 5, 1.0)
    labels = torch.randint(5, (500,), generator=generator(0, "labels"))
    result = weighted_knn(train, labels, test, k=200, temperature=0.012, num_classes=5)
    assert (result.prediction == labels[result.nearest]).float().mean() > 0.9
    assert (
        result.prediction != weighted_knn(train, labels, test, k=200, temperature=10, num_classes=5).prediction
    ).any()


def test_protocol_scores_by_hand() -> None:
    train = torch.eye(6).repeat_interleave(2, dim=0)
    labels = torch.arange(6).repeat_interleave(2)
    labels[0] = -1  # takes no part
    test, asked = torch.eye(6), torch.tensor([0, 1, 2, 3, 4, 0])
    scores = dict(KnnProtocol(train, labels, test, asked, k=1, temperature=0.1).run())
    assert scores["knn_top1"] == scores["nearest_top1"] == pytest.approx(5 / 6)
    assert knn_accuracy(train, labels, test, asked, k=1) == pytest.approx(5 / 6)
    assert 0 <= scores["knn_top5"] <= 1
    assert scores["knn_chance"] == pytest.approx(1 / 6)  # the commonest class is the first of equals


def test_held_out_rows_do_not_vote() -> None:
    # Every feature is unique and labels are random: only a row that finds itself could be right more often than chance.
    features = rows(400, 64, "features")
    labels = torch.randint(2, (400,), generator=generator(0, "labels"))
    train, test = map(torch.from_numpy, split(labels, 0.2))
    protocol = KnnProtocol(features[train], labels[train], features[test], labels[test], k=1)
    assert 0.3 < dict(protocol.run())["knn_top1"] < 0.7
    assert len(test) == 80


def test_split_is_stratified_disjoint_and_repeatable() -> None:
    labels = np.repeat([0, 1, 2, 3, -1], [100, 50, 3, 1, 20])
    train, test = split(labels, 0.2, seed=4)
    assert sorted([*train, *test]) == list(range(154))
    assert np.bincount(labels[test], minlength=4).tolist() == [20, 10, 1, 0]
    again = split(labels, 0.2, seed=4)
    assert np.array_equal(train, again[0])
    assert not np.array_equal(test, split(labels, 0.2, seed=5)[1])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"test": torch.ones(3, 5)}, "equally long rows"),
        ({"k": 0}, "at least 1, got 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"train_labels": torch.tensor([0, 1, 2, 9])}, "0..2, got 0..9"),
        ({"train_labels": torch.tensor([0, 1])}, "one label"),
        ({"test": torch.full((3, 4), torch.nan)}, "not finite"),
        ({"test": torch.ones(0, 4)}, "at least one row"),
    ],
)
def test_mistakes_are_one_sentence(wrong: dict, words: str) -> None:
    given = {
        "train": torch.ones(4, 4),
        "train_labels": torch.tensor([0, 1, 2, 0]),
        "test": torch.ones(3, 4),
        "num_classes": 3,
    }
    with pytest.raises(DataError, match=words):
        weighted_knn(**(given | wrong))


def test_a_split_needs_two_of_a_kind() -> None:
    with pytest.raises(DataError, match="at least 2 labelled"):
        split(np.arange(5))
    with pytest.raises(DataError, match="between 0 and 1"):
        split(np.zeros(5, dtype=np.int64), 1.5)
    with pytest.raises(DataError, match="labelled rows on both sides"):
        list(KnnProtocol(torch.ones(2, 2), torch.tensor([-1, -1]), torch.ones(1, 2), torch.tensor([0])).run())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_second_search_is_seldom_needed(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    again: list[int] = []
    whole = neighbors._search_float32

    def counting(base: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        again.append(len(queries))
        return whole(base, queries, k)

    monkeypatch.setattr(neighbors, "_search_float32", counting)
    train, test = rows(4000, 64, "train", 5, 1.0), rows(200, 64, "test", 5, 1.0)
    assert nearest_neighbors(train, test, 20, precision=precision).index.shape == (200, 20)
    assert sum(again) <= 10


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = rows(4000, 16, "train", 5, 1.0), rows(37, 16, "test", 5, 1.0)
    whole = nearest_neighbors(train, test, 20)
    monkeypatch.setattr(neighbors, "SCORES", 4000 * 10)
    parts = nearest_neighbors(train, test, 20)
    assert torch.equal(whole.index, parts.index)
    torch.testing.assert_close(whole.similarity, parts.similarity)


@pytest.mark.parametrize("queries", [1, 7, neighbors.FEW])
def test_few_queries_are_searched_as_many_are(queries: int, monkeypatch: pytest.MonkeyPatch):
    random = torch.Generator().manual_seed(3)
    train = torch.randn(9000, 24, generator=random) * (0.1 + torch.rand(9000, 1, generator=random))
    test = torch.randn(queries, 24, generator=random)
    few = neighbors.nearest_neighbors(train, test, 10)
    monkeypatch.setattr(neighbors, "FEW", 0)
    many = neighbors.nearest_neighbors(train, test, 10)
    assert torch.equal(few.index, many.index)
    torch.testing.assert_close(few.similarity, many.similarity)
