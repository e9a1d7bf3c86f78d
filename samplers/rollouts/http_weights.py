"""The weights over HTTP, from one process to every rollout server; it needs nothing but the servers' ports."""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from urllib.parse import urlencode

from torch import Tensor

from catalog.errors import InputError
from samplers.rollouts.engine import WeightMeta
from samplers.rollouts.servers import Servers
from samplers.rollouts.wire import PART_BYTES, Packer


class HTTPWeights:
    """A `WeightSender` that puts parts of `part_bytes` to all servers at once, and fills the next part meanwhile."""

    def __init__(self, servers: Servers, part_bytes: int = PART_BYTES) -> None:
        self.servers, self.part_bytes = servers, part_bytes

    def send(self, metas: Sequence[WeightMeta], weights: Iterator[tuple[str, Tensor]], name: str) -> None:
        healthy = self.servers.each(self.servers.urls, self.servers.health, OSError, ValueError)
        what = describe(metas) | {"version": name, "part_bytes": self.part_bytes}
        receivers: Iterable[str] = self._each(healthy, "POST", "/weights", json.dumps(what).encode())
        sent: Future[Iterable[str]] | None = None
        with ThreadPoolExecutor(1, "weights") as ahead:
            for part, content in enumerate(self._packer.parts(metas, weights)):
                receivers = sent.result() if sent else receivers
                path = "/weights?" + urlencode({"version": name, "part": part})
                sent = ahead.submit(self._each, receivers, "PUT", path, content)
            if sent:
                sent.result()

    @cached_property
    def _packer(self) -> Packer:
        return Packer(self.part_bytes)

    def _each(self, receivers: Iterable[str], method: str, path: str, body: bytes | memoryview) -> Iterable[str]:
        """Those of the receivers that took it."""
        return self.servers.each(receivers, lambda url: self.servers.call(url, method, path, body), OSError, InputError)


def describe(metas: Sequence[WeightMeta]) -> dict[str, list]:
    """Names, dtypes and shapes as JSON has them."""
    return {
        "names": [meta.name for meta in metas],
        "dtypes": [str(meta.dtype).removeprefix("torch.") for meta in metas],
        "shapes": [list(meta.shape) for meta in metas],
    }
