"""Rewards by name and by import path, from a folder outside the project."""

import sys

import pytest
import torch

from rewards import Hit, SharedPrefix, build_rewards, load_reward

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
'''


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
def test_a_function_of_ten_lines_is_a_reward(shared, make_batch, draw):
    given = make_batch([0]), draw(shared, [[0, 1, 2, 5]])
    assert load_reward("my_reward:recent", shared)(*given).tolist() == [[0, 0, 1, 1]]
    both = build_rewards({"hit": 1.0, "my_reward:recent": 0.5}, shared)
    assert both(*given).tolist() == [[1.0, 0.0, 0.5, 0.5]]


@pytest.mark.usefixtures("reachable")
def test_a_class_gets_the_catalogue(shared, make_batch, draw):
    reward = load_reward("my_reward:Rank", shared)
    torch.testing.assert_close(reward(make_batch([0]), draw(shared, [[3, 1]])), torch.tensor([[3, 1]]) / 6)
    scored = build_rewards({"hit": 1.0, "my_reward:Rank": 6.0}, shared).catalog(make_batch([0]))
    torch.testing.assert_close(scored, torch.tensor([[1.0, 1, 2, 3, 5, 5]]))


def test_stock_rewards_have_names(shared):
    assert isinstance(load_reward("hit", shared), Hit)
    assert isinstance(load_reward("similarity", shared), SharedPrefix)


@pytest.mark.usefixtures("reachable")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hitt", r"no reward 'hitt'\. Use one of \['hit', 'similarity'\] or an import path"),
        ("my_reward", "no reward 'my_reward'"),
        ("my_rewards:recent", "no module named 'my_rewards'. Put its folder on PYTHONPATH"),
        ("my_broken:recent", "Reward 'my_broken:recent': no module named 'a_missing_library'"),
        ("my_reward:resent", "my_reward has no function or class 'resent'"),
        ("my_reward:YEAR", "my_reward has no function or class 'YEAR'"),
        ("my_reward:", "my_reward has no function or class ''"),
    ],
)
def test_what_is_missing_is_named(name, message, shared):
    with pytest.raises(ValueError, match=message):
        load_reward(name, shared)


@pytest.mark.usefixtures("reachable")
def test_an_error_inside_a_users_module_is_shown_as_it_is(shared):
    with pytest.raises(AttributeError, match="no_such_thing"):
        load_reward("my_slip:recent", shared)


def test_a_function_cannot_score_the_catalogue(shared, make_batch, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(AttributeError, match="catalog"):
        build_rewards({"my_reward:recent": 1.0}, shared).catalog(make_batch([0]))
