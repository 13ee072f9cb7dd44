"""A score against a setting, over runs that differ in it: clusters (A03), embedding (A22), images (A23), negatives (A24)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlabeled.config import Config
from unlabeled.errors import ConfigError, RunError, unknown_name
from unlabeled.runs.opened import OpenedRun, named_runs
from unlabeled.visualize import plots
from unlabeled.visualize.plots import Panel, Series, figure
from unlabeled.visualize.scores import value
from unlabeled.writing import csv_text

IMAGES, EPOCH = "images", "epoch"
"""What is no setting: how many images were trained on, and how many epochs are over, as of the snapshots of one run."""
WIDTH, HEIGHT = 620, 340
_LOG_FROM = 8
"""The axis is logarithmic where the largest value is so many times the smallest."""
_SHARES = {"nmi_previous", "nmi_labels", "nmi"}
"""Numbers from 0 to 1 that are no shares of anything."""


def sweep(
    run: OpenedRun,
    *,
    compare: Sequence[str | Path] | None = None,
    against: str = "num_clusters",
    score: str = "knn",
) -> dict[str, bytes | str]:
    """A score of this run and others against one setting: a point a run, a line through the means of equal values.

    `against`: a field of config.json; `images`, how many were trained on; or `epoch`, how many are over. `score`: a protocol
    whose first number every run has in scores.json, drawn with the untrained network's; or a number of the journal, its
    last value.

    Raises:
        ConfigError: no such setting, or all runs have the same value of it.
        RunError: a run has no such score.
    """
    if against not in (IMAGES, EPOCH, *Config.model_fields):
        raise ConfigError(unknown_name("setting", against, [IMAGES, EPOCH, *Config.model_fields]))
    runs = named_runs(run, compare)
    settings = {name: setting(one, against) for name, one in runs.items()}
    if len(set(settings.values())) < 2:
        where = f"all {len(runs)} runs" if len(runs) > 1 else "the one run given"
        raise ConfigError(
            f"nothing to draw against {against}: it is {settings[next(iter(settings))]} in {where}; "
            f"give runs that differ in it to --compare{differing(list(runs.values()))}."
        )
    trained, untrained, source = found_scores(runs, score)
    by_method: dict[str, list[str]] = {}
    for name, one in runs.items():
        by_method.setdefault(one.config.method, []).append(name)
    groups = {"trained" if len(by_method) == 1 else method: names for method, names in by_method.items()}
    lines = {label: [(settings[name], trained[name]) for name in names] for label, names in groups.items()}
    if untrained:
        lines["untrained"] = [(settings[name], one) for name, one in untrained.items()]
    is_share = score not in _SHARES and all(0 <= y <= 1 for points in lines.values() for _, y in points)
    is_named = any(isinstance(one, str) for one in settings.values())
    points = "Each point is the mean of the runs" if is_named else "Each point is a run; lines join the means of those"
    note = f"{points} with the same {words(against)}, of {len(runs)} runs. The score is {source}."
    panel = Panel(f"{score} by {words(against)}", _chart(lines, words(against), is_share))
    rows = [
        (name, one.config.method, settings[name], f"{trained[name]:.6g}", f"{untrained[name]:.6g}" if untrained else "")
        for name, one in runs.items()
    ]
    stem = f"sweep-{against}"
    return {
        f"{stem}.svg": figure(f"{len(runs)} runs by {words(against)}", note, [panel]),
        f"{stem}.csv": csv_text(("run", "method", against, score, "untrained"), rows),
    }


def words(against: str) -> str:
    """A setting as it is said."""
    return "number of training images" if against == IMAGES else against.replace("_", " ")


def setting(run: OpenedRun, against: str) -> Any:
    """The value of a setting: a number as it is, anything else as text."""
    if against == EPOCH:
        return max((record["epoch"] for record in run.history), default=0)
    found = run.record.count if against == IMAGES else getattr(run.config, against)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return found if is_number else str(found)


def differing(runs: Sequence[OpenedRun]) -> str:
    """A clause that names the settings in which these runs differ; empty where they do not."""
    names = [name for name in (*Config.model_fields, IMAGES, EPOCH) if len({setting(one, name) for one in runs}) > 1]
    return f" (these differ in {', '.join(names)})" if names else ""


def found_scores(runs: Mapping[str, OpenedRun], score: str) -> tuple[dict[str, float], dict[str, float], str]:
    """The score of every run, that of its untrained network where all have one, and where they stand, in words.

    Raises:
        RunError: a run has none.
    """
    stored = {name: first_score(one.scores.get(score, {})) for name, one in runs.items()}
    if all(one is not None for one in stored.values()):
        trained = {name: one[0] for name, one in stored.items() if one}
        before = {name: one[1] for name, one in stored.items() if one and one[1] is not None}
        return trained, before if len(before) == len(runs) else {}, f"what `evaluate {score}` found"
    last = {name: last_number(one.history, score) for name, one in runs.items()}
    lacking = [name for name, one in last.items() if one is None]
    if lacking:
        raise RunError(
            f"{lacking[0]} has no {score}, neither in scores.json nor in its journal; run `unlabeled evaluate {score}` on every "
            "run, or name another number with --score."
        )
    return {name: one for name, one in last.items() if one is not None}, {}, "the last that the training recorded"


def first_score(scores: Mapping[str, Any]) -> tuple[float, float | None] | None:
    """The first number of a protocol, and that of the untrained network where it has one."""
    own = next((found for key in scores if (found := value(scores, key)) is not None), None)
    return None if own is None else (own, value(scores, "untrained"))


def last_number(history: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The last value of a number of the journal."""
    known = [found for record in history if (found := value(record, key)) is not None]
    return known[-1] if known else None


def _chart(lines: Mapping[str, Sequence[tuple[Any, float]]], x_label: str, is_share: bool) -> str:
    values = [x for points in lines.values() for x, _ in points]
    if any(isinstance(x, str) for x in values):
        names = [str(x) for x in dict.fromkeys(values)]
        series = [
            Series(label, [_mean([y for x, y in points if str(x) == name]) for name in names])
            for label, points in lines.items()
        ]
        return plots.by_category(names, series, x_label=x_label, percent=is_share, width=WIDTH, height=HEIGHT)
    log = min(values) > 0 and max(values) >= _LOG_FROM * min(values)
    return plots.against(list(lines.items()), x_label=x_label, log=log, percent=is_share, width=WIDTH, height=HEIGHT)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
