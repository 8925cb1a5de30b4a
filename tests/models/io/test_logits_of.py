import pytest
import torch
from tiny import images_and_labels
from torch import nn

from equipoise.models.io.logits_of import LogitsOf


class Returns(nn.Module):
    """Returns the result of a function of the images."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, images):
        return self.make(images.flatten(1)[:, :10])


@pytest.fixture
def images():
    return images_and_labels(4)[0]


def test_a_tensor_of_logits_is_returned_unchanged(images):
    model = LogitsOf(Returns(lambda logits: logits))
    assert torch.equal(model(images), images.flatten(1)[:, :10])


class Output:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("make", "select"),
    [
        (lambda logits: {"logits": logits, "features": logits + 1}, "logits"),
        (lambda logits: (logits + 1, logits), "1"),
        (Output, "logits"),
    ],
)
def test_a_part_of_the_output_is_selected(images, make, select):
    model = LogitsOf(Returns(make), select)
    assert torch.equal(model(images), images.flatten(1)[:, :10])


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_logit_becomes_two(images, shape):
    single = LogitsOf(Returns(lambda logits: (logits[:, 0] - 0.5).reshape(shape)), "binary")
    result = single(images)
    assert result.shape == (4, 2)
    assert torch.equal(result.argmax(dim=1), (images[:, 0, 0, 0] > 0.5).long())


@pytest.mark.parametrize(
    ("make", "select", "message"),
    [
        (lambda z: {"a": z, "b": z}, None, r"a dict with the keys \['a', 'b'\].*with --logits"),
        (lambda z: (z, z), None, r"a tuple of 2 parts.*with --logits"),
        (lambda z: {"a": z}, "b", r"no part 'b': it is a dict with the keys \['a'\]"),
        (lambda z: (z, z), "2", r"no part '2': it is a tuple of 2 parts"),
        (lambda z: z[:, 0], None, r"one number per image.*--logits binary"),
        (lambda z: z[:, :, None], None, r"logits of shape \(batch, classes\), got shape"),
    ],
)
def test_an_output_without_logits_is_refused_with_the_remedy(images, make, select, message):
    with pytest.raises(ValueError, match=message):
        LogitsOf(Returns(make), select)(images)
