"""How a Kosmos is trained, as plain values: what it begins from, what a step sees, optimiser, devices. No torch here.

`recipes.py` names some; a variant is `dataclasses.replace` or a flag of `kosmos train`. The resolved recipe is written
beside every run. Source of the defaults: Kosmos-1 (arXiv 2302.14045, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = [
    "ComputeRecipe",
    "DataRecipe",
    "ExpertsRecipe",
    "LoraRecipe",
    "OptimiserRecipe",
    "ParallelRecipe",
    "SaveRecipe",
    "ShowRecipe",
    "StreamRecipe",
    "TrainRecipe",
]

Schedule = Literal["linear", "cosine"]
Sharding = Literal["ddp", "fsdp", "hsdp"]
Checkpointing = Literal["none", "selective", "full"]
PrecisionName = Literal["auto", "float32", "bfloat16"]
Decoding = Literal["fast", "exact"]
StoredName = Literal["float32", "bfloat16", "float16"]
EyeName = Literal["last-layer", "frozen", "all"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True, kw_only=True)
class OptimiserRecipe:
    """AdamW: linear warm-up, then down to `final_share` of the peak.

    Attributes:
        weight_decay: on matrices alone.
        clip_norm: largest norm of a step's gradient.
        average_decay: of the moving average of the weights, which is what is validated and saved; 0 keeps none.
        spike_factor: a step whose gradient norm is above so many times its running mean is passed over; 0 takes all.
        max_skipped: steps passed over one after the other, for that or for numbers that are not finite, before the run
            stops.
    """

    steps: int
    learning_rate: float = 1.2e-3
    warmup_steps: int = 200
    schedule: Schedule = "cosine"
    final_share: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.05
    clip_norm: float = 2.0
    label_smoothing: float = 0.1
    average_decay: float = 0.998
    spike_factor: float = 0.0
    max_skipped: int = 20

    def __post_init__(self) -> None:
        _check_choice("schedule", self.schedule, get_args(Schedule))
        if self.steps < 1 or self.warmup_steps < 0:
            raise ValueError(f"steps={self.steps}, warmup_steps={self.warmup_steps}; give at least 1 and 0")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 <= self.average_decay < 1):
            raise ValueError(
                f"learning_rate={self.learning_rate}, clip_norm={self.clip_norm}, average_decay={self.average_decay};"
                " the first two are above 0, the last is at least 0 and below 1"
            )


@dataclass(frozen=True, kw_only=True)
class StreamRecipe:
    """One kind of sequence in every step.

    Attributes:
        shards: folders, shards or patterns, or the YAML of a mixture; none leaves this kind out.
        tokens: of a step, pictures' rows included, over all devices and micro-batches.
        max_length: rows of the longest piece of a document.
    """

    shards: tuple[str, ...] = ()
    tokens: int = 4096
    max_length: int = 2048

    def __post_init__(self) -> None:
        if not 0 < self.max_length <= self.tokens:
            raise ValueError(
                f"max_length={self.max_length} of tokens={self.tokens}; a piece has 1 to {self.tokens} rows"
            )


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What a step sees: a batch of each kind, packed by itself; Kosmos-1 mixes its first three.

    Attributes:
        instruction: documents whose prompts carry no loss.
        workers: processes that read, for each device; 0 reads in the training process.
        look_ahead: batches packed together; more leave less room empty.
        decoding: `fast` decodes JPEGs at a fraction of their size where that is enough, `exact` as evaluation does.
    """

    text: StreamRecipe = field(default_factory=StreamRecipe)
    caption: StreamRecipe = field(default_factory=StreamRecipe)
    interleaved: StreamRecipe = field(default_factory=StreamRecipe)
    instruction: StreamRecipe = field(default_factory=StreamRecipe)
    workers: int = 2
    look_ahead: int = 16
    decoding: Decoding = "fast"

    def __post_init__(self) -> None:
        _check_choice("decoding", self.decoding, get_args(Decoding))

    @property
    def streams(self) -> dict[str, StreamRecipe]:
        """The kinds that have shards, by name."""
        kinds = {name: getattr(self, name) for name in ("text", "caption", "interleaved", "instruction")}
        return {name: stream for name, stream in kinds.items() if stream.shards}


@dataclass(frozen=True, kw_only=True)
class ParallelRecipe:
    """How a run lies on its devices.

    Attributes:
        sharding: `ddp` keeps all on each device; `fsdp` shares weights, gradients and optimiser out over all devices;
            `hsdp` inside a node only.
        tensor_parallel: devices that share each matrix of the decoder; 1 shares none.
        node: devices of a node, for `hsdp`; 0 takes what the launcher says.
    """

    sharding: Sharding = "ddp"
    tensor_parallel: int = 1
    node: int = 0

    def __post_init__(self) -> None:
        _check_choice("sharding", self.sharding, get_args(Sharding))
        if self.tensor_parallel < 1:
            raise ValueError(f"tensor_parallel={self.tensor_parallel}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class ComputeRecipe:
    """How a step is computed.

    Attributes:
        micro_batches: a step's rows are cut into so many batches, which the devices share, each one after the other; a
            run keeps their number, so that it can go on with other devices. 0: one a device.
        checkpointing: `full` keeps what enters a block and computes the rest again, `selective` also keeps products.
        compile: run through torch.compile.
    """

    precision: PrecisionName = "auto"
    micro_batches: int = 0
    checkpointing: Checkpointing = "none"
    compile: bool = False

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, get_args(PrecisionName))
        _check_choice("checkpointing", self.checkpointing, get_args(Checkpointing))
        if self.micro_batches < 0:
            raise ValueError(f"micro_batches={self.micro_batches}; give at least 0")


@dataclass(frozen=True, kw_only=True)
class ExpertsRecipe:
    """A sparse variant of the model: X-MoE in the place of every second feed-forward (arXiv 2204.09179).

    Attributes:
        num: experts of a sparse layer; 0 leaves the model dense.
    """

    num: int = 0
    every: int = 2
    top_k: int = 1
    balance_weight: float = 0.01


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Low-rank adapters beside frozen matrices (arXiv 2106.09685).

    Attributes:
        rank: of each adapter; 0 trains the weights themselves.
        targets: last names of the linear layers that get one.
        resampler: it trains whole beside the adapters.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    resampler: bool = False


@dataclass(frozen=True, kw_only=True)
class SaveRecipe:
    """When a checkpoint is written and how long it is kept.

    Attributes:
        every: steps.   keep: the newest so many stay.   keep_every: and every so many steps one for good; 0: none.
        dtype: of the weights that others open; a run goes on from float32.
    """

    every: int = 500
    keep: int = 2
    keep_every: int = 0
    dtype: StoredName = "bfloat16"

    def __post_init__(self) -> None:
        _check_choice("dtype", self.dtype, get_args(StoredName))
        if self.every < 1 or self.keep < 1 or self.keep_every % self.every:
            raise ValueError(
                f"every={self.every}, keep={self.keep}, keep_every={self.keep_every}; the first two are at least 1,"
                " the last a multiple of the first"
            )


@dataclass(frozen=True, kw_only=True)
class ShowRecipe:
    """What a run shows of itself.

    Attributes:
        log_every: steps between lines of the log.
        validate_every: steps between validations.
        validation: held-out shards.   validation_documents: the first so many of each entry are read.
        samples: documents of which a continuation is written out.   sample_tokens: of each.
        trackers: who is told beside log.jsonl.
    """

    log_every: int = 10
    validate_every: int = 500
    validation: tuple[str, ...] = ()
    validation_documents: int = 200
    samples: int = 4
    sample_tokens: int = 32
    trackers: tuple[Tracker, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        for tracker in self.trackers:
            _check_choice("trackers", tracker, get_args(Tracker))
        if min(self.log_every, self.validate_every) < 1:
            raise ValueError(f"log_every={self.log_every}, validate_every={self.validate_every}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Everything `kosmos train NAME` decides.

    Attributes:
        model: a preset to start anew, or the checkpoint to begin from: a folder, a run folder, a hub id.
        tokenizer: the SentencePiece file of a model that starts anew.
        tower: weights of the CLIP tower of a model that starts anew: a tag of open_clip such as `openai`, or a file;
            empty draws them at random.
        eye: what trains of the tower.
    """

    name: str
    model: str
    optimiser: OptimiserRecipe
    tokenizer: str = ""
    tower: str = ""
    eye: EyeName = "last-layer"
    data: DataRecipe = field(default_factory=DataRecipe)
    parallel: ParallelRecipe = field(default_factory=ParallelRecipe)
    compute: ComputeRecipe = field(default_factory=ComputeRecipe)
    experts: ExpertsRecipe = field(default_factory=ExpertsRecipe)
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    save: SaveRecipe = field(default_factory=SaveRecipe)
    show: ShowRecipe = field(default_factory=ShowRecipe)
    seed: int = 0

    def __post_init__(self) -> None:
        _check_choice("eye", self.eye, get_args(EyeName))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}; give one of {', '.join(choices)}")
