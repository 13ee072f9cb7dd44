"""Settings: nothing is rounded, nothing unknown passes, and what is written is what is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.config import Config
from unlabeled.errors import ConfigError


def test_written_and_read_back_is_equal(tmp_path: Path):
    config = Config(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 0.5), schedule="steps", schedule_steps=(3, 7), head_lr=0.2)
    config.save(tmp_path / "c.json")
    assert Config.load(tmp_path / "c.json") == config


@given(st.floats(min_value=1e-6, max_value=10), st.integers(1, 10**6), st.booleans())
def test_any_values_survive_the_file(tmp_path_factory: pytest.TempPathFactory, lr: float, epochs: int, whiten: bool):
    path = tmp_path_factory.mktemp("c") / "c.json"
    config = Config(lr=lr, epochs=epochs, whiten=whiten)
    config.save(path)
    assert Config.load(path) == config


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"epochs": 3.5}, r"epochs = 3\.5"),
        ({"epochs": "3"}, "epochs = '3'"),
        ({"epochs": True}, "epochs = True"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"keep_checkpoints": 1}, "keep_checkpoints = 1"),
        ({"method": "simclr"}, "method = 'simclr'"),
        ({"crop_area": (0.0, 1.0)}, "above 0"),
        ({"crop_area": (0.5, 0.2)}, "swap the two"),
        ({"image_size": 100}, r"resize \(73\) must be at least image_size \(100\)"),
        ({"resize": 200, "image_size": 128}, r"store_size \(96\) must be at least image_size \(128\)"),
        ({"schedule_steps": (5, 3)}, "must rise"),
        ({"mean": (0.5,)}, "give both or neither"),
        ({"schedule": "inverse"}, "inverse_gamma above 0, got 0"),
        ({"epoch": 3}, "did you mean 'epochs'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(changes: dict[str, Any], wanted: str):
    with pytest.raises(ConfigError, match=wanted) as caught:
        Config().replace(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]", '{"epochs": "many"}', '{"epoch": 3}', "\0"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        Config.load(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="no configuration at"):
        Config.load(tmp_path / "none.json")


def test_every_setting_says_what_it_is():
    for name, field in Config.model_fields.items():
        assert field.description, name
        assert not field.description.endswith("."), f"{name}: a phrase for a table, not a sentence"
