"""External networks, from training to a loaded model, without changes to their code."""

from dataclasses import replace
from functools import partial

import pytest
import safetensors.torch
import tiny
import torch
import user_nets
from torch import nn

from equipoise import load, save
from equipoise.api.evaluate import evaluate
from equipoise.api.train import train
from equipoise.data import DataSet, Split
from equipoise.methods import AFA, AFS, OAT, Gate
from equipoise.models import (
    AdaptiveNetwork,
    BranchedNetwork,
    FeatureExtractor,
    FeatureStack,
    MultiBatchNorm2d,
    fuse_branches,
    with_branches,
    with_conditioning,
)
from equipoise.models.io.external import import_network
from equipoise.models.io.logits_of import LogitsOf
from equipoise.models.last_linear import find_last_linear
from equipoise.objectives import PGDAT
from equipoise.recipes import RECIPES, ImportedNetwork, WideResNetShape, from_json, to_json
from equipoise.runtime.errors import RunError
from equipoise.runtime.trust import trusting

TRUST = ("user_nets",)
WITH_NORMS = ["resnet", "regnet", "mobilenet"]
WITHOUT = ["convnext", "vit"]
AFA_METHOD = AFA(
    objective=PGDAT(),
    strengths=(0.0, 0.1),
    attack=tiny.ATTACK,
    schedule=tiny.SCHEDULE,
    gate_schedule=tiny.SCHEDULE,
)
AFS_METHOD = AFS(
    objective=PGDAT(),
    budgets=(0.1,),
    attack=tiny.ATTACK,
    schedule=tiny.SCHEDULE,
    merger_schedule=tiny.SCHEDULE,
)


@pytest.fixture(autouse=True)
def _trusted():
    with trusting(*TRUST):
        yield


@pytest.fixture(scope="module")
def photographs() -> DataSet:
    """Eight noisy images of 32x32 in four classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images=images, labels=torch.arange(8) % 4, classes=4)
    return DataSet(name="noise", train=split, test=split, class_names=("a", "b", "c", "d"))


def network(name: str, **settings) -> ImportedNetwork:
    return ImportedNetwork(function=f"user_nets:{name}", **settings)


def one_step_of_each_stage(method, shape, data) -> nn.Module:
    """Run one step of each stage, check that it trains, and return the last outcome."""
    images, labels = data.train.batch(slice(None))
    outcomes = {}
    for stage in method.stages(shape.maker(data)):
        torch.manual_seed(0)
        task = stage.build({need: outcomes[need] for need in stage.needs}).train()
        trained = {name: p for name, p in task.named_parameters() if p.requires_grad}
        before = {name: p.detach().clone() for name, p in trained.items()}
        optimiser = torch.optim.SGD(trained.values(), lr=0.01)
        task(images, labels, torch.Generator().manual_seed(0), 0.0)["loss"].backward()
        optimiser.step()
        moved = [name for name, p in trained.items() if not torch.equal(p, before[name])]
        assert len(moved) > len(trained) / 2
        outcomes[stage.name] = task.outcome()
    return outcomes[stage.name].eval()


def check_saved(model: nn.Module, data: DataSet, folder) -> None:
    """Check logits, input gradients and a round trip through a model folder."""
    images = data.test.batch(slice(None))[0].requires_grad_()
    logits = model(images)
    assert logits.shape == (8, 4)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
    save(model, folder)
    loaded = load(folder, trust=TRUST)
    assert type(loaded) is type(model)
    assert torch.equal(loaded(images), logits)


@pytest.mark.parametrize("name", WITH_NORMS)
def test_afa_trains_a_network_with_batch_norms(name, photographs, tmp_path):
    shape = network(name, logits="logits")
    model = one_step_of_each_stage(AFA_METHOD, shape, photographs)
    assert isinstance(model, AdaptiveNetwork)
    assert any(type(m).__module__.startswith("transformers.") for m in model.modules())
    check_saved(model, photographs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet", "resnet.encoder.stages.0"),
        ("regnet", "regnet.embedder"),
        ("mobilenet", "mobilenet_v2.layer.3"),
    ],
)
def test_a_generator_reads_any_layer_of_any_network(name, layer, photographs, tmp_path):
    method = replace(AFA_METHOD, gate=Gate(placement="layer", layer=layer))
    shape = network(name, logits="logits")
    model = one_step_of_each_stage(method, shape, photographs)
    assert model.layer.layer == f"network.{layer}"
    check_saved(model, photographs, tmp_path)
    images = photographs.test.batch(slice(None))[0]
    assert bool((model.logits_and_weight(images)[1] > 0).all())
    wrong = replace(AFA_METHOD, gate=Gate(placement="layer", layer=f"{layer}s"))
    with pytest.raises(ValueError, match=f"got '{layer}s'.*Near names: .*{layer}"):
        one_step_of_each_stage(wrong, shape, photographs)


@pytest.mark.parametrize("name", [*WITH_NORMS, *WITHOUT])
def test_afs_trains_any_network(name, photographs, tmp_path):
    model = one_step_of_each_stage(AFS_METHOD, network(name, logits="logits"), photographs)
    check_saved(model, photographs, tmp_path)


def test_one_stack_holds_members_of_five_architectures(photographs, tmp_path):
    networks = [
        network(name, logits="logits").maker(photographs)().eval()
        for name in (*WITH_NORMS, *WITHOUT)
    ]
    before = [tiny.weights(member) for member in networks]
    stack = FeatureStack(networks, classes=4)
    assert len(set(stack.sizes())) > 1
    images = photographs.test.batch(slice(None))[0]
    expected = [FeatureExtractor(member)(images) for member in networks]
    assert torch.equal(stack.train().features(images), torch.cat(expected, dim=1))
    check_saved(stack.eval(), photographs, tmp_path)
    after = [tiny.weights(member.network) for member in stack.members]
    assert all(tiny.same(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("name", "instead"),
    [("vit", "LayerNorm"), ("convnext", "ConvNextLayerNorm, LayerNorm"), ("norm_free", None)],
)
def test_afa_refuses_a_network_without_batch_norms_and_names_its_norms(name, instead, photographs):
    stages = AFA_METHOD.stages(network(name).maker(photographs))
    reason = rf" \(its norms: {instead}\)" if instead else ""
    with pytest.raises(ValueError, match=rf"has no nn.BatchNorm2d{reason}, so .*AFS can stack any"):
        stages[0].build({})


@pytest.mark.parametrize("convert", [partial(with_branches, branches=2), with_conditioning])
@pytest.mark.parametrize(
    ("make", "where"),
    [
        (user_nets.functional_norm, "FunctionalNorm at norm"),
        (user_nets.partly_functional, "FunctionalNorm at norm.1"),
        (user_nets.running_norm, "RunningNorm at norm"),
    ],
)
def test_custom_batch_norm_is_refused_by_name(make, where, convert):
    message = rf"Small computes batch norm in its own code \({where}\).*use an nn.BatchNorm2d"
    with pytest.raises(ValueError, match=message):
        convert(make(4, 3))


def test_batch_norms_of_vectors_are_refused():
    with pytest.raises(ValueError, match=r"\(BatchNorm1d at norm.vectors\), so all images would"):
        with_branches(user_nets.flat_norm(4, 3), branches=2)


def test_a_synchronised_batch_norm_works_as_a_batch_norm(photographs, tmp_path):
    torch.manual_seed(0)
    plain, synchronised = user_nets.small(4, 3), user_nets.synchronised(4, 3)
    synchronised.load_state_dict(plain.state_dict())
    images = photographs.test.batch(slice(None))[0]
    results = []
    for each in (plain, synchronised):
        branched = with_branches(each, branches=2).train()
        branched(images, branch=(0, 1))
        fused = fuse_branches(branched, placement="stem").eval()
        results.append((branched.eval()(images, branch=1), fused(images, weight=0.3)))
    torch.testing.assert_close(results[0], results[1])
    kinds = {
        type(n) for m in branched.modules() if isinstance(m, MultiBatchNorm2d) for n in m.norms
    }
    assert kinds == {nn.SyncBatchNorm}
    model = one_step_of_each_stage(AFA_METHOD, network("synchronised"), photographs)
    check_saved(model, photographs, tmp_path)
    conditional = with_conditioning(synchronised, size=8)
    assert any(isinstance(module, MultiBatchNorm2d) for module in conditional.modules())
    oat = OAT(epsilon=0.1, attack=tiny.ATTACK, schedule=tiny.SCHEDULE)
    one_step_of_each_stage(oat, network("synchronised"), photographs)


def test_a_synchronised_norm_of_vectors_is_refused_when_it_runs():
    norm = MultiBatchNorm2d(nn.SyncBatchNorm(3), branches=2)
    with pytest.raises(ValueError, match=r"takes maps of shape \(batch, channel, height, width\)"):
        MultiBatchNorm2d.forward.__wrapped__(norm, torch.rand(4, 3), 0)


@pytest.mark.parametrize(("output", "logits"), [("tuple", "1"), ("dict", "scores")])
def test_the_logits_are_taken_out_of_a_tuple_or_dict(output, logits, photographs, tmp_path):
    shape = network("small", arguments={"answer": output}, logits=logits)
    check_saved(one_step_of_each_stage(AFA_METHOD, shape, photographs), photographs, tmp_path)


def test_functions_get_the_classes_and_channels_that_they_take(photographs):
    made = network("resnet", arguments={"width": 4}).maker(photographs)()
    assert made.config["arguments"] == {"classes": 4, "channels": 3, "width": 4}
    assert made.network.num_labels == 4
    assert network("ten").maker(photographs)().config["arguments"] == {}
    chosen = network("small", arguments={"classes": 7}).maker(photographs)()
    assert chosen.config["arguments"] == {"classes": 7, "channels": 3}


def test_a_network_that_reads_tensor_values_while_it_is_built_loads_in_any_composition(
    photographs, tmp_path
):
    many = {"depth": 99, "seed": 10**9}  # more layers than tensors, and more than MAX_NUMBER
    made = network("counting", arguments=many).maker(photographs)()
    images = photographs.test.batch(slice(None))[0]
    branched = with_branches(made, 2)
    for model in (
        made,
        fuse_branches(branched, placement="input"),
        FeatureStack([made, made], 4),
        with_conditioning(made, preferences=(0.0, 1.0), size=4),
    ):
        save(model.eval(), tmp_path)
        view = [m.at(1.0) if hasattr(m, "at") else m for m in (load(tmp_path, trust=TRUST), model)]
        assert torch.equal(view[0](images), view[1](images))


@pytest.mark.parametrize("name", ["small", "Wrapped"])
def test_training_starts_from_weights(name, photographs, tmp_path):
    torch.manual_seed(5)
    first = network(name).maker(photographs)()
    safetensors.torch.save_file(first.network.state_dict(), tmp_path / "own.safetensors")
    save(first, tmp_path / "folder")
    for path in (tmp_path / "own.safetensors", tmp_path / "folder" / "model.safetensors"):
        loaded = network(name, weights=path).maker(photographs)()
        assert tiny.same(tiny.weights(loaded), tiny.weights(first))


def test_weights_that_cannot_be_used_are_refused(photographs, tmp_path):
    other = network("norm_free").maker(photographs)()
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(other.network.state_dict(), path)
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    torch.save({"net": other}, tmp_path / "pickle.pt")
    for name, message in {
        "other.safetensors": r"does not fit Small: .*norm.weight",
        "damaged.safetensors": "cannot be read as tensors and plain values",
        "missing.safetensors": "does not exist",
        "pickle.pt": r"pickle.pt cannot be read as tensors and plain values; anything else is rej",
    }.items():
        make = network("small", weights=tmp_path / name).maker(photographs)
        with pytest.raises(RunError, match=message):
            make()


@pytest.mark.parametrize("written", ["network.pt2", "a:b.onnx", "resnet", ""])
def test_files_cannot_be_trained(written):
    with pytest.raises(ValueError, match=r"can only be evaluated; weights .* --network.weights"):
        ImportedNetwork(function=written)


def test_the_last_linear_layer_may_be_named(images):
    images = images[:, :1]
    wrong = user_nets.head_first()
    with pytest.raises(
        ValueError, match=r"HeadFirst does not end .* one of body, head, with --net"
    ):
        FeatureExtractor(wrong.eval())(images)
    assert find_last_linear(wrong) is wrong.body
    for right in (
        user_nets.head_first(named=True),
        import_network("user_nets:head_first", {}, last_linear="head"),
    ):
        head = find_last_linear(right)
        assert head.out_features == 10
        features = FeatureExtractor(right)(images)
        torch.testing.assert_close(head(features), right(images))


def test_the_last_linear_layer_of_a_stack_is_its_merger():
    named = user_nets.head_first(named=True)
    stack = FeatureStack([named, user_nets.ten()], classes=10)
    assert stack.sizes() == [5, 7]
    assert find_last_linear(stack) is stack.merger


@pytest.mark.parametrize("name", ["neck", "network.head", ""])
def test_last_linear_must_name_a_linear_layer(name):
    message = r"must name a linear layer of HeadFirst \(body, head\), got"
    with pytest.raises(ValueError, match=message):
        import_network("user_nets:head_first", {}, last_linear=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_adaptive_external_network_is_exported(photographs):
    shape = network("resnet", logits="logits")
    model = fuse_branches(with_branches(shape.maker(photographs)(), 2), placement="stem").eval()
    images = photographs.test.batch(slice(None))[0]
    program = torch.export.export(
        model, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)


def recipe(shape: ImportedNetwork, method=None):
    base = replace(tiny.recipe(), network=shape)
    return base if method is None else replace(base, method=method)


def test_an_imported_network_goes_to_json_and_back():
    shape = network("resnet", arguments={"width": 4, "deep": [1, {"a": None}]}, logits="logits")
    assert from_json(to_json(recipe(shape))) == recipe(shape)
    assert to_json(recipe(shape))["network"]["kind"] == "ImportedNetwork"


def test_an_old_recipe_without_a_kind_is_a_wide_resnet():
    content = to_json(RECIPES["afa_digits"]())
    del content["network"]["kind"]
    assert from_json(content) == RECIPES["afa_digits"]()
    content["network"] = {"kind": "Magic", "depth": 10, "width": 1}
    with pytest.raises(ValueError, match="Magic"):
        from_json(content)
    assert from_json({"depth": 10, "width": 1}, WideResNetShape).width == 1


@pytest.mark.slow
def test_a_run_trains_saves_resumes_and_is_evaluated(tmp_path):
    folder, data = tmp_path / "run", tiny.digits()
    asked = recipe(network("small"), replace(AFA_METHOD, schedule=tiny.SCHEDULE))
    model = train(asked, folder, trust=TRUST, dataset=data)
    assert isinstance(model, AdaptiveNetwork)
    loaded = load(folder, trust=TRUST)
    assert tiny.same(tiny.weights(loaded), tiny.weights(model))
    again = train(asked, folder, trust=TRUST, dataset=data, resume=True)
    assert tiny.same(tiny.weights(again), tiny.weights(model))
    settings = replace(asked.evaluation, suites=("quick",), images=8)
    record, _ = evaluate(folder, evaluation=settings, dataset=data, trust=TRUST, checks=False)
    assert record["images"] == 8


class TestUntrusted:
    """Tests without the trust that the other tests have."""

    @pytest.fixture(autouse=True)
    def _trusted(self):
        """Trust nothing."""

    def test_a_recipe_whose_code_is_not_trusted_is_refused(self, tmp_path):
        asked = recipe(network("small"))
        with pytest.raises(RunError, match=r"user_nets:small is code in .* --trust user_nets"):
            train(asked, tmp_path / "run", dataset=tiny.digits())
        assert not (tmp_path / "run").exists()

    def test_evaluating_a_folder_needs_trust(self, tmp_path):
        with trusting(*TRUST):
            save(import_network("user_nets:ten", {}), tmp_path)
        settings = tiny.recipe().evaluation
        with pytest.raises(RunError, match="user_nets:ten is code in"):
            evaluate(tmp_path, evaluation=settings, dataset=tiny.digits())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("five", r"must return 10 logits per image, got shape \(2, 5\) for 2 images"),
        ("resnet", r"fails on images of shape \(1, 8, 8\): .*with --logits"),
        ("convnext", "fails on images of shape"),
        ("nothing", "must return an nn.Module"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused_before_anything_is_written(
    name, message, tmp_path
):
    with pytest.raises(RunError, match=message):
        train(recipe(network(name)), tmp_path / "run", dataset=tiny.digits())
    assert not (tmp_path / "run").exists()


def test_selecting_the_logits_leaves_the_network_unchanged(photographs):
    made = network("small", arguments={"answer": "dict"}, logits="scores").maker(photographs)()
    assert isinstance(made, LogitsOf)
    assert isinstance(with_branches(made, 2), BranchedNetwork)
    assert type(made.network) is user_nets.Small
