"""How models are trained: the section `training` of a recipe, and the base of all sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.host import available_cpus

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel):
    """Base of every section: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingSettings(Settings):
    """How a model is trained; the controls of a report use the same values as its student."""

    epochs: Positive = Field(5, description="passes over the training rows; texts that a method adds do not count")
    steps: Positive | None = Field(
        None,
        description="optimizer steps, in place of epochs: methods that read more texts get no longer training; "
        "validation is then looked at ten times",
    )
    learning_rate: PositiveFloat = Field(2e-4, description="peak learning rate of AdamW")
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="the learning rate of every layer is this share of the one above it, down to the embeddings; "
        "1: all the same",
    )
    head_learning_rate: PositiveFloat | None = Field(
        None, description="peak learning rate of the tasks' heads; default: learning_rate"
    )
    batch_size: Positive = Field(16, description="rows per micro-batch")
    gradient_accumulation: Positive = Field(1, description="micro-batches per optimizer step")
    task_exponent: Share = Field(
        0.75,
        description="used where a model has several tasks: an example is drawn from a task with probability "
        "rows ** task_exponent, over the sum of these; 0: all tasks equally often, 1: all rows",
    )
    warmup: Share = Field(0.1, description="share of the steps with a rising learning rate")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="of AdamW")
    max_grad_norm: PositiveFloat = Field(1.0, description="gradients are clipped to this norm")
    early_stopping: Positive | None = Field(
        None,
        description="stop after this many epochs (with steps: looks at validation) without a better validation metric "
        "and keep the best; off: all epochs are run and the last weights are kept",
    )
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware has it and a short calibration says it is faster"
    )
    device: str = Field("auto", description="auto, cpu, cuda, mps, ... (what accelerate knows)")
    threads: Positive | None = Field(None, description="CPU threads of training; default: all available")
    report_to: list[str] = Field([], description="trackers of transformers: tensorboard, wandb, ...")
    checkpoint_seconds: PositiveFloat = Field(60.0, description="time between checkpoints; never changes the result")

    @property
    def cpu_threads(self) -> int:
        """Those that were asked for, or one per CPU that the process may use."""
        return self.threads or available_cpus()
