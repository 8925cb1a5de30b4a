"""Properties of every attack. A new attack is one line below."""

import math

import pytest
import torch
from torch import nn

from equipoise.attacks import APGD, PGD, Noise, Square, fgsm, iterative_fgsm
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import L2, Linf, check_images
from equipoise.models.attack_mode.context import attack_mode
from equipoise.runtime.errors import InvalidInput

FIXED = {
    "fgsm": fgsm(),
    "iterative_fgsm": iterative_fgsm(10),
}
RANDOM = {
    "pgd": PGD(steps=30, relative_step=0.25),
    "pgd_noise": PGD(steps=30, relative_step=0.25, start_noise=0.001),
    "pgd_absolute_step": PGD(steps=40, step_size=0.05),
    "pgd_restarts": PGD(steps=20, relative_step=0.25, restarts=3),
    "pgd_best": PGD(steps=20, relative_step=0.25, restarts=2, keep="best"),
    "apgd": APGD(steps=30),
    "apgd_restarts": APGD(steps=20, restarts=2),
}
BY_QUERIES = {
    "noise": Noise(draws=20),
    "square": Square(queries=40),
    "square_restarts": Square(queries=20, restarts=2, rescale=True),
}
BY_GRADIENT = FIXED | RANDOM
EXACT_IN_LINF = BY_GRADIENT | {"square": Square(queries=1200, rescale=True)}
RANDOM |= BY_QUERIES
ATTACKS = FIXED | RANDOM
THREATS = {
    "linf": Linf(0.2),
    "linf_each": Linf(torch.tensor([0.0, 0.03, 0.1, 0.3])),
    "l2": L2(0.3),
    "l2_each": L2(torch.tensor([0.0, 0.1, 0.2, 0.4])),
}

one_or_per_image = ["one", "per_image"]
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
every_gradient_attack = pytest.mark.parametrize("attack", BY_GRADIENT.values(), ids=BY_GRADIENT)
every_random_attack = pytest.mark.parametrize("attack", RANDOM.values(), ids=RANDOM)
every_threat = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)


@pytest.fixture
def clean(generator):
    return torch.rand(4, 3, 4, 4, generator=generator)


@pytest.fixture
def slope(generator):
    """Gradient of a linear goal, different for every image and not of length one."""
    return 3 * torch.randn(4, 3, 4, 4, generator=generator)


@pytest.fixture
def network():
    """A network with dropout and batch norms, in mixed modes, partly frozen, with gradients."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.BatchNorm2d(4)
    )
    network.extend([nn.Dropout(0.2), nn.Flatten(), nn.Linear(4, 3)])
    network.train()
    network[1].eval()
    network[3].requires_grad_(False)
    network[0].weight.grad = torch.ones_like(network[0].weight)
    return network


def state_of(network):
    """Return weights, buffers, gradients, ``requires_grad`` flags and modes."""
    return {
        "state": {name: value.clone() for name, value in network.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "trained": [p.requires_grad for p in network.parameters()],
        "modes": [module.training for module in network.modules()],
    }


def waves(images):
    """A goal with many local maxima: where a search starts decides where it ends."""
    return torch.sin(40 * images).sum(dim=(1, 2, 3))


@every_attack
@every_threat
def test_stays_inside_the_ball_and_the_pixel_range(attack, threat, clean, generator):
    adversarial = attack(waves, clean, threat, generator)
    order = math.inf if isinstance(threat, Linf) else 2
    moved = torch.linalg.vector_norm((adversarial - clean).flatten(1), ord=order, dim=1)
    assert adversarial.shape == clean.shape
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert (moved <= torch.as_tensor(threat.epsilon) + 1e-5).all()


@pytest.mark.parametrize("attack", EXACT_IN_LINF.values(), ids=EXACT_IN_LINF)
@pytest.mark.parametrize(
    "epsilon", [0.2, torch.tensor([0.0, 0.03, 0.1, 0.3])], ids=one_or_per_image
)
def test_reaches_the_optimum_of_a_linear_goal_in_linf(attack, epsilon, clean, slope, generator):
    adversarial = attack(lambda x: (x * slope).sum((1, 2, 3)), clean, Linf(epsilon), generator)
    radius = torch.as_tensor(epsilon).expand(4)[:, None, None, None]
    torch.testing.assert_close(adversarial, (clean + radius * slope.sign()).clamp(0, 1))


@every_gradient_attack
@pytest.mark.parametrize("epsilon", [0.3, torch.tensor([0.0, 0.1, 0.2, 0.4])], ids=one_or_per_image)
def test_reaches_the_optimum_of_a_linear_goal_in_l2(attack, epsilon, slope, generator):
    clean = torch.full((4, 3, 4, 4), 0.5)  # far from the pixel bounds
    adversarial = attack(lambda x: (x * slope).sum((1, 2, 3)), clean, L2(epsilon), generator)
    radius = torch.as_tensor(epsilon).expand(4)
    length = slope.flatten(1).norm(dim=1)
    optimum = clean + (radius / length)[:, None, None, None] * slope
    gain = ((adversarial - clean) * slope).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gain, radius * length, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(adversarial, optimum, rtol=0, atol=0.02)


@every_attack
@every_threat
def test_raises_the_goal_of_a_network(attack, threat, network, clean, labels, generator):
    goal = cross_entropy(network.eval(), labels[:4])
    adversarial = attack(goal, clean, threat, generator)
    strong = torch.as_tensor(threat.epsilon).expand(4) > 0
    assert (goal(adversarial) > goal(clean))[strong].all()


@every_attack
def test_returns_the_clean_image_where_epsilon_is_zero(attack, clean, generator):
    torch.testing.assert_close(attack(waves, clean, Linf(0.0), generator), clean)
    torch.testing.assert_close(attack(waves, clean, L2(0.0), generator), clean)


@every_attack
@every_threat
def test_same_generator_gives_the_same_result(attack, threat, clean):
    first = attack(waves, clean, threat, torch.Generator().manual_seed(7))
    second = attack(waves, clean, threat, torch.Generator().manual_seed(7))
    assert torch.equal(first, second)


@every_random_attack
def test_another_seed_gives_another_result(attack, clean):
    first = attack(waves, clean, Linf(0.1), torch.Generator().manual_seed(7))
    second = attack(waves, clean, Linf(0.1), torch.Generator().manual_seed(8))
    assert not torch.equal(first, second)


@every_attack
def test_leaves_the_global_seed_alone(attack, clean, generator):
    before = torch.get_rng_state()
    attack(waves, clean, Linf(0.1), generator)
    assert torch.equal(torch.get_rng_state(), before)


@every_attack
def test_returns_new_detached_images_and_leaves_the_clean_ones(attack, clean, generator):
    before = clean.clone()
    adversarial = attack(waves, clean, Linf(0.1), generator)
    assert not adversarial.requires_grad
    assert not clean.requires_grad
    assert adversarial.data_ptr() != clean.data_ptr()
    assert torch.equal(clean, before)


@every_attack
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_leaves_the_model_as_it_was(attack, mode, network, clean, labels, generator):
    before = state_of(network)
    with attack_mode(network, mode):
        attack(cross_entropy(network, labels[:4]), clean, Linf(0.1), generator)
    torch.testing.assert_close(state_of(network), before, rtol=0, atol=0)


@every_attack
def test_leaves_weight_gradients_alone_outside_attack_mode(
    attack, network, clean, labels, generator
):
    network.eval()
    before = state_of(network)
    attack(cross_entropy(network, labels[:4]), clean, Linf(0.1), generator)
    torch.testing.assert_close(state_of(network), before, rtol=0, atol=0)


@pytest.mark.parametrize("attack", FIXED.values(), ids=FIXED)
def test_attacks_each_image_on_its_own(attack, clean):
    threat = Linf(0.1)
    whole = attack(waves, clean, threat, torch.Generator())
    alone = attack(waves, clean[2:3], threat, torch.Generator())
    torch.testing.assert_close(whole[2:3], alone)


NOT_IMAGES = {
    "normalised": (lambda x: 4 * x - 2, r"in \[0, 1\], got values from -.*inside the model"),
    "0 to 255": (lambda x: 255 * x, r"in \[0, 1\], got values from .*divide pixels of 0 to 255"),
    "NaN": (lambda x: x * math.nan, r"in \[0, 1\], got values from nan to nan"),
    "uint8": (lambda x: (255 * x).byte(), r"got torch.uint8; pass images.float\(\) / 255"),
    "half": (lambda x: x.half(), r"got torch.float16; pass images.float\(\)"),
    "one image": (lambda x: x[0], r"got \(3, 4, 4\); a single image is images\[None\]"),
}


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(("change", "message"), NOT_IMAGES.values(), ids=NOT_IMAGES)
@every_attack
def test_refuses_what_no_threat_is_defined_for(attack, clean, generator, change, message):
    goal = cross_entropy(lambda images: images.flatten(1), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InvalidInput, match=message):
        attack(goal, change(clean), Linf(0.1), generator)


def test_accepts_pixels_that_rounding_moved_out_of_range_and_an_empty_batch():
    check_images(torch.tensor([[[[-1e-7, 1 + 1e-7]]]]))
    check_images(torch.rand(0, 3, 4, 4))
