"""The report of a run: one HTML file that opens from disk, needs no network and says first whether the run went well.

A caller fills `ReportFacts` with numbers, names and thumbnails; nothing of HTML leaves this module. Every text is
escaped by the template engine, file names are also freed of control characters that could reorder the line they stand
in, and a content security policy in the page forbids any request and any script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import math
import statistics
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabeled.errors import RunError
from unlabeled.visualize import curves, sprites
from unlabeled.visualize.facts import Cluster, Neighbours, ReportFacts, Value

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Cluster", "Neighbours", "ReportFacts", "render", "write_report"]

THUMBNAILS_PER_CLUSTER = 12
MOST_THUMBNAILS = 2400
"""Thumbnails in the gallery of one report; with very many clusters each shows fewer, then only the first are shown."""
FEWEST_PER_CLUSTER = 4
MOST_SKIPPED = 200
TILES_ACROSS = 24

_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"

# How a verdict looks: its class, which picks colour and drawing, and its word; the word alone carries the meaning.
_MARKS = {
    "healthy": ("good", "Healthy"),
    "warming up": ("open", "Still warming up"),
    "uneven": ("doubt", "Uneven clusters"),
    "not learning": ("bad", "Not learning"),
    "collapsing": ("bad", "Collapsing"),
    "unstable": ("bad", "Unstable"),
}
_OPENINGS = {
    "healthy": "The network is learning.",
    "warming up": "It is too early to say whether the network is learning.",
    "uneven": "The network is learning, but its clusters are uneven.",
    "not learning": "The network is not learning.",
    "collapsing": "The network is collapsing: more and more images look alike to it.",
    "unstable": "The training has become unstable.",
}


def write_report(path: Path, facts: ReportFacts) -> None:
    """Write the report; a file already there is replaced as a whole. Raises RunError if it cannot be written."""
    page = render(facts)
    draft = path.with_name(path.name + ".tmp")
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RunError(f"the report cannot be written to {path} ({error.strerror}); choose another place.") from error


def render(facts: ReportFacts) -> str:
    """The whole page as text; equal facts give equal text."""
    from markupsafe import Markup

    environment = _environment()
    folder = resources.files("unlabeled.visualize") / "templates"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    clusters, pictures = _gallery(facts.clusters)
    sizes = list(facts.cluster_sizes) or [cluster.size for cluster in facts.clusters]
    neighbours = _neighbours(facts.neighbours, pictures)
    sheets, tiles = sprites.pack(pictures, columns=TILES_ACROSS)
    mark, word = _MARKS.get(facts.verdict.status, ("open", facts.verdict.status))
    return environment.get_template("report.html.j2").render(
        facts=facts,
        mark=mark,
        status=word,
        opening=_OPENINGS.get(facts.verdict.status, facts.verdict.status),
        evidence=[_sentence(part) for part in (facts.verdict.sentence, *facts.verdict.facts) if part],
        advice=_sentence(facts.verdict.advice),
        headlines=_headlines(facts, sizes),
        charts=[(heading, note, Markup(picture)) for heading, note, picture in _charts(facts)],
        epochs=_epochs(facts.history),
        score_chart=Markup(_score_chart(facts)),
        clusters=clusters,
        num_hidden=len(facts.clusters) - len(clusters),
        sizes=_size_facts(sizes),
        size_chart=Markup(_size_chart(sizes)),
        neighbours=neighbours,
        sheets=sheets,
        tiles=tiles,
        reasons=Counter(reason for _, reason in facts.skipped).most_common(),
        skipped=facts.skipped[:MOST_SKIPPED],
        style=Markup(style),
        script=Markup(script),
        # Exactly the text between the tags: a browser runs nothing else.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


@cache
def _environment() -> Environment:
    """The template engine; compiling the template costs more than filling it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unlabeled.visualize", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "name": printable,
        "path": _path,
        "prose": _prose,
        "value": _value_text,
        "count": _count_text,
    }
    return environment


def printable(name: str) -> str:
    """A file name that can stand in a line of text: control and direction characters and undecodable bytes become �."""
    return "".join("�" if unicodedata.category(c) in _UNPRINTABLE and c not in _JOINERS else c for c in name)


def _path(name: str) -> str:
    """A file name as HTML that may break after its slashes rather than inside a word."""
    from markupsafe import Markup, escape

    return Markup("/<wbr>").join(escape(part) for part in printable(name).split("/"))


def _prose(text: str) -> str:
    """A sentence as HTML, what stands between backticks set as code."""
    from markupsafe import Markup, escape

    parts = [escape(part) for part in text.replace(" %", "\u00a0%").split("`")]
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _gallery(clusters: Sequence[Cluster]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Clusters as the template wants them, largest first, and the pictures they refer to by position."""
    ordered = sorted((c for c in clusters if c.size), key=lambda c: (-c.size, c.id))
    each = min(THUMBNAILS_PER_CLUSTER, max(FEWEST_PER_CLUSTER, MOST_THUMBNAILS // max(len(ordered), 1)))
    pictures: list[np.ndarray] = []
    shown: list[dict[str, Any]] = []
    for cluster in ordered[: MOST_THUMBNAILS // each]:
        thumbnails = list(cluster.thumbnails)[:each]
        names = [*cluster.names, *[""] * len(thumbnails)][: len(thumbnails)]
        images = [(len(pictures) + i, name) for i, name in enumerate(names)]
        pictures += thumbnails
        shown.append({"id": cluster.id, "size": cluster.size, "tightness": cluster.tightness, "images": images})
    return shown, pictures


def _neighbours(rows: Sequence[Neighbours], pictures: list[np.ndarray]) -> list[dict[str, Any]]:
    """Rows as the template wants them; their pictures are appended to `pictures`."""
    shown: list[dict[str, Any]] = []
    for row in rows:
        first = len(pictures)
        pictures += [row.query, *row.thumbnails]
        names = [*row.names, *[""] * len(row.thumbnails)]
        images = [
            (first + 1 + i, names[i], f"{similarity:.2f}")
            for i, similarity in zip(range(len(row.thumbnails)), row.similarities, strict=True)
        ]
        shown.append({"query": first, "name": row.query_name, "images": images})
    return shown


def _headlines(facts: ReportFacts, sizes: Sequence[int]) -> list[tuple[str, str, str]]:
    """What happened in three numbers: (number, what it is, what to make of it)."""
    lines: list[tuple[str, str, str]] = []
    images = facts.num_images if facts.num_images is not None else sum(sizes)
    if images:
        skipped = len(facts.skipped)
        note = (
            f"{_count_text(skipped)} {'file' if skipped == 1 else 'files'} could not be read"
            if skipped
            else "every file could be read"
        )
        lines.append((_count_text(images), "Images learned from" if images != 1 else "Image learned from", note))
    used = [size for size in sizes if size]
    if used:
        middle = f"{statistics.median(used):.0f} in the middle"
        note = f"between {_count_text(min(used))} and {_count_text(max(used))} images each, {middle}"
        lines.append((_count_text(len(used)), "Clusters found" if len(used) != 1 else "Cluster found", note))
    last = next((record for record in reversed(facts.history) if _number(record, "nmi_previous") is not None), None)
    if facts.scores:
        *others, (name, best) = facts.scores.items()
        against = ", ".join(f"{_percent(value)} for {other}" for other, value in others)
        what = f"{facts.score_name}, {name}"
        lines.append((_percent(best), what, f"against {against}" if against else ""))
    elif last is not None:
        note = "agreement of the last two clusterings, 1.00 if nothing changed"
        lines.append((f"{last['nmi_previous']:.2f}", "Stability of the clusters", note))
    return lines[:3]


# Key in the journal, name in the chart, the question it answers, how to read it.
_PANELS = (
    (
        "loss",
        "loss",
        "Is the puzzle being solved?",
        "The loss says how badly the network predicts which cluster an image is in. Below the dashed line it "
        "does better than guessing.",
    ),
    (
        "nmi_previous",
        "NMI",
        "Are the clusters settling?",
        "Agreement (NMI) of each clustering with the one before it: 0 is unrelated, 1 the same. A healthy run "
        "climbs and then flattens.",
    ),
    (
        "moved_share",
        "moved",
        "How many images change sides?",
        "Share of images whose cluster is not the one most of their old companions went to. It falls as the "
        "clusters settle.",
    ),
    (
        "size_entropy",
        "evenness",
        "Are the clusters of similar size?",
        "Evenness of the cluster sizes: 100 % if all are equal, near 0 if one cluster swallows all.",
    ),
    (
        "knn",
        "trained",
        "Do similar images lie together?",
        "Share of images whose nearest neighbours carry the same label as they do. Labels serve this score "
        "only, never the training.",
    ),
    (
        "effective_rank",
        "rank",
        "How much can the features tell apart?",
        "Effective rank: about how many independent directions the features use. A fall to 1 means that all "
        "images look alike.",
    ),
)


def _charts(facts: ReportFacts) -> list[tuple[str, str, str]]:
    """(question, how to read it, picture) for every number that was recorded at least once."""
    charts: list[tuple[str, str, str]] = []
    for key, label, heading, note in _PANELS:
        # An epoch without the number was not measured and leaves no gap; one whose number is not finite does.
        records = [record for record in facts.history if "step" not in record and record.get(key) is not None]
        values = [_number(record, key) for record in records]
        known = [value for value in values if value is not None]
        if not known:
            continue
        levels: list[curves.Level] = []
        if key == "loss":
            chance = [value for record in records if (value := _number(record, "chance_loss")) is not None]
            levels = [curves.Level("guessing", chance[-1])] if chance else []
        elif key == "knn":
            levels = [
                curves.Level(name.removesuffix(" network"), value) for name, value in list(facts.scores.items())[:-1]
            ]
        summary = f" From {known[0]:.3g} to {known[-1]:.3g} over {len(known)} recorded epochs."
        picture = curves.svg(
            [curves.Line(label, [float(record.get("epoch", i)) for i, record in enumerate(records)], values)],
            title=heading,
            description=note + summary + "".join(f" {level.label}: {level.value:.3g}." for level in levels),
            x_label="epoch",
            levels=levels,
            y_range={"loss": (None, None), "effective_rank": (0, None)}.get(key, (0, 1)),
            percent=key in ("moved_share", "size_entropy", "knn"),
        )
        charts.append((heading, note, picture))
    return charts


_COLUMNS = {
    "epoch": "epoch",
    "loss": "loss",
    "chance_loss": "guessing",
    "nmi_previous": "NMI",
    "moved_share": "moved",
    "size_entropy": "evenness",
    "empty_clusters": "empty",
    "largest_share": "largest",
    "effective_rank": "rank",
    "knn": "kNN",
}


def _epochs(history: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The curves as a table: column names and rows, only columns that hold a number."""
    records = [record for record in history if "step" not in record]
    keys = [key for key in _COLUMNS if any(_number(record, key) is not None for record in records)]
    rows = [["" if (value := _number(record, key)) is None else f"{value:.4g}" for key in keys] for record in records]
    return [_COLUMNS[key] for key in keys], rows


def _score_chart(facts: ReportFacts) -> str:
    if len(facts.scores) < 2:
        return ""
    text = ", ".join(f"{name} {_percent(value)}" for name, value in facts.scores.items())
    return curves.bars(list(facts.scores.items()), title=facts.score_name, description=text, width=400)


def _size_facts(sizes: Sequence[int]) -> dict[str, Any]:
    used = sorted(size for size in sizes if size)
    if not used:
        return {}
    return {
        "clusters": len(sizes),
        "empty": len(sizes) - len(used),
        "single": used.count(1),
        "largest": used[-1],
        "largest_share": _percent(used[-1] / sum(used)),
        "median": f"{statistics.median(used):.0f}",
    }


def _size_chart(sizes: Sequence[int]) -> str:
    if not any(sizes):
        return ""
    facts = _size_facts(sizes)
    text = f"{len(sizes)} clusters; the middle one has {facts['median']} images, the largest {facts['largest']}."
    return curves.histogram(list(sizes), title="Cluster sizes", description=text, x_label="images in the cluster")


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count_text(value: int) -> str:
    return f"{value:,}"


def _value_text(value: Value) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value)) if isinstance(value, str) else f"{value:,}" if value >= 10_000 else str(value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
