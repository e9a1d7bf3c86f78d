"""A vLLM that is missing or of another version is told in one sentence; the real one is used in tests/vllm."""

import sys
from types import SimpleNamespace

import pytest

from catalog.errors import SetupError
from samplers.rollouts.vllm_engine import check_vllm


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # put back afterwards


def test_a_missing_vllm_is_told_with_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SetupError, match=r"-e .\.\[rollouts\]"):
        check_vllm()


@pytest.mark.parametrize("version", ["0.22.1", "0.31.0", "0.320.0"])
def test_another_version_is_told(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    with pytest.raises(SetupError, match=f"vLLM {version} is installed and 0.32 is supported"):
        check_vllm()
