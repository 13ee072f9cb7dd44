"""Every figure by name. A figure is one or more files and the numbers behind them.

A function of a figure takes the run, images where the figure is of images, and options of its own by keyword; it returns the
files by name, and `draw` writes them. `charts`, `plots`, `sheets`, `ascent` and `activations` draw and know no run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from unlabeled.distributed import is_main
from unlabeled.errors import ConfigError, unknown_name
from unlabeled.runs.opened import OpenedRun
from unlabeled.visualize import classes, neighbors, network, scores, sweep, training_curves
from unlabeled.writing import replacing, require_writable

PICTURES: dict[str, Callable[..., Mapping[str, bytes | str]]] = {
    "activations": network.activations,
    "ascent": network.ascent,
    "clusters": neighbors.clusters,
    "confusions": classes.confusions,
    "curves": training_curves.curves,
    "edge-ratio": classes.edge_ratio,
    "filters": network.filters,
    "gain": scores.gain,
    "gap": scores.gap,
    "neighbors": neighbors.neighbors,
    "scores": scores.scores,
    "softmax": classes.softmax,
    "spectrum": scores.spectrum,
    "sweep": sweep.sweep,
}


def options_of(what: str) -> tuple[bool, list[str]]:
    """Whether a picture is of images that can be given, and the names of its options.

    Raises:
        ConfigError: there is no such picture.
    """
    if what not in PICTURES:
        raise ConfigError(unknown_name("picture", what, PICTURES))
    parameters = signature(PICTURES[what]).parameters.values()
    return "data" in {parameter.name for parameter in parameters}, [
        parameter.name for parameter in parameters if parameter.kind == Parameter.KEYWORD_ONLY
    ]


def draw(
    run: OpenedRun, what: str, data: str | Path | None, out: str | Path | None, options: Mapping[str, Any]
) -> list[Path]:
    """Make a picture and write its files to `out`, RUN/pictures where not given; returns where they are.

    Raises:
        ConfigError: unknown picture, an option it does not take, or DATA for a picture that is of none.
        DataError: images or labels do not fit.
        RunError: the run lacks what is to be drawn, or `out` cannot be written.
    """
    of_images, taken = options_of(what)
    if data is not None and not of_images:
        raise ConfigError(f"the picture {what} is drawn from the run alone, so it takes no DATA; leave '{data}' out.")
    for name in options:
        if name not in taken:
            known = f"it takes {', '.join(taken)}" if taken else "it takes no options"
            raise ConfigError(f"the picture {what} has no option '{name}': {known}.")
    folder = Path(out) if out else run.path / "pictures"
    if is_main():
        require_writable(folder / f"{what}.csv")
    files = PICTURES[what](run, data, **options) if of_images else PICTURES[what](run, **options)
    paths = [folder / name for name in files]
    if is_main():
        for path, content in zip(paths, files.values(), strict=True):
            with replacing(path) as partial:
                raw = content if isinstance(content, bytes) else content.encode(errors="surrogateescape")
                partial.write_bytes(raw)
    return paths
