"""Training one model in a folder: decide once how, train or continue, and leave a checkpoint.

Used for teachers, students and controls alike.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, TrainingArguments

from compressor.data.batches import Collator, TaskExamples, Tokens, task_rows, tokenise, train_loader
from compressor.data.splits import VALIDATION, TaskData, num_added, training_splits, training_texts
from compressor.distillation.plan import Plan, planned_steps, warmup_steps
from compressor.distillation.precision import decide_training
from compressor.distillation.rates import layer_rates
from compressor.distillation.trainer import DistillationTrainer, StepCallback, learning_curve
from compressor.distillation.weights.average import holding, model_tensors
from compressor.models.checkpoint import save_checkpoint
from compressor.models.predict import predict_logits
from compressor.models.task_model import TaskModel
from compressor.models.vocabulary import train_used_rows
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import announce, progress_bar
from compressor.recipe import TrainingSettings
from compressor.tasks.registry import TASKS, gold_losses
from export.runners import limit_threads
from serving.answers import decide

CHECKPOINTS = "checkpoints"
DECISION_FILE = "training.json"
HISTORY_FILE = "history.json"
VALIDATIONS = 10
"""About how often a training of a given number of steps looks at validation."""


@dataclass(frozen=True)
class TrainingJob:
    """Everything that one training reads.

    Attributes:
        model: changed in place.
        tokenizer: of the model.
        data: the tasks, in the order of the model's heads.
        targets: the teacher's logits over `training_texts` per task that has a teacher, in the task's label order.
        plan: what to sum, which weights to keep, the schedule.
        settings: learning rate, steps, dtype and so on.
        max_length: tokens per text.
        seed: of data order and dropout.
        label: what the progress bar says.
    """

    model: TaskModel
    tokenizer: PreTrainedTokenizerBase
    data: Mapping[str, TaskData]
    targets: Mapping[str, np.ndarray]
    plan: Plan
    settings: TrainingSettings
    max_length: int
    seed: int
    label: str


def train(job: TrainingJob, folder: Path) -> None:
    """Train in `folder`, continuing what an interrupted call left there, and save the checkpoint.

    The folder gets the checkpoint, `history.json` (learning curve) and `training.json` (dtype, device,
    threads and why); Trainer checkpoints lie in `checkpoints/` until the end. A weight rule may have further
    weights saved, each in a folder of its own: `last/` beside an average.

    Raises:
        UserError: the plan is impossible in so few steps, or the settings on this machine.
    """
    job = _without_unread_rows(job)
    _check_targets(job)
    num_steps = training_steps(job.data, job.plan, job.settings)
    job.plan.check(num_steps=num_steps, warmup_steps=warmup_steps(job.settings, num_steps))
    digest = weights_digest(job.model)
    train_tokens = {name: _tokens(job, training_texts(data)) for name, data in job.data.items()}
    validation = {name: _tokens(job, data.splits[VALIDATION].texts) for name, data in job.data.items()}
    _tell_of_truncation(job, train_tokens)
    loader = _loader(job, train_tokens)
    decision = _decide_once(job, loader, folder)
    read = [part.input_ids for part in (*train_tokens.values(), *validation.values())]
    restore = train_used_rows(job.model, read, always=[_pad_id(job)])
    started = time.monotonic()
    with limit_threads(decision["threads"]):
        trainer = _trainer(job, loader, validation, decision=decision, folder=folder)
        with progress_bar(job.label, num_steps) as bar:
            trainer.add_callback(
                StepCallback(job.plan, checkpoint_seconds=job.settings.checkpoint_seconds, advance=bar.update)
            )
            trainer.resume_or_start(folder / CHECKPOINTS)
    _save(job, restore, folder)
    history = _history(trainer, train_tokens, time.monotonic() - started)
    write_json(folder / HISTORY_FILE, {**history, "initial_weights": digest})
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def training_steps(data: Mapping[str, TaskData], plan: Plan, settings: TrainingSettings) -> int:
    """Optimizer steps of a training by this plan; texts without label count where it reads the teacher, added never."""
    read = data if plan.reads_teacher else _labelled_only(data)
    return planned_steps([len(training_texts(part)) - num_added(part) for part in read.values()], settings)


def weights_digest(model: nn.Module) -> str:
    """sha256 over all weights in the order of their names: equal for equal models, whatever device they are on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _save(job: TrainingJob, restore: Callable[[], None], folder: Path) -> None:
    """The kept weights as the folder's checkpoint, the rule's other ones in folders of their own."""
    job.model.to("cpu").eval()
    trained = model_tensors(job.model)
    for name, weights in job.plan.rule.others().items():
        with holding(trained, weights):
            restore()
            save_checkpoint(folder / name, job.model, job.tokenizer)
    restore()
    save_checkpoint(folder, job.model, job.tokenizer)


def _without_unread_rows(job: TrainingJob) -> TrainingJob:
    """Texts without label take part only where a term reads the teacher."""
    return job if job.plan.reads_teacher else replace(job, data=_labelled_only(job.data), targets={})


def _check_targets(job: TrainingJob) -> None:
    """RuntimeError for targets that would be missed in silence, since labels alone teach a task without teacher."""
    if job.plan.reads_teacher and not job.targets:
        raise RuntimeError("the plan reads a teacher, but there are no targets for any task")
    if unknown := job.targets.keys() - job.data.keys():
        raise RuntimeError(f"there are targets for '{min(unknown)}', which is none of the tasks {', '.join(job.data)}")
    for name, data in job.data.items():
        if any(split.labels is None for split in training_splits(data)) and name not in job.targets:
            raise RuntimeError(f"task '{name}' has texts without label, but no targets that could say anything of them")


def _labelled_only(data: Mapping[str, TaskData]) -> dict[str, TaskData]:
    return {
        name: replace(part, splits={split: rows for split, rows in part.splits.items() if rows.labels is not None})
        for name, part in data.items()
    }


def _tokens(job: TrainingJob, texts: Sequence[tuple[str, ...]]) -> Tokens:
    return tokenise(job.tokenizer, texts, job.max_length)


def _tell_of_truncation(job: TrainingJob, tokens: Mapping[str, Tokens]) -> None:
    for name, part in tokens.items():
        if part.num_truncated:
            announce(
                f"  {name}: {part.num_truncated} of {len(part)} training texts are longer than max_length "
                f"{job.max_length} and were cut; raise max_length to keep them whole"
            )


def _pad_id(job: TrainingJob) -> int:
    return int(job.tokenizer.pad_token_id)


def _loader(job: TrainingJob, tokens: Mapping[str, Tokens]) -> torch.utils.data.DataLoader[Any]:
    rows = [task_rows(data, job.targets.get(name)) for name, data in job.data.items()]
    examples = TaskExamples([tokens[name] for name in job.data])
    collator = Collator(rows, pad_id=_pad_id(job))
    settings = job.settings
    return train_loader(
        examples,
        collator,
        settings.batch_size,
        seed=job.seed,
        task_exponent=settings.task_exponent,
        target_share=job.plan.target_share,
    )


def _decide_once(job: TrainingJob, loader: torch.utils.data.DataLoader[Any], folder: Path) -> dict[str, Any]:
    """Threads, dtype and device: decided before step 1, read again on resume."""
    path = folder / DECISION_FILE
    if not path.is_file():
        write_json(path, decide_training(job.model, loader, job.settings))
    decision: dict[str, Any] = read_json(path)
    return decision


def _trainer(
    job: TrainingJob,
    loader: torch.utils.data.DataLoader[Any],
    validation: Mapping[str, Tokens],
    *,
    decision: Mapping[str, Any],
    folder: Path,
) -> DistillationTrainer:
    settings = job.settings
    steps = training_steps(job.data, job.plan, settings)
    between = _steps_between_validations(job, steps)
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        max_steps=steps,
        learning_rate=settings.learning_rate,
        warmup_steps=warmup_steps(settings, steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        optim="adamw_torch_fused" if decision["device"] in ("cpu", "cuda") else "adamw_torch",
        bf16=decision["dtype"] == "bf16",
        use_cpu=decision["device"] == "cpu",
        eval_strategy="steps" if between else "epoch",
        eval_steps=between,
        save_strategy="no",
        save_total_limit=2,
        logging_steps=max(1, steps // 100),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=decision["device"] == "cuda",
        report_to=settings.report_to or "none",
        seed=job.seed,
    )
    trainer = DistillationTrainer(
        job.model,
        arguments,
        plan=job.plan,
        tasks={name: TASKS[data.task.type] for name, data in job.data.items()},
        loader=loader,
        validate=lambda model: _validate(model, job, validation),
    )
    trainer.rates = layer_rates(settings)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _steps_between_validations(job: TrainingJob, steps: int) -> int | None:
    """After how many steps validation is looked at; None: after every pass, which added rows make no longer."""
    if job.settings.steps is not None:
        return -(-steps // VALIDATIONS)
    has_added = any(num_added(data) for data in job.data.values())
    return -(-steps // job.settings.epochs) if has_added else None


def _validate(model: nn.Module, job: TrainingJob, tokens: Mapping[str, Tokens]) -> dict[str, float]:
    """Hard loss and judged metric per task on validation; `score` is the mean metric over the tasks."""
    found: dict[str, float] = {}
    scores: list[float] = []
    for name, data in job.data.items():
        labels = data.splits[VALIDATION].labels
        if labels is None:
            raise RuntimeError(f"the validation split of task '{name}' has no labels")
        kind = TASKS[data.task.type]
        logits = predict_logits(model, tokens[name], name, pad_id=_pad_id(job))
        found[f"{name}_loss"] = float(gold_losses(torch.from_numpy(logits), labels, data.task).mean())
        scores.append(kind.metrics[data.task.metric](labels, decide(logits, data.task)))
        found[f"{name}_{data.task.metric}"] = scores[-1]
    return {"score": float(np.mean(scores)), **found}


def _history(trainer: DistillationTrainer, tokens: Mapping[str, Tokens], seconds: float) -> dict[str, Any]:
    return {
        "curve": learning_curve(trainer.state.log_history),
        "steps": trainer.state.global_step,
        "planned_steps": trainer.args.max_steps,
        "kept": trainer.plan.rule.name,
        "seconds": seconds,
        "truncated_texts": {name: part.num_truncated for name, part in tokens.items()},
        **trainer.plan.rule.facts(),
    }
