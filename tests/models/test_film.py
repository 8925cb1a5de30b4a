import torch

from equipoise.models.film import FiLM


def test_film_is_a_leaky_scale_and_shift_for_each_channel(generator):
    film = FiLM(size=3, channels=2)
    features, code = torch.randn(4, 2, 5, 5, generator=generator), torch.eye(3)[[0, 1, 2, 0]]
    factors = film.linears(code)
    factors = torch.where(factors > 0, factors, 0.01 * factors)
    for row in range(4):
        for channel in range(2):
            expected = features[row, channel] * factors[row, channel] + factors[row, 2 + channel]
            torch.testing.assert_close(film(features, code)[row, channel], expected)


def test_an_identity_film_leaves_features_unchanged_but_can_learn(generator):
    film = FiLM(size=3, channels=2, start="identity")
    features = torch.randn(4, 2, 5, 5, generator=generator)
    result = film(features, torch.rand(4, 3, generator=generator))
    assert torch.equal(result, features)
    result.square().sum().backward()
    last = film.linears[-1]
    assert last.bias.grad.abs().min() > 0
    assert last.weight.grad.abs().max() > 0
