"""The one training loop: transformers' Trainer, told what to sum and which weights to keep.

It knows no method by name. What it adds to the Trainer: losses normalised by the examples of the whole
optimizer step, a self-teacher and a weight rule that are told of optimizer steps (never of micro-batches), the
plan's schedule, our own batch order, validation without touching the random state, and checkpoints that count
only once a marker has been written last.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from compressor.data.batches import LOOKED_UP
from compressor.distillation.plan import Plan
from compressor.distillation.rates import LayerRates, parameter_groups
from compressor.distillation.targets.term import TaskBatch
from compressor.models.task_model import TaskModel
from compressor.tasks.task import Task

MARKER = "complete"
RULE_FILE = "weight_rule.pt"
SELF_TEACHER_FILE = "self_teacher.pt"


class DistillationTrainer(Trainer):
    """Sums a plan's loss terms over the tasks of a batch.

    Attributes:
        rates: peak learning rates by depth; None: one for all parameters, that of the arguments.
    """

    control: TrainerControl
    lr_scheduler: LambdaLR | None
    optimizer: torch.optim.Optimizer | None
    loss_is_scaled_for_ga = True  # compute_loss divides by the examples of the whole step

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        plan: Plan,
        tasks: Mapping[str, Task],
        loader: DataLoader[Any],
        validate: Callable[[nn.Module], dict[str, float]],
    ) -> None:
        """Args beyond the Trainer's: what to learn from, on what, and how to score.

        Args:
            model: a TaskModel.
            args: of transformers.
            plan: loss terms, self-teacher, weight rule and schedule.
            tasks: the task type of every task name.
            loader: of training batches, as `compressor.data.batches.train_loader` makes it.
            validate: metrics of a model on validation; must hold `score`, higher is better.
        """
        # The evaluation set is only there to be present: `evaluate` asks `validate`.
        super().__init__(model=model, args=args, train_dataset=loader.dataset, eval_dataset=loader.dataset)
        self.plan = plan
        self.task_types = tasks
        self.loader = loader
        self.validate = validate
        self.rates: LayerRates | None = None

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Our own batches, made ready by accelerate."""
        prepared: DataLoader[Any] = self.accelerator.prepare(self.loader)
        return prepared

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Examples of the whole optimizer step, over all micro-batches and processes."""
        count = torch.tensor(sum(len(batch["input_ids"]) for batch in batch_samples), device=device)
        total: Tensor = self.accelerator.gather(count).sum()
        return total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Sum of the terms over this micro-batch, divided by the examples of the whole step."""
        looked_up = {key: inputs[key] for key in ("rows", *LOOKED_UP)}
        tensors = {key: value for key, value in inputs.items() if key not in looked_up}
        looked_up["self_logits"] = self._self_logits(tensors, looked_up["rows"])
        logits = model(**tensors, rows=looked_up["rows"])
        batches = [self._task_batch(name, logits[name], looked_up) for name in logits]
        total = sum(
            (term.loss(batch) for batch in batches for term in self.plan.terms),
            start=torch.zeros((), device=self.args.device),
        )
        num_examples = len(inputs["input_ids"]) if num_items_in_batch is None else num_items_in_batch
        loss = total * self.accelerator.num_processes / num_examples
        return (loss, logits) if return_outputs else loss

    def _self_logits(self, tensors: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.plan.self_teacher is None:
            return {}
        with self.accelerator.autocast():
            return self.plan.self_teacher.logits(self.accelerator.unwrap_model(self.model), tensors, rows)

    def _task_batch(self, name: str, logits: Tensor, looked_up: Mapping[str, Mapping[str, Tensor]]) -> TaskBatch:
        return TaskBatch(
            task=self.task_types[name],
            logits=logits.float(),
            labels=looked_up["labels"][name],
            has_label=looked_up["has_label"][name],
            targets=looked_up["targets"].get(name),
            self_logits=looked_up["self_logits"].get(name),
            progress=self.state.global_step / self.args.max_steps,
            is_added=looked_up["is_added"][name],
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's, with groups by depth where there are rates for them."""
        if self.optimizer is None and self.rates is not None:
            task_model = cast(TaskModel, model or self.model)
            groups = parameter_groups(
                task_model,
                self.rates,
                decayed=self.get_decay_parameter_names(task_model),
                weight_decay=self.args.weight_decay,
            )
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, task_model)
            self.optimizer = kind(groups, **options)
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The plan's schedule over the recipe's warm-up."""
        if self.lr_scheduler is None:
            warmup_steps = self.args.get_warmup_steps(num_training_steps)
            share = partial(self.plan.schedule.share, num_steps=num_training_steps, warmup_steps=warmup_steps)
            self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), share)
        return self.lr_scheduler

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Validation metrics, logged under `eval_`; the weight rule may end the training."""
        metrics = self.validate(self.accelerator.unwrap_model(self.model))
        step = self.state.global_step
        if self.plan.rule.after_validation(self.model, metrics["score"], step):
            self.control.should_training_stop = True
        logged = {f"eval_{name}": value for name, value in metrics.items()}
        self.log(dict(logged))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)
        return logged

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A checkpoint as the Trainer writes it, the states of weight rule and self-teacher, and the marker last.

        None is written once the training is to stop: resuming from it would train on.
        """
        if self.control.should_training_stop:
            return
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        torch.save(self.plan.rule.state(), folder / RULE_FILE)
        if self.plan.self_teacher is not None:
            torch.save(self.plan.self_teacher.state(), folder / SELF_TEACHER_FILE)
        (folder / MARKER).touch()

    def resume_or_start(self, folder: Path) -> None:
        """Train, from the newest complete checkpoint in the folder if there is one."""
        checkpoint = newest_checkpoint(folder)
        self.plan.rule.start(self.model, self.args.max_steps)
        if self.plan.self_teacher is not None:
            self.plan.self_teacher.start(self.model)
        if checkpoint is not None:
            self._restore(checkpoint)
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self.plan.rule.finish(self.model, lambda model: self.validate(self.accelerator.unwrap_model(model)))

    def _restore(self, checkpoint: Path) -> None:
        """What the Trainer's own checkpoint does not hold."""
        self.plan.rule.load_state(_loaded(checkpoint / RULE_FILE))
        if self.plan.self_teacher is not None:
            self.plan.self_teacher.load_state(_loaded(checkpoint / SELF_TEACHER_FILE))


def _loaded(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps; what a killed process left half-written is deleted."""
    complete: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        if (path / MARKER).is_file():
            complete.append((int(path.name.removeprefix("checkpoint-")), path))
        else:
            shutil.rmtree(path)
    return max(complete)[1] if complete else None


class StepCallback(TrainerCallback):
    """Tells self-teacher and weight rule of optimizer steps, asks for checkpoints, and reports progress."""

    def __init__(self, plan: Plan, *, checkpoint_seconds: float, advance: Callable[[int, str], None]) -> None:
        """Args: plan; seconds between checkpoints; advance: told the step and the latest figures."""
        self.plan = plan
        self.checkpoint_seconds = checkpoint_seconds
        self.advance = advance
        self._saved_at = time.monotonic()
        self._note = ""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """All micro-batches of a step are through, the weights are still those it was taken from."""
        if self.plan.self_teacher is not None:
            self.plan.self_teacher.before_update(kwargs["model"], state.global_step + 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After every optimizer step."""
        self.plan.rule.after_step(kwargs["model"], state.global_step)
        self.advance(state.global_step, self._note)
        if not float(state.epoch or 0.0).is_integer():
            control.should_save = self._is_due()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After an epoch's last step: saved here and not there, because a resumed run starts behind its validation."""
        control.should_save = self._is_due()

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.checkpoint_seconds

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a checkpoint."""
        self._saved_at = time.monotonic()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the latest figures for the progress line."""
        logs: Mapping[str, float] = kwargs.get("logs") or {}
        shown = [f"{name} {logs[key]:.3f}" for name, key in (("loss", "loss"), ("score", "eval_score")) if key in logs]
        self._note = " ".join(shown) or self._note


def learning_curve(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The Trainer's log as one row per logged point, `eval_` prefixes kept."""
    skipped = {
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "total_flos",
        "train_loss",
    }
    return [{k: v for k, v in row.items() if k not in skipped} for row in history if "train_runtime" not in row]
