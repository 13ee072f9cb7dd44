"""The command line and Python are two doors of one house: the same verbs, the same names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import unlabeled
from unlabeled.cli import app
from unlabeled.cli.options import ProtocolOptions, Settings
from unlabeled.cli.visualize import PictureOptions
from unlabeled.config import Config
from unlabeled.protocols import options_of as options_of_protocol
from unlabeled.report.comparison import protocols
from unlabeled.run import Run
from unlabeled.visualize import PICTURES
from unlabeled.visualize import options_of as options_of_picture

VERBS: dict[str, Callable[..., Any]] = {
    "cache": unlabeled.cache,
    "check": unlabeled.check,
    "demo": unlabeled.demo,
    "import": unlabeled.import_weights,
    "resume": unlabeled.resume,
    "train": unlabeled.train,
    **{
        name: getattr(Run, name)
        for name in ("cluster", "embed", "evaluate", "explore", "export", "report", "search", "visualize")
    },
}
OF_LOAD = {"run", "device"}
"""What `unlabeled.load` takes, and so every verb of a run at the command line."""
REST = {
    "demo": set(Config.model_fields) - {"recipe"},
    "train": set(Config.model_fields) - {"recipe"},
    "import": {"image_size", "resize", "mean", "std", "num_clusters"},
    "evaluate": {"compare", *(option for name in protocols() for option in options_of_protocol(name, protocols()))},
    "visualize": {option for name in PICTURES for option in options_of_picture(name)[1]},
}
"""What goes by name through `**settings` or `**options`."""
ONLY_IN_PYTHON = {"report": {"store"}}
"""Objects that a command line cannot hold."""
ONLY_PRINTED = {"evaluate": {"published"}}
"""Switches of what is printed, where Python gives it with the result or by a function (`protocols.published`)."""


def at_the_command_line(verb: str) -> list[set[str]]:
    """Every argument of a verb: its names, as Python would spell them."""
    # A model of many settings is shown as these, not as itself.
    shown = [argument for argument in app[verb].assemble_argument_collection() if argument.show]
    return [{name.lstrip("-").replace("-", "_").lower() for name in argument.names} for argument in shown]


def in_python(verb: str) -> set[str]:
    parameters = inspect.signature(VERBS[verb]).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind != inspect.Parameter.VAR_KEYWORD} - {"self"}
    of_a_run = OF_LOAD if VERBS[verb].__qualname__.startswith("Run.") else set[str]()
    return (own | of_a_run | REST.get(verb, set())) - ONLY_IN_PYTHON.get(verb, set())


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_the_same_at_both_doors(verb: str):
    here = [names for names in at_the_command_line(verb) if not names & ONLY_PRINTED.get(verb, set())]
    there = in_python(verb)
    assert here and [names for names in here if not names & there] == [], "Python lacks these"
    assert there - set().union(*here) - {"device"} == set(), "the command line lacks these"


def test_every_verb_is_compared():
    assert {name for name in app if not name.startswith("-")} == set(VERBS)


def test_option_models_are_what_the_functions_take():
    assert set(ProtocolOptions.model_fields) == REST["evaluate"]
    assert set(PictureOptions.model_fields) == REST["visualize"]
    assert set(Settings.model_fields) == REST["train"]
