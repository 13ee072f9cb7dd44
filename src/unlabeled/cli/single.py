"""The help of one protocol or one picture: `unlabeled evaluate knn --help` shows what knn takes, and nothing else.

What an option means is written once, in its description, clause by clause: "knn: voters [20]; edge-ratio, cliques: edges
of an image [10; 5]". The full help shows the description as it stands, the help of one picks its clause out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter as Argument
from inspect import getdoc, signature
from typing import Annotated, Any

from cyclopts import App, Group, Parameter
from pydantic import BaseModel, Field, create_model

from unlabeled.cli.evaluate import NO_LABELS, NO_TEST, evaluate
from unlabeled.cli.options import ProtocolOptions
from unlabeled.cli.visualize import NOT_OF_IMAGES, PictureOptions, visualize

EVERY = "every protocol"


@dataclass(frozen=True)
class Family:
    """A verb whose first argument says what it does."""

    function: Callable[..., None]
    options: type[BaseModel]
    line: str
    """How its names are listed in the docstring of the function."""
    lacks: Mapping[str, Collection[str]]
    """Arguments of the verb, and the names that do not take them."""

    def about(self) -> dict[str, str]:
        """Every name, and what stands beside it in the docstring."""
        return dict(re.findall(self.line, getdoc(self.function) or "", re.MULTILINE))

    def taken(self, name: str) -> dict[str, str]:
        """The options of one name, and what each means for it."""
        fields = self.options.model_fields.items()
        meanings = {option: meaning(field.description or "", name, self.about()) for option, field in fields}
        return {option: text for option, text in meanings.items() if text}


FAMILIES = {
    "evaluate": Family(
        evaluate, ProtocolOptions, r"^\* `([a-z-]+)`: (.+)$", {"test": NO_TEST, "labels": NO_LABELS, "quick": ()}
    ),
    "visualize": Family(visualize, PictureOptions, r"^    ([a-z-]+): (.+)$", {"data": NOT_OF_IMAGES}),
}


def help_of_one(tokens: list[str]) -> bool:
    """Print the help of one protocol or picture if that is what the command line asks for; whether it was."""
    if len(tokens) < 3 or tokens[0] not in FAMILIES or not {"--help", "-h"} & set(tokens):
        return False
    name = next((token for token in tokens[1:] if not token.startswith("-")), "")
    about = FAMILIES[tokens[0]].about().get(name)
    if about is None:
        return False
    _program(tokens[0], name, about).help_print([])
    return True


def meaning(description: str, name: str, names: Collection[str]) -> str:
    """What the description of an option says for `name`, with its own default; empty if it is not named.

    >>> meaning("knn: voters [20]; edge-ratio, cliques: edges of an image [10; 5]", "cliques", {"knn", "edge-ratio", "cliques"})
    'edges of an image [5]'
    """
    clauses = re.findall(r"(?:\[[^\]]*\]|[^;\[])+", description)
    for clause in clauses:
        head, _, text = clause.strip().partition(": ")
        named = [one for part in head.split(", ") for one in _meant(part, names)]
        if name in named:
            return _with_own_default(text, name, named)
    return ""


def _meant(part: str, names: Collection[str]) -> list[str]:
    if part == EVERY:
        return list(names)
    return [name for name in names if name == part or (part.endswith("*") and name.startswith(part[:-1]))]


def _with_own_default(text: str, name: str, named: list[str]) -> str:
    found = re.search(r"\[([^\]]*)\]$", text)
    if found is None:
        return text
    values = found[1].split("; ")
    own = dict(value.split(": ", 1) for value in values if value.split(": ")[0] in named)
    if own:
        default = own.get(name, values[0])
    else:
        default = values[named.index(name)] if len(values) == len(named) else found[1]
    return f"{text[: found.start()]}[{default}]"


def _program(verb: str, name: str, about: str) -> App:
    """A program that only has the help of one name."""
    family = FAMILIES[verb]
    lacking = {argument for argument, names in family.lacks.items() if name in names}
    fields: dict[str, Any] = {
        option: (family.options.model_fields[option].annotation, Field(None, description=text))
        for option, text in family.taken(name).items()
    }
    first, *others = signature(family.function, eval_str=True).parameters.values()
    kept = [argument for argument in others if argument.name not in {first.name, *lacking, "options"}]
    if fields:
        options = create_model("Options", **fields)
        flags = Annotated[options | None, Parameter(name="*", group=Group(f"Options of {name}"))]
        kept.append(Argument("options", Argument.KEYWORD_ONLY, default=None, annotation=flags))

    def one() -> None: ...

    arguments = (getdoc(family.function) or "").partition("\n\nParameters\n")[2]
    one.__doc__ = f"{about[:1].upper()}{about[1:].rstrip('.')}.\n\nParameters\n{arguments}"
    one.__annotations__ = {argument.name: argument.annotation for argument in kept}
    one.__signature__ = signature(family.function).replace(parameters=kept)  # pyright: ignore[reportFunctionMemberAccess]
    data = "" if "data" in lacking else " [DATA]"
    program = App(
        name="unlabeled",
        usage=f"Usage: unlabeled {verb} {name} RUN{data} [OPTIONS]      all of them: unlabeled {verb} --help",
        default_parameter=Parameter(negative_iterable=()),
        help_flags=[],
        version_flags=[],
    )
    program.default(one)
    return program
