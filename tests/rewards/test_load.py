"""Rewards by name and by import path, from a folder outside the project."""

import sys

import pytest
import torch

from rewards import REWARDS, Collaborative, Hit, MatchedCodes, RewardParts, SharedPrefix, build_rewards, load_reward

MODULE = '''
"""A reward of one's own: items of a good year."""

import torch

YEAR = 1999


def recent(batch, trajectories):
    year = torch.tensor([1990, 1995, 2000, 2005, 2010, 2015])
    return (year[trajectories.items] > YEAR).float()


class Rank:
    def __init__(self, catalog):
        self.value = torch.arange(len(catalog)) / len(catalog)

    def __call__(self, batch, trajectories):
        return self.value[trajectories.items]

    def catalog(self, batch):
        return self.value.expand(len(batch), -1)


class Bonus(Rank):
    def __init__(self, catalog, bonus, *, power=1):
        self.value = bonus * torch.arange(len(catalog)) ** power


class Taught(Rank):
    def __init__(self, items, recommender, **anything):
        self.value, self.anything = recommender(None)[0], anything
'''


@pytest.fixture
def parts(shared) -> RewardParts:
    return RewardParts(shared, recommender=lambda batch: torch.arange(6.0).unsqueeze(0))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the module my_reward, and the interpreter's modules and search path as they were."""
    (tmp_path / "my_reward.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import a_missing_library\n")
    (tmp_path / "my_slip.py").write_text("import torch\ntorch.no_such_thing\n")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    for name in ("my_reward", "my_broken", "my_slip"):
        sys.modules.pop(name, None)


@pytest.fixture(params=["on PYTHONPATH", "in the working directory"])
def reachable(request, folder, monkeypatch):
    if request.param == "on PYTHONPATH":
        monkeypatch.syspath_prepend(folder)
    else:
        monkeypatch.chdir(folder)


@pytest.mark.usefixtures("reachable")
def test_a_function_of_ten_lines_is_a_reward(shared, parts, make_batch, draw):
    given = make_batch([0]), draw(shared, [[0, 1, 2, 5]])
    assert load_reward("my_reward:recent", parts)(*given).tolist() == [[0, 0, 1, 1]]
    both = build_rewards({"hit": 1.0, "my_reward:recent": 0.5}, parts)
    assert both(*given).tolist() == [[1.0, 0.0, 0.5, 0.5]]


@pytest.mark.usefixtures("reachable")
def test_a_class_gets_the_catalog(shared, parts, make_batch, draw):
    reward = load_reward("my_reward:Rank", parts)
    torch.testing.assert_close(reward(make_batch([0]), draw(shared, [[3, 1]])), torch.tensor([[3, 1]]) / 6)
    scored = build_rewards({"hit": 1.0, "my_reward:Rank": 6.0}, parts).catalog(make_batch([0]))
    torch.testing.assert_close(scored, torch.tensor([[1.0, 1, 2, 3, 5, 5]]))


@pytest.mark.usefixtures("reachable")
def test_a_class_gets_its_settings(parts, make_batch):
    table = {"hit": {}, "my_reward:Bonus": {"weight": 0.5, "bonus": 2, "power": 2}}
    assert build_rewards(table, parts).catalog(make_batch([0])).tolist() == [[1, 1, 4, 9, 17, 25]]


@pytest.mark.usefixtures("reachable")
def test_a_class_that_asks_the_recommender_gets_it(shared, parts, make_batch):
    reward = load_reward("my_reward:Taught", parts, color="red")
    assert reward.catalog(make_batch([0])).tolist() == [[0, 1, 2, 3, 4, 5]] and reward.anything == {"color": "red"}
    with pytest.raises(ValueError, match="Reward my_reward:Taught needs a recommender. Set recommender to the"):
        load_reward("my_reward:Taught", RewardParts(shared))


def test_stock_rewards_have_names_and_settings(parts):
    assert isinstance(load_reward("hit", parts), Hit)
    assert isinstance(load_reward("similarity", parts), MatchedCodes)
    assert isinstance(load_reward("prefix", parts), SharedPrefix)
    assert load_reward("behavior", parts, values={"like": 4}).largest == 4
    assert load_reward("behavior", parts).largest == 5
    collaborative = load_reward("collaborative", parts, history=True)
    assert isinstance(collaborative, Collaborative) and collaborative.history
    assert list(REWARDS) == ["hit", "behavior", "collaborative", "likelihood", "similarity", "prefix", "rank"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("collaborative", "collaborative needs a recommender. Set recommender to the folder of a fitted one"),
        ("likelihood", r"likelihood needs a policy. .*RewardParts\(policy=...\)"),
    ],
)
def test_a_reward_whose_part_is_missing_says_so(name, message, shared):
    with pytest.raises(ValueError, match=message):
        load_reward(name, RewardParts(shared))


@pytest.mark.usefixtures("reachable")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hit", {"bonus": 2}, r"'bonus' .* It has weight"),
        ("behavior", {"vales": {}}, r"'vales' .* Did you mean values"),
        ("behavior", {"values": {"like": "much"}}, "values="),
        ("behavior", {"weight": 0}, "all have the weight 0"),
        ("collaborative", {"weigth": 2}, r"'weigth' .* Did you mean weight"),
        ("collaborative", {"recommender": 2}, r"It has weight, history"),
        ("collaborative", {"history": "yes"}, "history='yes'"),
        ("my_reward:Bonus", {"bonus": 1, "powder": 2}, r"'powder'\. Its settings are \['weight', 'bonus', 'power'\]"),
        ("my_reward:Bonus", {}, r"Reward my_reward:Bonus: missing a required argument: 'bonus'\. Its settings are"),
        ("my_reward:recent", {"year": 2}, "my_reward:recent is a function and has no setting 'year'. Make it a class"),
    ],
)
def test_settings_that_a_reward_does_not_have_are_refused(name, settings, message, parts):
    with pytest.raises(ValueError, match=message):
        build_rewards({name: settings}, parts)


@pytest.mark.usefixtures("reachable")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hitt", "no reward 'hitt'. Did you mean hit"),
        ("my_reward", "no reward 'my_reward'"),
        ("my_rewards:recent", "no module named 'my_rewards'. Put its folder on PYTHONPATH"),
        ("my_broken:recent", "Reward 'my_broken:recent': no module named 'a_missing_library'"),
        ("my_reward:resent", "my_reward has no function or class 'resent'"),
        ("my_reward:YEAR", "my_reward has no function or class 'YEAR'"),
        ("my_reward:", "my_reward has no function or class ''"),
    ],
)
def test_what_is_missing_is_named(name, message, parts):
    with pytest.raises(ValueError, match=message):
        load_reward(name, parts)


@pytest.mark.usefixtures("reachable")
def test_an_error_inside_a_users_module_is_shown_as_it_is(parts):
    with pytest.raises(AttributeError, match="no_such_thing"):
        load_reward("my_slip:recent", parts)


def test_a_function_cannot_score_the_catalog(parts, make_batch, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    reward = build_rewards({"my_reward:recent": 1.0}, parts)
    assert not reward.scores_catalog
    with pytest.raises(RuntimeError, match="my_reward:recent failed for users.*no attribute 'catalog'"):
        reward.catalog(make_batch([0]))
