"""Item vectors from files, interactions and several of them: each item must get its own."""

import numpy as np
import pandas as pd
import pytest

from interactions import leave_one_out, read_vectors
from semantic_ids.vectors import affinity, index_affinity, item_vectors
from tests.raising import raises

IDS = ["10", "9", "2", "1", "7", "30"]
OWN = np.array([[float(item), 1.0] for item in IDS], np.float32)


@pytest.fixture
def vectors():
    """The vectors of sources, for random users."""
    rng = np.random.default_rng(0)
    users = np.repeat([f"u{n}" for n in range(30)], 5)
    log = pd.DataFrame({"user": users, "item": rng.choice(IDS, 150), "timestamp": np.arange(150)})
    splits = leave_one_out(log, IDS, max_history=6)
    return lambda *sources: item_vectors([str(source) for source in sources], IDS, {}, splits, 0)[0]


def test_rows_of_a_file_go_by_the_value_of_the_ids(tmp_path, vectors):
    np.save(tmp_path / "v.npy", OWN[np.argsort([int(item) for item in IDS])])
    np.testing.assert_array_equal(vectors(tmp_path / "v.npy"), OWN)


def test_rows_of_ids_of_one_value_are_in_the_order_of_their_text(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[0.0], [1.0], [2.0]]))
    for ids in (["7", "007", "3"], ["007", "3", "7"]):
        found = dict(zip(ids, read_vectors(tmp_path / "v.npy", ids)[:, 0].tolist(), strict=True))
        assert found == {"3": 0, "007": 1, "7": 2}


def test_vectors_with_ids_may_be_of_more_items_in_any_order(tmp_path, vectors):
    order = np.array([3, 0, 5, 1, 4, 2])
    more = np.concatenate([OWN[order], np.zeros((1, 2), np.float32)])
    np.savez(tmp_path / "v.npz", ids=np.array([IDS[i] for i in order] + ["99"]), vectors=more)
    np.testing.assert_array_equal(vectors(tmp_path / "v.npz"), OWN)
    np.savez(tmp_path / "v.npz", ids=np.array(IDS[1:]), vectors=OWN[1:])
    with pytest.raises(ValueError, match=r"v.npz has no vector of item 10 \(1 such items\)"):
        vectors(tmp_path / "v.npz")
    np.savez(tmp_path / "v.npz", vectors=OWN)
    with pytest.raises(ValueError, match="has no array called ids"):
        vectors(tmp_path / "v.npz")


def test_several_sources_weigh_the_same(tmp_path, vectors):
    np.save(tmp_path / "v.npy", 100 * OWN)
    fused = vectors(tmp_path / "v.npy", "als")
    alone = vectors("als")
    assert fused.shape == (6, 2 + alone.shape[1])
    np.testing.assert_allclose(np.linalg.norm(fused[:, :2], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(fused[:, 2:], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("source", ["cooccurrence", "als", "sasrec"])
def test_every_item_has_a_vector_of_the_interactions(source, vectors):
    found = vectors(source)
    assert found.shape[0] == 6 and np.isfinite(found).all()


def test_rows_of_other_items_are_noticed(tmp_path, caplog):
    rng = np.random.default_rng(0)
    steps = np.array([-2, -1, 1, 2])  # of users who walk around a circle of 400 items
    taken = (rng.integers(0, 400, (500, 1)) + rng.choice(steps, (500, 6)).cumsum(1)) % 400
    users = np.repeat(np.arange(500).astype(str), 6)
    log = pd.DataFrame({"user": users, "item": taken.ravel().astype(str), "timestamp": range(3000)})
    splits = leave_one_out(log, [str(item) for item in range(400)], max_history=6)
    angle = 2 * np.pi * np.arange(400) / 400
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    others = rng.permutation(circle)
    assert affinity(circle, splits) > 1 and abs(affinity(others, splits)) < 0.1
    for name, rows in (("right", circle), ("wrong", others)):
        np.save(tmp_path / f"{name}.npy", rows)
    item_vectors([str(tmp_path / "right.npy")], [str(item) for item in range(400)], {}, splits, 0)
    assert not caplog.messages
    both = [str(tmp_path / "right.npy"), str(tmp_path / "wrong.npy")]
    _, alike = item_vectors(both, [str(item) for item in range(400)], {}, splits, 0)
    assert alike == pytest.approx({both[0]: affinity(circle, splits), both[1]: affinity(others, splits)}, abs=1e-5)
    (told,) = caplog.messages
    assert "wrong.npy: items that follow each other" in told and "Check that every row belongs to its item" in told


def test_what_is_no_source_is_named(tmp_path, vectors):
    with pytest.raises(ValueError, match="'glove' is none of cooccurrence, als, sasrec, no .npy or .npz file"):
        vectors("glove")
    np.save(tmp_path / "v.npy", OWN[:4])
    with pytest.raises(ValueError, match=r"v.npy has vectors of shape \[4, 2\] for 6 items"):
        vectors(tmp_path / "v.npy")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="reads titles, and there are none. Give the item table as items."):
        vectors(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "fields"),
    [
        ({"ids": IDS, "vectors": OWN[:, 0]}, {"field": "vectors", "value": (6,)}),
        ({"ids": IDS[1:], "vectors": OWN}, {"field": "vectors", "value": (6, 2)}),
        ({"ids": [*IDS[1:], "9"], "vectors": OWN}, {"row": "9"}),
        ({"ids": [*IDS[1:], " 9"], "vectors": OWN}, {"row": "9"}),
        ({"ids": IDS, "vectors": np.where(OWN == 7, np.nan, OWN)}, {"row": "7"}),
        ({"ids": IDS, "vectors": np.where(OWN == 30, 1e300, OWN.astype(float))}, {"row": "30"}),
        ({"ids": IDS, "vectors": np.ones((6, 3))}, {"field": "vectors"}),
        ({"ids": IDS, "vectors": OWN.astype(str)}, {"field": "vectors"}),
        ({"ids": np.array(IDS, object), "vectors": OWN}, {}),
        ({"ids": IDS[1:], "vectors": OWN[1:]}, {"row": "10"}),
        ({"vectors": OWN}, {"field": "ids"}),
    ],
)
def test_vectors_that_mean_nothing_are_refused_by_file_and_item(arrays, fields, tmp_path, vectors):
    np.savez(tmp_path / "v.npz", **arrays)
    with raises(file=tmp_path / "v.npz", **fields):
        vectors(tmp_path / "v.npz")


def test_ids_that_a_join_made_floats_are_those_of_the_log(tmp_path, vectors):
    np.savez(tmp_path / "v.npz", ids=np.array(IDS, float), vectors=OWN)
    np.testing.assert_array_equal(vectors(tmp_path / "v.npz"), OWN)


@pytest.mark.parametrize(("end", "other"), [(".npz", ".npy"), (".npy", ".npz")])
def test_a_file_whose_name_tells_the_other_format_is_named(end, other, tmp_path, vectors):
    written = tmp_path / f"v{other}"
    np.savez(written, ids=np.array(IDS), vectors=OWN) if other == ".npz" else np.save(written, OWN)
    path = written.rename(tmp_path / f"v{end}")
    with raises(file=path):
        vectors(path)


@pytest.mark.parametrize("end", [".npz", ".npy"])
def test_a_file_that_is_cut_off_is_named(end, tmp_path, vectors):
    path = tmp_path / f"v{end}"
    np.savez(path, ids=np.array(IDS), vectors=OWN) if end == ".npz" else np.save(path, OWN)
    path.write_bytes(path.read_bytes()[:-20])
    with raises(file=path):
        vectors(path)


def test_an_index_of_other_items_is_noticed(caplog):
    rng = np.random.default_rng(0)
    taken = (rng.integers(0, 100, (200, 1)) + rng.choice([-1, 1], (200, 6)).cumsum(1)) % 100  # around a circle
    log = pd.DataFrame({"user": np.repeat(np.arange(200), 6).astype(str), "item": taken.ravel().astype(str)})
    splits = leave_one_out(log.assign(timestamp=np.arange(1200)), [str(i) for i in range(100)], max_history=6)
    own = np.stack([np.arange(100) // 10, np.arange(100) % 10], 1)
    assert index_affinity(own, splits) > 0.5 and not caplog.messages
    assert abs(index_affinity(rng.permutation(own), splits)) < 0.1 and len(caplog.messages) == 1
