"""Once-for-all adversarial training: one network for every preference between clean and robust."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from equipoise.attacks import losses
from equipoise.attacks.threat import THREATS, Norm, check_strengths
from equipoise.distributed.shared_generator import global_size, local_rows, subset
from equipoise.methods.training_attack import TrainingAttack
from equipoise.models import ConditionalNetwork, with_conditioning
from equipoise.models.film import Start
from equipoise.models.preference_encoding import PREFERENCES, Encoding, check_code
from equipoise.objectives import (
    PGDAT,
    AnyObjective,
    Batch,
    ImportedObjective,
    single_network_objective,
)
from equipoise.records.epsilon import Epsilon
from equipoise.runtime.errors import InvalidInput
from equipoise.training.schedule import Schedule
from equipoise.training.stage import MakeNetwork, Stage
from equipoise.types import Images, Labels, PerImage, Predict


@dataclass(frozen=True, kw_only=True)
class OAT:
    """Train one network that takes the preference, lambda, as an input.

    Args:
        objective: Loss of the attacked images, and the goal of their attack; PGD-AT's in the
            paper. Clean images have the plain cross-entropy, without label smoothing.
        preferences: Values of lambda to train for, ascending in [0, 1], the last above 0.
        zero_share: Share of each batch with lambda 0, rounded up to whole images. The other images
            draw one of the other preferences uniformly.
        epsilon: Strength of the training and the validation attack in pixel units.
        attack: Settings of the training attack.
        schedule: Optimiser and learning rate.
        encoding: How lambda enters the network. With any but ``"none"``, the trained network
            accepts only ``preferences``.
        size: Length of an encoded lambda.
        dual: Use separate batch norms for images with lambda 0 and all others.
        start: Initialisation of the FiLM layers; ``"fresh"`` in the paper.
        norm: Norm of the threat.

    Raises:
        ValueError: If preferences and encoding do not fit, no preference is above 0,
            ``zero_share`` is not in [0, 1) or is above 0 without 0 among the preferences (or the
            reverse), epsilon is not above 0 or the norm cannot have it; or if the objective runs
            no attack, trains a companion network, or mixes images, which differ in preference.

    Source:
        Wang et al. 2020, "Once-for-All Adversarial Training: In-Situ Tradeoff between Robustness
        and Accuracy for Free", and its code ``OAT.py``. The attack's 7 steps of 1.25 epsilon / 7
        are the code's up to 16/255. Deviations: one best epoch is kept, by the mean of clean
        accuracy at the smallest lambda and robust accuracy at the largest; the code keeps one for
        each lambda and each of the two accuracies, so that its curves mix networks. No dropout.

    Example:
        >>> schedule = Schedule(epochs=100, learning_rate=0.1, decay_epochs=(74, 89))
        >>> oat = OAT(epsilon=8 / 255, schedule=schedule)
        >>> oat.preferences
        (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
        >>> preference = oat.draw(12, torch.Generator().manual_seed(0))
        >>> int((preference == 0).sum())
        2
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
            raise InvalidInput(f"preferences must include one above 0, got {self.preferences}.")
        if not 0 <= self.zero_share < 1 or (self.zero_share > 0) != (self.preferences[0] == 0):
            raise InvalidInput(
                "zero_share must be in (0, 1) if 0 is a preference, and 0 if it is not, "
                f"got {self.zero_share} with preferences {self.preferences}."
            )
        if not self.epsilon > 0:
            raise InvalidInput(f"OAT needs an epsilon above 0, got {self.epsilon}.")
        if not isinstance(self.objective, ImportedObjective):
            self._check_objective()

    def _check_objective(self) -> None:
        """Refuse an objective that no preference applies to; asks an imported one."""
        objective = single_network_objective(self.objective, "OAT")
        if not objective.attacks or not objective.per_image_loss:
            raise InvalidInput(
                "OAT needs an objective that runs an attack and treats each image separately, "
                f"because images differ in preference, got {type(self.objective).__name__}. Use "
                "PGDAT, TRADES or MART."
            )

    def stages(self, make_network: MakeNetwork) -> list[Stage]:
        """Plan a single stage named ``conditional``."""
        self._check_objective()

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
                settings=vars(self),
            )
        ]

    def draw(self, images: int, generator: torch.Generator) -> PerImage:
        """Draw lambda for each image of a batch.

        Args:
            images: Number of images.
            generator: The only source of randomness.

        Returns:
            ``(images,)`` on the generator's device, with a fixed number of zeros at random
            positions. If rounding up leaves none above 0, the batch trains on clean images alone.

        Source:
            OAT's ``element_wise_sample_lambda``, which puts the zeros first, as its norms require;
            ours do not.
        """
        device = generator.device
        above = torch.tensor([p for p in self.preferences if p > 0], device=device)
        preference = above[torch.randint(len(above), (images,), generator=generator, device=device)]
        # The margin keeps 1/6 of 6 from rounding up to 2.
        zeros = math.ceil(images * self.zero_share - 1e-9)
        preference[torch.randperm(images, generator=generator, device=device)[:zeros]] = 0.0
        return preference


class ConditionalTask(nn.Module):
    """Mean of (1 - lambda) loss(clean) + lambda loss(adversarial), with each image's own lambda.

    Clean images with lambda 0 go through BN_c. Clean images with lambda above 0 and all adversarial
    images go through BN_a, in a second forward pass. Images with lambda 0 are not attacked.

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
        """Compute one step: clean forward, attack, adversarial forward."""
        whole = self.method.draw(global_size(len(images), generator), generator)
        preference = local_rows(whole, generator).to(images.device)
        natural = losses.cross_entropy(self.network(images, preference=preference), labels)
        loss, rows = (1 - preference) * natural, preference.nonzero().squeeze(1)
        adversarial = loss.new_zeros(())
        if bool(whole.any()):  # not the rows here: all processes of a group draw alike
            with subset(whole > 0, generator):
                attacked = self._adversarial_losses(
                    images[rows], labels[rows], preference[rows], generator, progress
                )
            loss = loss.index_add(0, rows, preference[rows] * attacked)
            adversarial = attacked.sum() / max(1, len(rows))
        return {
            "loss": loss.mean(),
            "loss_clean": natural.mean(),
            "loss_adversarial": adversarial,
        }

    def _adversarial_losses(
        self,
        images: Images,
        labels: Labels,
        preference: PerImage,
        generator: torch.Generator,
        progress: float,
    ) -> PerImage:
        """Attack images at their preferences and return the objective's losses."""
        objective = single_network_objective(self.method.objective, "OAT")
        predict: Predict = partial(self.network, preference=preference)
        epsilon = self.method.attack.strength(self.method.epsilon, progress)
        goal = objective.goal(predict, images, labels)
        with self.method.attack.against(self.network, objective.start_noise) as search:
            adversarial = search(goal, images, THREATS[self.method.norm](epsilon), generator)
        batch = Batch(
            clean=images,
            adversarial=adversarial,
            labels=labels,
            predict_clean=predict,
            predict_adversarial=predict,
            generator=generator,
        )
        return objective.losses(batch)["loss"]

    def outcome(self) -> nn.Module:
        """Return the conditional network."""
        return self.network

    def predictor(self, epsilon: float) -> Predict:
        """Return the network at its smallest preference for epsilon 0, else at its largest."""
        preference = self.network.preferences[0 if epsilon == 0 else -1]
        return partial(self.network, preference=preference)
