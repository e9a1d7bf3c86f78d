"""Weights as parts of bytes, the buckets of vLLM's transfer, and handles of CUDA memory as JSON."""

import json
import threading

import pytest
import torch

from catalog.errors import InputError
from samplers.rollouts.engine import WeightMeta
from samplers.rollouts.ipc_handles import FIELDS, FIXED, from_json, to_json
from samplers.rollouts.vllm_weights import Feed
from samplers.rollouts.wire import Packer, Unpacker, cut, size
from tests.raising import raises

WEIGHTS = {
    "large": torch.randn(7, 19),
    "small": torch.randn(3).bfloat16(),
    "number": torch.tensor(2.5),
    "as large as a part": torch.randn(16),
    "empty": torch.empty(0, 4),
    "not contiguous": torch.randn(4, 8).T,
}
METAS = [WeightMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in WEIGHTS.items()]


@pytest.mark.parametrize("part_bytes", [16, 64, 2**16])
def test_weights_arrive_bit_for_bit_however_they_are_cut(part_bytes):
    packer, unpacker, found = Packer(part_bytes), Unpacker(METAS, part_bytes), {}
    for part, content in enumerate(packer.parts(METAS, iter(WEIGHTS.items()))):
        assert 0 < len(content) <= part_bytes
        for _ in range(2):  # an answer may be lost, and the part comes again
            found |= {name: weight.clone() for name, weight in unpacker.weights(part, content)}
    assert found.keys() == WEIGHTS.keys() - {"empty"}
    assert all(
        torch.equal(weight, WEIGHTS[name]) and weight.dtype == WEIGHTS[name].dtype for name, weight in found.items()
    )


def test_a_weight_is_cut_only_where_it_is_larger_than_a_part():
    metas = [WeightMeta("x", torch.float32, (number,)) for number in (10, 10, 40, 3, 16)]
    pieces = [[tuple(piece) for piece in part] for part in cut(metas, 64)]
    assert pieces == [
        [(0, 0, 40, 0)],
        [(1, 0, 40, 0)],
        [(2, 0, 64, 0)],
        [(2, 64, 128, 0)],
        [(2, 128, 160, 0), (3, 0, 12, 32)],
        [(4, 0, 64, 0)],
    ]
    assert size(METAS[0]) == 7 * 19 * 4


def test_other_weights_than_were_announced_are_noticed():
    with pytest.raises(AssertionError, match="small is not"):
        list(Packer(64).parts(METAS[:1] + METAS[2:], iter(WEIGHTS.items())))
    with raises(InputError):
        Unpacker(METAS, 2**16).weights(0, memoryview(bytearray(10)))


def test_a_feed_ends_for_both_sides_when_one_of_them_is_gone():
    feed, read = Feed(METAS), []
    thread = threading.Thread(target=lambda: read.extend(name for name, _ in feed))
    thread.start()
    for bucket in ({"a": torch.ones(1), "b": torch.ones(1)}, {"c": torch.ones(1)}, None):
        feed.put(bucket, 5)
    thread.join(5)
    assert read == ["a", "b", "c"] and feed.metadata() == METAS
    unread = Feed(METAS)
    for _ in range(3):
        unread.put({"a": torch.ones(1)}, 0.1)  # nobody reads, and nobody waits for ever
    assert unread.over.is_set() and list(unread) == []


def test_handles_of_cuda_memory_travel_without_a_pickle():
    given = FIXED | dict(
        size=torch.Size([1024]), stride=(1,), offset=0, device=1, handle=b"\x00\xff", storage_bytes=1024,
        storage_offset=512, ref_counter=b"r", ref_counter_offset=3, event=b"e", event_sync=True,
    )  # fmt: skip
    handles = {"GPU-1": tuple(given[name] for name in FIELDS)}
    told = json.loads(json.dumps(to_json(handles)))
    assert from_json(told) == handles
    for name, value in (("handle", "?"), ("offset", "os.system"), ("size", 3), ("stride", None)):
        with raises(InputError, field="ipc_handles"):
            from_json({"GPU-1": told["GPU-1"] | {name: value}})
    with raises(InputError, field="ipc_handles"):
        from_json([1])
