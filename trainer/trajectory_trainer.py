"""The trainer under every method: rows -> trajectories -> rewards -> objective, once per optimizer step."""

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    set_seed,
)
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import PredictionOutput

from catalog import Catalog, Trajectories
from catalog.errors import InputError, RunError
from evaluation.ranking import mean_metrics, ranking_metrics
from interactions.prompts import PromptBatch, PromptBuilder
from interactions.rows import by_length, cut
from policy import PathLogProbs, TriePolicy, check_backbone, policy_of
from samplers import Mixture, TargetSampler
from trainer.adapters import ROWS, adapt
from trainer.checks import check_forward, check_rows, check_vocabulary, warn_of_long_histories
from trainer.config import TrajectoryConfig
from trainer.export import load_heads, merged_weights, write, write_final
from trainer.flow_heads import NAME, split_state
from trainer.front_door import as_rows, check_parts, rank, unavailable
from trainer.metrics import check_names
from trainer.objectives import FlowInputs, sft
from trainer.resumable import ResumableTrainer
from trainer.run_folder import Progress, RunFolder
from trainer.step import MicroBatch, PendingStep, Scores, dump_step, target_source
from trainer.tracking import TrajectoryTables
from trainer.watchdog import Interrupted


class TrajectoryTrainer(ResumableTrainer):
    """Trains a causal backbone on prompts with K trajectories each; a method says which ones, and what they are worth.

    model: a causal LM whose vocabulary holds the catalogue's code tokens. train_dataset, eval_dataset: rows with
    `history`, `target` and any further columns (`interactions.leave_one_out`), as a Dataset or a list of dictionaries.
    processing_class: the tokenizer. Raises InputError for anything else, also of what TRL's trainers take.
    peft_config: a `peft.LoraConfig`, see `adapt`; `save_model` then writes the merged model.
    `evaluate` ranks by trie-constrained beam search and reports eval_recall@10 and its like.
    """

    args: TrajectoryConfig
    model: PreTrainedModel
    control: TrainerControl
    prefetch = 0  # how many optimizer steps are read before the one that is trained
    sft_weight = 1.0
    reads_children = False  # whether the method's loss reads the log-probabilities of all children on the paths
    reads_history = False  # whether it reads those of the history's items

    def __new__(cls, model: Any = None, args: Any = None, **parts: Any) -> "TrajectoryTrainer":
        check_parts(cls, model, args, parts)  # here, before the constructor of any method reads them
        return super().__new__(cls)

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrajectoryConfig,
        *,
        train_dataset: Dataset | list[dict[str, Any]] | None = None,
        eval_dataset: Dataset | list[dict[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase,
        catalog: Catalog,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        callbacks = list(callbacks or [])
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        folder = next((callback for callback in callbacks if isinstance(callback, RunFolder)), RunFolder())
        callbacks = list(dict.fromkeys([*callbacks, folder]))
        catalog.check_trained(model.config)
        model.config.catalog_fingerprint = catalog.fingerprint
        check_vocabulary(model, len(processing_class))
        self.catalog = catalog
        self.prompts = PromptBuilder(catalog, processing_class, args.max_history, args.prompt_template)
        set_seed(args.seed)  # as transformers does, but before adapters and flow heads are drawn
        if peft_config is not None:
            model = adapt(model, peft_config, self.prompts.tokens[1:])  # type: ignore[assignment]  # has all of its methods
            if args.gradient_checkpointing:
                model.enable_input_require_grads()  # or nothing below the first checkpoint would be trained
        self.attach(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=lambda rows: rows,
            train_dataset=None if train_dataset is None else as_rows("train_dataset", train_dataset),
            eval_dataset=None if eval_dataset is None else as_rows("eval_dataset", eval_dataset),
            processing_class=processing_class,
            callbacks=callbacks,
        )
        folder.runtime_info, folder.python_parts, self.folder = self.runtime_info, self.python_parts, folder
        self.tables = TrajectoryTables(catalog, Path(args.output_dir) / "trajectories", args.log_trajectories_steps)
        for stock in (ProgressCallback, PrinterCallback):
            self.remove_callback(stock)
        if not args.disable_tqdm:
            self.add_callback(Progress())
        self.trie = catalog.trie.to(args.device)
        self.tokens = self.prompts.tokens.to(args.device)
        self.policy = policy_of(self.model, self.trie, self.tokens)
        # the losses below are sums over the whole step, already divided: transformers must not divide again
        self.model_accepts_loss_kwargs = True
        self.shared_prefix_gap: float | None = None  # set by the check on the first step
        self._logged: defaultdict[str, list[Tensor | float]] = defaultdict(list)
        self._step_started: float | None = None
        self._pending: deque[PendingStep] = deque()
        self._read_from: Iterator | None = None
        self._check()

    def end_training(self) -> None:
        """Leave the group of the processes; the last call, without which a process may abort at its end."""
        # gloo's threads outlive the group, since DeepSpeed holds it, and abort the process (CPython before 3.14) where
        # they let go of the last collective's tensors while Python ends; nothing tells that they have, so they get time
        if torch.distributed.is_initialized():
            time.sleep(0.5)
        self.accelerator.end_training()

    # what a method adds

    def attach(self, model: Any) -> None:
        """Hang the method's own networks on the model, before anything wraps it."""

    def mixture(self) -> Mixture:
        """Which trajectories each prompt gets; the target first."""
        return Mixture({"target": TargetSampler(self.trie)}, {"target": 1})

    def score(self, batch: PromptBatch, trajectories: Trajectories) -> Scores:
        """What they are worth."""
        reward = torch.ones_like(trajectories.items, dtype=torch.float32)
        return Scores(reward, reward.log())

    def prepare(self, plans: list[PendingStep]) -> None:
        """What must happen before trajectories are drawn; plans: the steps that were read for the first time."""

    def loss_policy(self, model: nn.Module) -> TriePolicy:
        """The policy of a model as the losses see it, see `normalization`."""
        return policy_of(model, self.trie, self.tokens, full_vocabulary=self.args.normalization == "vocabulary")

    def method_loss(self, model: nn.Module, step: MicroBatch, output: PathLogProbs) -> Tensor:
        """What the method adds to the SFT loss: summed over the micro-batch, divided by the step's totals."""
        return output.log_pf.new_zeros(())

    def held_out_metrics(self, rows: Dataset) -> dict[str, float]:
        """What an evaluation measures beside the ranking; every process gets the same rows."""
        return {}

    # one optimizer step

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], Tensor | None]:
        """All micro-batches of one optimizer step, with the trajectories and rewards that the current weights give."""
        started = time.perf_counter()
        self.watchdog.heartbeat(f"step {self.state.global_step}")
        if epoch_iterator is not self._read_from:
            self._pending, self._read_from = deque(), epoch_iterator
        known = len(self._pending)
        while len(self._pending) <= self.prefetch and (plan := self._read(epoch_iterator, device)):
            self._pending.append(plan)
        if not self._pending:
            return [], None
        plan = self._pending[0]
        totals = [
            sum(float((self._target_source(p) >= 0).sum()) for p in plan.prompts),
            sum(map(len, plan.prompts)),
            float(self.watchdog.stop_requested),
            sum(map(self._tokens, plan.prompts)),
        ]
        targets, total, interrupted, tokens = self.accelerator.reduce(torch.tensor(totals, device=device)).tolist()
        if interrupted:
            self._abort(Interrupted("The run was asked to stop."))
        self.folder.tokens_in_step = int(tokens)
        self.prepare(list(self._pending)[known:])
        self._pending.popleft()
        steps = []
        for batch, seed in zip(plan.prompts, plan.seeds, strict=True):
            with self.fail_together():
                trajectories = self.mixture().sample(batch, seed)
                steps.append(MicroBatch(batch, trajectories, self.score(batch, trajectories), targets, total))
        if self.shared_prefix_gap is None:
            self.shared_prefix_gap = check_forward(self.policy, steps[0], self.exact)
        self._record_rollout(steps, time.perf_counter() - started)
        return steps, torch.tensor(total, device=device)

    @property
    def exact(self) -> bool:
        """Whether the model computes in float32."""
        return next(self.model.parameters()).dtype == torch.float32 and self.accelerator.mixed_precision == "no"

    def _read(self, epoch_iterator: Iterator, device: torch.device) -> PendingStep | None:
        """The prompts of the next optimizer step that was not read yet, None at the end of the epoch."""
        batches, _ = super().get_batch_samples(epoch_iterator, self.args.gradient_accumulation_steps, device)
        if not batches:
            return None
        # from the place in the run alone, and no state: a resumed run draws what the uninterrupted one drew
        place = [self.args.seed, self.state.global_step + len(self._pending), self.args.process_index]
        seeds = np.random.SeedSequence(place).generate_state(len(batches)).tolist()
        rows_of = [self.rows(rows, seed) for rows, seed in zip(batches, seeds, strict=True)]
        return PendingStep([self.prompts(rows).to(device) for rows in by_length(rows_of)], seeds)

    def compute_loss(
        self, model: nn.Module, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """sft_weight * L_SFT + the method's loss, as this process's share of the mean over the optimizer step."""
        history = self.reads_history or (self.args.sft_positions == "all" and self.sft_weight > 0)
        output = self.loss_policy(model).log_probs(
            inputs.prompts, inputs.trajectories.items, history=history, children=self.reads_children
        )
        loss = self.method_loss(model, inputs, output)
        if self.sft_weight:
            likelihood = sft(self._targets(inputs, output))
            self._note(likelihood.metrics)
            loss = loss + self.sft_weight * (likelihood.loss * likelihood.weight).sum() / inputs.num_targets
        with self.fail_together():
            if not loss.isfinite():
                raise RunError(self._dump(inputs, output, loss))
            self.tables.show(inputs, output.log_pf, self.state, self.callback_handler.callbacks)
        return loss * self.accelerator.num_processes  # DDP and ZeRO average the gradients over processes

    def _dump(self, step: MicroBatch, output: PathLogProbs, loss: Tensor) -> str:
        """Write the micro-batch of a loss that is no number; returns what to tell."""
        path = Path(self.args.output_dir) / f"failed_batch_{self.args.process_index}.json"
        about = {"step": self.state.global_step, "loss": str(loss.item())}
        dump_step(path, step, output.log_pf, about)
        return (
            f"The loss is {loss.item()} at step {self.state.global_step}; the prompts and trajectories are in {path}. "
            "Lower the learning rate or the reward's range."
        )

    def _targets(self, step: MicroBatch, output: PathLogProbs) -> FlowInputs:
        """The items whose likelihood is raised, as trajectories: those of the history, if trained, and the target."""
        log_pf = output.log_pf[:, :1]
        if self.args.sft_positions == "all":
            assert output.log_pf_history is not None
            log_pf = torch.cat([output.log_pf_history, log_pf], 1)  # [B, N + 1, L]
        source = self._target_source(step.prompts)
        return FlowInputs(log_pf=log_pf, log_reward=torch.zeros_like(log_pf[..., 0]), source=source)

    def _tokens(self, prompts: PromptBatch) -> int:
        """How many tokens the loss's forward reads: prompts without their padding, and K branches of L - 1 codes."""
        return int(prompts.attention_mask.sum()) + len(prompts) * self.mixture().count * (self.trie.levels - 1)

    def _target_source(self, prompts: PromptBatch) -> Tensor:
        return target_source(prompts, self.args.sft_positions)

    def rows(self, rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
        """The rows of a micro-batch as they are trained: with random_cut, ended at a random item after the first."""
        if not self.args.random_cut:
            return rows
        draw = np.random.default_rng(seed)
        return [cut(row, int(draw.integers(1, len(row["history"]) + 1))) for row in rows]

    def _check(self) -> None:
        """Refuse what cannot work before the first step."""
        trie, count = self.trie, self.mixture().count
        if count > trie.leaves:
            raise InputError(
                f"{count} trajectories per prompt of {trie.leaves} semantic IDs in all.", remedy="Lower K."
            )
        beams = 0 if self.eval_dataset is None else self.args.beam_width
        check_backbone(self.model.config, self.prompts.longest, max(2, count, beams), trie.levels - 1)
        if self.model.config.is_encoder_decoder and self.args.sft_positions == "all":
            raise InputError(
                "sft_positions: all needs a decoder-only backbone: an encoder reads a history as a whole and "
                "predicts none of its items.",
                remedy="Set sft_positions: target, and random_cut: true to train on shorter histories too.",
                field="sft_positions",
            )
        for name in ("train_dataset", "eval_dataset"):
            if (rows := getattr(self, name)) is not None:
                check_rows(name, rows, len(self.catalog), self.accelerator.num_processes)
        if self.train_dataset is not None:
            warn_of_long_histories(self.train_dataset, self.args.max_history)

    # metrics

    def _note(self, metrics: Mapping[str, Tensor | float]) -> None:
        for name, value in metrics.items():  # kept as tensors: to read one here would wait for a GPU
            self._logged[name].append(value.detach() if isinstance(value, Tensor) else value)

    def _record_rollout(self, steps: list[MicroBatch], seconds: float) -> None:
        now = time.perf_counter()
        if self._step_started is not None:
            whole = now - self._step_started
            self._note({"time/prompts_per_second": sum(map(len, steps)) / whole, "time/rollout_share": seconds / whole})
        self._step_started = now

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of our metrics since the last log, over all processes; of those in _max the largest."""
        if "loss" in logs and self._logged:
            names = sorted(self._logged)
            check_names(names)
            largest = torch.tensor([name.endswith("_max") for name in names], device=self.args.device)
            values = [torch.tensor([float(value) for value in self._logged[name]]) for name in names]
            own = torch.stack([v.max() if top else v.mean() for v, top in zip(values, largest, strict=True)])
            every = self.accelerator.gather(own.to(self.args.device).unsqueeze(0))  # [processes, names]
            logs |= dict(zip(names, every.mean(0).where(~largest, every.amax(0)).tolist(), strict=True))
            self._logged.clear()
        if "train_loss" in logs and self.began_at:  # transformers divides what a part took by the steps of all
            if self.is_over:
                return
            for name in ("train_loss", "train_samples_per_second", "train_steps_per_second"):
                logs.pop(name, None)
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Rank every row's target by beam search: {"eval_recall@10": ..., "eval_ndcg@10": ..., ...}."""
        rows = as_rows("eval_dataset", self.eval_dataset if eval_dataset is None else eval_dataset)
        metrics = self.predict(rows, None, metric_key_prefix).metrics or {}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Rank items for every row: predictions [rows, beam_width] best first, -1 behind the last.

        label_ids [rows] and metrics are those of the column `target`; None and {} without it.
        """
        self.watchdog.heartbeat("")
        rows = as_rows("test_dataset", test_dataset, targets=False)
        if "target" not in rows.column_names:
            return PredictionOutput(rank(self, rows), None, {})
        check_rows("test_dataset", rows, len(self.catalog), 1)
        ranked = rank(self, rows)
        target = np.array(rows["target"])
        found = ranking_metrics(ranked, self.catalog.trie.representative(torch.from_numpy(target)).numpy())
        means = mean_metrics(found) | self.held_out_metrics(rows)
        return PredictionOutput(ranked, target, {f"{metric_key_prefix}_{name}": value for name, value in means.items()})

    evaluation_loop = unavailable("evaluation_loop", "Call evaluate, or predict for the rankings.")
    prediction_step = unavailable("prediction_step", "Call predict, or trainer.policy.log_probs for probabilities.")
    hyperparameter_search = unavailable("hyperparameter_search", "Run a sweep: python recipes/compare.py.")
    push_to_hub = unavailable("push_to_hub", "Call save_model and upload the folder: hf upload NAME FOLDER.")

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if ROWS not in name]

    def floating_point_ops(self, inputs: MicroBatch) -> int:
        return 0  # transformers' estimate reads a dictionary of tensors and knows no shared prompts

    # saving: the policy is a plain transformers checkpoint, the flow heads lie beside it

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a plain transformers checkpoint, adapters merged, and the flow heads beside it; every process calls."""
        if _internal_call or not hasattr(self.model, "peft_config"):
            return super().save_model(output_dir, _internal_call)
        policy, heads = merged_weights(self.model, keep=self.args.should_save)
        if self.args.should_save:
            self._write(output_dir, self.model.get_base_model(), policy, heads)  # type: ignore[operator]  # of peft

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        policy, heads = split_state(state_dict or self.model.state_dict())
        self._write(output_dir, self.model, policy, heads)

    def _write(self, output_dir: str | None, model: Any, policy: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        folder, parts = Path(output_dir or self.args.output_dir), (model, self.processing_class, policy, heads)
        if self._saving:  # a part of a checkpoint, which is marked as a whole
            write(folder, *parts)
        else:
            write_final(folder, self.about, *parts)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_heads(self.model, Path(resume_from_checkpoint), parameters=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and self.is_deepspeed_enabled:
            load_heads(self.model, Path(checkpoint), parameters=False)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Without the weights that are not missing: tied ones, and those of the flow heads, which follow."""
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        missing = [name for name in load_result.missing_keys if name not in tied and not name.startswith(NAME)]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        load_heads(self.model, Path(self.state.best_model_checkpoint), parameters=not self.is_deepspeed_enabled)
