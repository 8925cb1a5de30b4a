"""What identifies one evaluation of a model, and the file name of its record."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict

from torch import nn

from equipoise.evaluation.external_files import file_sha256
from equipoise.evaluation.profile import Order, Profile
from equipoise.recipes import Evaluation, to_json
from equipoise.records.epsilon import parse_epsilon
from equipoise.runtime.errors import InvalidInput
from equipoise.runtime.seeds import derive_seed
from equipoise.runtime.trust import Trusted, names_function

SearchPrecision = Literal["32-true", "bf16-mixed"]


class EvaluationChoices(TypedDict, total=False):
    """Keyword arguments of ``evaluate``: how to load a model, and how to attack it.

    The first seven replace fields of the model's ``Evaluation``.

    Attributes:
        epsilons: Strengths in pixel units.
        suites: Attack suites, in order: names of ours, or ``module:function`` for your own.
        steps: Steps of each search in ``quick``, ``adaptive`` and ``transfer``.
        restarts: Random restarts in ``quick``.
        images: Number of images; ``None`` for all.
        part: ``"test"``, or ``"validation"`` for the images held out of training.
        norm: Norm of the threat.
        seed: Random seed for the attacks.
        batch_size: Images attacked at once.
        search_precision: Precision of the searches; scores are always float32.
        order: ``"descending"`` starts at the strongest epsilon and skips weaker attacks on images
            that resist it.
        workers: Processes that share the batches.
        surrogates: Models that the suite ``transfer`` attacks in place of this one.
        logits: Which part of the model's output holds the logits: a key, an index or ``binary``.
        trust: Code that a model folder names and that may run, as in ``load``.
        preference: Lambda of a conditional network (OAT); its default if not given.
        images_from: Files with adversarial images that others made, scored as a further attack.
        allow_rounding: Take 8-bit images of ``images_from`` that rounding moved out of the threat
            by up to half a grey level, and move them back.
        draws: Draws of a randomised model that attacks average; 10 if it is found to be random.
        reject_class: Whether the last of K + 1 logits means "reject".
        gradient_of: Differentiable stand-in for the backward pass (BPDA): ``module:function``, a
            ``torch.export`` file or a module; it returns logits.
        name: Name in tables of an ``nn.Module``; by default that of its class.
        folder: Where the records of an ``nn.Module`` go; by default ``runs/`` and its name.
    """

    epsilons: Sequence[float]
    suites: Sequence[str]
    steps: int
    restarts: int
    images: int | None
    part: Literal["test", "validation"]
    norm: Literal["Linf", "L2"]
    seed: int
    batch_size: int
    search_precision: SearchPrecision
    order: Order
    workers: int
    surrogates: Sequence[Path | str]
    logits: str | None
    trust: Sequence[Trusted]
    preference: float | None
    images_from: Sequence[Path]
    allow_rounding: bool
    draws: int | None
    reject_class: bool
    gradient_of: str | nn.Module | None
    name: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What an evaluation was asked to do: the same model with equal settings has one record.

    The fields that are not listed are those of ``EvaluationChoices``.

    Args:
        evaluation: Strengths, attacks and images.
        other_data: Name and digest of the data set, if it is not known to be the one that the
            model was trained on.
        on_profile: Called with the profile before the record is made from it. It is not part of
            what identifies the evaluation.

    Example:
        >>> from equipoise.recipes import Evaluation
        >>> usual = Evaluation(epsilons=(0.0, 8 / 255))
        >>> settings = EvaluationSettings(evaluation=usual, seed=1)
        >>> settings.record_name("my_model", 0, usual=to_json(usual))
        'my_model__seed0__996f31.json'
    """

    evaluation: Evaluation
    seed: int = 0
    batch_size: int = 256
    search_precision: SearchPrecision = "32-true"
    logits: str | None = None
    surrogates: Sequence[Path | str] = ()
    order: Order = "ascending"
    other_data: tuple[str, str] | None = None
    images_from: Sequence[Path] = ()
    allow_rounding: bool = False
    on_profile: Callable[[Profile], None] | None = field(default=None, compare=False)
    draws: int | None = None
    reject_class: bool = False
    gradient_of: str | nn.Module | None = None

    def to_json(self) -> list[Any]:
        """The JSON list that a record stores under ``"settings"``.

        File names of existing records are hashes of this list, so its layout is fixed: the default
        order and the model's own data add no entry.
        """
        values: list[Any] = [
            to_json(self.evaluation),
            self.seed,
            self.batch_size,
            self.search_precision,
            self.logits,
            *map(str, self.surrogates),
        ]
        if self.order != "ascending":
            values.append(self.order)
        if self.other_data is not None:
            name, digest = self.other_data
            values.append({"data": name, "digest": digest})
        if self.images_from:
            hashes = [file_sha256(path) for path in self.images_from]
            values.append({"images_from": hashes, "allow_rounding": self.allow_rounding})
        kind: dict[str, Any] = {"draws": self.draws} if self.draws is not None else {}
        if self.reject_class:
            kind["reject_class"] = True
        if self.gradient_of is not None:
            named = isinstance(self.gradient_of, str)
            kind["gradient_of"] = self.gradient_of if named else type(self.gradient_of).__name__
        if kind:
            values.append(kind)
        settings: list[Any] = json.loads(json.dumps(values))
        return settings

    def record_name(self, model: str, training_seed: int | None, usual: Any) -> str:
        """File name of the record; only the usual evaluation's has no hash of the settings in it.

        Args:
            model: The model's name in tables.
            training_seed: Seed of its training, if known.
            usual: The ``Evaluation`` in the model's card, as JSON; ``None`` if it has none.
        """
        settings = self.to_json()
        defaults = EvaluationSettings(evaluation=self.evaluation).to_json()[1:]
        differs = settings != [usual, *defaults]
        suffix = f"__{derive_seed(0, json.dumps(settings)) % 16**6:06x}" if differs else ""
        return f"{model}__seed{training_seed or 0}{suffix}.json"


def split_choices(choices: EvaluationChoices) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the choices that are fields of ``Evaluation``, and those of ``EvaluationSettings``.

    Raises:
        ValueError: If a choice has an unknown name, or ``batch_size`` or ``workers`` is not
            positive.

    Example:
        >>> from equipoise.api.evaluation_settings import split_choices
        >>> split_choices({"epsilons": (0.0, 0.1), "seed": 3, "workers": 2})
        ({'epsilons': (0.0, 0.1)}, {'seed': 3})
    """
    known = EvaluationChoices.__annotations__
    for name in ("epsilons", "suites"):
        if isinstance(choices.get(name, ()), (str, int, float)):
            raise InvalidInput(
                f"{name} must be a sequence, got {choices[name]!r}; write ({choices[name]!r},)."
            )
    if "epsilons" in choices:
        choices = {**choices, "epsilons": tuple(map(_strength, choices["epsilons"]))}
    for name in choices:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}."
            raise InvalidInput(f"evaluate takes no argument {name}; {hint}")
    counts = {"batch_size": choices.get("batch_size", 1), "workers": choices.get("workers", 1)}
    for name, number in counts.items():
        if number < 1:
            raise InvalidInput(f"{name} must be 1 or more, got {number}.")

    def fields_of(kind: type[Any]) -> dict[str, Any]:
        names = {field.name for field in fields(kind)}
        return {name: value for name, value in choices.items() if name in names}

    return fields_of(Evaluation), fields_of(EvaluationSettings)


def trusted_code(choices: EvaluationChoices, data: Any = None) -> tuple[Trusted, ...]:
    """Return the code that an evaluation may run: what is trusted, and what the caller names.

    A suite or a reader that only a model's card names is not among it.

    Args:
        choices: The caller's choices.
        data: The caller's data.

    Example:
        >>> trusted_code({"suites": ("quick", "my_package:my_suite"), "trust": ("my_models",)})
        ('my_models', 'my_package:my_suite')
    """
    named = filter(names_function, (*choices.get("suites", ()), data))
    return (*choices.get("trust", ()), *map(str, named))


def _strength(value: Any) -> float:
    return parse_epsilon(value) if isinstance(value, str) else float(value)
