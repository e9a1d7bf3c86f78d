"""The server's side of vLLM's own weight transfer (NCCL, CUDA IPC), which HTTP only directs."""

from typing import Any

from catalog.errors import InputError, RunError
from samplers.rollouts.ipc_handles import from_json


class TransferReceiver:
    """The four steps of vLLM's weight transfer on an `LLM`. backend: vLLM's name for the way; workers: of the engine.

    A sender that is gone in the midst of it leaves layers that are half loaded; `init` of the next puts them right.
    """

    def __init__(self, llm: Any, backend: str, workers: int) -> None:
        self.llm, self.backend, self.workers = llm, backend, workers
        self._open = False  # whether vLLM waits for weights
        self._half = False  # whether layers are half loaded
        self._abandoned = False

    def init(self, info: dict[str, Any]) -> None:
        """Meet the sender; leaves the group with an earlier one.

        Raises InputError for a meeting in a store of vLLM, whose objects are unpickled.
        """
        if "master_address" in info:
            raise InputError("init_info: a group is joined by nccl_unique_id_b64 only.", field="init_info")
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
        self._open = True

    def update(self, info: dict[str, Any]) -> None:
        """Receive weights. Raises InputError for those that are not the model's."""
        if "ipc_handles" in info:
            info = info | {"ipc_handles": from_json(info["ipc_handles"])}
        self._half, self._abandoned = True, False
        try:
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
        """Let the layers compute with what has come, and drop what was cached under the old weights."""
        self.llm.finish_weight_update()
        self._open = self._half = False
        if not self.llm.reset_prefix_cache():
            raise RunError("vLLM could not drop its prefix cache: something is still being drawn.")
