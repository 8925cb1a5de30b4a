"""What a trained stage is warned of: a constant gate, branches alike, a stack below a member."""

import pytest
import tiny
import torch
from torch import nn

from equipoise.data import Split
from equipoise.methods.examine import alike_branches, constant_gate, weak_stack
from equipoise.models import FeatureStack, fuse_branches, with_branches
from equipoise.training.monitors import at_chance


@pytest.fixture
def branched():
    torch.manual_seed(0)
    return with_branches(tiny.wide_resnet(), 2).eval()


def test_a_fresh_generator_is_constant_and_one_that_reads_brightness_is_not(branched):
    split = tiny.split()
    network = fuse_branches(branched, placement="input").eval()
    (warning,) = constant_gate(network, split, 0.1)
    assert "the weight generator is constant: W1 is 0." in warning

    def logits_and_weight(images, **_):
        return images.flatten(1)[:, :10], images.std(dim=(1, 2, 3))

    network.logits_and_weight = logits_and_weight
    assert constant_gate(network, split, 0.2) == []


def test_fresh_branches_are_alike_until_one_changes(branched):
    split = tiny.split()
    (warning,) = alike_branches(branched, split)
    assert "the branches are alike" in warning
    for name, parameter in branched.named_parameters():
        if name.endswith("1.bias"):
            nn.init.constant_(parameter, 3.0)
    assert alike_branches(branched, split) == []


class Bright(nn.Module):
    """Right on images whose first pixel tells the label; the sign of its head can be turned."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[-sign], [sign]]))
            self.linear.bias.copy_(torch.tensor([0.5 * sign, -0.5 * sign]))

    def forward(self, images):
        return self.linear(images.mean(dim=(1, 2, 3))[:, None])


def test_a_stack_below_its_member_names_the_member():
    labels = torch.tensor([0, 1] * 8)
    pixels = (labels * 200).to(torch.uint8)[:, None, None, None].expand(16, 1, 4, 4)
    split = Split(images=pixels.contiguous(), labels=labels, classes=2)
    stack = FeatureStack([Bright(-1.0), Bright(1.0)], 2).eval()
    nn.init.zeros_(stack.merger.weight)
    with torch.no_grad():
        stack.merger.bias.copy_(torch.tensor([1.0, 0.0]))  # always the first class
    (warning,) = weak_stack(stack, split, 0.05)
    assert "the stack is worse than its member 1" in warning
    assert "50.0 % for the stack and 100.0 % for the member" in warning
    stack.average()
    with torch.no_grad():
        stack.merger.weight[:, 0] = 0.0
        stack.merger.bias.copy_(torch.tensor([0.25, -0.25]))
    assert weak_stack(stack, split, 0.05) == []


@pytest.mark.parametrize(("right", "warned"), [(0.1, True), (0.12, True), (0.2, False)])
def test_guessing_is_told_from_knowing(right, warned):
    assert bool(at_chance({"0": right, "0.1": 0.0}, classes=10, images=1000)) == warned
