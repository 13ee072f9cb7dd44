"""`unlabeled evaluate PROTOCOL`: which images, labels and features each protocol gets, and the baselines beside it.

The protocols themselves are in `evaluation/` and know nothing of runs. A function here is called as
`protocol(run, request, **options)` and returns its numbers by name; scores are fractions. Its keyword arguments are the
options it takes, with their defaults. `cli/options.py` lists the same options for the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from unlabeled import progress
from unlabeled.data.labels import read_labels
from unlabeled.distributed import is_main
from unlabeled.errors import ConfigError, DataError, RunError, unknown_name
from unlabeled.protocols.detection import voc_detection
from unlabeled.protocols.driver import Request, one_untrained_network, request
from unlabeled.protocols.few_labels import low_shot, semi_supervised
from unlabeled.protocols.neighbors import cliques, edge_ratio, knn, knn_bank, nmi
from unlabeled.protocols.probes import linear, mlp, svm
from unlabeled.protocols.retrieval import retrieval
from unlabeled.protocols.table import PUBLISHED, published
from unlabeled.protocols.voc import voc_classification, voc_segmentation
from unlabeled.runs.images import resolved
from unlabeled.runs.opened import BY_LABELS, OpenedRun
from unlabeled.writing import require_writable, write_json

__all__ = ["PROTOCOLS", "PUBLISHED", "Request", "evaluate", "options_of", "published", "request", "score"]


PROTOCOLS: dict[str, Callable[..., dict[str, Any]]] = {
    "cliques": cliques,
    "edge-ratio": edge_ratio,
    "knn": knn,
    "knn-bank": knn_bank,
    "linear": linear,
    "low-shot": low_shot,
    "mlp": mlp,
    "nmi": nmi,
    "semi-supervised": semi_supervised,
    "svm": svm,
    "retrieval": retrieval,
    "voc-classification": voc_classification,
    "voc-detection": voc_detection,
    "voc-segmentation": voc_segmentation,
}


Protocol = Callable[..., dict[str, Any]]
WITHOUT_LABELS = ("cliques", "all", "retrieval", "voc-classification", "voc-detection", "voc-segmentation")
"""Protocols that read no labels of images, or those of another layout."""


def options_of(protocol: str, known: Mapping[str, Protocol] = PROTOCOLS) -> list[str]:
    """Names of the options that one of the `known` protocols takes.

    Raises:
        ConfigError: there is no such protocol.
    """
    if protocol not in known:
        raise ConfigError(unknown_name("protocol", protocol, known))
    parameters = signature(known[protocol]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind == Parameter.KEYWORD_ONLY]


def evaluate(
    run: OpenedRun,
    protocol: str,
    data: str | Path | None = None,
    *,
    labels: str = "folder",
    test: str | Path | None = None,
    json: str | Path | None = None,
    quick: bool = False,
    known: Mapping[str, Protocol] = PROTOCOLS,
    **options: Any,
) -> dict[str, Any]:
    """Score a run by one of the `known` protocols, write the numbers and keep them in the run; see `Run.evaluate`.

    Raises:
        ConfigError: unknown protocol or option.
        DataError: labels or images do not fit.
        RunError: `json` cannot be written.
    """
    options_of(protocol, known)  # complains of an unknown name before anything is read
    if json and is_main():
        require_writable(Path(json))
    asked = request(run, protocol, data, labels, test, quick, options)
    with asked.partial.told():
        scores = score(run, protocol, asked, options, known)
    asked.partial.finish()
    scores |= _labels_of(run, protocol, asked)
    if is_main():
        if json:
            write_json(Path(json), {"protocol": protocol, "published": published(protocol)} | scores)
        _keep(run, protocol, asked, scores)
    return scores


def _keep(run: OpenedRun, protocol: str, asked: Request, scores: dict[str, Any]) -> None:
    """Put scores into scores.json of the run, also by the labels they are of."""
    by_labels = run.scores_by_labels
    if "labels" in scores:
        is_training = resolved(str(asked.data)) == resolved(run.record.data)
        known = {"labels_of_training": asked.labels} if is_training else {}
        by_labels = by_labels | {f"{protocol}, labels {scores['labels']}": scores | known}
    try:
        write_json(run.folder.scores, run.scores | {protocol: scores} | {BY_LABELS: by_labels})
    except RunError as error:
        # Runs may lie where nobody can write; the numbers are still worth having.
        progress.say(f"Note: the report will not show these scores: {error}")


def _labels_of(run: OpenedRun, protocol: str, asked: Request) -> dict[str, Any]:
    """The name of the labels a score is by, and how many images have one; nothing for protocols without labels."""
    if protocol in WITHOUT_LABELS:
        return {}
    try:
        found = read_labels(run.record.source_of(asked.data), asked.labels)
    except DataError:
        return {}
    told: dict[str, Any] = {}
    if found.notes or not bool((found.ids >= 0).all()):
        told = {"label_notes": found.sentences()}
        for sentence in found.sentences():
            progress.say(f"Note: {sentence}")
    name = asked.labels if asked.labels == "folder" else Path(asked.labels).name
    return {"labels": name, "classes": len(found.class_names), **told}


def score(
    run: OpenedRun,
    protocol: str,
    asked: Request,
    options: Mapping[str, Any],
    known: Mapping[str, Protocol] = PROTOCOLS,
) -> dict[str, Any]:
    """The numbers of one protocol.

    The option `compare`, another run or a list of them, goes with each: their numbers of the same call are under `compared`.
    Runs that began as the same network are held against one and the same evaluation of it.

    Raises:
        ConfigError: an option it does not take.
        DataError: images or labels do not fit.
        RunError: a run to compare with is none.
    """
    taken, own = options_of(protocol, known), dict(options)
    others = [] if "compare" in taken else own.pop("compare", None) or []
    others = [others] if isinstance(others, (str, Path)) else others
    for name in own:
        if name not in taken:
            takes = f"it takes {', '.join(taken)}" if taken else "it takes no options"
            raise ConfigError(f"the protocol {protocol} has no option '{name}': {takes}.")
    opened = [run.another(path) for path in others]  # complains before anything is computed
    if not opened:
        return known[protocol](run, asked, **own)
    where = asked.data, asked.labels, asked.test, asked.quick
    with one_untrained_network(asked.partial.folder):
        shared = request(run, protocol, *where, own)
        scores = known[protocol](
            run, replace(asked, partial=replace(asked.partial, untrained=shared.partial.untrained)), **own
        )
        compared = {
            str(other.path): _numbers(
                evaluate(other, protocol, asked.data, labels=asked.labels, test=asked.test, quick=asked.quick, **own)
            )
            for other in opened
        }
    return scores | {"compared": compared}


def _numbers(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if not isinstance(value, Mapping)}
