"""`unlabeled evaluate PROTOCOL`: which images, labels and features each protocol gets, and the baselines beside it.

The protocols themselves are in `evaluation/` and know nothing of runs. A function here is called as
`protocol(run, request, **options)` and returns its numbers by name; scores are fractions. Its keyword arguments are the
options it takes, with their defaults. `cli/flags.py` lists the same options for the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from unlabeled.errors import ConfigError, unknown_name
from unlabeled.protocols.neighbors import edge_ratio, knn, nmi
from unlabeled.protocols.request import Request

__all__ = ["PROTOCOLS", "Request", "options_of", "score"]

if TYPE_CHECKING:
    from unlabeled.run import Run

PROTOCOLS: dict[str, Callable[..., dict[str, Any]]] = {"edge-ratio": edge_ratio, "knn": knn, "nmi": nmi}


def options_of(protocol: str) -> list[str]:
    """Names of the options a protocol takes.

    Raises:
        ConfigError: there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(unknown_name("protocol", protocol, PROTOCOLS))
    parameters = signature(PROTOCOLS[protocol]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind == Parameter.KEYWORD_ONLY]


def score(run: Run, protocol: str, request: Request, options: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one protocol.

    Raises:
        ConfigError: an option it does not take.
        DataError: images or labels do not fit.
    """
    taken = options_of(protocol)
    for name in options:
        if name not in taken:
            known = f"it takes {', '.join(taken)}" if taken else "it takes no options"
            raise ConfigError(f"the protocol {protocol} has no option '{name}': {known}.")
    return PROTOCOLS[protocol](run, request, **options)
