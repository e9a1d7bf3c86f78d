"""The server's side of vLLM's own weight transfer (NCCL, CUDA IPC), which HTTP only directs."""

from collections.abc import Sequence
from typing import Any

from catalog.errors import InputError, RunError
from samplers.rollouts.ipc_handles import from_json
from samplers.rollouts.low_rank import BASE, collect, drop_collected, is_piece, load_collected, stop_collecting


class TransferReceiver:
    """The four steps of vLLM's weight transfer on an `LLM`. backend: vLLM's name for the way; workers: of the engine.

    A sender that is gone in the midst of it leaves layers that are half loaded; `init` of the next puts them right.
    """

    def __init__(self, llm: Any, backend: str, workers: int) -> None:
        self.llm, self.backend, self.workers = llm, backend, workers
        self._open = False  # whether vLLM waits for weights
        self._half = False  # whether layers are half loaded
        self._abandoned = False
        self.brings_base: bool | None = None
        """Of the last weights: whether they held what adapters are added to; None where they were merged."""

    def init(self, info: dict[str, Any]) -> None:
        """Meet the sender; leaves the group with an earlier one.

        Raises InputError for a meeting in a store of vLLM, whose objects are unpickled.
        """
        if "master_address" in info:
            raise InputError("init_info: a group is joined by nccl_unique_id_b64 only.", field="init_info")
        self.llm.collective_rpc(stop_collecting)
        if self._half and not self._open:
            self.llm.start_weight_update()
            self._open = True
        if self._open:
            self.llm.finish_weight_update()
        self._open = self._half = False
        self.llm.shutdown_weight_transfer_engine()
        self.llm.init_weight_transfer_engine({"init_info": info})

    def start(self) -> None:
        self.llm.start_weight_update()
        self._open, self.brings_base = True, None

    def _collect(self, names: Sequence[str]) -> None:
        """Have pieces kept until all have come; they are the first of a transfer."""
        if self.brings_base is not None:
            return
        if not any(map(is_piece, names)):
            self.llm.collective_rpc(drop_collected)
            return
        self.brings_base = BASE in names
        self.llm.collective_rpc(collect)

    def update(self, info: dict[str, Any]) -> None:
        """Receive weights, or what is to be merged into some. Raises InputError for those that are not the model's."""
        if "ipc_handles" in info:
            info = info | {"ipc_handles": from_json(info["ipc_handles"])}
        self._half, self._abandoned = True, False
        names = info.get("names", [])
        try:
            self._collect(names)
            self.llm.update_weights({"update_info": info})
        except Exception as error:
            self._open = False  # vLLM has closed it
            self.llm.shutdown_weight_transfer_engine()  # so that the sender waits for nobody
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"These weights could not be taken over ({reason}).", remedy="Send others.") from error

        if self._abandoned:
            raise InputError("The sender of these weights is gone.", remedy="Begin again.")

    def abandon(self) -> bool:
        """Called beside `update`: leave the group, so that it ends. False where the workers are other processes."""
        if self.workers > 1:
            return False
        self._abandoned = True
        self.llm.llm_engine.model_executor.driver_worker.worker.weight_transfer_engine.shutdown()
        return True

    def finish(self) -> None:
        """Let the layers compute with what has come, and drop what was cached under the old weights.

        Raises InputError for pieces that cannot be merged into what is kept.
        """
        if self.brings_base is not None:
            try:
                self.llm.collective_rpc(load_collected)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise InputError(f"These weights could not be merged ({reason}).", remedy="Send others.") from error
        self.llm.finish_weight_update()
        self._open = self._half = False
        if not self.llm.reset_prefix_cache():
            raise RunError("vLLM could not drop its prefix cache: something is still being drawn.")
