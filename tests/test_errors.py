"""Errors that a person reads: one family, and names that help."""

from __future__ import annotations

import pytest

from unlabeled import errors


def test_every_error_for_people_is_of_one_family():
    for kind in (errors.DataError, errors.ConfigError, errors.RunError, errors.MissingExtraError):
        assert issubclass(kind, errors.UnlabeledError)
    assert not issubclass(errors.Interrupted, errors.UnlabeledError), "being asked to stop is no mistake"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("resnet19", "unknown backbone 'resnet19', did you mean 'resnet18'? Known: alexnet, resnet18."),
        ("zzz", "unknown backbone 'zzz'. Known: alexnet, resnet18."),
        ("", "unknown backbone ''. Known: alexnet, resnet18."),
    ],
)
def test_unknown_names_list_the_known_ones(name: str, wanted: str):
    assert errors.unknown_name("backbone", name, ["resnet18", "alexnet"]) == wanted


def test_a_missing_extra_says_what_to_install():
    assert "pip install 'unlabeled[table]'" in str(errors.MissingExtraError("writing Parquet", "table"))
