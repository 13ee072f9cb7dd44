"""`unlabeled evaluate knn --help`: what one protocol or picture takes, no more and no less, with its own defaults."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from command_line import Call, call, words
from unlabeled.cli.single import FAMILIES, meaning
from unlabeled.cli.visualize import NOT_OF_IMAGES
from unlabeled.protocols import options_of as options_of_protocol
from unlabeled.report.comparison import protocols
from unlabeled.visualize import PICTURES
from unlabeled.visualize import options_of as options_of_picture

__all__ = ["call"]  # a fixture

NAMES = [*(("evaluate", name) for name in protocols()), *(("visualize", name) for name in PICTURES)]


def options_of(verb: str, name: str) -> set[str]:
    return (
        {*options_of_protocol(name, protocols()), "compare"} if verb == "evaluate" else set(options_of_picture(name)[1])
    )


@pytest.mark.parametrize(("verb", "name"), NAMES)
def test_one_shows_its_own_options_and_nothing_else(verb: str, name: str, call: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = call(verb, name, "--help")
    assert (status, err) == (0, "")
    assert f"unlabeled {verb} {name} RUN" in out
    assert (f"Options of {name}" in out) == bool(options_of(verb, name))
    assert set(FAMILIES[verb].taken(name)) == options_of(verb, name)
    shown = words(out)
    for option in FAMILIES[verb].options.model_fields:
        flag = f" --{option.replace('_', '-')} "
        assert (flag in shown) == (
            option in options_of(verb, name) or option in {"out", "labels"} & set(flag_names(out))
        )


def flag_names(out: str) -> list[str]:
    return [word.removeprefix("--").replace("-", "_") for word in words(out).split() if word.startswith("--")]


@pytest.mark.parametrize(("verb", "name"), NAMES)
def test_defaults_in_help_are_those_of_the_function(verb: str, name: str):
    function = (protocols() if verb == "evaluate" else PICTURES)[name]
    for option, text in FAMILIES[verb].taken(name).items():
        parameter = inspect.signature(function).parameters.get(option)
        if parameter is None or parameter.default is None or isinstance(parameter.default, bool):
            continue  # `compare` of every protocol, and what is decided when it is known how much there is
        assert text.endswith("]"), f"{option} of {name} has the default {parameter.default} and says none"
        default = parameter.default[0] if isinstance(parameter.default, tuple) else parameter.default
        default = f"{default:g}" if isinstance(default, float) else str(default)
        assert text.rpartition("[")[2].startswith(default), f"{option} of {name}: {text}"


def test_what_a_picture_is_of():
    assert set(NOT_OF_IMAGES) == {name for name in PICTURES if not options_of_picture(name)[0]}


def test_a_clause_is_found_with_its_default():
    text = (
        "knn: voters [20, more on large sets]; edge-ratio, cliques: edges [10; 5]; voc-*: the part [test; voc-a: val]"
    )
    names = {"knn", "edge-ratio", "cliques", "voc-a", "voc-b", "mlp"}
    assert meaning(text, "knn", names) == "voters [20, more on large sets]"
    assert meaning(text, "cliques", names) == "edges [5]"
    assert meaning(text, "voc-a", names) == "the part [val]"
    assert meaning(text, "voc-b", names) == "the part [test]"
    assert meaning(text, "mlp", names) == ""


def test_the_help_of_one_needs_no_torch_and_mistakes_get_the_whole_help(call: Call):
    code = (
        "import sys\nfrom unlabeled.cli import main\nmain(['evaluate', 'knn', '--help'])\n"
        "print([name for name in ('torch', 'PIL', 'scipy') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert "Options of single protocols" in call("evaluate", "knm", "--help")[1]
