"""What identifies one evaluation of a model, and the file name of its record."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from equipoise.evaluation.robustness_profile import Order
from equipoise.recipes import Evaluation, to_json
from equipoise.runtime.seeds import derive_seed

SearchPrecision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What an evaluation was asked to do: the same model with equal settings has one record.

    Args:
        evaluation: Strengths, attacks and images.
        seed: Random seed for the attacks.
        batch_size: Images attacked at once.
        search_precision: Precision of the searches; scores are always float32.
        logits: Which part of the model's output holds the logits.
        surrogates: Models that the suite ``transfer`` attacks in place of this one.
        order: Whether strengths are attacked from weakest to strongest or the other way round.
        other_data: Name and digest of the data set, if it is not known to be the one that the
            model was trained on.

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
    surrogates: tuple[Path | str, ...] = ()
    order: Order = "ascending"
    other_data: tuple[str, str] | None = None

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
