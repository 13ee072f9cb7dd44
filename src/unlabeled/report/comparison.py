"""`unlabeled evaluate all`: every protocol that the data allow, for one run or several, in one table.

What a protocol needs is declared in `protocols.NEEDS`; which of it DATA has is looked up here. A protocol that cannot run
is listed with the reason in words, and the others go on. Protocols that are done are not done again when a stopped call
is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from unlabeled import progress
from unlabeled import protocols as registered
from unlabeled.data.labels import read_labels
from unlabeled.data.sources import open_source
from unlabeled.distributed import broadcast_object, is_main
from unlabeled.errors import DataError, UnlabeledError
from unlabeled.protocols.driver import Request, one_untrained_network
from unlabeled.protocols.table import PUBLISHED, Layout, needs_of
from unlabeled.report.comparison_page import Comparison, Contender, LeftOut, Score, ScoreRow, markdown, page
from unlabeled.runs.opened import OpenedRun, named_runs
from unlabeled.writing import require_writable, write_json, write_text

Measured = dict[str, Any]
"""What is kept of a protocol: `scores` and `seconds`, or a `reason`."""

WORDS = {
    "knn": "top-1 of the nearest neighbours' vote",
    "nmi": "mutual information of clusters and labels",
    "edge_ratio": "neighbour edges inside a class",
    "top1": "top-1",
    "top5": "top-5",
    "map": "mean AP",
    "map_11_point": "mean AP, 11 points",
    "mean_ap": "mean AP",
    "mean_iou": "mean IoU",
    "in_clique_of_3": "images in a clique of 3 neighbours",
}
"""Numbers by their key, in words."""
ROWS = {"shots": "labels a class: ", "fractions": "labelled: "}
"""What the names of a table's rows count."""
BASELINES = ("untrained", "scratch")
"""Keys under which protocols return what the network before training got."""
NO_SHARES = ("nmi",)


def evaluate_all(
    run: OpenedRun,
    asked: Request,
    *,
    compare: Path | str | Sequence[Path | str] | None = None,
    out: Path | str | None = None,
    ground_truth: Path | str | None = None,
    pca: Path | str | None = None,
) -> dict[str, Any]:
    """Every registered protocol that DATA allows, in one table: RUN/comparison.md, .json and .html.

    `compare`: other runs to put beside this one. `out`: folder of the three files. `ground_truth`, `pca`: as of retrieval;
    the lists found in DATA and the run's training images unless given. Keys: `rows`, `left_out`, `seconds`, `contenders`,
    `published` (what the papers report, by protocol), `scores` (what each protocol returned, by run and protocol), `files`,
    `markdown`.

    Raises:
        ConfigError: a run is compared with itself.
        RunError: `compare` names no run, or the folder cannot be written.
    """
    runs = named_runs(run, compare)
    folder = Path(out) if out else run.path
    files = [folder / f"comparison.{ending}" for ending in ("md", "json", "html")]
    if is_main():
        for file in files:
            require_writable(file)
    there = broadcast_object(available(asked, ground_truth))
    lists = {"ground_truth": there["retrieval"][1], "pca": pca}
    scores: dict[str, dict[str, Measured]] = {name: {} for name in runs}
    with one_untrained_network(asked.partial.folder if len(runs) > 1 else None):
        for number, (name, one) in enumerate(runs.items()):
            for protocol in ordered():
                options = lists if needs_of(protocol).layout == "retrieval" else {}
                reason = there[needs_of(protocol).layout][0]
                scores[name][protocol] = (
                    {"reason": reason}
                    if reason
                    else _measured(one, asked, protocol, f"run{number}-{protocol}", options)
                )
    found = _comparison(asked, runs, scores)
    result = {**asdict(found), "scores": scores}
    if is_main():
        for file, text in zip(files[::2], (markdown(found), page(found)), strict=True):
            write_text(file, text)
        write_json(files[1], result)
    return {**result, "files": [str(file) for file in files], "markdown": markdown(found)}


def ordered() -> list[str]:
    """Names of the other protocols, cheap ones first."""
    return sorted(registered.PROTOCOLS, key=lambda name: (needs_of(name).cost, name))


def protocols() -> dict[str, registered.Protocol]:
    """Every protocol, and this table of all of them."""
    return {**registered.PROTOCOLS, "all": evaluate_all}


def available(asked: Request, ground_truth: Path | str | None = None) -> dict[Layout, tuple[str | None, str | None]]:
    """For each layout why DATA does not have it, None where it does, and the folder that shows it, if one does."""
    data = asked.data
    lists = Path(ground_truth) if ground_truth else _folder_of(data, "*_query.txt")
    is_voc = bool(_folders_of_voc(data))
    return {
        "images": (None, None),
        "classes": (_no_classes(asked, is_voc or (lists is not None and not ground_truth)), None),
        "voc": (
            None if is_voc else "needs a folder in the layout of PASCAL VOC (JPEGImages, Annotations, ImageSets).",
            None,
        ),
        "retrieval": (
            None
            if lists
            else "needs lists of what is to be found (*_query.txt, *_good.txt, …); name them by --ground-truth.",
            str(lists) if lists else None,
        ),
    }


def _folders_of_voc(data: Path) -> list[Path]:
    return [folder for above in ("", "*/", "VOCdevkit/*/") for folder in sorted(data.glob(f"{above}JPEGImages"))]


def pictures_of(data: Path) -> Path:
    """DATA, or of a VOC layout its folder of pictures: the masks beside it are images too, and nobody means them."""
    found = _folders_of_voc(data)
    return found[0] if len(found) == 1 else data


def _folder_of(data: Path, pattern: str) -> Path | None:
    found = (next(data.glob(f"{above}{pattern}"), None) for above in ("", "*/"))
    return next((file.parent for file in found if file), None)


def _no_classes(asked: Request, has_other_layout: bool) -> str | None:
    if has_other_layout and asked.labels == "folder":
        return "needs a class for every image, and these folders are none; give --labels FILE.csv."
    try:
        names = read_labels(open_source(pictures_of(asked.data)), asked.labels).class_names
    except DataError as error:
        return str(error)
    if len(names) < 2:
        return f"needs images of at least 2 classes, {asked.data} has {len(names)}."
    return None


def _measured(run: OpenedRun, asked: Request, protocol: str, name: str, options: Mapping[str, Any]) -> Measured:
    known = asked.partial.read(name)
    if known is None:
        progress.say(f"evaluating {run.path.name}: {protocol}")
        known = _run(run, asked, protocol, {key: value for key, value in options.items() if value is not None})
        if "scores" in known:
            asked.partial.write(name, known)
    return known


def _run(run: OpenedRun, asked: Request, protocol: str, options: Mapping[str, Any]) -> Measured:
    needs = needs_of(protocol)
    data, test = asked.data, asked.test
    if needs.one_set and test is not None:
        data, test = test, None
    if needs.layout in ("images", "classes"):
        data = pictures_of(data)
    if needs.layout == "retrieval" and "pca" not in options:
        options = {**options, "pca": run.record.data}
    begun = time.monotonic()
    try:
        scores = registered.evaluate(
            run,
            protocol,
            data,
            labels=asked.labels,
            test=test,
            quick=asked.quick,
            known=registered.PROTOCOLS,
            **options,
        )
    except UnlabeledError as error:
        progress.say(f"{protocol} is left out: {error}")
        return {"reason": str(error)}
    return broadcast_object({"scores": scores, "seconds": time.monotonic() - begun})


def _comparison(
    asked: Request, runs: Mapping[str, OpenedRun], scores: Mapping[str, Mapping[str, Measured]]
) -> Comparison:
    rows: list[ScoreRow] = []
    left: list[LeftOut] = []
    for protocol in ordered():
        found = {name: dict(numbers(measured[protocol].get("scores", {}))) for name, measured in scores.items()}
        measures = list(dict.fromkeys(key for numbers in found.values() for key in numbers))
        rows += [
            ScoreRow(protocol, words, [found[name].get((words, is_share)) for name in runs], is_share)
            for words, is_share in measures
        ]
        reasons = {name: measured[protocol].get("reason") for name, measured in scores.items()}
        if len(set(reasons.values())) == 1 and None not in reasons.values():
            left.append(LeftOut(protocol, next(str(reason) for reason in reasons.values())))
        else:
            left += [LeftOut(f"{protocol}, {name}", reason) for name, reason in reasons.items() if reason]
    return Comparison(
        str(asked.data),
        str(asked.test) if asked.test else None,
        asked.quick,
        [_contender(name, one) for name, one in runs.items()],
        rows,
        {protocol: [measured[protocol].get("seconds") for measured in scores.values()] for protocol in ordered()},
        left,
        {row.protocol: PUBLISHED[row.protocol] for row in rows if row.protocol in PUBLISHED},
    )


def _contender(name: str, run: OpenedRun) -> Contender:
    config = run.config
    return Contender(name, str(run.path), f"{config.method}, {config.backbone}", config.epochs, config.seed)


def numbers(scores: Mapping[str, Any]) -> Iterator[tuple[tuple[str, bool], Score]]:
    """The numbers of a protocol's result that stand in the table: (what it is, whether it is a share), score.

    The first fraction of the result beside its baseline; where the result has none, that of every row of a table that
    has; and where there is no baseline at all, the first fraction alone.
    """
    rows = [] if _has_baseline(scores) else list(_rows(scores))
    for name, row in rows or [("", scores)]:
        key = _first(row)
        if key is not None:
            words, interval = WORDS.get(key, key.replace("_", " ")), row.get("ci95")
            score = Score(row[key], interval if isinstance(interval, float) else None, _baseline(row, key))
            yield (f"{words}, {name}" if name else words, key not in NO_SHARES), score


def _rows(scores: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows with a baseline of the tables of a result, each with what it is a row of."""
    for table, entries in scores.items():
        if isinstance(entries, Mapping):
            for name, row in cast("Mapping[str, Any]", entries).items():
                if isinstance(row, Mapping) and _has_baseline(cast("Mapping[str, Any]", row)):
                    yield f"{ROWS.get(table, '')}{name}", cast("Mapping[str, Any]", row)


def _has_baseline(scores: Mapping[str, Any]) -> bool:
    key = _first(scores)
    return key is not None and _baseline(scores, key) is not None


def _first(scores: Mapping[str, Any]) -> str | None:
    return next((name for name, value in scores.items() if isinstance(value, float)), None)


def _baseline(scores: Mapping[str, Any], key: str) -> float | None:
    names = (*BASELINES, f"untrained_{key}")
    return next((scores[name] for name in names if isinstance(scores.get(name), float)), None)
