"""How a run meets a rollout server for vLLM's weight transfer: by NCCL, or by CUDA IPC on one GPU."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch

from catalog.extras import extra
from samplers.rollouts.vllm_weights import BUCKET_BYTES, Feed, SyncClient
from samplers.rollouts.wire import size

with extra("rollouts", "weight_transfer: nccl or ipc"):
    from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine
    from vllm.distributed.weight_transfer.nccl_common import (
        NCCLWeightTransferInitInfo,
        uid_init_process_group,
        worker_init_payload,
    )
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine


def nccl(client: SyncClient, source: Feed, workers: int) -> Any:
    """A group of this process and the server's workers.

    They meet by NCCL's unique id, which goes over HTTP under the key. vLLM's own meeting would have the server unpickle
    what lies in a store that anyone can reach.
    """
    # vLLM keeps its streams by the number of buffers, and one server must not wait for what another does not receive
    buffers = 2 + list(client.servers.urls).index(client.url)
    wire: dict[str, Any] = dict(packed=True, packed_buffer_size_bytes=BUCKET_BYTES, packed_num_buffers=buffers)
    engine = NCCLTrainerWeightTransferEngine(client=client, source=cast(Any, source), **wire)
    identity = bytes(NCCLLibrary().ncclGetUniqueId().internal)
    info = NCCLWeightTransferInitInfo(
        rank_offset=1, world_size=1 + workers, nccl_unique_id_b64=base64.b64encode(identity).decode(), **wire
    )
    with ThreadPoolExecutor(1) as beside:
        joined = beside.submit(client.init_weight_transfer_engine, worker_init_payload(info))
        device = torch.accelerator.current_device_index()
        engine.model_update_group = uid_init_process_group(identity, 0, 1 + workers, device)
        joined.result()
    return engine


def ipc(client: SyncClient, source: Feed, workers: int) -> Any:
    """The server reads a buffer on the GPU that both share."""
    largest = max(size(meta) for meta in source.metadata())
    info = IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=max(BUCKET_BYTES, largest))
    return IPCTrainerWeightTransferEngine.trainer_init(info, client=client, source=cast(Any, source))


JOINS = {"nccl": nccl, "ipc": ipc}
