"""The drawings of the documentation: one path of the data, five target tables.

`python docs/images/draw.py` writes the SVG files beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 850, 300
STYLE = """
text{font:14px ui-sans-serif,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;fill:#1c2126}
.small{font-size:12.5px;fill:#5a646d}.strong{font-weight:600}
rect{fill:#f5f6f7;stroke:#8d99a3}.row{fill:#ffffff;stroke:#d9dde0}.mine{fill:#cfe3f2;stroke:#0062a0}
path{fill:none;stroke:#5a646d;stroke-width:1.6}.back{stroke:#c24e00;stroke-dasharray:6 4}.backtext{fill:#c24e00}
.tip{fill:#5a646d;stroke:none}.backtip{fill:#c24e00;stroke:none}
@media (prefers-color-scheme:dark){text{fill:#e7eaec}.small{fill:#a0a9b1}rect{fill:#1f2428;stroke:#68737c}
.row{fill:#15181b;stroke:#363d43}
.mine{fill:#153a55;stroke:#62b1ec}path{stroke:#a0a9b1}.back{stroke:#f08a3c}.backtext{fill:#f08a3c}.tip{fill:#a0a9b1}.backtip{fill:#f08a3c}}
"""


@dataclass(frozen=True)
class Table:
    """What one method keeps for every image, and when it changes."""

    file: str
    title: str
    rows: tuple[str, str, str, str]
    loss: str
    when: str
    source: str
    begins: str
    """Which box of the path the new rows come from: `network` or `z`."""


TABLES = (
    Table(
        "table-deepcluster",
        "DeepCluster: a row is a cluster id",
        ("12", "7", "12", "301"),
        "cross-entropy",
        "all rows, before an epoch",
        "clusters of the features of all images",
        "network",
    ),
    Table(
        "table-pic",
        "DeepCluster with PIC: a row is the summit its image flows to",
        ("summit 3", "summit 2", "alone → 2", "summit 3"),
        "cross-entropy, K = summits",
        "all rows, before an epoch",
        "uphill along the 5-neighbour graph",
        "network",
    ),
    Table(
        "table-nat",
        "Noise As Targets: a row is a point on the sphere",
        ("code 3", "code 0", "code 9", "code 4"),
        "squared distance",
        "the batch's rows, before the loss",
        "best exchange inside the batch",
        "z",
    ),
    Table(
        "table-instance",
        "Instance discrimination: a row is the image's own last output",
        ("(.1, .4 …)", "(.7, .2 …)", "(.3, .3 …)", "(.6, .1 …)"),
        "softmax over all rows",
        "the batch's rows, after the step",
        "running mean of z, length one",
        "z",
    ),
    Table(
        "table-supervised",
        "Supervised control: a row is the label",
        ("cat", "dog", "cat", "ship"),
        "cross-entropy",
        "never",
        "",
        "",
    ),
)
BOXES = (("image", 20), ("view", 140), ("network", 260), ("z", 380), ("loss", 660))
TOP, BOX, WIDE = 60, 44, 90


def text(x: float, y: float, content: str, style: str = "", anchor: str = "middle") -> str:
    """One line of text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{style}">{escape(content)}</text>'


def arrow(points: str, tip: tuple[float, float], angle: int, style: str = "") -> str:
    """A line through `points` with a head at `tip`."""
    head = (
        f'<path class="{style}tip" d="M0 0L-9 -4.5L-9 4.5Z" transform="translate({tip[0]} {tip[1]}) rotate({angle})"/>'
    )
    return f'<path class="{style}" d="{points}"/>{head}'


def draw(table: Table) -> str:
    """The whole drawing."""
    parts = [text(20, 28, table.title, "strong", "start")]
    middle = TOP + BOX / 2
    for (name, x), after in zip(BOXES, (*BOXES[1:], None), strict=True):
        parts.append(f'<rect x="{x}" y="{TOP}" width="{WIDE}" height="{BOX}" rx="5"/>')
        parts.append(text(x + WIDE / 2, middle + 5, name))
        if after:
            parts.append(arrow(f"M{x + WIDE} {middle}H{after[1] - 8}", (after[1], middle), 0))
    parts.append(text(BOXES[-1][1] + WIDE / 2, TOP - 10, table.loss, "small"))
    left, first, high = 500, 170, 26
    for number, (row, name) in enumerate(zip(table.rows, ("0", "1", "i", "N-1"), strict=True)):
        y = first + number * high
        parts.append(
            f'<rect class="{"mine" if name == "i" else "row"}" x="{left}" y="{y}" width="120" height="{high}"/>'
        )
        parts.append(text(left + 60, y + 18, row))
        parts.append(text(left - 10, y + 18, name, "small", "end"))
    mine = first + 2.5 * high
    parts.append(text(left + 60, first - 10, "target table", "small"))
    target = BOXES[-1][1] + WIDE / 2
    parts.append(arrow(f"M{left + 120} {mine}H{target}V{TOP + BOX + 9}", (target, TOP + BOX), -90))
    parts.append(text(target + 10, 150, "target of image i", "small", "start"))
    if table.begins:
        start = dict(BOXES)[table.begins] + WIDE / 2
        parts.append(arrow(f"M{start} {TOP + BOX}V{mine}H{left - 47}", (left - 38, mine), 0, "back"))
        parts.append(text(start - 12, 196, table.when, "small backtext", "end"))
        parts.append(text(start - 12, 214, table.source, "small backtext", "end"))
        parts.append(text(start - 12, 178, "rewritten", "strong backtext", "end"))
    else:
        parts.append(text(left - 40, mine + 5, "never rewritten", "small backtext", "end"))
    described = f"{table.title}. Image, view, network, output z, loss; rows are rewritten: {table.when}. {table.source}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">'
        f"<style>{STYLE.strip()}</style>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    for table in TABLES:
        (FOLDER / f"{table.file}.svg").write_text(draw(table), encoding="utf-8")
