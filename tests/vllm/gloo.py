"""vLLM's weight transfer by gloo: its NCCL classes, of which only the group and the broadcast are others.

As a program, a rollout server whose backend this is: gloo.py PORT MODEL DATA [SETTINGS OF vllm.LLM].
"""

import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from socket import create_server

import torch
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine, NCCLWeightTransferEngine
from vllm.distributed.weight_transfer.packed_tensor import unpack_tensor

BUCKET = 20_000
"""Bytes, less than the embeddings of the tests' model have."""


LEFT = []


class Group:
    def __init__(self, port, rank, world_size):
        wait = timedelta(seconds=60)
        store = TCPStore("127.0.0.1", port, world_size, is_master=rank == 0, timeout=wait)
        self.group, self.left = ProcessGroupGloo(PrefixStore("weights", store), rank, world_size, wait), False

    def broadcast(self, tensor):
        work = self.group.broadcast(tensor, 0)
        while not work.is_completed():  # as NCCL, and unlike gloo, it ends when its group is left
            if self.left:
                LEFT.append(self.group)  # whose end would wait for the broadcast
                raise ConnectionError("the group was left")
            time.sleep(0.001)
        work.wait()

    def destroy(self):
        self.left = True
        self.group.abort()


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    port: int
    world_size: int


def packed(sizes):
    """Which weights go together; cut as vLLM's packed broadcast cuts."""
    start = filled = 0
    for place, size in enumerate(sizes):
        filled += size
        if filled > BUCKET or place == len(sizes) - 1:
            yield slice(start, place + 1)
            start, filled = place + 1, 0


class GlooEngine(NCCLWeightTransferEngine):
    """The server's."""

    init_info_cls = GlooInitInfo

    def init_transfer_engine(self, info):
        self.model_update_group = Group(info.port, 1 + self.parallel_config.rank, info.world_size)

    def receive_weights(self, info):
        dtypes = [getattr(torch, name) for name in info.dtype_names]
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(info.shapes, dtypes, strict=True)]
        for part in packed(sizes):
            content = torch.empty(sum(sizes[part]), dtype=torch.uint8)
            self.model_update_group.broadcast(content)
            self.model.load_weights(
                unpack_tensor(content, info.names[part], info.shapes[part], dtypes[part], sizes[part])
            )


class GlooTrainer(NCCLTrainerWeightTransferEngine):
    """The run's."""

    def _broadcast(self, source, meta):
        group, pairs = self.model_update_group, self._checked_iter(source, meta)
        for part in packed([math.prod(one.shape) * one.dtype.itemsize for one in meta]):
            tensors = [next(pairs)[1] for _ in meta[part]]
            group.broadcast(torch.cat([tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]))
        assert next(pairs, None) is None


def join(client, source, workers):
    engine = GlooTrainer(client=client, source=source)
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ThreadPoolExecutor(1) as beside:
        joined = beside.submit(client.init_weight_transfer_engine, {"port": port, "world_size": 1 + workers})
        engine.model_update_group = Group(port, 0, 1 + workers)
        joined.result()
    return engine


WeightTransferEngineFactory.register_engine("gloo", GlooEngine)


class Worker:
    """As vLLM's worker_extension_cls it has each worker import this file."""


def main():
    from experiments.rollout_server import build
    from experiments.server_arguments import RolloutServerArguments
    from serving.listening import bind, listen, read_key, run

    port, model, data, *engine = sys.argv[1:]
    listener = bind("127.0.0.1", int(port))
    settings = json.loads(engine[0]) if engine else {}
    args = RolloutServerArguments(model=model, data=data, max_history=20, engine=settings)
    args.weight_transfer = "gloo"
    app, _ = build(args, read_key())
    sys.stdout.write(listen(listener, "127.0.0.1", int(port)))
    sys.stdout.flush()
    run(app, listener)


if __name__ == "__main__":
    main()
