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


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
    )


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints, the newest of step 2."""
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, tensors(step), {"step": step})
    return tmp_path


def damage(path):
    path.write_bytes(path.read_bytes()[:-5])


def test_tensors_and_state_come_back_as_they_went(tmp_path):
    state = {"epoch": 3, "best": None, "terms": ["loss", "ε"], "seconds": 1.5}
    checkpoint.save_checkpoint(tmp_path, tensors(), state)
    found, found_state = load_checkpoint(tmp_path)
    assert equal(found, tensors())
    assert found_state == state


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert load_checkpoint(tmp_path) is None


def test_the_newest_checkpoint_is_read_and_the_one_before_it_kept(folder):
    assert load_checkpoint(folder)[1] == {"step": 2}
    assert unpack(folder / PREVIOUS)[1] == {"step": 1}
    assert sorted(path.name for path in folder.iterdir()) == sorted([CURRENT, PREVIOUS])


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_with_a_warning(folder):
    damage(folder / CURRENT)
    said = []
    found, state = load_checkpoint(folder, said.append)
    assert state == {"step": 1}
    assert equal(found, tensors(1))
    assert len(said) == 1
    assert f"{folder / CURRENT} is damaged" in said[0]
    assert "used instead" in said[0]


def test_a_whole_newest_checkpoint_is_used_without_a_word(folder):
    said = []
    load_checkpoint(folder, said.append)
    assert said == []


def test_a_kill_between_the_two_renames_leaves_a_checkpoint(folder):
    (folder / CURRENT).unlink()
    assert load_checkpoint(folder)[1] == {"step": 1}


def test_damage_to_all_checkpoints_is_refused_with_the_remedy(folder):
    damage(folder / CURRENT)
    damage(folder / PREVIOUS)
    with pytest.raises(CheckpointError, match=r"is damaged .* delete .* to train this stage again"):
        load_checkpoint(folder)


def test_a_failing_write_leaves_both_checkpoints(folder, monkeypatch):
    def full(path, content):
        raise RunError("no space")

    monkeypatch.setattr("equipoise.training.checkpoint.write_bytes", full)
    with pytest.raises(RunError, match="no space"):
        checkpoint.save_checkpoint(folder, tensors(3), {"step": 3})
    assert unpack(folder / CURRENT)[1] == {"step": 2}
    assert unpack(folder / PREVIOUS)[1] == {"step": 1}


def test_any_flipped_bit_is_noticed(folder):
    path = folder / CURRENT
    whole = path.read_bytes()
    drawn = random.Random(0)
    for place in [*range(0, 8), *(drawn.randrange(len(whole)) for _ in range(300))]:
        broken = bytearray(whole)
        broken[place] ^= 1 << drawn.randrange(8)
        path.write_bytes(bytes(broken))
        with pytest.raises(CheckpointError, match="is damaged"):
            unpack(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_file_cut_short_is_noticed(folder, share):
    path = folder / CURRENT
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="is damaged"):
        unpack(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing.safetensors"):
        unpack(tmp_path / "nothing.safetensors")


def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        unpack(tmp_path / "other.safetensors")


def test_every_global_random_generator_goes_on_where_it_was():
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
    kept = checkpoint.random_state()
    first = draw()
    draw()
    checkpoint.set_random_state(kept)
    assert draw() == first


def test_random_states_survive_the_file(tmp_path):
    kept = checkpoint.random_state()
    checkpoint.save_checkpoint(tmp_path, kept, {})
    expected = (torch.rand(3).tolist(), numpy.random.rand(3).tolist(), random.random())
    checkpoint.set_random_state(load_checkpoint(tmp_path)[0])
    assert (torch.rand(3).tolist(), numpy.random.rand(3).tolist(), random.random()) == expected


def test_an_optimiser_goes_on_with_its_momentum():
    def made():
        torch.manual_seed(0)
        network = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def step(network, optimiser, seed):
        images = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
        optimiser.zero_grad()
        network(images).square().sum().backward()
        optimiser.step()

    network, optimiser = made()
    step(network, optimiser, 0)
    middle, kept = copy.deepcopy(network.state_dict()), checkpoint.optimiser_tensors(optimiser)
    kept = {name: value.clone() for name, value in kept.items()}
    step(network, optimiser, 1)

    fresh, its_optimiser = made()
    fresh.load_state_dict(middle)
    checkpoint.load_optimiser(its_optimiser, kept)
    step(fresh, its_optimiser, 1)
    assert torch.equal(fresh.weight, network.weight)
    momentum = its_optimiser.state[fresh.weight]["momentum_buffer"]
    assert momentum.stride() == fresh.weight.stride()
