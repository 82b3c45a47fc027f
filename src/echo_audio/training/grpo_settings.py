"""Settings of a GRPO run: what a file under `configs/` may say."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from echo_audio.listen import SHORTEST_SEGMENT_S, Limits
from echo_audio.scoring.rewards import PRESETS, Reward
from echo_audio.settings import Settings
from echo_audio.training.advantages import Scale
from echo_audio.training.losses import LossSettings
from echo_audio.transcript import Mode


class PolicySettings(Settings):
    """The model that learns.

    Attributes:
        source: a folder, a hub id, or "tiny" for the shipped model. Its weights are the reference too.
        lora_rank: 0 trains all weights; otherwise low-rank adapters on the decoder's projections, merged when saved.
        lora_alpha: scale of the adapters.
        dtype: of weights that are not trained; what is trained is float32, for a step of 1e-6 is lost in bfloat16.
        freeze_audio: do not train the audio tower.
        reference: where the reference of a full training waits: on the "device", or on the "cpu" until it is needed.
    """

    source: str = "tiny"
    lora_rank: int = Field(default=0, ge=0, le=1024)
    lora_alpha: float = Field(default=32.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    freeze_audio: bool = False
    reference: Literal["device", "cpu"] = "device"


class PromptSettings(Settings):
    """What is asked: scenes of the training split, or a store.

    Attributes:
        store: folder of rows made by `echo-audio data`; empty draws scenes as they are needed.
        seed: of the scenes.
        n_rows: rows to choose from; each pass over them has an order of its own.
        banks: packed banks of recorded clips, besides the procedural sounds.
        recorded: share of rows that may use the banks.
        kinds: weight of each kind of question; empty for the kinds' own weights.
        only: leave out every kind that `kinds` does not name.
        longest_s: of the scenes; lengths range from 4 s to this.
    """

    store: str = ""
    seed: int = 1
    n_rows: int = Field(default=10_000, ge=1)
    banks: tuple[str, ...] = ()
    recorded: float = Field(default=1.0, ge=0.0, le=1.0)
    kinds: dict[str, float] = Field(default_factory=dict)
    only: bool = False
    longest_s: float = Field(default=30.0, ge=4.5, le=30.0)


class RolloutSettings(Settings):
    """How transcripts are sampled.

    Attributes:
        prompts: of one step, over all processes.
        group: transcripts of each prompt (paper: 8).
        mode: how the model listens.
        temperature: of sampling; at any other than 1 the loss takes the samples for those of another policy.
        max_turns, max_relistens, max_relisten_s, max_new_tokens, max_turn_tokens, min_segment_s, skip_repeats: of
            `listen.Limits`; no answer is forced, for the policy would not have chosen it.
        in_flight: transcripts at once on each process.
        resample: times that a group without variance is replaced by one of another prompt.
        dtype: of the engine's weights; empty for those of the trainer, which one process then shares with it.
        engine: "local", or "vllm" on the same GPU (docs/running.md).
        gpu_memory: share of the GPU's memory that vLLM takes.
        eager: vLLM without CUDA graphs: starts sooner, samples slower.
        exact: one transcript at a time and nothing reused, so that a run repeats bit for bit on a CPU. Slow.
    """

    prompts: int = Field(default=8, ge=1)
    group: int = Field(default=8, ge=2)
    mode: Mode = Mode.INTERLEAVED
    temperature: float = Field(default=1.0, gt=0, le=2)
    max_turns: int = Field(default=16, ge=1)
    max_relistens: int = Field(default=8, ge=0)
    max_relisten_s: float = Field(default=120.0, gt=0)
    max_new_tokens: int = Field(default=2048, ge=1)
    max_turn_tokens: int = Field(default=2048, ge=1)
    min_segment_s: float = Field(default=0.2, ge=SHORTEST_SEGMENT_S)
    skip_repeats: bool = True
    in_flight: int = Field(default=64, ge=1)
    resample: int = Field(default=0, ge=0, le=8)
    dtype: Literal["", "float32", "bfloat16"] = ""
    engine: Literal["local", "vllm"] = "local"
    gpu_memory: float = Field(default=0.45, gt=0, lt=1)
    eager: bool = False
    exact: bool = False

    @property
    def limits(self) -> Limits:
        """The loop's policy: that of inference, without a forced answer."""
        return Limits(
            max_turns=self.max_turns,
            max_relistens=self.max_relistens,
            max_relisten_s=self.max_relisten_s,
            max_new_tokens=self.max_new_tokens,
            max_turn_tokens=self.max_turn_tokens,
            min_segment_s=self.min_segment_s,
            skip_repeats=self.skip_repeats,
            force_answer=False,
        )


class RewardSettings(Settings):
    """What is paid for (see docs/rewards.md).

    Attributes:
        preset: "paper" or "released".
        weights: weight of each named reward, instead of a preset.
    """

    preset: Literal["paper", "released"] = "paper"
    weights: dict[str, float] = Field(default_factory=dict)

    @property
    def reward(self) -> Reward:
        """The weighted sum."""
        return Reward(tuple(self.weights.items())) if self.weights else PRESETS[self.preset]

    @model_validator(mode="after")
    def _known(self) -> Self:
        _ = self.reward  # a name that is unknown is told here
        return self


class UpdateSettings(Settings):
    """How the policy is changed.

    Attributes:
        steps: rollout phases, each followed by its updates.
        max_seconds: time at most, for a machine that is lent: the step that reaches it is the last one, its model is evaluated
            and written, and a cosine has come down by then. 0 for no limit. The last step then depends on the clock.
        mini_batch: prompts of one update; 0 for all of the step.
        epochs: passes over the transcripts of a step.
        batch_tokens: positions of one forward, padding included: what memory allows. A longer transcript goes alone.
        learning_rate: peak, after the warm-up.
        warmup_steps: updates, linear.
        decay: what comes then: "constant", or "cosine" to zero at the last update.
        scale: what advantages are divided by: the group's "deviation" (paper), or "none".
        bf16: compute in bfloat16; weights, log-probabilities and the optimiser stay in float32.
        gradient_checkpointing: recompute activations to save memory.
        shard: share weights, gradients and optimiser among the processes (FSDP2); else each holds all of them.
        save_every: steps between checkpoints.
        seed: of everything that is drawn: samples, order, new adapters.
        track: also report to trackio (extra `track`).
    """

    steps: int = Field(default=100, ge=1)
    max_seconds: float = Field(default=0.0, ge=0.0)
    mini_batch: int = Field(default=0, ge=0)
    epochs: int = Field(default=1, ge=1)
    batch_tokens: int = Field(default=16_384, ge=256)
    learning_rate: float = Field(default=1e-6, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    scale: Scale = Scale.DEVIATION
    bf16: bool = False
    gradient_checkpointing: bool = False
    shard: bool = False
    save_every: int = Field(default=10, ge=1)
    seed: int = 0
    track: bool = False


class EvalSettings(Settings):
    """Evaluation while training, on questions that are never trained on.

    Attributes:
        every: steps between evaluations, one before the first step included; 0 for none.
        n: questions.
        seed: of the questions.
    """

    every: int = Field(default=0, ge=0)
    n: int = Field(default=200, ge=1)
    seed: int = 20_270_101


class ReportSettings(Settings):
    """report.html and transcripts.jsonl.

    Attributes:
        every: steps between sampled transcripts, and between new pages.
        samples: transcripts kept each time.
    """

    every: int = Field(default=10, ge=1)
    samples: int = Field(default=4, ge=0)


class AlarmSettings(Settings):
    """When a run says that something is going wrong. Each looks at the mean of the last steps.

    Attributes:
        window: steps.
        relisten_fall: alarm when the share of answers that listen again falls below this part of its best.
        repeated: alarm when more than this share of cited segments was cited before in the same answer.
        one_segment: alarm when more than this share of the segments of different prompts is one and the same.
        flat: alarm when more than this share of groups has no variance.
    """

    window: int = Field(default=5, ge=1)
    relisten_fall: float = Field(default=0.5, ge=0, le=1)
    repeated: float = Field(default=0.5, ge=0, le=1)
    one_segment: float = Field(default=0.5, ge=0, le=1)
    flat: float = Field(default=0.75, ge=0, le=1)


class GrpoSettings(Settings):
    """One GRPO run."""

    name: str = "grpo"
    out: str = "runs/grpo"
    model: PolicySettings = PolicySettings()
    data: PromptSettings = PromptSettings()
    rollout: RolloutSettings = RolloutSettings()
    reward: RewardSettings = RewardSettings()
    loss: LossSettings = LossSettings()
    train: UpdateSettings = UpdateSettings()
    eval: EvalSettings = EvalSettings()
    report: ReportSettings = ReportSettings()
    alarm: AlarmSettings = AlarmSettings()

    @model_validator(mode="after")
    def _whole_mini_batches(self) -> Self:
        if self.train.mini_batch and self.rollout.prompts % self.train.mini_batch:
            raise ValueError(
                f"rollout.prompts is {self.rollout.prompts} and train.mini_batch {self.train.mini_batch}: "
                "make the first a multiple of the second"
            )
        if self.train.shard and self.model.dtype != "float32":
            raise ValueError("train.shard needs model.dtype float32; set train.bf16 to compute in bfloat16")
        return self

    @property
    def n_updates(self) -> int:
        """Updates of one step."""
        return self.train.epochs * (self.rollout.prompts // (self.train.mini_batch or self.rollout.prompts))
