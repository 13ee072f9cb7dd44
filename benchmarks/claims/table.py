"""What came of the claims, as Markdown: for people on the screen, and for RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.claims.claim import Claim, Outcome, Values
from benchmarks.claims.verdict import Verdict, mean, together

Result = dict[str, Any]
"""A claim with its scores and verdicts, as it is stored."""


def result(claim: Claim, values: Values, claimed: bool) -> Result:
    """Scores and verdicts. `claimed`: whether this size is large enough for a direction to mean something."""
    return {
        "number": claim.number,
        "name": claim.name,
        "sentence": claim.sentence,
        "source": claim.source,
        "note": claim.note,
        "shown": list(claim.shown),
        "scores": values,
        "checks": [checked(check.sentence, _outcome(check, values), claimed) for check in claim.checks],
        "verdict": _verdict(claim, values) if claimed else "direction not claimed at this size",
    }


def checked(sentence: str, outcome: Outcome | None, claimed: bool) -> dict[str, Any]:
    """One direction and what came of it."""
    if outcome is None:
        return {"sentence": sentence, "gap": None, "verdict": "not run"}
    return {"sentence": sentence, "gap": outcome.gap, "verdict": outcome.verdict if claimed else "not claimed"}


def markdown(results: Sequence[Result], facts: Mapping[str, str]) -> str:
    """A section for each claim, after an overview."""
    lines = ["| # | claim | what came of it |", "|---|---|---|"]
    lines += [f"| {found['number']} | {found['sentence']} | **{found['verdict']}** |" for found in results]
    lines += ["", *(f"{name}: {fact}" for name, fact in facts.items())]
    for found in results:
        lines += ["", *_section(found)]
    return "\n".join(lines) + "\n"


def _section(found: Result) -> list[str]:
    lines = [f"### {found['number']}. {found['name']}: {found['verdict']}", "", f"Claim: {found['sentence']}."]
    lines += [f"Paper: {found['source']}.", ""]
    scores: Mapping[str, Mapping[str, Sequence[float]]] = found["scores"]
    present = {name for scores_of in scores.values() for name in scores_of}
    columns = [name for name in found["shown"] if name in present]
    lines += [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, values in scores.items():
        cells = [figures(values[column]) if values.get(column) else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    for check in found["checks"]:
        gap = "" if check["gap"] is None else f" (difference beyond that {check['gap']:+.3f})"
        lines.append(f"- {check['sentence']}: {check['verdict']}{gap}")
    if found["note"]:
        lines += ["", found["note"]]
    return lines


def figures(values: Sequence[float]) -> str:
    """Mean, and smallest to largest seed: `.445 (.438-.454)`."""
    if len(values) == 1:
        return _short(values[0])
    return f"{_short(mean(values))} ({_short(min(values))}-{_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def _outcome(check: Any, values: Values) -> Outcome | None:
    try:
        return check.outcome(values)
    except KeyError:
        return None


def _verdict(claim: Claim, values: Values) -> Verdict | str:
    outcomes = [_outcome(check, values) for check in claim.checks]
    if any(outcome is None for outcome in outcomes):
        return "not run"
    return together([outcome.verdict for outcome in outcomes if outcome is not None])
