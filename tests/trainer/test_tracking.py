"""What arrives in experiment trackers, the table of trajectories, and what a run says it cost."""

import json
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from catalog import SOURCES
from recipes.train import main
from trainer import GFlowNetConfig, GFlowNetTrainer, SFTTrainer
from trainer.reporting import tracking
from trainer.reporting.tracking import COLUMNS, markdown, table_rows

ONCE = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
SMALL = dict(
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    eval_strategy="steps",
    eval_steps=2,
    log_trajectories_steps=2,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    flags = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_ERROR_REPORTING": "false"}
    for name, value in (flags | {"WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "trackio")}).items():
        monkeypatch.setenv(name, value)
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert wandb.run is None or wandb.run.offline
    wandb.finish()


def logged(trainer):
    """{step: {name: value}} as the trackers should have it: evaluations under eval/, everything else under train/."""
    table = {}
    for line in (Path(trainer.args.output_dir) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        values = table.setdefault(record.pop("step"), {})
        values |= {f"eval/{n[5:]}" if n.startswith("eval_") else f"train/{n}": v for n, v in record.items()}
    return table


def rows_of(trainer, step):
    path = Path(trainer.args.output_dir) / "trajectories" / f"step_{step}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensorboard(trainer):
    [file] = Path(trainer.args.output_dir).rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return events


def wandb_records(path):
    """The records of an offline run: a LevelDB log, blocks of 32 KiB behind 7 bytes of header."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def wandb_history(folder):
    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    records, until = [], time.monotonic() + 20
    # now and then wandb.finish() returns before its other process has written the file
    while not any(record.HasField("exit") for record in records):
        assert time.monotonic() < until, f"{path} has no end"
        time.sleep(0.1)
        records = list(wandb_records(path))
    for record in records:
        if record.HasField("history"):
            yield {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}


def test_tensorboard_has_the_same_names_for_every_method(make_trainer):
    names = {}
    for kind in (SFTTrainer, GFlowNetTrainer):
        trainer = make_trainer(kind, report_to=["tensorboard"], name=kind.__name__, **SMALL)
        trainer.train()
        events, expected = tensorboard(trainer), logged(trainer)
        names[kind] = set(events.Tags()["scalars"])
        assert names[kind] == {name for values in expected.values() for name in values}
        for name in names[kind]:
            for event in events.Scalars(name):
                assert event.value == pytest.approx(expected[event.step][name], rel=1e-5), name
    assert {"train/loss", "train/sft/loss", "eval/recall@10", "train/time/rollout_share"} <= names[SFTTrainer]
    assert names[SFTTrainer] < names[GFlowNetTrainer]


def test_an_offline_run_of_wandb_holds_the_log_and_the_table(make_trainer, tmp_path):
    trainer = make_trainer(report_to="wandb", **SMALL)
    trainer.train()
    assert wandb.run.offline
    wandb.finish()
    expected, found = logged(trainer), {}
    for record in wandb_history(tmp_path):
        found.setdefault(record["train/global_step"], {}).update(record)
    assert {step: {n for n in values if n[0] != "_"} for step, values in found.items()} == {
        step: {n for n in values if n.removeprefix("train/") not in ONCE}
        | {"train/global_step"}
        | ({"trajectories"} if step == 2 else set())
        for step, values in expected.items()
    }
    assert found[3]["train/loss"] == pytest.approx(expected[3]["train/loss"])
    [path] = tmp_path.glob("wandb/offline-run-*/files/media/table/trajectories*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == list(COLUMNS)
    assert table["data"] == [[*row.values()] for row in joined(rows_of(trainer, 2))]


def test_a_local_trackio_holds_the_log_and_the_table(make_trainer):
    from trackio.sqlite_storage import SQLiteStorage  # here, since it reads TRACKIO_DIR once, when it is imported

    trainer = make_trainer(report_to="trackio", project="tests", run_name="run", **SMALL)
    trainer.train()
    found = {}
    for record in SQLiteStorage.get_logs("tests", "run"):
        found.setdefault(record["train/global_step"], {}).update(record)
    expected = logged(trainer)
    assert set(found) == set(expected)
    for step, values in expected.items():
        assert {n for n in values if n.removeprefix("train/") not in ONCE} <= set(found[step])
    assert found[2]["train/loss"] == pytest.approx(expected[2]["train/loss"])
    assert found[2]["trajectories"]["_value"] == joined(rows_of(trainer, 2))


def joined(rows):
    return [row | {"history": ", ".join(row["history"])} for row in rows]


def test_the_table_is_what_the_first_micro_batch_of_the_step_sampled(make_trainer, catalog):
    trainer = make_trainer(report_to="tensorboard", samplers={"target": 1, "policy": 2, "replay": 1}, **SMALL)
    drawn = []
    sample = trainer.get_batch_samples

    def spy(*args):
        steps, total = sample(*args)
        drawn.append(steps)
        return steps, total

    trainer.get_batch_samples = spy
    trainer.train()
    assert [path.name for path in (Path(trainer.args.output_dir) / "trajectories").iterdir()] == ["step_2.jsonl"]
    rows, step = rows_of(trainer, 2), drawn[1][0]
    there = (step.trajectories.source >= 0).tolist()
    assert len(rows) == sum(map(sum, there)) and set(rows[0]) == set(COLUMNS)
    slots = [(b, k) for b, own in enumerate(there) for k, mask in enumerate(own) if mask]
    for row, (b, k) in zip(rows, slots, strict=True):
        item = catalog.item_ids.index(row["item"])
        assert item == step.trajectories.items[b, k] and row["reward"] == step.scores.reward[b, k]
        codes = " ".join(f"{'abcd'[level]}_{code}" for level, code in enumerate(catalog.trie.codes(torch.tensor(item))))
        assert row["semantic_id"] == codes
        assert SOURCES.index(row["source"]) == step.trajectories.source[b, k]
        assert row["user"] == step.prompts.users[b]
        assert row["target"] == catalog.item_ids[step.prompts.target[b]]
        past = [catalog.item_ids[i] for i in step.prompts.history[b] if i >= 0]
        assert row["history"] == past[-5:]
        if row["source"] == "policy":  # drawn by the weights in training
            assert row["log_pf"] == pytest.approx(step.trajectories.log_pf[b, k].sum().item(), abs=1e-4)
    [text] = tensorboard(trainer).Tensors("trajectories/text_summary")
    assert text.step == 2 and text.tensor_proto.string_val[0].decode() == markdown(
        [[*row.values()] for row in joined(rows)]
    )


def test_items_have_their_titles_where_there_are_some_and_titles_do_not_break_the_table(make_trainer, catalog):
    trainer = make_trainer()
    steps, _ = trainer.get_batch_samples(iter([trainer.train_dataset.to_list()[:20]]), 1, trainer.args.device)
    titled = replace(catalog, titles=tuple(f"Film | {i} <b>" for i in range(48)))
    rows = table_rows(steps[0], torch.zeros(20, 4, 4), titled)
    assert len(rows) == 8 * 4 and {row["item"].split(" ")[0] for row in rows} == {"Film"}
    shown = markdown([[*row.values()] for row in joined(rows)]).splitlines()
    assert len(shown) == 2 + len(rows) and {line.count("|") for line in shown} == {len(COLUMNS) + 1}
    assert "&lt;b&gt;" in shown[2]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_sentence_before_anything_is_read(name, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(tracking.INSTALLED, name, lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main(f"--method sft --data {tmp_path}/none --output_dir {tmp_path} --use_cpu --report_to {name}".split())
    told = f"{stopped.value}{capsys.readouterr().err}"
    assert f"report_to: {name} is not installed. Run pip install {name}, or leave it out." in told


def test_tables_need_a_number_of_steps(tmp_path):
    with pytest.raises(ValueError, match="log_trajectories_steps=0"):
        GFlowNetConfig(output_dir=str(tmp_path), use_cpu=True, log_trajectories_steps=0)


# what a run cost


def cost(trainer):
    return json.loads((Path(trainer.args.output_dir) / "metrics.json").read_text())["cost"]


@pytest.mark.parametrize("kind", [SFTTrainer, GFlowNetTrainer])
def test_tokens_are_those_that_the_trained_forwards_read(kind, make_trainer):
    trainer, read = make_trainer(kind, per_device_train_batch_size=3, gradient_accumulation_steps=2), []

    def count(module, args, kwargs):
        if torch.is_grad_enabled():
            read.append(int((kwargs["input_ids"] != trainer.processing_class.pad_token_id).sum()))

    trainer.model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.train()
    assert len(read) == 6 and cost(trainer)["tokens"] == sum(read)
    assert set(cost(trainer)) == {"seconds", "tokens", "peak_memory_mb", "processes"}
    assert cost(trainer)["processes"] == 1 and 50 < cost(trainer)["peak_memory_mb"] < 50_000
    assert 0 < cost(trainer)["seconds"] <= trainer.state.log_history[-1]["train_runtime"] + 1


def test_a_run_that_was_interrupted_and_resumed_cost_as_many_tokens_as_the_uninterrupted_one(make_trainer):
    class Reward:
        fails_at = None

        def __call__(self, batch, trajectories):
            if self.fails_at is not None and trainer.state.global_step == self.fails_at:
                raise RuntimeError("out of luck")
            return torch.ones(trajectories.items.shape)

    settings = dict(max_steps=12, random_cut=True, save_strategy="steps", save_steps=5)
    trainer = make_trainer(name="whole", rewards=Reward(), **settings)
    trainer.train()
    whole = cost(trainer)
    reward = Reward()
    trainer = make_trainer(name="parts", rewards=reward, **settings)
    reward.fails_at = 7
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.train()
    folder = Path(trainer.args.output_dir)
    state = json.loads((folder / "checkpoint-7" / "trainer_state.json").read_text())
    before = state["stateful_callbacks"]["cost"]["seconds"]
    assert 0 < state["num_input_tokens_seen"] < whole["tokens"] and before > 0
    assert not (folder / "metrics.json").exists()
    reward.fails_at = None
    trainer = make_trainer(name="parts", rewards=Reward(), **settings)
    trainer.train(resume_from_checkpoint=True)
    assert cost(trainer)["tokens"] == whole["tokens"]
    assert before < cost(trainer)["seconds"] < before + trainer.state.log_history[-1]["train_runtime"] + 1
