"""`unlabeled evaluate PROTOCOL`: which images, labels and features each protocol gets, and the baselines beside it.

The protocols themselves are in `evaluation/` and know nothing of runs. A function here is called as
`protocol(run, request, **options)` and returns its numbers by name; scores are fractions. Its keyword arguments are the
options it takes, with their defaults. `cli/flags.py` lists the same options for the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabeled.errors import ConfigError, unknown_name
from unlabeled.protocols.detection import voc_detection
from unlabeled.protocols.driver import Request, one_untrained_network, request
from unlabeled.protocols.few_labels import low_shot, semi_supervised
from unlabeled.protocols.neighbors import cliques, edge_ratio, knn, knn_bank, nmi
from unlabeled.protocols.probes import linear, mlp, svm
from unlabeled.protocols.retrieval import retrieval
from unlabeled.protocols.table import PUBLISHED, published
from unlabeled.protocols.voc import voc_classification, voc_segmentation
from unlabeled.report.comparison import evaluate_all

__all__ = ["PROTOCOLS", "PUBLISHED", "Request", "options_of", "published", "request", "score"]

if TYPE_CHECKING:
    from unlabeled.run import Run

PROTOCOLS: dict[str, Callable[..., dict[str, Any]]] = {
    "cliques": cliques,
    "all": evaluate_all,
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


def options_of(protocol: str) -> list[str]:
    """Names of the options a protocol takes.

    Raises:
        ConfigError: there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(unknown_name("protocol", protocol, PROTOCOLS))
    parameters = signature(PROTOCOLS[protocol]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind == Parameter.KEYWORD_ONLY]


def score(run: Run, protocol: str, asked: Request, options: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one protocol.

    The option `compare`, another run or a list of them, goes with each: their numbers of the same call are under `compared`.
    Runs that began as the same network are held against one and the same evaluation of it.

    Raises:
        ConfigError: an option it does not take.
        DataError: images or labels do not fit.
        RunError: a run to compare with is none.
    """
    taken, own = options_of(protocol), dict(options)
    others = [] if "compare" in taken else own.pop("compare", None) or []
    others = [others] if isinstance(others, (str, Path)) else others
    for name in own:
        if name not in taken:
            known = f"it takes {', '.join(taken)}" if taken else "it takes no options"
            raise ConfigError(f"the protocol {protocol} has no option '{name}': {known}.")
    opened = [run.another(path) for path in others]  # complains before anything is computed
    if not opened:
        return PROTOCOLS[protocol](run, asked, **own)
    where = asked.data, asked.labels, asked.test, asked.quick
    with one_untrained_network(asked.partial.folder):
        shared = request(run, protocol, *where, own)
        scores = PROTOCOLS[protocol](
            run, replace(asked, partial=replace(asked.partial, untrained=shared.partial.untrained)), **own
        )
        compared = {
            str(other.path): _numbers(
                other.evaluate(protocol, asked.data, labels=asked.labels, test=asked.test, quick=asked.quick, **own)
            )
            for other in opened
        }
    return scores | {"compared": compared}


def _numbers(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if not isinstance(value, Mapping)}
