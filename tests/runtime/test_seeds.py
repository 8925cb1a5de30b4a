from equipoise.runtime.seeds import derive_seed


def test_derived_seed_depends_on_the_seed_and_on_every_name():
    names = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",)]
    seeds = {derive_seed(seed, *name) for seed in (0, 1) for name in names}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_never_change_between_versions():
    assert derive_seed(0, "network") == 715385884120655211  # else old runs would not resume
