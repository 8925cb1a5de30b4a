import pytest
import torch

from equipoise.models.preference_encoding import PREFERENCES, PreferenceCode, check_preference

every_encoding = pytest.mark.parametrize("encoding", ["none", "onehot", "dct", "random"])


def code(encoding, size=8, seed=0, preferences=PREFERENCES):
    return PreferenceCode(preferences, encoding, size, seed)


@every_encoding
def test_a_number_and_a_tensor_have_the_same_codes(encoding):
    encode = code(encoding)
    together = encode(torch.tensor([0.3, 0.0, 1.0, 0.3]))
    alone = torch.cat([encode(preference) for preference in (0.3, 0.0, 1.0, 0.3)])
    assert together.shape == (4, 1 if encoding == "none" else 8)
    assert torch.equal(together, alone)


@every_encoding
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_preference_has_a_distinct_code_in_any_precision(encoding, dtype):
    rows = code(encoding)(torch.tensor(PREFERENCES, dtype=dtype))
    assert rows.dtype == torch.float32
    assert len({tuple(row.tolist()) for row in rows}) == len(PREFERENCES)


def test_encoding_none_is_the_number_itself():
    assert code("none")(0.77).tolist() == [[pytest.approx(0.77)]]
    assert torch.equal(code("none")(torch.tensor([0.5, 0.77])), torch.tensor([[0.5], [0.77]]))


def test_onehot_is_a_unit_vector():
    assert code("onehot")(0.1).tolist() == [[0, 1, 0, 0, 0, 0, 0, 0]]


def test_dct_has_scipys_rows():
    scipy = pytest.importorskip("scipy.fft")
    rows = code("dct", size=128)(torch.tensor(PREFERENCES))
    expected = torch.from_numpy(scipy.dct(torch.eye(128).double().numpy(), axis=0))
    torch.testing.assert_close(rows, expected[:6].float(), rtol=1e-4, atol=1e-4)


def test_random_rows_are_orthonormal_and_follow_their_seed():
    rows = code("random").table
    torch.testing.assert_close(rows @ rows.T, torch.eye(6))
    assert torch.equal(code("random").table, rows)
    assert not torch.allclose(code("random", seed=1).table, rows)


def test_a_random_code_does_not_use_the_global_generator():
    state = torch.get_rng_state()
    code("random")
    assert torch.equal(torch.get_rng_state(), state)


@every_encoding
def test_the_codes_are_saved_with_the_module(encoding):
    saved, loaded = code(encoding, seed=0), code(encoding, seed=1)
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded(0.4), saved(0.4))


@every_encoding
@pytest.mark.parametrize("preference", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_preference_out_of_range_is_refused(encoding, preference):
    with pytest.raises(ValueError, match=r"preference must be in \[0, 1\], got"):
        code(encoding)(preference)
    with pytest.raises(ValueError, match=r"preference must be in \[0, 1\], got"):
        code(encoding)(torch.tensor([0.1, preference]))
    with pytest.raises(ValueError, match=r"preference must be in \[0, 1\], got"):
        check_preference(preference)


@pytest.mark.parametrize("encoding", ["onehot", "dct", "random"])
def test_a_preference_without_a_code_is_refused(encoding):
    message = rf"preference 0.5 has no code: with encoding '{encoding}' .* 0, 0.1, .* 'none'"
    with pytest.raises(ValueError, match=message):
        code(encoding)(0.5)
    with pytest.raises(ValueError, match=message):
        code(encoding)(torch.tensor([0.1, 0.5]))


@pytest.mark.parametrize("preferences", [(), (0.1, 0.0), (0.0, 0.0, 1.0), (0.2, 0.2 + 1e-9)])
def test_preferences_that_do_not_ascend_are_refused(preferences):
    with pytest.raises(ValueError, match="preferences must be one or more numbers in asc"):
        code("none", preferences=preferences)


def test_preferences_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"preference must be in \[0, 1\], got 2"):
        code("none", preferences=(0.0, 2.0))


def test_a_code_too_short_for_its_preferences_is_refused():
    with pytest.raises(ValueError, match="size must be at least the number of preferences, 6"):
        code("onehot", size=5)
    assert code("none", size=1)(0.2).shape == (1, 1)


def test_an_unknown_encoding_is_refused(no_shape_checks):
    with pytest.raises(ValueError, match=r"encoding must be one of \('none', .*got 'fourier'"):
        code("fourier")
