import sys

import pytest

from catalog.errors import SetupError
from interactions import fetch_movielens_100k, k_core, leave_one_out, read_log, read_titles


@pytest.fixture(scope="module")
def movielens(tmp_path_factory):
    return fetch_movielens_100k(tmp_path_factory.mktemp("cache"))


def test_the_log_has_its_known_size(movielens):
    log = read_log(movielens / "ml-100k.inter")
    assert (len(log), log["user"].nunique(), log["item"].nunique()) == (100_000, 943, 1_682)
    assert log.iloc[0].to_dict() == {"user": "196", "item": "242", "timestamp": 881250949.0, "rating": 3.0}
    core = k_core(log, 5)
    assert (len(core), core["item"].nunique()) == (99_287, 1_349)


def test_titles_carry_the_year_where_it_is_known(movielens):
    titles = read_titles(movielens / "ml-100k.item")
    assert len(titles) == 1_682
    assert titles["1"] == "Toy Story (1995)"
    assert "(" not in titles["267"]


def test_the_log_splits_over_the_items_with_titles(movielens):
    log, titles = read_log(movielens / "ml-100k.inter"), read_titles(movielens / "ml-100k.item")
    splits = leave_one_out(log, list(titles), max_history=20)
    assert len(splits.validation) == len(splits.test) == 943
    assert sum(map(len, splits.test["history"])) == 100_000 - 943


def test_a_second_call_needs_no_network_and_a_damaged_file_is_noticed(movielens, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch_movielens_100k(movielens.parent) == movielens
    titles = (movielens / "ml-100k.item").read_bytes()
    (movielens / "ml-100k.item").write_bytes(titles[:-1])
    with pytest.raises(SetupError, match="could not be fetched"):
        fetch_movielens_100k(movielens.parent)
    (movielens / "ml-100k.item").write_bytes(titles)


def test_a_failed_download_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "ml-100k.partial").mkdir()
    (tmp_path / "ml-100k.partial" / "left_by_a_killed_call").touch()
    with pytest.raises(
        SetupError, match=r"could not be fetched into .*recbole==1.2.1.*Check network and disk"
    ) as error:
        fetch_movielens_100k(tmp_path)
    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


def test_a_full_disk_is_named_and_nothing_stays_behind(tmp_path, nearly_full_disk):
    with pytest.raises(SetupError, match="too large.*Check network and disk"), nearly_full_disk():
        fetch_movielens_100k(tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_license_is_told_and_recbole_is_not_imported(tmp_path, caplog):
    fetch_movielens_100k(tmp_path)
    assert "research only" in caplog.text and "do not pass it on" in caplog.text
    assert "recbole" not in sys.modules
