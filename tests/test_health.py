from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from unlabeled.diagnostics import cluster_statistics, feature_statistics
from unlabeled.errors import DataError
from unlabeled.randomness import generator
from unlabeled.training.health import Verdict, diagnose

K = 100


def epoch(number: int, **changes: float) -> dict[str, float]:
    """What an ordinary epoch of a good run looks like: 100 clusters, the loss falling slowly from ln K."""
    return {
        "epoch": number + 1,
        "loss": math.log(K) - 0.05 * (number + 1),
        "chance_loss": math.log(K),
        "num_clusters": K,
        "empty_clusters": 0,
        "singletons": 2,
        "largest_share": 0.04,
        "size_entropy": 0.96,
        "nmi_previous": min(0.4 + 0.02 * number, 0.75),
        "moved_share": 0.5,
        "feature_std": 0.3,
        "mean_cosine": 0.91,
        "effective_rank": 40.0,
    } | changes


def judged(history: list[dict[str, float]]) -> tuple[str, str]:
    verdict = diagnose(history)
    return verdict.status, verdict.line()


def test_a_good_run_is_never_called_ill() -> None:
    history = [epoch(i) for i in range(30)]
    for end in range(1, 31):
        assert diagnose(history[:end]).status in ("healthy", "warming up")
    assert diagnose(history).line() == "healthy"


def test_a_slow_start_is_warming_up() -> None:
    # The mean loss of short epochs begins above ln K and creeps below it.
    history = [epoch(i, loss=math.log(K) * (1.01 - 0.002 * i)) for i in range(8)]
    for end in range(1, 9):
        assert diagnose(history[:end]).status == "warming up"


def test_one_lopsided_epoch_in_the_past_is_forgotten() -> None:
    history = [epoch(i, largest_share=0.8 if i == 2 else 0.05) for i in range(6)]
    assert diagnose(history).status == "healthy"


def test_one_dominant_cluster_is_called() -> None:
    history = [epoch(i, largest_share=0.04 if i < 2 else 0.97) for i in range(6)]
    status, line = judged(history)
    assert status == "collapsing"
    assert line.startswith("collapsing: 97 % of images in one cluster since epoch 3; try ")


def test_half_in_one_of_three_clusters_is_not_a_collapse() -> None:
    assert diagnose([epoch(i, num_clusters=3, largest_share=0.6, singletons=0) for i in range(4)]).status == "healthy"
    assert (
        diagnose([epoch(i, num_clusters=3, largest_share=0.99, singletons=0) for i in range(4)]).status == "collapsing"
    )


def test_constant_features_are_called() -> None:
    constant = torch.ones(200, 32) + 1e-5 * torch.randn(200, 32, generator=generator(0, "noise"))
    history = [epoch(i) for i in range(3)] + [epoch(3, **feature_statistics(constant))]
    status, line = judged(history)
    assert status == "collapsing"
    assert "nearly the same" in line
    assert "since epoch 4" in line


def test_similar_features_of_an_untrained_network_are_not_a_collapse() -> None:
    # Pooled features of an untrained network have mean cosines of .99; they only spread during training.
    history = [epoch(i, feature_std=0.03 + 0.01 * i, effective_rank=5.0) for i in range(5)]
    assert diagnose(history).status == "healthy"
    shrunk = [epoch(0, feature_std=0.4), epoch(1, feature_std=0.2), epoch(2, feature_std=0.03)]
    assert diagnose(shrunk).status == "collapsing"


def test_a_single_direction_is_called() -> None:
    line = torch.randn(300, 1, generator=generator(0, "x")) * torch.ones(1, 16)
    history = [epoch(0), epoch(1, **feature_statistics(line))]
    assert judged(history)[0] == "collapsing"
    assert "single direction" in judged(history)[1]


def test_a_loss_that_stays_at_chance_is_called() -> None:
    history = [epoch(i, loss=math.log(K) * (1 + 0.001 * (-1) ** i)) for i in range(8)]
    assert [diagnose(history[:end]).status for end in (1, 4, 5, 8)] == [
        "warming up",
        "warming up",
        "not learning",
        "not learning",
    ]
    assert "value of guessing (4.61) since epoch 1" in diagnose(history).line()


def test_a_loss_that_is_not_a_number_is_called_first() -> None:
    history = [epoch(0), epoch(1), epoch(2, loss=math.nan), epoch(3, loss=math.nan, largest_share=0.99)]
    status, line = judged(history)
    assert status == "unstable"
    assert "since epoch 3" in line
    assert diagnose(history).facts


def test_an_exploding_loss_is_called() -> None:
    history = [epoch(i, loss=3.0 if i < 3 else 40.0) for i in range(5)]
    assert judged(history) == (
        "unstable",
        "unstable: loss 40.00 is far above that of guessing (4.61) since epoch 4; try a lower `--head-lr` first, "
        "then a lower `--lr`, or more images where an epoch has only a few steps",
    )


def followed(losses: list[float], clusters: int, every: int) -> list[dict[str, float]]:
    """A journal with these losses and new clusters every so many epochs; it repeats their numbers, as DeepCluster's does."""
    history: list[dict[str, float]] = []
    for i, loss in enumerate(losses):
        made = i // every
        record = epoch(i, loss=loss, chance_loss=math.log(clusters), num_clusters=clusters, singletons=0)
        record |= {
            "largest_share": 0.1 + made / 1000,
            "size_entropy": 0.9 + made / 1000,
            "nmi_previous": 0.5 + made / 99,
        }
        history.append({key: record[key] for key in record if made or key not in ("nmi_previous", "moved_share")})
    return history


def test_a_loss_that_rises_far_above_guessing_is_called_at_once() -> None:
    # 32 images in 10 clusters, one step an epoch (a stranger's run).
    verdict = diagnose(followed([3.37, 7.75], 10, 10))
    assert verdict.status == "unstable"
    assert verdict.sentence == "loss 7.75 is far above that of guessing (2.30) and up from 3.37 the epoch before"
    assert "`--head-lr`" in verdict.advice and "more images" in verdict.advice
    # New clusters in every epoch are no excuse; without clusters there is no fresh head.
    assert diagnose(followed([2.2, 2.1, 4.0], 10, 1)).status == "unstable"
    assert diagnose([{"epoch": i + 1, "loss": 3.0 + i, "chance_loss": 2.3} for i in range(2)]).status == "unstable"


def test_a_fresh_head_or_a_falling_loss_is_no_alarm() -> None:
    assert diagnose(followed([2.2, 2.1, 4.0], 10, 2)).status == "healthy"
    # A loss that falls to where it should be, one below the limit, and what the demonstration recorded (over ln K).
    for losses in (
        [2.6, 2.5, 2.2],
        [3.2, 2.5, 2.2, 2.1],
        [2.303 * share for share in (0.92, 0.77, 0.71, 0.66, 0.73, 0.59, 0.55, 0.51)],
    ):
        history = followed(losses, 10, 4)
        assert "unstable" not in {diagnose(history[:end]).status for end in range(1, len(history) + 1)}


def test_numbers_of_the_untrained_network_are_called_that() -> None:
    once = followed([2.2, 2.1, 2.0, 1.9], 10, 4)
    facts = diagnose(once).facts
    assert facts[1:] == (
        "clusters were made once, before the first epoch: 10 of 10 are in use, the largest with 10 % of the images",
        "features of the untrained network varied along about 40 directions",
    )
    twice = diagnose(followed([2.2, 2.1, 2.0, 1.9, 1.8], 10, 4)).facts
    assert twice[1].startswith("in the last clustering of the training 10 of 10")
    assert twice[-1] == "features vary along about 40 directions"
    # Features of other methods are measured after the epoch.
    assert diagnose([{"epoch": 1, "effective_rank": 7.0}]).facts == ("features vary along about 7 directions",)
    # One direction of an untrained network is no collapse of a trained one.
    assert diagnose([record | {"effective_rank": 1.4} for record in once]).status == "healthy"


def test_many_empty_clusters_are_mentioned_without_alarm() -> None:
    verdict = diagnose([epoch(i, empty_clusters=30, singletons=20) for i in range(4)])
    assert verdict.line() == "uneven: 30 of 100 clusters are empty and 20 hold a single image; try fewer clusters"
    assert verdict.status == "uneven"


def test_records_without_clusters_or_features_are_judged_by_the_loss() -> None:
    assert diagnose([{"epoch": i + 1, "loss": 2 - 0.1 * i} for i in range(5)]).line() == "healthy"
    assert diagnose([]).status == "warming up"
    assert diagnose([{"epoch": 1}, {"epoch": 2}]).status == "healthy"


def test_the_facts_are_the_numbers_behind_the_verdict() -> None:
    facts = diagnose([epoch(i) for i in range(4)]).facts
    assert facts[0] == "the loss went from 4.56 in epoch 1 to 4.41 in epoch 4; guessing would give 4.61"
    assert (
        "in the last clustering of the training 100 of 100 clusters are in use, the largest with 4 % of the images"
        in facts
    )
    assert any("NMI" in fact for fact in facts)


def test_the_line_gives_verdict_and_advice() -> None:
    assert Verdict("collapsing", "a reason", "try this").line() == "collapsing: a reason; try this"


def test_cluster_statistics_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2, -1])
    statistics = cluster_statistics(labels, 5, torch.tensor([4, 4, 3, 3, 1, 1, 1]))
    assert statistics["empty_clusters"] == 2
    assert statistics["singletons"] == 1
    assert statistics["largest_share"] == 0.5
    shares = [3 / 6, 1 / 6, 2 / 6]
    assert statistics["size_entropy"] == pytest.approx(-sum(p * math.log(p) for p in shares) / math.log(5))
    assert statistics["chance_loss"] == pytest.approx(math.log(3))
    assert statistics["nmi_previous"] == pytest.approx(
        normalized_mutual_info_score([0, 0, 0, 1, 2, 2], [4, 4, 3, 3, 1, 1], average_method="geometric")
    )
    assert statistics["moved_share"] == pytest.approx(1 / 6)  # one of cluster 0 came from elsewhere
    assert "nmi_previous" not in cluster_statistics(labels, 5)
    assert "nmi_previous" not in cluster_statistics(labels, 5, torch.full((7,), -1))


def test_renaming_clusters_moves_nothing() -> None:
    labels = torch.randint(20, (500,), generator=generator(0, "labels"))
    renamed = torch.randperm(20, generator=generator(0, "names"))[labels]
    statistics = cluster_statistics(labels, 20, renamed)
    assert statistics["nmi_previous"] == pytest.approx(1)
    assert statistics["moved_share"] == 0


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"0..4 .*got 7"):
        cluster_statistics(torch.tensor([0, 7]), 5)
    with pytest.raises(DataError, match="got none"):
        cluster_statistics(torch.tensor([-1, -1]), 5)


def test_feature_statistics_are_those_of_all_pairs() -> None:
    x = torch.randn(60, 9, generator=generator(0, "x")) + 1
    statistics = feature_statistics(x)
    rows = (x / x.norm(dim=1, keepdim=True)).double()
    pairs = (rows @ rows.T)[~torch.eye(60, dtype=torch.bool)]
    assert statistics["mean_cosine"] == pytest.approx(float(pairs.mean()), abs=1e-6)
    assert statistics["feature_std"] == pytest.approx(float(rows.var(dim=0, unbiased=False).sum().sqrt()), abs=1e-6)
    values = torch.linalg.svdvals(rows - rows.mean(dim=0)) ** 2
    shares = values / values.sum()
    assert statistics["effective_rank"] == pytest.approx(math.exp(-float((shares * shares.log()).sum())), abs=1e-4)


def test_uniformity_is_its_formula_over_pairs() -> None:
    rows = torch.nn.functional.normalize(torch.randn(30, 5, generator=generator(0, "x")).double(), dim=1)
    potentials = [
        math.exp(-2 * float((a - b).square().sum())) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j
    ]
    wanted = math.log(sum(potentials) / len(potentials))
    assert feature_statistics(rows)["uniformity"] == pytest.approx(wanted, abs=1e-9)
    sphere = torch.randn(4000, 256, generator=generator(0, "y"))
    assert feature_statistics(sphere)["uniformity"] == pytest.approx(-4, abs=0.05)


def test_dims_that_never_vary_are_counted() -> None:
    rows = torch.randn(500, 40, generator=generator(0, "x"))
    assert feature_statistics(rows)["dead_dims"] == 0
    rows[:, ::4] = 0
    assert feature_statistics(rows)["dead_dims"] == 0.25


def test_feature_statistics_at_the_extremes() -> None:
    sphere = torch.randn(4000, 32, generator=generator(0, "x"))
    spread = feature_statistics(sphere)
    assert spread["feature_std"] == pytest.approx(1, abs=0.01)
    assert spread["effective_rank"] > 31
    assert feature_statistics(torch.ones(10, 4)) == pytest.approx(
        {"feature_std": 0, "mean_cosine": 1, "effective_rank": 0, "uniformity": 0, "dead_dims": 1}
    )
    assert feature_statistics(torch.zeros(10, 4))["effective_rank"] == 0
    assert math.isnan(feature_statistics(torch.full((10, 4), math.nan))["feature_std"])
    wide = torch.randn(5, 300, generator=generator(0, "y"))
    assert feature_statistics(wide)["effective_rank"] <= 4 + 1e-6
    with pytest.raises(DataError, match="at least 2 rows"):
        feature_statistics(torch.ones(1, 4))


def nat_epoch(number: int, **changes: float) -> dict[str, float]:
    """An ordinary epoch of Noise As Targets: a loss summed over the batch, and nothing that guessing would give."""
    return {
        "epoch": number + 1,
        "loss": 480.0 - 5 * number,
        "moved_share": 0.9 if number % 3 == 0 else 0.0,
        "mean_distance": 1.87 - 0.02 * number,
        "feature_std": min(0.4 + 0.1 * number, 0.9),
        "mean_cosine": 0.3,
    } | changes


def test_a_good_run_without_a_guessing_value_is_never_called_ill() -> None:
    history = [nat_epoch(i) for i in range(20)]
    assert [diagnose(history[:end]).status for end in range(1, 21)] == ["warming up", *19 * ["healthy"]]


def test_images_that_share_one_code_are_called() -> None:
    history = [nat_epoch(i, code_share=0.3 + 0.2 * i) for i in range(4)]
    status, line = judged(history)
    assert status == "collapsing"
    assert line == (
        "collapsing: 90 % of images share one code since epoch 2; match one to one with `--assignment permutation`"
    )


def test_a_bank_that_is_not_judged_yet_may_rise() -> None:
    # The first epochs of instance discrimination carry no chance value: random rows are far from all outputs alike.
    early = [{"epoch": i + 1, "loss": 11.0 + 6 * i, "feature_std": 0.9 - 0.6 * i} for i in range(2)]
    later = [{"epoch": i + 1, "loss": 6.0 - 0.1 * i, "chance_loss": 6.1, "feature_std": 0.3} for i in range(2, 12)]
    history = [*early, *later]
    seen = {diagnose(history[:end]).status for end in range(1, 13)}
    assert not seen & {"not learning", "collapsing", "unstable"}
