"""Properties of every attack. A new attack is one line below."""

import math

import pytest
import torch

from equipoise.attacks import APGD, PGD, Noise, Square, fgsm, iterative_fgsm
from equipoise.attacks.goals import cross_entropy
from equipoise.attacks.threat import L2, Linf, check_images
from equipoise.contracts import ATTACK_CHECKS, SEARCH_CHECKS, AttackCase, small_network
from equipoise.contracts.base import title
from equipoise.contracts.searches import mixed_network, waves
from equipoise.evaluation import suites_for
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

SUITES = suites_for(small_network(), ["quick", "tables"], classes=4, steps=3)
EVALUATION_ATTACKS = {
    f"{suite.name}/{attack.name}": attack
    for suite in SUITES
    for attack in suite.attacks
    if "square" not in attack.name  # its queries take seconds; Square is among the searches
}

one_or_per_image = ["one", "per_image"]
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
every_evaluation_attack = pytest.mark.parametrize(
    "attack", EVALUATION_ATTACKS.values(), ids=EVALUATION_ATTACKS
)
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


@every_attack
@pytest.mark.parametrize("check", SEARCH_CHECKS, ids=title)
def test_every_check_of_a_search_holds(check, attack):
    check(attack)


@every_evaluation_attack
@pytest.mark.parametrize("check", ATTACK_CHECKS, ids=title)
def test_every_check_of_an_attack_holds(check, attack):
    check(AttackCase(attack, small_network()))


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
def test_raises_the_goal_of_a_network(attack, threat, clean, labels, generator):
    goal = cross_entropy(mixed_network().eval(), labels[:4])
    adversarial = attack(goal, clean, threat, generator)
    strong = torch.as_tensor(threat.epsilon).expand(4) > 0
    assert (goal(adversarial) > goal(clean))[strong].all()


@every_random_attack
def test_another_seed_gives_another_result(attack, clean):
    first = attack(waves, clean, Linf(0.1), torch.Generator().manual_seed(7))
    second = attack(waves, clean, Linf(0.1), torch.Generator().manual_seed(8))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("attack", FIXED.values(), ids=FIXED)
def test_attacks_each_image_on_its_own(attack, clean):
    threat = Linf(0.1)
    whole = attack(waves, clean, threat, torch.Generator())
    alone = attack(waves, clean[2:3], threat, torch.Generator())
    torch.testing.assert_close(whole[2:3], alone)


NOT_IMAGES = {
    "normalised": (lambda x: 4 * x - 2, r"in \[0, 1\], got values from -.*inside the model"),
    "0 to 255": (lambda x: 255 * x, r"in \[0, 1\], got values from .*divide pixels of 0 to 255"),
    "NaN": (lambda x: x * math.nan, r"in \[0, 1\], got NaN"),
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
