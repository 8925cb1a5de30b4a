import copy
import random

import numpy
import pytest
import torch
from torch import nn

from equipoise.runtime.errors import RunError
from equipoise.training import checkpoint
from equipoise.training.checkpoint import (
    CURRENT,
    PREVIOUS,
    CheckpointError,
    load_checkpoint,
    unpack,
)


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        "weight": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(seed),
        "order": torch.randperm(7),
        "none": torch.zeros(0, dtype=torch.long),
        "wide": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "turned": torch.randn(3, 4).t(),
    }


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints, the newest of step 2."""
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, tensors(step), {"step": step})
    return tmp_path


def damage(path):
    path.write_bytes(path.read_bytes()[:-5])


def test_tensors_and_state_round_trip(tmp_path):
    state = {"epoch": 3, "best": None, "terms": ["loss", "ε"], "seconds": 1.5}
    checkpoint.save_checkpoint(tmp_path, tensors(), state)
    loaded, loaded_state = load_checkpoint(tmp_path)
    assert equal(loaded, tensors())
    assert loaded_state == state


def test_loading_from_an_empty_folder_returns_none(tmp_path):
    assert load_checkpoint(tmp_path) is None


def test_the_newest_checkpoint_is_read_and_the_previous_one_is_kept(folder):
    assert load_checkpoint(folder)[1] == {"step": 2}
    assert unpack(folder / PREVIOUS)[1] == {"step": 1}
    assert sorted(path.name for path in folder.iterdir()) == sorted([CURRENT, PREVIOUS])


def test_a_damaged_checkpoint_falls_back_to_the_previous_one_with_a_warning(folder):
    damage(folder / CURRENT)
    warnings = []
    loaded, state = load_checkpoint(folder, warnings.append)
    assert state == {"step": 1}
    assert equal(loaded, tensors(1))
    assert len(warnings) == 1
    assert f"{folder / CURRENT} is damaged" in warnings[0]
    assert "used instead" in warnings[0]


def test_an_intact_checkpoint_is_used_without_a_warning(folder):
    warnings = []
    load_checkpoint(folder, warnings.append)
    assert warnings == []


def test_a_kill_between_the_two_renames_leaves_a_checkpoint(folder):
    (folder / CURRENT).unlink()
    assert load_checkpoint(folder)[1] == {"step": 1}


def test_damage_to_all_checkpoints_raises_with_the_remedy(folder):
    damage(folder / CURRENT)
    damage(folder / PREVIOUS)
    with pytest.raises(CheckpointError, match=r"is damaged .* delete .* to train this stage again"):
        load_checkpoint(folder)


def test_a_failed_write_leaves_both_checkpoints(folder, monkeypatch):
    def full(path, content):
        raise RunError("no space")

    monkeypatch.setattr("equipoise.training.checkpoint.write_bytes", full)
    with pytest.raises(RunError, match="no space"):
        checkpoint.save_checkpoint(folder, tensors(3), {"step": 3})
    assert unpack(folder / CURRENT)[1] == {"step": 2}
    assert unpack(folder / PREVIOUS)[1] == {"step": 1}


def test_any_flipped_bit_is_detected(folder):
    path = folder / CURRENT
    whole = path.read_bytes()
    drawn = random.Random(0)
    for position in [*range(0, 8), *(drawn.randrange(len(whole)) for _ in range(300))]:
        broken = bytearray(whole)
        broken[position] ^= 1 << drawn.randrange(8)
        path.write_bytes(bytes(broken))
        with pytest.raises(CheckpointError, match="is damaged"):
            unpack(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_detected(folder, share):
    path = folder / CURRENT
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="is damaged"):
        unpack(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing.safetensors"):
        unpack(tmp_path / "nothing.safetensors")


def test_a_plain_safetensors_file_is_refused(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        unpack(tmp_path / "other.safetensors")


def test_every_global_random_generator_is_restored():
    def draw():
        return (
            torch.rand(3).tolist(),
            numpy.random.rand(3).tolist(),
            numpy.random.standard_normal(),
            random.random(),
            random.gauss(0, 1),
        )

    torch.manual_seed(3)
    numpy.random.seed(3)
    random.seed(3)
    draw()  # leaves half a Gaussian pair in NumPy and in Python
    state = checkpoint.random_state()
    first = draw()
    draw()
    checkpoint.set_random_state(state)
    assert draw() == first


def test_random_states_survive_the_file(tmp_path):
    state = checkpoint.random_state()
    checkpoint.save_checkpoint(tmp_path, state, {})
    expected = (torch.rand(3).tolist(), numpy.random.rand(3).tolist(), random.random())
    checkpoint.set_random_state(load_checkpoint(tmp_path)[0])
    assert (torch.rand(3).tolist(), numpy.random.rand(3).tolist(), random.random()) == expected


def test_an_optimiser_resumes_with_its_momentum():
    def make():
        torch.manual_seed(0)
        network = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def step(network, optimiser, seed):
        images = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        network(images).square().sum().backward()
        optimiser.step()

    network, optimiser = make()
    step(network, optimiser, 0)
    middle, saved = copy.deepcopy(network.state_dict()), checkpoint.optimiser_tensors(optimiser)
    saved = {name: value.clone() for name, value in saved.items()}
    step(network, optimiser, 1)

    resumed, resumed_optimiser = make()
    resumed.load_state_dict(middle)
    checkpoint.load_optimiser(resumed_optimiser, saved)
    step(resumed, resumed_optimiser, 1)
    assert torch.equal(resumed.weight, network.weight)
    momentum = resumed_optimiser.state[resumed.weight]["momentum_buffer"]
    assert momentum.stride() == resumed.weight.stride()
