import pytest

from catalog import SOURCES
from catalog.errors import InputError
from samplers import SAMPLERS, PolicySampler, RandomSampler, SamplerParts, build_mixture
from tests.raising import raises


@pytest.fixture
def parts(policy, recommender):
    return SamplerParts(policy.trie, policy, recommender, lambda: 0.5, "catalog", draw_reward=lambda *asked: asked)


def test_every_source_has_a_sampler_of_its_name(parts):
    assert set(SAMPLERS) == set(SOURCES)
    mixture = build_mixture(dict.fromkeys(SAMPLERS, 1), parts, {})
    classes = SAMPLERS | {"policy": PolicySampler}  # without an engine
    assert {name: type(sampler) for name, sampler in mixture.samplers.items()} == classes


def test_numbers_are_counts_and_tables_hold_counts_and_settings(parts, prompts):
    recipe = {
        "target": 1,
        "policy": {"count": 2, "beams": True},
        "random": {"count": 0},
        "curriculum": {"count": 3, "pool": 24, "until": 0.5},
        "replay": {"count": 1, "size": 4, "prioritize": "error"},
    }
    mixture = build_mixture(recipe, parts, {})
    assert mixture.counts == {"target": 1, "policy": 2, "curriculum": 3, "replay": 1}
    drawn, replay = mixture.samplers["curriculum"], mixture.samplers["replay"]
    assert mixture.samplers["policy"].beams and (drawn.pool, drawn.window, drawn.until) == (24, 0.25, 0.5)
    assert (replay.size, replay.prioritize, replay.catalog_fingerprint) == (4, "error", "catalog")
    assert mixture.sample(prompts, seed=0).items.shape == (4, 7)


def test_samplers_of_ones_own_replace_and_add(parts, policy):
    own = {"random": PolicySampler(policy), "mine": RandomSampler(policy.trie)}
    mixture = build_mixture({"target": 1, "random": 1, "mine": {"count": 2}}, parts, own)
    assert mixture.samplers["random"] is own["random"] and mixture.samplers["mine"] is own["mine"]


def test_without_a_recommender_the_others_work(policy):
    parts = SamplerParts(policy.trie, policy, None, lambda: 0.5, "catalog")
    assert build_mixture({"target": 1, "random": 2, "curriculum": 0}, parts, {}).count == 3
    for name in ("curriculum", "confidence"):
        with pytest.raises(ValueError, match=f"{name} needs a .* Set recommender to the folder of a fitted one"):
            build_mixture({"target": 1, name: 1}, parts, {})


@pytest.mark.parametrize(
    ("recipe", "value"),
    [
        ({"polcy": 1}, "polcy"),
        ({"policy": {"beam": True, "count": 1}}, "beam"),
        ({"policy": {"beams": "yes", "count": 1}}, "yes"),
        ({"policy": {"count": 1, "temperature": 0}}, 0),
        ({"policy": {"count": 1, "temperature": -0.5}}, -0.5),
        ({"policy": {"count": 1, "temperature": "warm"}}, "warm"),
        ({"policy": {"count": 1, "epsilon": 1}}, 1),
        ({"policy": {"count": 1, "epsilon": -0.1}}, -0.1),
        ({"policy": {"count": 1, "beams": True, "epsilon": 0.1}}, None),
        ({"curriculum": {"count": 1, "recommender": "knn"}}, "recommender"),
        ({"replay": {"count": 1, "prioritize": "rewards"}}, "rewards"),
        ({"mine": {"count": 1, "pool": 3}}, "pool"),
        ({"policy": {"beams": True}}, None),
        ({"policy": -1}, None),
        ({"policy": [1]}, [1]),
        ({"policy": True}, True),
        ({"target": 0}, None),
    ],
)
def test_recipes_that_make_no_mixture_are_refused(recipe, value, parts, policy):
    with raises(InputError, value=value):
        build_mixture(recipe, parts, {"mine": RandomSampler(policy.trie)})
