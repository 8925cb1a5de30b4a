"""Once-for-all adversarial training: one network for every preference between clean and robust."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from equipoise.attacks import losses
from equipoise.distributed.shared_generator import global_size, local_rows, subset
from equipoise.methods.stage import (
    MakeNetwork,
    Norm,
    Schedule,
    Stage,
    TrainingAttack,
    check_strengths,
)
from equipoise.methods.training_attack import attacked
from equipoise.models import ConditionalNetwork, with_conditioning
from equipoise.models.film import Start
from equipoise.models.preference_encoding import PREFERENCES, Encoding, check_code
from equipoise.objectives import PGDAT, AnyObjective, Batch, single_network_objective
from equipoise.records.epsilon import Epsilon
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class OAT:
    """Train one network that takes the preference, lambda, as an input.

    Args:
        objective: Loss of the attacked images, and what their attack climbs; the paper's is
            PGD-AT's. Clean images have the plain cross-entropy, without label smoothing.
        preferences: Lambdas to train for, ascending from 0 to 1.
        zero_share: Share of each batch with lambda 0, rounded up to whole images; the other images
            draw from the other preferences alike.
        epsilon: Strength of the training and validation attack.
        attack: Search of the training attack.
        schedule: Optimiser and learning rate.
        encoding: How lambda enters the network; with all but ``"none"`` only ``preferences`` can
            be asked for later.
        size: Length of an encoded lambda.
        dual: Separate batch norms for images with lambda 0 and all others.
        start: Initialisation of FiLM; the paper's is ``"fresh"``.
        norm: Geometry of the threat.

    Raises:
        ValueError: If preferences and encoding do not fit, none of the preferences is
            above 0, ``zero_share`` is not in [0, 1) or above 0 exactly where 0 is a preference,
            epsilon is not above 0 or none of the norm's, or the objective runs no attack, trains a
            companion network, or mixes images, whose preferences differ.

    Source:
        Wang et al. 2020, "Once-for-All Adversarial Training: In-Situ Tradeoff between Robustness
        and Accuracy for Free", and its code ``OAT.py``. The attack's 7 steps of 1.25 epsilon / 7
        are the code's up to 16/255. Deviations: one best epoch is kept, by the mean of clean
        accuracy at the smallest lambda and robust accuracy at the largest; the code keeps one for
        each lambda and each of the two accuracies, so that its curves mix networks. No dropout.
    """

    objective: AnyObjective = PGDAT()
    preferences: tuple[float, ...] = PREFERENCES
    zero_share: float = 1 / 6
    epsilon: Epsilon
    attack: TrainingAttack = TrainingAttack(steps=7, relative_step=1.25 / 7)
    schedule: Schedule
    encoding: Encoding = "random"
    size: int = 128
    dual: bool = True
    start: Start = "fresh"
    norm: Norm = "Linf"

    def __post_init__(self) -> None:
        check_strengths(self.norm, self.epsilon, self.attack.step_size)
        check_code(self.preferences, self.encoding, self.size)
        if self.preferences[-1] == 0:
            raise ValueError(f"preferences must have one above 0, got {self.preferences}.")
        if not 0 <= self.zero_share < 1 or (self.zero_share > 0) != (self.preferences[0] == 0):
            raise ValueError(
                "zero_share must be in (0, 1) where 0 is a preference and 0 where it is not, "
                f"got {self.zero_share} with preferences {self.preferences}."
            )
        if not self.epsilon > 0:
            raise ValueError(f"OAT needs an epsilon above 0, got {self.epsilon}.")
        objective = single_network_objective(self.objective, "OAT")
        if not objective.attacks or not objective.per_image_loss:
            raise ValueError(
                "OAT needs an objective with an attack, in which each image stands alone with its "
                f"preference, got {type(self.objective).__name__}. Take PGDAT, TRADES or MART."
            )

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """The plan: a single stage named ``conditional``."""

        def build(needed: Mapping[str, nn.Module]) -> "ConditionalTask":
            network = with_conditioning(
                make_network(),
                preferences=self.preferences,
                encoding=self.encoding,
                size=self.size,
                dual=self.dual,
                start=self.start,
            )
            return ConditionalTask(network, self)

        return [
            Stage(
                name="conditional",
                build=build,
                schedule=self.schedule,
                validation=(0.0, self.epsilon),
                norm=self.norm,
            )
        ]

    def draw(self, images: int, generator: torch.Generator) -> PerImage:
        """Lambda of each image of a batch.

        Args:
            images: How many.
            generator: The only source of randomness.

        Returns:
            ``(images,)`` on the generator's device, 0 at a fixed number of random places. A batch
            so small that rounding up leaves none above 0 trains on clean images alone.

        Source:
            OAT's ``element_wise_sample_lambda``, which puts the zeros in front: its norms need
            that, ours do not.
        """
        device = generator.device
        above = torch.tensor([p for p in self.preferences if p > 0], device=device)
        preference = above[torch.randint(len(above), (images,), generator=generator, device=device)]
        zeros = math.ceil(images * self.zero_share - 1e-9)  # 1/6 of 6 is one, whatever its bits
        preference[torch.randperm(images, generator=generator, device=device)[:zeros]] = 0.0
        return preference


class ConditionalTask(nn.Module):
    """Mean of (1 - lambda) loss(clean) + lambda loss(adversarial), each image with its own lambda.

    Clean images with lambda 0 go through BN_c; clean images with lambda above 0 and all adversarial
    ones through BN_a, in a second forward. Images with lambda 0 are not attacked.

    Args:
        network: A conditional network.
        method: Preferences, objective and attack.

    Source:
        Wang et al. 2020 and its ``OAT.py`` (the "efficient" way, which it always takes). A clean
        image with lambda 1 has no weight in the loss but moves BN_a's statistics, as there.
    """

    def __init__(self, network: ConditionalNetwork, method: OAT) -> None:
        super().__init__()
        self.network = network
        self.method = method
        if method.zero_share > 0:
            self.least_images = math.ceil(1 / method.zero_share - 1e-9)

    def forward(
        self, images: Images, labels: Labels, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """One step: clean forward, attack, adversarial forward."""
        objective = single_network_objective(self.method.objective, "OAT")
        preferences = self.method.draw(global_size(len(images), generator), generator)
        preference = local_rows(preferences, generator).to(images.device)
        natural = losses.cross_entropy(self.network(images, preference=preference), labels)
        loss, rows = (1 - preference) * natural, preference.nonzero().squeeze(1)
        adversarial = loss.new_zeros(())
        if bool(preferences.any()):  # all processes attack, or none: they draw the same numbers
            own, clean, truth = preference[rows], images[rows], labels[rows]
            predict: Predict = partial(self.network, preference=own)
            with subset(preferences > 0, generator):
                found = attacked(
                    self.network,
                    objective.goal(predict, clean, truth),
                    clean,
                    self.method.epsilon,
                    self.method.attack,
                    self.method.norm,
                    generator,
                    start_noise=objective.start_noise,
                    progress=progress,
                )
                batch = Batch(
                    clean=clean,
                    adversarial=found,
                    labels=truth,
                    predict_clean=predict,
                    predict_adversarial=predict,
                    generator=generator,
                )
                terms = objective.losses(batch)
            loss = loss.index_add(0, rows, own * terms["loss"])
            adversarial = terms["loss"].sum() / max(1, len(rows))
        return {
            "loss": loss.mean(),
            "loss_clean": natural.mean(),
            "loss_adversarial": adversarial,
        }

    def outcome(self) -> nn.Module:
        """The conditional network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """The network at its smallest preference for clean images, at its largest for others."""
        preference = self.network.preferences[0 if epsilon == 0 else -1]
        return partial(self.network, preference=preference)
