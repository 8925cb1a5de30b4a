import pytest

from equipoise.training.schedule import Schedule


def schedule(**settings) -> Schedule:
    return Schedule(**({"epochs": 10, "learning_rate": 0.2} | settings))


def test_piecewise_decays_at_the_start_of_its_epochs_and_not_before():
    decaying = schedule(decay_epochs=(5, 8))
    rates = [decaying.rate(done) for done in (0.0, 0.499, 0.5, 0.799, 0.8, 0.99)]
    assert rates == pytest.approx([0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_piecewise_decays_at_the_papers_epochs_75_and_90():
    decaying = schedule(epochs=100, learning_rate=0.1, decay_epochs=(75, 90))
    steps = 391
    rates = [decaying.rate(epoch * steps / (100 * steps)) for epoch in (0, 74, 75, 89, 90, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_decay_factor_sets_the_size_of_a_decay():
    assert schedule(decay_epochs=(5,), decay_factor=0.5).rate(0.5) == pytest.approx(0.1)


def test_cosine_falls_through_half_the_rate_to_zero():
    rates = [schedule(shape="cosine").rate(done) for done in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([0.2, 0.1, 0.0])


def test_one_cycle_rises_to_its_peak_at_40_percent_and_falls_to_zero():
    rates = [schedule(shape="one_cycle").rate(done) for done in (0.0, 0.2, 0.4, 0.7, 1.0)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.1, 0.0])


@pytest.mark.parametrize("epochs", [0, -1])
def test_a_schedule_without_epochs_is_refused(epochs):
    with pytest.raises(ValueError, match=f"epochs must be 1 or more, got {epochs}"):
        schedule(epochs=epochs)


@pytest.mark.parametrize("rate", [0.0, -0.1, float("nan")])
def test_a_learning_rate_that_is_not_positive_is_refused(rate):
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        schedule(learning_rate=rate)
