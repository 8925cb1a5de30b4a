import pytest
import torch

from equipoise.models import WeightGenerator


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return WeightGenerator(3, hidden=4).eval()


def test_gives_one_weight_per_image_between_zero_and_one(weights, images):
    weight = weights(images)
    assert weight.shape == (6,)
    assert ((weight > 0) & (weight < 1)).all()


def test_weights_can_be_below_and_above_one_half(weights, images):
    # With a ReLU before the sigmoid, as the paper's figure has it, no weight is below one half.
    for bias, low, high in [(-3.0, 0.0, 0.5), (3.0, 0.5, 1.0)]:
        torch.nn.init.constant_(weights.linears[-1].bias, bias)
        weight = weights(images)
        assert ((weight > low) & (weight < high)).all()


def test_a_weight_depends_on_its_own_image_alone(weights, images):
    torch.testing.assert_close(weights(images)[2:3], weights(images[2:3]))
    images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(weights(images)[2], images)
    assert gradient[2].abs().max() > 0
    assert gradient[[0, 1, 3, 4, 5]].abs().max() == 0


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_pointwise_generator_reads_features_of_any_size(size):
    weight = WeightGenerator(3, hidden=4, kernel=1)(torch.rand(2, 3, size, size))
    assert weight.shape == (2,)


def test_half_precision_features_give_a_float32_weight(weights, images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert weights(images).dtype == torch.float32
