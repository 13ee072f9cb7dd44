"""Pictures of differences between stored scores: what fine-tuning gains, and how far behind another run each stage is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabeled.errors import ConfigError, RunError, typed
from unlabeled.pictures.numbers import series, value
from unlabeled.runfolder import csv_text
from unlabeled.visualize import plots
from unlabeled.visualize.plots import Panel, Series, figure

if TYPE_CHECKING:
    from unlabeled.run import Run

FINE_TUNED = {
    "voc-classification": "VOC classification, mean average precision",
    "voc-detection": "VOC detection, mean average precision",
    "voc-segmentation": "VOC segmentation, mean intersection over union",
}
STAGES = {
    "linear": "Linear classifier on each stage",
    "svm": "Support vector machine on each stage",
    "knn": "kNN on each stage",
}


def gain(run: Run, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
    """What training the whole network adds to training its last layers alone (A26), trained and untrained.

    From the scores of the VOC protocols evaluated once with `--train fc` and once with `--train all`; `compare`: other runs.
    Better features gain less: they are there already (thesis 5.1).
    """
    networks = {"trained": (run, "score"), "untrained": (run, "untrained")}
    for path in compare or ():
        other = run.another(path)
        networks[other.path.resolve().name] = (other, "score")
    panels: list[Panel] = []
    table: list[tuple[Any, ...]] = []
    for protocol, heading in FINE_TUNED.items():
        drawn: list[Series] = []
        words: list[str] = []
        facts = _facts(run, protocol)
        for name, (one, key) in networks.items():
            rows = one.scores.get(protocol, {}).get("layers", {})
            frozen, tuned = (value(rows.get(layers, {}), key) for layers in ("fc", "all"))
            # Of other pictures, or another number of them, a difference means nothing.
            if frozen is None or tuned is None or _facts(one, protocol) != facts:
                continue
            drawn.append(Series(name, [frozen, tuned]))
            words.append(f"{name} {100 * (tuned - frozen):+.1f}")
            table.append((protocol, name, f"{frozen:.6g}", f"{tuned:.6g}", f"{tuned - frozen:.6g}"))
        if drawn:
            chart = plots.by_category(("last layers", "whole network"), drawn, x_label="what is trained")
            panels.append(Panel(heading, chart, f"Gain in points: {', '.join(words)}."))
    if not panels:
        raise RunError(
            f"{run.path} has no VOC scores of both kinds; make them with `unlabeled evaluate voc-classification "
            f"{typed(run.path)} VOC --train fc`, then the same with `--train all`."
        )
    note = (
        "The score with the convolutions frozen and new last layers trained, and with the whole network trained. The better "
        "the features are, the less is gained."
    )
    return {
        "gain.svg": figure(f"What fine-tuning gains, {run.path.resolve().name}", note, panels),
        "gain.csv": csv_text(("protocol", "network", "last_layers", "whole_network", "gain"), table),
    }


def gap(run: Run, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
    """How many points each stage of this run is behind that of other runs, for example a supervised one (A25).

    From the scores by stage of `linear`, `svm` and `knn`, which both runs must have.
    """
    if not compare:
        raise ConfigError(
            "the picture gap compares stages with those of another run: give it with --compare OTHER_RUN."
        )
    others = [run.another(path) for path in compare]
    panels: list[Panel] = []
    table: list[tuple[Any, ...]] = []
    for protocol, heading in STAGES.items():
        own = _by_stage(run, protocol)
        drawn: list[Series] = []
        for other in others:
            theirs, name = _by_stage(other, protocol), other.path.resolve().name
            gaps = [theirs[stage] - own[stage] if stage in theirs else None for stage in own]
            if any(found is not None for found in gaps):
                drawn.append(Series(f"behind {name}", gaps))
            table += [
                (
                    protocol,
                    stage,
                    name,
                    f"{own[stage]:.6g}",
                    f"{theirs[stage]:.6g}",
                    f"{theirs[stage] - own[stage]:.6g}",
                )
                for stage in own
                if stage in theirs
            ]
        if drawn:
            panels.append(Panel(heading, plots.by_category(list(own), drawn, x_label="stage", bounded=False)))
    if not panels:
        raise RunError(
            f"{run.path} and the runs it is compared with share no scores by stage; make some with `unlabeled evaluate linear "
            f"{typed(run.path)} DATA --labels folder`, and the same for the others."
        )
    note = (
        "Accuracy of the other run minus that of this one, stage by stage, in points: above 0 the other run is better. In the "
        "papers the gap to a supervised network is small in the middle stages and large in the last one."
    )
    return {
        "gap.svg": figure(f"Gap of {run.path.resolve().name}, stage by stage", note, panels),
        "gap.csv": csv_text(("protocol", "stage", "other", "this_run", "other_run", "gap"), table),
    }


def _facts(run: Run, protocol: str) -> set[tuple[Any, ...]]:
    rows = run.scores.get(protocol, {}).get("layers", {})
    return {(row.get("split"), row.get("train_images"), row.get("test_images")) for row in rows.values()}


def _by_stage(run: Run, protocol: str) -> dict[str, float]:
    rows = run.scores.get(protocol, {}).get("stages", {})
    if not isinstance(rows, Mapping) or not rows:
        return {}
    names = list(rows)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    values = series(rows, names)[0].values  # pyright: ignore[reportUnknownArgumentType]
    return {name: found for name, found in zip(names, values, strict=True) if found is not None}
