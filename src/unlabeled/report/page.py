"""The report of a run: one HTML file that opens from disk, needs no network and says first whether the run went well.

A caller fills `ReportFacts` with numbers, names and thumbnails; nothing of HTML leaves this module. Every text is
escaped by the template engine, file names are also freed of control characters that could reorder the line they stand
in, and a content security policy in the page forbids any request and any script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import statistics
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabeled.evaluation.standing import Standing, standing
from unlabeled.report import atlas, network_section
from unlabeled.report.facts import Atlas, Cluster, Colouring, Neighbours, ReportFacts, Value
from unlabeled.visualize import charts, thumbnails
from unlabeled.visualize.training_curves import epoch_table, loss_word, number, one_point, training_charts
from unlabeled.writing import replacing

if TYPE_CHECKING:
    from jinja2 import Environment

    from unlabeled.evaluation.explain import Explanation, Trait
    from unlabeled.training.health import Verdict

__all__ = ["Atlas", "Cluster", "Colouring", "Neighbours", "ReportFacts", "render", "write_report"]

THUMBNAILS_PER_CLUSTER = 12
MOST_THUMBNAILS = 2400
"""Thumbnails in the gallery of one report; with very many clusters each shows fewer, then only the first are shown."""
FEWEST_PER_CLUSTER = 4
LEAST_STABLE = 0.5
"""A cluster of less stability splits differently when the images are clustered again (Hennig 2007)."""
EXAMPLES = 8
"""Clusters named as set apart by a plain statistic; the others are folded away."""
MOST_SKIPPED = 200
TILES_ACROSS = 24
_STYLES = ("report.css", "inside.css", "map.css", "report_atlas.css")
_SCRIPTS = ("report.js", "map.js", "report_atlas.js")

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
_NO_GAIN = {
    "no gain": "Healthy, but no gain",
    "worse": "Healthy, but worse features",
    "raw pixels": "Healthy, but raw pixels do as well",
    "saturated": "Healthy; the labels are too easy",
}
# Of the other two the headline says what is known of the features.
_OPENINGS = {
    "warming up": "It is too early to say whether the network is learning.",
    "not learning": "The network is not learning.",
    "collapsing": "The network is collapsing: more and more images look alike to it.",
    "unstable": "The training has become unstable.",
}


def write_report(path: Path, facts: ReportFacts) -> None:
    """Write the report; a file already there is replaced as a whole. Raises RunError if it cannot be written."""
    page = render(facts)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def render(facts: ReportFacts) -> str:
    """The whole page as text; equal facts give equal text."""
    from markupsafe import Markup

    folder = resources.files("unlabeled.report") / "templates"
    style = "".join((folder / name).read_text(encoding="utf-8") for name in _STYLES)
    wanted = _SCRIPTS if facts.atlas is not None else _SCRIPTS[:1]
    scripts = [(folder / name).read_text(encoding="utf-8") for name in wanted]
    clusters, pictures = _gallery(facts.clusters, _traits(facts.explanation))
    sizes = list(facts.cluster_sizes) or [cluster.size for cluster in facts.clusters]
    neighbours = _neighbours(facts.neighbours, pictures)
    network = None if facts.inside is None else network_section.section(facts.inside, pictures, facts.num_images)
    sheets, tiles = thumbnails.pack(pictures, columns=TILES_ACROSS)
    mark, word = _MARKS.get(facts.verdict.status, ("open", facts.verdict.status))
    is_frozen = bool(facts.start) and not facts.history
    if is_frozen:
        mark, word = "open", "Not trained"
    found = _standing(facts)
    if facts.verdict.status == "healthy" and found is not None and found.level != "gain":
        mark, word = "doubt", _NO_GAIN[found.level]
    elif facts.verdict.status == "healthy" and _most_split(facts):
        mark, word = "doubt", "Healthy, but unstable clusters"
    template = _environment().get_template("report.html.j2")
    return template.render(
        facts=facts,
        mark=mark,
        status=word,
        opening=_opening(facts, found),
        evidence=[]
        if is_frozen
        else [_sentence(part) for part in (_reason(facts.verdict), *facts.verdict.facts) if part],
        advice=_sentence(facts.verdict.advice),
        headlines=_headlines(facts, sizes),
        charts=[(heading, note, Markup(picture)) for heading, note, picture in training_charts(facts)],
        epochs=epoch_table(facts),
        one_point=one_point(facts),
        loss_word=loss_word(facts.method),
        has_chance=any(number(record, "chance_loss") is not None for record in facts.history),
        score_chart=Markup(_score_chart(facts)),
        clusters=clusters,
        num_split=sum(_splits(one["stability"]) for one in clusters),
        num_hidden=max(len(sizes), len(facts.clusters)) - len(clusters),
        sizes=_size_facts(sizes),
        size_chart=Markup(_size_chart(sizes)),
        neighbours=neighbours,
        sheets=sheets,
        tiles=tiles,
        reasons=Counter(reason for _, reason in facts.skipped).most_common(),
        skipped=facts.skipped[:MOST_SKIPPED],
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        # Exactly the text between the tags: a browser runs nothing else.
        script_hashes=[
            base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii") for script in scripts
        ],
        atlas=None if facts.atlas is None else Markup(_atlas_text(facts.atlas, facts.place or facts.title)),
        inside=network,
        learned=None if facts.explanation is None else _learned(facts.explanation, {one["id"] for one in clusters}),
    )


def _reason(verdict: Verdict) -> str:
    """Why it is so, unless the first of the facts says it again: while it is early, both tell the loss."""
    return "" if verdict.status == "warming up" and verdict.facts else verdict.sentence


def _standing(facts: ReportFacts) -> Standing | None:
    """What the score of the run says beside its baselines; None where the run or the untrained network has none."""
    before, raw = facts.scores.get(facts.baseline), facts.scores.get("raw pixels")
    if before is None or len(facts.scores) < 2:
        return None
    after = list(facts.scores.values())[-1]
    return standing(after, before, raw, facts.num_tested, facts.labels, facts.baseline)


def _opening(facts: ReportFacts, found: Standing | None) -> str:
    """The headline: what is known, and no more."""
    status = facts.verdict.status
    if facts.start and not facts.history:
        return f"Nothing was trained here: the features are those of {facts.start}, as it came. {_frozen(facts)}"
    if status not in ("healthy", "uneven"):
        return _OPENINGS.get(status, status)
    if found is not None:
        known = ("The network is learning. " if found.level == "gain" else "") + found.sentence
    else:
        known = _without_labels(facts)
    if status == "uneven":
        known += " The clusters are uneven."
    if _most_split(facts):
        known += " Most clusters split differently when the images are clustered again: chance has a say in them."
    return known


def _frozen(facts: ReportFacts) -> str:
    """How a network that was not trained scores beside raw pixels."""
    raw, own = facts.scores.get("raw pixels"), facts.scores.get("this run")
    if raw is None or own is None:
        return "Labels say whether they tell kinds apart (`unlabeled evaluate knn`)."
    return f"By the labels {facts.labels} they score {_percent(own)}, raw pixels {_percent(raw)}."


def _without_labels(facts: ReportFacts) -> str:
    """What is known before anybody gave labels: consistency under new views."""
    seen = "The loss falls" if _loss_falls(facts.history) else "Nothing has gone wrong"
    ask = "labels say whether they tell kinds apart (`unlabeled evaluate knn`)"
    if facts.consistency is None:
        return f"{seen}; whether the features got better is unknown until they are scored (`unlabeled evaluate knn`)."
    after, before = facts.consistency["trained"], facts.consistency["untrained"]
    return (
        f"{seen}. Seen through another view, an image keeps {_percent(after)} of its nearest neighbours, with the untrained "
        f"network {_percent(before)} (by chance {_percent(facts.consistency['chance'])}); {ask}."
    )


def _most_split(facts: ReportFacts) -> bool:
    """Whether more than half of the clusters do not come back when the images are clustered again."""
    known = [cluster.stability for cluster in facts.clusters if cluster.stability is not None]
    return sum(map(_splits, known)) > len(known) / 2


def _loss_falls(history: Sequence[Mapping[str, Any]]) -> bool:
    found = [value for record in history if (value := number(record, "loss")) is not None]
    return len(found) > 1 and found[-1] < found[0]


@cache
def _environment() -> Environment:
    """The engine with the report's ways to write names, paths and numbers; compiling a template costs more than filling it."""
    own = environment()
    own.filters |= {
        "name": printable,
        "path": _path,
        "prose": _prose,
        "command": _command,
        "value": _value_text,
        "count": _count_text,
    }
    return own


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

    parts = text.replace(" %", "\u00a0%").split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(_command(part)) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _command(text: str) -> str:
    """A command line as HTML that does not break inside an option, of which half would look like another."""
    from markupsafe import Markup, escape

    words = printable(text).split(" ")
    return Markup(" ").join(
        Markup('<span class="option">{}</span>').format(word) if word.startswith("-") else escape(word)
        for word in words
    )


def _gallery(clusters: Sequence[Cluster], traits: Mapping[int, str]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Clusters as the template wants them, largest first, and the pictures they refer to by position."""
    ordered = sorted((c for c in clusters if c.size), key=lambda c: (-c.size, c.id))
    each = min(THUMBNAILS_PER_CLUSTER, max(FEWEST_PER_CLUSTER, MOST_THUMBNAILS // max(len(ordered), 1)))
    pictures: list[np.ndarray] = []

    def images(
        thumbnails: Sequence[np.ndarray], names: Sequence[str], rows: Sequence[int]
    ) -> list[tuple[int, str, int]]:
        first, count = len(pictures), len(thumbnails)
        pictures.extend(thumbnails)
        padded = zip(range(first, first + count), [*names, *[""] * count], [*rows, *[-1] * count], strict=False)
        return list(padded)

    kept = ordered[: MOST_THUMBNAILS // each]
    known = {cluster.id for cluster in kept}
    shown = [
        {
            "id": cluster.id,
            "size": cluster.size,
            "tightness": cluster.tightness,
            "images": images(cluster.thumbnails[:each], cluster.names, cluster.rows),
            "outliers": images(cluster.outliers, cluster.outlier_names, cluster.outlier_rows),
            "nearest": [(other, other in known) for other in cluster.nearest],
            "stability": cluster.stability,
            "splits": _splits(cluster.stability),
            "trait": traits.get(cluster.id, ""),
        }
        for cluster in kept
    ]
    return shown, pictures


def _splits(stability: float | None) -> bool:
    return stability is not None and stability < LEAST_STABLE


def _traits(explanation: Explanation | None) -> dict[int, str]:
    """What sets a cluster apart, by its number: the sentence without what to do about it."""
    if explanation is None:
        return {}
    return {one.cluster: _sentence(one.text.split(";")[0].partition(" is ")[2]) for one in explanation.traits}


def _learned(explanation: Explanation, shown: set[int]) -> dict[str, Any]:
    """The section on what plain statistics explain: chart, table, sentences with the number of a cluster to link to."""
    from markupsafe import Markup

    found = explanation.statistics
    text = "; ".join(f"{one.name} {_percent(one.explained)}, by chance {_percent(one.chance)}" for one in found)
    chart = charts.against_chance(
        [(one.name, one.explained, one.chance) for one in found],
        title="What plain statistics explain of the clusters",
        description=text,
    )
    return {
        "summary": _sentence(explanation.summary),
        "chart": Markup(chart) if found else "",
        "rows": [
            (
                one.name,
                "R²" if one.kind == "number" else "NMI",
                *map(_percent, (one.explained, one.chance, max(one.beyond_chance, 0.0))),
            )
            for one in found
        ],
        **_examples(explanation, shown),
    }


def _examples(explanation: Explanation, shown: set[int]) -> dict[str, Any]:
    """Some clusters that a statistic sets apart, of each statistic in turn, and the others; what to do is said once of each."""
    queues: dict[str, list[Trait]] = {}
    for one in explanation.traits:
        queues.setdefault(one.statistic, []).append(one)
    longest = max(map(len, queues.values()), default=0)
    ordered = [queue[i] for i in range(longest) for queue in queues.values() if i < len(queue)]
    first = {id(queue[0]) for queue in queues.values()}
    rows = [
        (one.cluster, one.cluster in shown, one.text if id(one) in first else _sentence(one.text.split(";")[0]))
        for one in ordered
    ]
    return {"examples": rows[:EXAMPLES], "others": sorted(rows[EXAMPLES:], key=lambda row: row[0])}


def _atlas_text(one: Atlas, run: str) -> str:
    """The data of the map for the page, with names that can stand in a line."""
    colourings = [replace(c, categories=[printable(name) for name in c.categories]) for c in one.colourings]
    return atlas.to_json(
        replace(one, names=[printable(name) for name in one.names], colourings=colourings), printable(run)
    )


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
            f"{_count_text(skipped)} {'file' if skipped == 1 else 'files'} left out"
            if skipped
            else "every file could be read"
        )
        what = "Image" if images == 1 else "Images"
        lines.append((_count_text(images), what if facts.start and not facts.history else f"{what} learned from", note))
    used = [size for size in sizes if size]
    if used:
        middle = f"{statistics.median(used):.0f} in the middle"
        note = f"in the end; between {_count_text(min(used))} and {_count_text(max(used))} images each, {middle}"
        lines.append((_count_text(len(used)), "Clusters found" if len(used) != 1 else "Cluster found", note))
    last = next((record for record in reversed(facts.history) if number(record, "nmi_previous") is not None), None)
    if facts.scores:
        *others, (name, best) = facts.scores.items()
        against = ", ".join(f"{_percent(value)} for {other}" for other, value in others)
        what = f"{facts.score_name}, labels {facts.labels}, {name}"
        lines.append((_percent(best), what, f"against {against}" if against else ""))
    elif last is not None:
        note = "the last two of the training, as NMI: 1.00 if nothing changed"
        lines.append((f"{last['nmi_previous']:.2f}", "Agreement of clusterings", note))
    return lines[:3]


def _score_chart(facts: ReportFacts) -> str:
    if len(facts.scores) < 2:
        return ""
    text = ", ".join(f"{name} {_percent(value)}" for name, value in facts.scores.items())
    return charts.bars(list(facts.scores.items()), title=facts.score_name, description=text, width=400)


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
    return charts.histogram(list(sizes), title="Cluster sizes", description=text, x_label="images in the cluster")


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


def environment() -> Environment:
    """A new engine over the templates of this folder, to which a page may add filters of its own."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("unlabeled.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
