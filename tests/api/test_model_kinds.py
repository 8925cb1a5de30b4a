"""Models that are not plain deterministic float32 networks get a number and a mark."""

import copy
import random
from functools import partial
from pathlib import Path

import bad_models
import numpy as np
import pytest
import torch
from tiny import digits
from torch import nn

from equipoise.api.evaluate import evaluate
from equipoise.api.fresh_state import run_from_fresh_state
from equipoise.attacks.threat import Linf
from equipoise.evaluation import measure_profile, suites_for
from equipoise.evaluation.asked_model import AskedModel, draws_of
from equipoise.evaluation.fresh_copy import FreshCopies, FreshEachCall, StateCheck, is_reset
from equipoise.evaluation.model_kinds import ask_rightly
from equipoise.models.io.model_source import LoadedModel
from equipoise.runtime.errors import InvalidInput

IMAGES = 40
CHOICES = {"epsilons": (0.0, 0.15), "suites": ("quick",), "steps": 10, "images": IMAGES}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def record_of(model, checks=False, **changes):
    return evaluate(model, dataset=digits(1347, IMAGES), checks=checks, **(CHOICES | changes))[0]


def accuracy(model, **changes):
    return record_of(model, **changes)["headline"]["accuracy"]


def marks(record):
    return [mark["name"] for mark in record.get("marks", [])]


class Noisy(bad_models.Wrapper):
    def forward(self, images):
        return self.net(images + 0.1 * torch.randn_like(images))


class Coin(bad_models.Wrapper):
    """Right for three draws in four."""

    def forward(self, images):
        logits = self.net(images)
        return torch.where(torch.rand(len(images), 1) < 0.25, logits.roll(1, dims=1), logits)


class Rejecting(bad_models.Wrapper):
    """Rejects what is not on the grid of 8 bits, or nothing."""

    def __init__(self, net, rejects):
        super().__init__(net)
        self.rejects = rejects

    def forward(self, images):
        logits = self.net(images)
        found = bad_models.off_levels(images).flatten() > 0
        high = torch.where(found & self.rejects, 100.0, -100.0)
        return torch.cat([logits, high[:, None]], dim=1)


@pytest.mark.slow
def test_a_plain_network_gets_no_mark_and_is_asked_as_it_is():
    record = record_of(bad_models.robust())
    assert "marks" not in record
    assert 0.3 < record["headline"]["accuracy"][1] < record["headline"]["accuracy"][0]


@pytest.mark.slow
def test_noise_does_not_hide_a_standard_network():
    record = record_of(Noisy(bad_models.standard()))
    assert marks(record) == ["randomised"]
    assert record["headline"]["accuracy"][0] > 0.8
    assert record["headline"]["accuracy"][1] <= accuracy(bad_models.standard())[1] + 0.10
    mark = record["marks"][0]
    assert mark["draws"] == 10
    pairs = zip(mark["vote_accuracy"], mark["single_draw_accuracy"], strict=True)
    assert record["headline"]["accuracy"] == [min(pair) for pair in pairs]


@pytest.mark.slow
def test_single_draws_count_where_votes_would_flatter():
    record = record_of(Coin(bad_models.robust()), epsilons=(0.0, 0.01))
    mark, clean = record["marks"][0], accuracy(bad_models.robust())[0]
    assert mark["vote_accuracy"][0] == pytest.approx(clean, abs=0.03)
    assert mark["single_draw_accuracy"][0] == pytest.approx(0.75 * clean, abs=0.05)
    assert record["headline"]["accuracy"][0] == mark["single_draw_accuracy"][0]


@pytest.mark.slow
def test_a_randomised_model_repeats_its_record_and_has_self_checks():
    few = {"images": 8, "steps": 2}
    first = record_of(Noisy(bad_models.standard()), checks=True, **few)
    torch.manual_seed(7)
    again = record_of(Noisy(bad_models.standard()), **few)
    assert first["headline"] == again["headline"]
    verdicts = {check["name"]: check["verdict"] for check in first["self_checks"]}
    assert verdicts["randomised"] == "pass"
    assert "batch-dependent" not in verdicts


@pytest.mark.slow
def test_a_detector_that_rejects_every_attack_breaks_no_image():
    record = record_of(Rejecting(bad_models.standard(), True), reject_class=True)
    clean, attacked = record["headline"]["accuracy"]
    assert clean == attacked > 0.9
    assert marks(record) == ["reject option"]
    assert record["marks"][0]["clean_rejected"] == 0.0


@pytest.mark.slow
def test_a_model_that_never_rejects_scores_as_without_the_extra_class():
    model = bad_models.robust()
    with_class = accuracy(Rejecting(model, False), reject_class=True)
    assert with_class == pytest.approx(accuracy(model), abs=1 / IMAGES)


class Forgetful(bad_models.Wrapper):
    """Answers as its network for one batch, then with signs that grow from call to call."""

    def __init__(self, net):
        super().__init__(net)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        logits = self.net(images)
        return logits if self.calls == 1 else self.calls * logits.detach().sign() + 0 * logits


@pytest.mark.slow
def test_a_model_that_remembers_and_rejects_is_asked_by_both_rules():
    model = Rejecting(bad_models.robust(), False)
    record = record_of(Forgetful(model), reject_class=True)
    assert set(marks(record)) == {"reject option", "stateful"}
    expected = accuracy(model, reject_class=True)
    assert record["headline"]["accuracy"] == pytest.approx(expected, abs=1 / IMAGES + 1e-9)


def test_a_model_that_remembers_and_draws_is_judged_anew_once_it_is_reset():
    images, _ = digits().test.batch(slice(0, 8))
    asked = partial(ask_rightly, images=images, threats=[Linf(0.1)], reject=False)
    seen = []

    def run(model, copies):
        seen.append(model.network)
        if not is_reset(model.network):
            StateCheck(model.network, copies, images, Linf(0.1)).compare()
        return {"headline": {"accuracy": [1.0]}}

    for network in (Forgetful(Noisy(bad_models.standard())), Forgetful(bad_models.standard())):
        model = LoadedModel(network=network, card={}, name="m", home=Path("runs/m"))
        record = run_from_fresh_state(model, digits().test, [Linf(0.1)], run, print, asked)
        assert marks(record) == ["stateful"]
    assert [is_reset(network) for network in seen] == [False, True] * 2
    assert [draws_of(network) for network in seen] == [10, 10, 10, 0]
    first, second = seen[1]._draw(images), seen[1]._draw(images)
    assert not torch.equal(first, second)


class WithGenerator(bad_models.Wrapper):
    """Adds noise from a generator of its own."""

    def __init__(self, net, generator):
        super().__init__(net)
        self.generator = generator

    def forward(self, images):
        if isinstance(self.generator, torch.Generator):
            noise = torch.randn(images.shape, generator=self.generator)
        elif isinstance(self.generator, random.Random):
            noise = torch.tensor(
                [self.generator.gauss(0, 1) for _ in range(images.numel())]
            ).reshape(images.shape)
        else:
            noise = torch.from_numpy(self.generator.standard_normal(images.shape)).float()
        return self.net(images + 0.1 * noise)


GENERATORS = {
    "torch": torch.Generator,
    "numpy": partial(np.random.default_rng, 0),
    "numpy, old": partial(np.random.RandomState, 0),
    "python": partial(random.Random, 0),
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_model_with_a_generator_of_its_own_is_randomised_and_not_stateful(kind):
    images, _ = digits().test.batch(slice(0, 8))
    network = WithGenerator(bad_models.standard(), GENERATORS[kind]())
    model = ask_rightly(network, images, [Linf(0.1)])
    check = StateCheck(model, FreshCopies(model), images, Linf(0.1))
    before = network(images)
    assert torch.equal(model(images), model(images))
    check.compare()
    assert model.draws == 10
    assert not check.randomised
    assert not torch.equal(network(images), before)
    reset = FreshEachCall(FreshCopies(network))
    assert not torch.equal(reset(images), reset(images))


def test_an_extra_class_without_the_flag_is_refused_by_its_name():
    with pytest.raises(InvalidInput, match="--reject-class"):
        record_of(Rejecting(bad_models.robust(), False))


@pytest.mark.slow
def test_a_stand_in_finds_what_rounding_hides():
    model = bad_models.Quantised(bad_models.standard())
    without, record = accuracy(model)[1], record_of(model, gradient_of=bad_models.standard())
    assert record["headline"]["accuracy"][1] <= accuracy(bad_models.standard())[1] + 0.08
    assert record["headline"]["accuracy"][1] < without - 0.1  # the queries of quick find some
    assert marks(record) == ["stand-in gradient"]
    assert record["marks"][0]["agreement"] > 0.9


def test_a_stand_in_that_returns_images_is_refused_with_the_remedy():
    with pytest.raises(InvalidInput, match=r"nn\.Sequential\(front_end, network\)"):
        record_of(bad_models.standard(), gradient_of=nn.Identity())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_in_another_dtype_scores_as_in_float32(dtype):
    record = record_of(copy.deepcopy(bad_models.robust()).to(dtype))
    expected = accuracy(bad_models.robust())
    assert record["headline"]["accuracy"] == pytest.approx(expected, abs=1 / IMAGES + 1e-9)
    assert marks(record) == ([] if dtype == torch.float64 else ["lower precision"])


@pytest.mark.slow
def test_small_gradients_do_not_underflow_in_half_precision():
    class Cast(bad_models.Wrapper):
        def forward(self, images):
            return 40 * self.net(images.half())

    record = record_of(Cast(copy.deepcopy(bad_models.standard()).half()), checks=False)
    assert "of the model itself" in record["marks"][0]["meaning"]
    expected = accuracy(bad_models.standard())[1]
    assert record["headline"]["accuracy"][1] == pytest.approx(expected, abs=0.05)


class InInferenceMode(bad_models.Wrapper):
    def forward(self, images):
        with torch.inference_mode():
            return self.net(images)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [bad_models.Detached, InInferenceMode])
def test_a_model_without_a_graph_is_attacked_as_a_black_box(wrap):
    record = record_of(wrap(bad_models.standard()), checks=True)
    assert marks(record) == ["black box only"]
    names = [attack["name"] for attack in record["suites"][0]["attacks"]]
    assert names == ["noise-100", "square-1000"]
    assert record["headline"]["accuracy"][1] < 0.5
    assert record["self_checks"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_of_the_caller_does_not_matter(mode):
    expected = accuracy(bad_models.robust())
    with mode():
        assert accuracy(bad_models.robust()) == expected


@pytest.mark.slow
def test_a_module_in_memory_gets_checks_and_a_record_named_after_its_class():
    record, path = evaluate(
        bad_models.Quantised(bad_models.standard()),
        dataset=digits(1347, 8).test,
        **(CHOICES | {"images": 8, "steps": 2}),
    )
    assert path == Path("runs/Quantised/records") / path.name
    assert path.exists()
    assert record["data"] == "data in memory"
    assert record["self_checks"]


def test_a_module_in_train_mode_is_refused():
    with pytest.raises(InvalidInput, match=r"in train mode.*call \.eval\(\) first"):
        record_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


@pytest.mark.usefixtures("no_shape_checks")
class TestArgumentsOfAnotherKind:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"split": [1, 2]}, "split must be a Split, got list"),
            ({"threat": Linf(0.1)}, r"got Linf\(epsilon=0.1\). Pass Linf itself"),
            ({"epsilons": 0.1}, r"epsilons must be a sequence of strengths, got 0.1"),
            ({"suites": "quick"}, "suites must hold Suite objects, got 'quick'"),
        ],
    )
    def test_measure_profile_names_the_remedy(self, changes, message):
        model = bad_models.robust()
        settings = {"split": digits().test, "threat": Linf, "epsilons": (0.1,), "seed": 0}
        settings |= {"suites": suites_for(model, ["quick"], classes=10)} | changes
        with pytest.raises(InvalidInput, match=message):
            measure_profile(model, settings.pop("split"), **settings)

    def test_the_name_of_a_suite_alone_is_refused(self):
        with pytest.raises(InvalidInput, match=r"write \['quick'\]"):
            suites_for(bad_models.robust(), "quick", classes=10)
        with pytest.raises(InvalidInput, match=r"suites must be a sequence, got 'quick'"):
            record_of(bad_models.robust(), suites="quick")

    def test_a_function_and_a_loader_are_refused(self):
        with pytest.raises(InvalidInput, match=r"name of a model or an nn\.Module, got function"):
            record_of(lambda images: images)
        loader = torch.utils.data.DataLoader([1])
        with pytest.raises(InvalidInput, match="each item must be a pair"):
            evaluate(bad_models.robust(), dataset=loader, epsilons=(0.0,))


def test_draws_are_seeded_and_the_global_generators_restored():
    model = AskedModel(Noisy(bad_models.standard()), draws=3).eval()
    images, _ = digits().test.batch(slice(0, 4))
    state = torch.get_rng_state()
    assert torch.equal(model(images), model(images))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(model(images), model(images.flip(0)).flip(0))
