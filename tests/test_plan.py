"""The plan: adds up, and refuses what cannot be done before anything is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unlabeled.config import Config, DataFacts
from unlabeled.errors import ConfigError, DataError
from unlabeled.methods import build_method
from unlabeled.training import plan as plan_module
from unlabeled.training.plan import WORKSPACE, Plan, activation_bytes, free_memory, plan

FACTS = DataFacts(count=1000, channels=3, height=64, width=64, is_colour=True)
CONFIG = Config(backbone="alexnet_small", image_size=32, num_clusters=10, batch_size=50)


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(build_method(CONFIG, 1000, 3), CONFIG, FACTS)


def test_pieces_add_up(made: Plan):
    assert made.memory == WORKSPACE + made.weights + made.activations + made.features + made.clustering + made.table
    assert made.features == 1000 * 256 * 4
    # The catalogue comes after the last step.
    assert made.catalogue == 3 * made.features < made.activations
    assert replace(made, catalogue=10**12).memory == made.memory - made.activations + 10**12
    assert made.steps_per_epoch == 20
    assert "memory about" in made.sentence()
    made.check()


def test_processes_share_the_images(made: Plan):
    two = plan(build_method(CONFIG, 1000, 3), CONFIG, FACTS, world_size=2)
    assert two.features == made.features / 2 and two.weights == made.weights
    assert two.steps_per_epoch == 10
    assert two.catalogue == made.catalogue, "every process has the features of all images in the end"


def test_features_beyond_a_limit_are_on_disk(made: Plan):
    large = replace(made, features=10**12)
    assert large.memory == made.memory - made.features
    assert "(on disk)" in large.sentence()
    many = plan(build_method(CONFIG, 1000, 3), CONFIG, replace(FACTS, count=10**7))
    assert many.catalogue == 2 * 20_000 * 256 * 4, "what is on disk takes no memory"


def test_what_does_not_fit_is_refused_with_both_numbers(made: Plan):
    with pytest.raises(ConfigError, match=r"needs about 3\.0 TB .* 1\.0 GB are free"):
        replace(made, weights=3 * 10**12, available=10**9).check()


def test_beside_a_gpu_features_and_clusters_are_in_main_memory(made: Plan):
    gpu = replace(made, available=10**9, host=10**10)
    assert gpu.memory == WORKSPACE + made.weights + made.activations + made.table
    assert gpu.memory + made.features + made.clustering == made.memory
    assert replace(gpu, clustering=2 * 10**9).memory == gpu.memory, "more than the GPU has, and none of its business"
    replace(gpu, clustering=2 * 10**9).check()
    assert "GPU about" in gpu.sentence() and "10.0 GB are free" in gpu.sentence()
    with pytest.raises(ConfigError, match=r"about 20\.0 GB of main memory .* 10\.0 GB are free"):
        replace(gpu, catalogue=2 * 10**10).check()
    with pytest.raises(ConfigError, match=r"needs about 3\.0 TB .* 1\.0 GB are free"):
        replace(gpu, weights=3 * 10**12).check()


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch):
    alone = free_memory("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert free_memory("cpu") == pytest.approx(alone / 8, rel=0.3)


def test_a_batch_larger_than_the_set_is_refused(made: Plan):
    with pytest.raises(ConfigError, match=r"batch_size \(50\) on each of 30 processes .*\(1,000\).*--batch-size 16"):
        replace(made, processes=30).check()
    with pytest.raises(DataError, match="fewer than 2"):
        replace(made, images=1).check()


def test_free_memory_is_a_number_of_bytes():
    assert 10**6 < free_memory("cpu") < 10**14


def test_limits_of_control_groups_of_both_versions(tmp_path: Path):
    """A nested slice of version 2 and a group of version 1, each with its own limit and what is used of it."""
    for folder, names, limit, used in (
        ("user.slice/job.scope", ("memory.max", "memory.current"), "max", 10),
        ("user.slice", ("memory.max", "memory.current"), "1000", 300),
        ("memory/slurm/job_7", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "600", 100),
        ("memory/slurm", ("memory.limit_in_bytes", "memory.usage_in_bytes"), str(2**63 - 4096), 100),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / names[0]).write_text(f"{limit}\n")
        (tmp_path / folder / names[1]).write_text(f"{used}\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/user.slice/job.scope\n")
    assert plan_module._cgroup_limits(tmp_path, own) == [700]
    own.write_text("5:cpu:/x\n4:memory:/slurm/job_7\n")
    assert plan_module._cgroup_limits(tmp_path, own) == [500]
    assert plan_module._cgroup_limits(tmp_path, tmp_path / "gone") == []


@pytest.mark.parametrize(
    ("backbone", "side", "per_value"),
    [("alexnet", 224, 48), ("resnet18", 224, 147), ("alexnet_small", 32, 364), ("resnet18_small", 32, 1529)],
)
def test_activations_are_measured(backbone: str, side: int, per_value: float):
    """Against bytes per input value that training was seen to take in float32, and nothing about the network changes."""
    config = Config(
        backbone=backbone, image_size=side, resize=side, store_size=side, num_clusters=10, precision="float32"
    )
    method = build_method(config, 100, 3)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    measured = activation_bytes(method, config, replace(FACTS, height=side, width=side)) / (3 * side**2)
    assert 0.6 * per_value < measured < 1.3 * per_value
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
