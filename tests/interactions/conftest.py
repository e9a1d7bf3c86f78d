import resource
from contextlib import contextmanager

import pytest


@pytest.fixture
def nearly_full_disk():
    """A context in which no file, of this process or of those it starts, can grow beyond 1 MB."""

    @contextmanager
    def limit():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
