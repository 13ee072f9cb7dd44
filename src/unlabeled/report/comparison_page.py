"""The comparison of runs by every protocol, as Markdown and as one HTML page that opens from disk without a network.

A caller fills `Comparison` with numbers and words; nothing of HTML leaves this module. Every text is escaped, names that
come from files are freed of control characters, and the page's content security policy forbids any request and any script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from unlabeled.progress import counted, duration
from unlabeled.report.page import environment, printable


@dataclass(frozen=True)
class Contender:
    """One run of the comparison."""

    name: str
    """Short name, different for every run of the comparison."""
    path: str
    """Its folder."""
    network: str
    """Method and backbone, for example "deepcluster, resnet18"."""
    epochs: int
    """Epochs it was trained."""
    seed: int
    """Of its training, and of every split, draw and classifier of its evaluation."""


@dataclass(frozen=True)
class Score:
    """What one run got."""

    trained: float
    """The run's network."""
    interval: float | None = None
    """Half the width of the 95 % interval of `trained`, where there were several draws."""
    untrained: float | None = None
    """The same network before training, evaluated in the same way; None where the protocol has no such number."""


@dataclass(frozen=True)
class ScoreRow:
    """One number of one protocol, for every run; None where a run has none."""

    protocol: str
    """Name on the command line."""
    measure: str
    """What the number is, in words."""
    scores: Sequence[Score | None]
    """In the order of the runs."""
    is_share: bool = True
    """Whether it is printed in per cent."""


@dataclass(frozen=True)
class LeftOut:
    """A protocol without numbers, and why."""

    protocol: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Every protocol that the data allow, for one run or several."""

    data: str
    """Images, as named by the user."""
    test: str | None
    """Images of the score, if they were given."""
    quick: bool
    """Whether the numbers are those of the quick sizes."""
    contenders: Sequence[Contender]
    rows: Sequence[ScoreRow]
    seconds: dict[str, Sequence[float | None]]
    """What each protocol cost with both networks, by its name, in the order of the runs."""
    left_out: Sequence[LeftOut] = field(default_factory=tuple[LeftOut, ...])
    published: dict[str, str] = field(default_factory=dict[str, str])
    """What the papers report for each protocol of the table, by its name."""


ALIKE = "What the papers report compares with these scores only where images, network and training are theirs."


def markdown(found: Comparison) -> str:
    """The table and what is to be known about it, in Markdown; equal comparisons give equal text."""
    heads = ["protocol", "score"]
    for one in found.contenders:
        heads += [f"{one.name} (seed {one.seed})", "untrained", "cost"]
    lines = [heads, ["---", "---"] + ["---:"] * (len(heads) - 2)]
    for row in found.rows:
        cells = zip(row.scores, _costs(found, row), strict=True)
        texts = [
            text for score, cost in cells for text in (*_texts(row, score), "" if cost is None else f"{cost:,.1f} s")
        ]
        lines.append([row.protocol, row.measure, *texts])
    text = [f"# Evaluation on {_cell(found.data)}", "", _cell(_opening(found)), ""]
    if found.rows:
        text += ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]
    text += ["", *(f"- {_cell(one.name)}: {_cell(_facts(one))}" for one in found.contenders)]
    if found.published:
        text += ["", f"Published. {ALIKE}", ""]
        text += [f"- {name}: {_cell(sentence)}" for name, sentence in found.published.items()]
    if found.left_out:
        text += ["", "Left out:", "", *(f"- {one.protocol}: {_cell(one.reason)}" for one in found.left_out)]
    return "\n".join(text) + "\n"


def page(found: Comparison) -> str:
    """The same as a whole HTML page; equal comparisons give equal text."""
    from markupsafe import Markup

    style = (resources.files("unlabeled.report") / "templates" / "comparison.css").read_text(encoding="utf-8")
    rows = [
        (row, [_shown(row, *cell) for cell in zip(row.scores, _costs(found, row), strict=True)]) for row in found.rows
    ]
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            style=Markup(style),
            data=printable(found.data),
            opening=_opening(found),
            facts=[(printable(one.name), one.seed, _facts(one)) for one in found.contenders],
            rows=rows,
            alike=ALIKE,
            published=[(printable(name), printable(sentence)) for name, sentence in found.published.items()],
            left_out=[(printable(one.protocol), printable(one.reason)) for one in found.left_out],
        )
    )


def _costs(found: Comparison, row: ScoreRow) -> Sequence[float | None]:
    """Seconds of the row's protocol for each run, in its first row only: they are those of all its numbers."""
    is_first = next(other for other in found.rows if other.protocol == row.protocol) is row
    return found.seconds[row.protocol] if is_first else [None] * len(row.scores)


def _shown(row: ScoreRow, score: Score | None, cost: float | None) -> dict[str, str | float | None]:
    # Texts of a cell, and where its bar ends and its mark stands, per cent of the width.
    trained, untrained = _texts(row, score)
    return {
        "trained": trained,
        "untrained": untrained,
        "cost": "" if cost is None else duration(cost),
        "bar": None if score is None else _position(score.trained),
        "mark": None if score is None or score.untrained is None else _position(score.untrained),
    }


def _position(value: float) -> float:
    return round(100 * min(max(value, 0.0), 1.0), 1)


def _texts(row: ScoreRow, score: Score | None) -> tuple[str, str]:
    """How a score reads: the trained network's with its interval, and the untrained one's."""
    if score is None:
        return "", ""
    trained = number(score.trained, row.is_share)
    if score.interval is not None:
        trained += f" ± {100 * score.interval:.1f}" if row.is_share else f" ± {score.interval:.3f}"
    return trained, "" if score.untrained is None else number(score.untrained, row.is_share)


def number(value: float, is_share: bool) -> str:
    """A score for people."""
    return f"{100 * value:.1f} %" if is_share else f"{value:.3f}"


def _facts(one: Contender) -> str:
    return f"{one.network}, {counted(one.epochs, 'epoch')}, seed {one.seed}, {printable(one.path)}"


def _opening(found: Comparison) -> str:
    scored = f"scored on {printable(found.test)}" if found.test else "scored on a part of them that was held out"
    quick = " Quick sizes: a first look, not numbers to publish." if found.quick else ""
    return (
        f"Images of {printable(found.data)}, {scored}. Beside each score is that of the same network before training, "
        "evaluated in the same way; after ± stands half a 95 % interval over random draws. The cost is that of both "
        f"networks.{quick}"
    )


def _cell(text: str) -> str:
    # Markdown lets HTML through, and a bar would end a cell of the table.
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
