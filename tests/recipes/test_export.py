"""Prepared rows in TRL's formats: the same tokens as in training here, and rows that TRL's own trainers run on."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from catalog import Trajectories, extend_tokenizer, word_tokenizer
from interactions import PromptBuilder, Splits, leave_one_out, save_prepared
from recipes.export import main
from recommenders import fit_recommender
from rewards import RewardParts, as_reward

TEMPLATE = "Bought: {history} Next:"


@pytest.fixture
def data(catalog, tmp_path):
    """A prepared folder of 300 events of 20 users."""
    rng = np.random.default_rng(0)
    users = np.repeat([f"u{n}" for n in range(20)], 15)
    items = [catalog.item_ids[i] for i in rng.integers(0, 48, 300)]
    log = pd.DataFrame({"user": users, "item": items, "timestamp": np.arange(300), "rating": rng.integers(1, 6, 300)})
    titled = replace(catalog, titles=tuple(f"Film ({1950 + i})" for i in range(48)))
    save_prepared(tmp_path / "data", titled, leave_one_out(log, catalog.item_ids, max_history=6))
    return str(tmp_path / "data")


@pytest.fixture
def pretrained(tmp_path):
    """A folder with the tokenizer of a language model that puts a start token in front of every text."""
    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    start = {"single": "<s> $A", "pair": "<s> $A $B", "special_tokens": [("<s>", 1)]}
    backend.post_processor = processors.TemplateProcessing(**start)
    special = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    assert tokenizer("a")["input_ids"][0] == 1
    folder = tmp_path / "pretrained"
    tokenizer.save_pretrained(folder)
    AutoConfig.for_model("gpt2", vocab_size=len(tokenizer)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def export(data, tmp_path):
    """Runs export.py; returns the dataset and the tokenizer, both read back from disk."""

    def run(*argv, name="trl"):
        main(["--data", data, "--output_dir", str(tmp_path / name), *argv])
        return datasets.load_from_disk(tmp_path / name), AutoTokenizer.from_pretrained(tmp_path / name / "tokenizer")

    return run


@pytest.fixture(params=["codes alone", "a pretrained tokenizer", "text around the codes"])
def as_in_training(request, catalog, pretrained):
    """Arguments of export.py, and the tokenizer and template that a run with them trains with."""
    if request.param == "codes alone":
        return [], word_tokenizer(catalog.trie.sizes), None
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    extend_tokenizer(tokenizer, catalog.trie.sizes)
    if request.param == "a pretrained tokenizer":
        return ["--model", pretrained], tokenizer, None
    return ["--model", pretrained, "--prompt_template", TEMPLATE], tokenizer, TEMPLATE


def test_text_has_the_tokens_of_training_apart_and_together(as_in_training, export, data, catalog):
    argv, tokenizer, template = as_in_training
    exported, theirs = export(*argv, "--max_history", "4")
    build = PromptBuilder(catalog, tokenizer, 4, template)
    for split in ("train", "validation", "test"):
        rows = getattr(Splits.load(f"{data}/splits"), split).to_list()
        assert [{name: row[name] for name in rows[0]} for row in exported[split]] == rows
        batch = build(rows)
        codes = build.tokens[catalog.trie.path(batch.target)[:, 1:]].tolist()
        for place, row in enumerate(exported[split]):
            prompt = batch.input_ids[place, batch.attention_mask[place].bool()].tolist()
            assert theirs(row["prompt"])["input_ids"] == prompt and prompt.count(tokenizer.bos_token_id) == 1
            assert theirs(row["completion"])["input_ids"] == codes[place]
            assert theirs(row["prompt"] + row["completion"])["input_ids"] == prompt + codes[place]
            assert row["target_text"] == row["completion"]


def test_titles_that_a_tokenizer_merges_with_the_text_around_them_are_counted(export, pretrained, capsys):
    """Bytes never merge, so nothing is counted here, and the titles stand in the prompts."""
    exported, _ = export("--model", pretrained, "--prompt_template", "{titles}: {history}")
    row = exported["train"][0]
    assert row["prompt"].startswith("<s>" + ", ".join(f"Film ({1950 + i})" for i in row["history"]) + ": <a_")
    assert "merged_prompts 0" in capsys.readouterr().out


@pytest.mark.parametrize("sampler", ["random", "interactions", "curriculum"])
def test_rejected_items_come_from_a_sampler(sampler, export, data, catalog, tmp_path, capsys):
    popular = str(tmp_path / "popular")
    fit_recommender("popularity", {}, Splits.load(f"{data}/splits"), catalog, popular)
    argv = ["--kind", "preference", "--sampler", sampler, "--negatives", "2", "--recommender", popular]
    exported, tokenizer = export(*argv)
    again, _ = export(*argv, name="again")
    other, _ = export(*argv, "--seed", "1", name="other")
    nodes = PromptBuilder(catalog, tokenizer, 20).tokens[catalog.trie.path(torch.arange(48))[:, 1:]].tolist()
    text_of = ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in nodes]  # [items]
    for split in ("train", "validation", "test"):
        rows = exported[split].to_list()
        assert rows == again[split].to_list() != other[split].to_list()
        for row in rows:
            assert row["chosen"] == row["target_text"] == text_of[row["target"]] != row["rejected"]
            taken = {text_of[item] for item in row["history"]}
            assert (row["rejected"] in taken) == (sampler == "interactions")
    assert len(exported["test"]) == 40 and "without_negative 0" in capsys.readouterr().out


def test_a_row_that_the_sampler_has_nothing_for_is_left_out_and_counted(export, capsys):
    """With one item in the prompt, interactions has one to give, or none where it is the target."""
    argv = ["--kind", "preference", "--sampler", "interactions", "--negatives", "2", "--max_history", "1"]
    exported, _ = export(*argv)
    assert len(exported["test"]) == sum(row["history"][-1] != row["target"] for row in exported["test"]) < 40
    rows = sum(map(len, exported.values()))
    assert f"without_negative {80 - rows}" in capsys.readouterr().out


TRL = dict(max_steps=1, use_cpu=True, bf16=False, report_to="none", per_device_train_batch_size=4, disable_tqdm=True)


@pytest.mark.parametrize("kind", ["completion", "preference"])
def test_the_trainers_of_trl_run_on_it(kind, export, make_model, tmp_path):
    import trl

    exported, tokenizer = export("--kind", kind, "--max_history", "5")
    name = {"completion": "SFT", "preference": "DPO"}[kind]
    model = make_model("gpt2", vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(tmp_path / "model")  # DPO wants a folder, to load its reference from too
    trainer = getattr(trl, f"{name}Trainer")(
        str(tmp_path / "model"),
        args=getattr(trl, f"{name}Config")(output_dir=str(tmp_path / "run"), learning_rate=0.1, **TRL),
        train_dataset=exported["train"],
        eval_dataset=exported["validation"],
        processing_class=tokenizer,
    )
    row, source = trainer.train_dataset[0], exported["train"][0]
    ends = [tokenizer.eos_token_id]  # which TRL appends, as the page says
    if kind == "completion":
        prompt, answer = tokenizer(source["prompt"])["input_ids"], tokenizer(source["completion"])["input_ids"]
        assert row["input_ids"] == prompt + answer + ends
        assert row["labels"] == [-100] * len(prompt) + answer + ends
    else:
        for name in ("prompt", "chosen", "rejected"):
            ids = tokenizer(source[name])["input_ids"]
            assert row[f"{name}_ids"] == ids + ([] if name == "prompt" else ends)
    assert np.isfinite(trainer.train().training_loss)
    assert any(
        not torch.equal(old, new) for old, new in zip(model.parameters(), trainer.model.parameters(), strict=True)
    )


@pytest.mark.slow
def test_a_reward_function_is_given_the_same_by_trl_and_here(export, data, catalog, make_model, tmp_path):
    import trl

    calls = []

    def mine(completions, **columns):
        calls.append(columns | {"completions": completions})
        return [float(len(completion)) for completion in completions]

    exported, tokenizer = export("--max_history", "6")
    model = make_model("gpt2", vocab_size=len(tokenizer))
    trl.GRPOTrainer(
        model,
        reward_funcs=mine,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "run"), num_generations=2, max_completion_length=catalog.trie.levels, **TRL
        ),
        train_dataset=exported["train"],
        processing_class=tokenizer,
    ).train()
    (theirs,) = calls
    places = {(row["user"], row["target"]): row for row in Splits.load(f"{data}/splits").train}
    rows = [places[key] for key in zip(theirs["user"][::2], theirs["target"][::2], strict=True)]  # K = 2 of each
    batch = PromptBuilder(catalog, tokenizer, 6)(rows)
    items = torch.stack([batch.target, batch.target], 1)
    drawn = Trajectories.from_items(items, catalog.trie.codes(items), "random")
    as_reward("mine", mine, RewardParts(catalog, tokenizer=tokenizer))(batch, drawn)
    ours = calls[1]
    assert theirs.keys() - ours.keys() == {"trainer_state", "log_extra", "log_metric"} and ours.keys() <= theirs.keys()
    for name in ours.keys() - {"completions", "completion_ids"}:  # which the two draw each in their own way
        assert ours[name] == theirs[name], name
    assert [list(map(type, call["completions"])) for call in calls] == [[str] * 4] * 2
    assert ours["completion_ids"] == tokenizer(ours["completions"])["input_ids"]
    assert ours["completions"] == ours["target_text"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--negatives", "0"], "negatives=0: it must be at least 1"),
        (["--prompt_template", "{history}."], "prompt_template: without a model the tokenizer has no words"),
        (["--kind", "preference", "--sampler", "curriculum"], "curriculum needs a recommender. Set recommender"),
        (["--kind", "preference", "--negatives", "48"], "48 random trajectories are asked for, but only"),
        (["--max_history", "0"], "max_history=0: it must be at least 1."),
        (["--kind", "pairs"], "invalid choice: 'pairs'"),
    ],
)
def test_a_slip_ends_in_one_sentence_and_leaves_nothing(argv, message, export, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        export(*argv)
    assert message in str(stopped.value) + capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if "trl" in path.name]


def test_code_that_a_checkpoint_brings_is_refused_in_one_sentence(export, tmp_path):
    folder = tmp_path / "own_code"
    folder.mkdir()
    auto_map = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(SystemExit, match="^error: model=.*own_code cannot be loaded"):
        export("--model", str(folder))


def test_a_tokenizer_that_reads_codes_otherwise_is_refused(export, pretrained, monkeypatch):
    monkeypatch.setattr("experiments.trl_rows.item_texts", lambda items, trie: ["<a_0> <b_0>"] * len(items))
    with pytest.raises(SystemExit, match=r"error: The tokenizer of model=.*user 'u0'.*'<a_0> <b_0>'.* other tokens"):
        export("--model", pretrained)


def test_another_folder_is_not_overwritten_and_an_export_is(export, data):
    with pytest.raises(SystemExit, match="splits exists and holds no export. Give another folder as output_dir"):
        export("--output_dir", f"{data}/splits")
    assert len(Splits.load(f"{data}/splits").test) == 20
    export()
    again, _ = export("--kind", "preference")
    assert "rejected" in again["train"].column_names
