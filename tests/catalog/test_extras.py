"""A package of an extra that is missing is told with the command that installs it, wherever it is first needed."""

import importlib
import sys

import numpy as np
import pytest
from scipy import sparse

from catalog.errors import SetupError
from catalog.extras import extra
from policy.config import load_lora
from recommenders import ALS, BPR, ItemKNN
from semantic_ids import residual_kmeans, rq_vae
from semantic_ids.vectors import item_vectors
from tests.raising import raises

LOG = sparse.csr_matrix(np.eye(4))
VECTORS = np.eye(4, dtype=np.float32)


@pytest.fixture
def block(monkeypatch):
    """Make a package one that is not installed, for whoever imports it from now on."""

    def block(package: str) -> None:
        for loaded in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, loaded)

        class Absent:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == package:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])

    return block


def test_the_sentence_names_who_needs_the_package_and_the_command_that_brings_it(block):
    block("matplotlib")
    with raises(SetupError, value="matplotlib", field=None) as error, extra("report", "The report"):
        import matplotlib  # noqa: F401
    assert str(error.value) == (
        "The report needs matplotlib, which is not installed. Run pip install -e '.[report]' in your clone of GFlowGR."
    )


@pytest.mark.parametrize(
    "missing, name, use",
    [
        ("implicit", "recommenders", lambda: ItemKNN.fit(LOG)),
        ("implicit", "recommenders", lambda: ALS.factorize(LOG, ALS.Settings())),
        ("implicit", "recommenders", lambda: BPR.factorize(LOG, BPR.Settings())),
        ("faiss", "semantic-ids", lambda: residual_kmeans(VECTORS, (2,))),
        ("vector_quantize_pytorch", "rq-vae", lambda: rq_vae(VECTORS, (2,))),
        ("peft", "peft", lambda: load_lora({"r": 4})),
    ],
)
def test_a_missing_package_is_told_where_it_is_needed(missing, name, use, block):
    block(missing)
    with raises(SetupError, value=missing) as error:
        use()
    assert f"pip install -e '.[{name}]'" in error.value.remedy


def test_vectors_of_titles_without_the_encoder_are_refused(tmp_path, block):
    block("sentence_transformers")
    (tmp_path / "config.json").write_text("{}")
    with raises(SetupError, field="vectors", value="sentence_transformers"):
        item_vectors([str(tmp_path)], ["a"], {"a": "A lamp"}, None, 0)


@pytest.mark.parametrize(
    "missing, name, module",
    [
        ("matplotlib", "report", "evaluation.figures"),
        ("jinja2", "report", "evaluation.report"),
        ("fastapi", "server", "samplers.rollouts.server"),
        ("uvicorn", "server", "serving.http_limits"),
        ("vllm", "rollouts", "samplers.rollouts.constraint"),
        ("optuna", "tune", "experiments.tune"),
    ],
)
def test_a_module_that_is_for_an_extra_alone_says_so_when_it_is_imported(missing, name, module, block, monkeypatch):
    monkeypatch.delitem(sys.modules, module, raising=False)
    block(missing)
    with raises(SetupError, value=missing) as error:
        importlib.import_module(module)
    assert f"pip install -e '.[{name}]'" in error.value.remedy
