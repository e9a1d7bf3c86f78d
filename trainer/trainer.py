"""The trainer of every method. An optimizer step is `get_batch_samples`, then `compute_loss` for each micro-batch."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerControl, set_seed
from transformers.trainer_utils import PredictionOutput

from catalog import Catalog
from catalog.errors import DivergedError
from interactions.prompts import PromptBuilder
from interactions.provenance import Provenance
from policy import TriePolicy, policy_of
from recommenders import BatchRecommender, Recommender
from samplers import Sampler
from trainer import construction, evaluating
from trainer.batches import RowReader, StepReader
from trainer.checks import check_forward, check_run, computes_float32
from trainer.config import TrainingConfig
from trainer.front_door import check_parts, make_args, make_model, unavailable
from trainer.given import Given, check_given
from trainer.micro_batch import LossCheck, MicroBatch, target_inputs
from trainer.objectives import sft
from trainer.reporting.progress import use_progress
from trainer.reporting.step_metrics import StepMetrics, will_log
from trainer.reporting.tracking import TrajectoryTables
from trainer.runtime.adapters import ROWS, adapt
from trainer.runtime.best_model import settle_set
from trainer.runtime.checkpoints import RunCheckpoints, restore_groups
from trainer.runtime.contents import PolicyContents
from trainer.runtime.export import load_heads, merged_weights, write, write_final
from trainer.runtime.launch import check_launch, check_processes, describe
from trainer.runtime.processes import Processes
from trainer.runtime.provenance import named_splits, run_provenance
from trainer.runtime.watchdog import Watchdog
from trainer.scoring.flow_heads import NAME, attach_flow_head, flow_heads, parameter_groups, split_state


class RecommenderTrainer(Trainer):
    """Trains a generative recommender on prompts with K trajectories each; the method says what these are worth.

    model: a backbone of transformers whose vocabulary holds the catalog's code tokens, or the folder or hub name of
    one, which takes them in. args: the config of a method. train_dataset: rows with `history`, `target` and any further
    columns (`interactions.leave_one_out`), as a Dataset or a list of dictionaries; eval_dataset: the same, or a
    dictionary of such by name. processing_class: the tokenizer, by default that of the model's folder.

    reward_funcs: one reward or a list, instead of those in `args.rewards`: objects and functions of this project or of
    TRL, names of stock rewards, import paths, and models or folders of models that classify sequences; reward_weights:
    the weight of each. samplers: samplers by name, beside or instead of the stock ones. recommender: replaces the one
    in `args.recommender`; it must be fitted on exactly these data sets. ref_model: what the objective compares with, by
    default the model as it is given. peft_config: a `peft.LoraConfig`; `save_model` then writes the merged model.
    optimizers: an optimizer and a schedule of one's own.

    Raises InputError for anything else, also for further arguments of TRL's trainers. `evaluate` ranks by
    trie-constrained beam search and reports eval_recall@10 and its like. Under several processes the last call is
    `end_training`.
    """

    config_class: type[TrainingConfig] = TrainingConfig
    args: TrainingConfig
    model: PreTrainedModel
    control: TrainerControl

    def __init__(  # noqa: PLR0913  # TRL's arguments and ours, all by name
        self,
        model: str | Path | PreTrainedModel,
        args: TrainingConfig | None = None,
        *,
        train_dataset: Dataset | list[dict[str, Any]] | None = None,
        eval_dataset: Dataset | list[dict[str, Any]] | dict[str, Any] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        catalog: Catalog,
        reward_funcs: Any = None,
        reward_weights: Sequence[float] | None = None,
        samplers: Mapping[str, Sampler] | None = None,
        recommender: Recommender | None = None,
        ref_model: str | Path | PreTrainedModel | None = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        **unknown: Any,
    ) -> None:
        args = make_args(type(self), args, model, unknown)
        backbone, processing_class = make_model(model, processing_class, catalog, args.seed)
        check_parts(backbone, processing_class)
        check_processes(args)
        args = settle_set(args, list(eval_dataset) if isinstance(eval_dataset, Mapping) else [])
        given = Given(reward_funcs, reward_weights, samplers, recommender, ref_model, optimizers)
        check_given(type(self).__name__, args, given, model, backbone, adapted=peft_config is not None)
        train_rows, eval_rows = construction.make_rows(args, given, train_dataset, eval_dataset)
        frozen = construction.frozen_reference(args, backbone, catalog, given, adapted=peft_config is not None)
        recommender = construction.find_recommender(args, given, catalog, train_rows, eval_rows)
        catalog.check_trained(backbone.config)
        backbone.config.catalog_fingerprint = catalog.fingerprint
        self.catalog, self.python_parts = catalog, given.recorded()
        self.prompts = PromptBuilder(catalog, processing_class, args.max_history, args.prompt_template)
        check_run(args, backbone, self.prompts, train_rows, eval_rows, len(processing_class))
        set_seed(args.seed)  # as transformers does, but before adapters and flow heads are drawn
        if peft_config is not None:
            backbone = adapt(backbone, peft_config, self.prompts.tokens[1:], checkpointing=args.gradient_checkpointing)
        attach_flow_head(backbone, args.flow_head)
        callbacks, self.folder = construction.make_callbacks(args, callbacks)
        super().__init__(
            model=backbone,
            args=args,
            data_collator=lambda rows: rows,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # the losses below are sums over the whole step, already divided: transformers must not divide again
        self.model_accepts_loss_kwargs = True
        use_progress(self)
        self._connect(processing_class, given, recommender, frozen)

    def _connect(
        self,
        tokenizer: PreTrainedTokenizerBase,
        given: Given,
        recommender: Recommender | None,
        frozen: PreTrainedModel | None,
    ) -> None:
        """Make the parts of a step from a model that lies where it is trained."""
        args = self.args
        check_launch(self.accelerator)
        self.runtime_info = describe(self.accelerator, self.model)
        self.folder.connect(self.runtime_info, self.python_parts)
        self.tables = TrajectoryTables(self.catalog, Path(args.output_dir, "trajectories"), args.log_trajectories_steps)
        self.metrics, self.losses, self.watchdog = StepMetrics(), LossCheck(args.output_dir), Watchdog(args.ddp_timeout)
        self.processes = Processes(self.accelerator, self.watchdog, self._abort)
        self.checkpoints = RunCheckpoints(args, self.processes, self.model, self.runtime_info)
        self.contents = PolicyContents(type(self).__name__, args, self.catalog, self.train_dataset, self.folder)
        self.trie, self.tokens = self.catalog.trie.to(args.device), self.prompts.tokens.to(args.device)
        self.policy = policy_of(self.model, self.trie, self.tokens)
        self.rows = RowReader(args, self.train_dataset, self.prompts, user_items=recommender is not None)
        ask = None if recommender is None else BatchRecommender(recommender, ahead=args.recommender_ahead)
        self.steps = StepReader(args, self.rows, ask)
        self.exact = computes_float32(self.model, self.accelerator)
        self.rollouts = construction.make_rollouts(self, tokenizer, given, ask)
        self.method = construction.make_method(self, tokenizer, given, ask, frozen)
        self.shared_prefix_gap: float | None = None  # set by the check on the first step

    # one optimizer step

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], Tensor | None]:
        """All micro-batches of one optimizer step, with the trajectories and rewards that the current weights give."""
        started, step = time.perf_counter(), self.state.global_step
        self.watchdog.heartbeat(f"step {step}")
        self.processes.stop_if_asked()
        pending, new = self.steps.read(epoch_iterator, step)
        if pending is None:
            return [], None
        self.rollouts.sync(self.model, step, new)
        scored = []
        for batch, seed in zip(pending.prompts, pending.seeds, strict=True):
            with self.processes.attempt():  # each: where a model is sharded, all processes must draw the next ones too
                trajectories = self.rollouts.draw(batch, seed)
                scored.append((batch, trajectories, self.method.score(batch, trajectories)))
        counts = pending.counts(self.rollouts.mixture.count * (self.trie.levels - 1))
        num_targets, num_prompts, tokens = self.processes.agree(f"step {step}", *counts)
        seconds = time.perf_counter() - started
        self.rollouts.sleep()
        micro_batches = []
        for number, (batch, trajectories, scores) in enumerate(scored, 1):
            reference, last = self.method.reference_log_probs(batch, trajectories), number == len(scored)
            micro_batches.append(MicroBatch(batch, trajectories, scores, num_targets, num_prompts, reference, last))
        self._first_step(micro_batches)
        self._record(micro_batches, int(tokens), seconds)
        return micro_batches, torch.tensor(num_prompts, device=device)

    def compute_loss(
        self, model: nn.Module, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """sft_weight * L_SFT + the method's loss, as this process's share of the mean over the optimizer step."""
        all_positions = self.args.sft_positions == "all" and self.args.sft_weight > 0
        log_probs = self.loss_policy(model).log_probs(
            inputs.prompts,
            inputs.trajectories.items,
            history=self.method.reads_history or all_positions,
            children=self.method.reads_children,
        )
        result = self.method.loss(inputs, log_probs, flow_heads(self.model))
        loss = result.loss
        if result.replay_error is not None:
            self.rollouts.update_replay(inputs, result.replay_error)
        self.metrics.note(result.metrics)
        if self.args.sft_weight:
            likelihood = sft(target_inputs(inputs, log_probs, self.args.sft_positions))
            self.metrics.note(likelihood.metrics)
            loss = loss + self.args.sft_weight * (likelihood.loss * likelihood.weight).sum() / inputs.num_targets
        with self.processes.attempt():
            self.losses.see(inputs, log_probs.log_pf, loss, self.state.global_step)
            self.tables.show(inputs, log_probs.log_pf, self.state, self.callback_handler.callbacks)
        if inputs.last:  # before its backward, inside which DeepSpeed steps
            self.processes.agree(f"step {self.state.global_step}")
        return loss * self.accelerator.num_processes  # DDP and ZeRO average the gradients over processes

    def loss_policy(self, model: nn.Module) -> TriePolicy:
        """The policy of a model as the losses see it, see `normalization`."""
        return policy_of(model, self.trie, self.tokens, full_vocabulary=self.args.normalization == "vocabulary")

    def _first_step(self, micro_batches: list[MicroBatch]) -> None:
        """Check the forward against the naive one, and let learned flows begin where the policy is."""
        if self.shared_prefix_gap is None:
            self.shared_prefix_gap = check_forward(self.loss_policy(self.model), micro_batches[0], self.exact)
        if self.state.global_step == 0:
            self.method.start(micro_batches, flow_heads(self.model), self.accelerator.reduce)

    def _record(self, micro_batches: list[MicroBatch], tokens: int, seconds: float) -> None:
        for micro_batch in micro_batches:
            self.metrics.note(micro_batch.scores.metrics)
        if will_log(self.args, self.state, self.checkpoints.began_at):
            self.rollouts.note_gap(self.model, micro_batches[0])
        self.folder.tokens_in_step = tokens
        self.metrics.note_rollout(sum(map(len, micro_batches)), seconds)

    # evaluation and metrics

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Rank every row's target by beam search: {"eval_recall@10": ..., "eval_ndcg@10": ..., ...}.

        Of a dictionary of data sets each is evaluated, {"eval_<name>_recall@10": ..., ...}.
        """
        self.watchdog.heartbeat("")
        return evaluating.evaluate(self, eval_dataset, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Rank items for every row: predictions [rows, beam_width] best first, -1 behind the last.

        label_ids [rows] and metrics are those of the column `target`; None and {} without it.
        """
        self.watchdog.heartbeat("")
        return evaluating.predict(self, test_dataset, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of our metrics since the last log, over all processes; of those in _max the largest."""
        if "loss" in logs:
            logs |= self.metrics.means(self.accelerator)
        if "train_loss" in logs and self.checkpoints.began_at:  # transformers divides a part's time by the steps of all
            if self.checkpoints.is_over:
                return
            for name in ("train_loss", "train_samples_per_second", "train_steps_per_second"):
                logs.pop(name, None)
        super().log(logs, start_time)

    evaluation_loop = unavailable("evaluation_loop", "Call evaluate, or predict for the rankings.")
    prediction_step = unavailable("prediction_step", "Call predict, or trainer.policy.log_probs for probabilities.")
    hyperparameter_search = unavailable("hyperparameter_search", "Run a search: python -m recipes.tune.")
    push_to_hub = unavailable("push_to_hub", "Call save_model, then recommenders.push_to_hub(output_dir, NAME).")

    def floating_point_ops(self, inputs: MicroBatch) -> int:
        return 0  # transformers' estimate reads a dictionary of tensors and knows no shared prompts

    # a run: it ends in order on all processes, and goes on exactly

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; `resume_from_checkpoint` True goes on from the last whole checkpoint, or begins where there is none.

        It may also be the folder of a checkpoint, or of a run, then of its last one. Where all steps are done already,
        nothing is trained. Raises InputError for a checkpoint that is damaged or of another run, and `Interrupted`
        after SIGTERM, SIGINT (Ctrl-C) or SIGHUP.
        """
        found = self.checkpoints.find(resume_from_checkpoint, self.provenance)
        if found and self.is_deepspeed_enabled and not self.checkpoints.same_processes:
            self.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
            self.checkpoints.to_universal(found)
        self.rollouts.forget()
        self.processes.asked_to_stop = False
        with self.watchdog:
            return super().train(found and str(found), *args, **kwargs)

    def is_finished(self) -> bool:
        """Whether output_dir holds this very run after its last step. Raises InputError where it holds another one."""
        return self.checkpoints.is_finished(self.provenance)

    def end_training(self) -> None:
        """Leave the group of the processes; the last call, without which a process may abort at its end."""
        self.rollouts.close()
        self.processes.leave()

    @cached_property
    def provenance(self) -> Provenance:
        """What decides this run: catalog, rows, backbone, settings, and what was given in Python."""
        splits = named_splits(self.train_dataset, self.eval_dataset)
        further = {"method": type(self).__name__, "python_parts": self.python_parts}
        return run_provenance(self.args, self.model, self.catalog, splits, self.runtime_info, further)

    def _abort(self, error: Exception, keep: bool) -> NoReturn:
        """Raise; the steps done are kept in a checkpoint first, unless they led to weights that have diverged."""
        if self.state.global_step and keep:
            try:
                self._save_checkpoint(self.model, None)
            except DivergedError as diverged:
                raise diverged from error
            construction.say_kept(self.args, self.state.global_step)
        raise error

    # what transformers does with files and optimizers, where this project does it otherwise

    def _init_training_state(self, *args: Any) -> tuple[int, int]:
        place = super()._init_training_state(*args)
        self.checkpoints.begin(self.state, self.callback_handler.callbacks)
        self.folder.is_over = self.checkpoints.is_over
        return place

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.checkpoints.is_over:  # transformers would train a step before it looks
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self.checkpoints.saving or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """As transformers, but under another name until it is whole; only then are older ones deleted."""
        if self.state.global_step == self.checkpoints.saved_at:
            return
        self.watchdog.heartbeat("")
        self.checkpoints.check_finite(self.state.global_step)
        with self.checkpoints.writing(self.state, self.provenance) as folder:
            super()._save_checkpoint(model, trial)
            if not self.args.save_only_model:
                self.rollouts.save(folder, self.args.process_index)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a plain transformers checkpoint, adapters merged, and the flow heads beside it; every process calls."""
        if _internal_call or not hasattr(self.model, "peft_config"):
            return super().save_model(output_dir, _internal_call)
        policy, heads = merged_weights(self.model, keep=self.args.should_save)
        if self.args.should_save:
            self._write(output_dir, self.model.get_base_model(), policy, heads)  # type: ignore[operator]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        self._write(output_dir, self.model, *split_state(state_dict or self.model.state_dict()))

    def _write(self, output_dir: str | None, model: Any, policy: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        folder, contents = Path(output_dir or self.args.output_dir), partial(self.contents.write, state=self.state)
        parts = (model, self.processing_class, policy, heads, contents)
        if self.checkpoints.saving:  # a part of a checkpoint, which is marked as a whole
            write(folder, *parts)
        else:
            write_final(folder, self.checkpoints.about(self.provenance, self.state.global_step), *parts)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_heads(self.model, Path(resume_from_checkpoint), parameters=True)

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if not self.checkpoints.check_best(best, self.provenance):
            self.checkpoints.to_universal(best)
            self.deepspeed._config.load_universal_checkpoint = True
        super()._load_best_model()
        load_heads(self.model, best, parameters=not self.is_deepspeed_enabled)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if not checkpoint:
            return
        if self.is_deepspeed_enabled and not self.checkpoints.same_processes:
            restore_groups(self.optimizer, self._groups, self.lr_scheduler.get_last_lr())
            self.deepspeed._config.load_universal_checkpoint = False  # the run's own checkpoints are not of that form
        if self.is_deepspeed_enabled:
            load_heads(self.model, Path(checkpoint), parameters=False)
        self.rollouts.load(Path(checkpoint), self.args.process_index, same_processes=self.checkpoints.same_processes)

    def _get_train_sampler(self, *args: Any) -> Any:
        return self.rows.sampler() or super()._get_train_sampler(*args)

    def get_optimizer_cls_and_kwargs(self, args: Any, model: Any = None) -> tuple[Any, Any]:  # type: ignore[override]
        """transformers' optimizer, with a group of its own for the flow heads and without decay where it would harm."""
        optimizer, kwargs = super().get_optimizer_cls_and_kwargs(args, model)
        decayed = [name for name in self.get_decay_parameter_names(model or self.model) if ROWS not in name]
        return optimizer, kwargs | {"params": parameter_groups(model or self.model, args, decayed)}

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args)  # whose groups DeepSpeed changes in place when it loads
        self._groups = [{name: v for name, v in group.items() if name != "params"} for group in optimizer.param_groups]
        return optimizer

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Without the weights that are not missing: tied ones, and those of the flow heads, which follow."""
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        missing = [name for name in load_result.missing_keys if name not in tied and not name.startswith(NAME)]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))
