"""A finished run is what vLLM expects: the engine loads it and gives the trainer's P_F."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer import GFlowNetTrainer


@pytest.mark.slow
@pytest.mark.vllm
def test_the_engine_gives_the_log_probabilities_of_the_policy(make_trainer, prompts, catalog, tmp_path):
    trainer = make_trainer(
        GFlowNetTrainer, model={"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    )
    trainer.train()
    trainer.save_model()
    trainer.model.eval()
    items, trie = torch.tensor([3, 17, 29, 40]), catalog.trie
    expected = trainer.policy.log_probs(prompts, items[:, None]).log_pf[:, 0]  # [B, L]

    path = trie.path(items)
    asked, slots = [], []
    for row in range(len(items)):
        real = prompts.input_ids[row][prompts.attention_mask[row].bool()].tolist()
        for level in range(trie.levels):
            node = path[row, level]
            children = range(int(trie.first_child[node]), int(trie.first_child[node + 1]))
            prefix = trainer.tokens[path[row, 1 : level + 1]].tolist()
            asked.append({"prompt": real + prefix, "legal": [int(trainer.tokens[child]) for child in children]})
            slots.append(children.index(int(path[row, level + 1])))
    (tmp_path / "requests.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("engine.py")
    subprocess.run(
        [sys.executable, script, trainer.args.output_dir, tmp_path / "requests.json", tmp_path / "answers.json"],
        check=True,
        timeout=300,
    )
    answers = json.loads((tmp_path / "answers.json").read_text())
    engine = torch.tensor([answer[slot] for answer, slot in zip(answers, slots, strict=True)]).view_as(expected)
    torch.testing.assert_close(engine, expected, atol=1e-4, rtol=1e-4)
