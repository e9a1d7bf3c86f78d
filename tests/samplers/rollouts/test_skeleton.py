"""The folder that an engine starts from is one for all runs of an architecture, a vocabulary and a catalog."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import peft
import pytest
from transformers import AutoConfig, AutoTokenizer

from catalog import Catalog
from catalog.errors import SetupError
from catalog.files import broken
from samplers.rollouts.skeleton import cached_skeleton, save_skeleton
from tests.raising import raises


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GFLOWGR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def test_a_folder_is_named_by_its_content(cache, make_model, tokenizer, catalog):
    folder, catalog = cached_skeleton(make_model("qwen3"), tokenizer, catalog)
    adapted = peft.get_peft_model(make_model("qwen3"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert cached_skeleton(adapted, tokenizer, catalog) == (folder, catalog)
    others = [
        cached_skeleton(make_model("qwen3", num_hidden_layers=1), tokenizer, catalog)[0],
        cached_skeleton(make_model("gpt2"), tokenizer, catalog)[0],
        cached_skeleton(make_model("qwen3"), tokenizer, Catalog(catalog.trie, catalog.item_ids[::-1], ()))[0],
    ]
    longer = AutoTokenizer.from_pretrained(folder)
    longer.add_tokens(["one more"])
    others.append(cached_skeleton(make_model("qwen3"), longer, catalog)[0])
    assert len({folder, *others}) == 5 and {path.name for path in cache.iterdir()} == {
        f.name for f in (folder, *others)
    }
    assert AutoConfig.from_pretrained(folder).architectures == ["Qwen3ForCausalLM"] and not broken(folder)
    assert Catalog.load(catalog).fingerprint == catalog.fingerprint and not list(folder.glob("*.safetensors"))


def test_many_processes_may_ask_at_once_and_a_folder_that_lost_files_is_written_again(
    cache, make_model, tokenizer, catalog, tmp_path
):
    model = make_model("qwen3")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: cached_skeleton(model, tokenizer, catalog), range(8)))
    ((folder, catalog),) = found
    assert not broken(folder)
    (catalog / "catalog.json").unlink()
    assert cached_skeleton(model, tokenizer, catalog) == (folder, catalog) and not broken(folder)
    assert [path.name for path in cache.iterdir()] == [folder.name]
    own, _ = save_skeleton(tmp_path / "own", model, tokenizer, catalog)
    assert (own / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    shutil.rmtree(cache.parent)
    cache.parent.write_text("a file")
    with raises(SetupError, file=cache):
        cached_skeleton(model, tokenizer, catalog)
