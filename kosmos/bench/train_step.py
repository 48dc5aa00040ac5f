"""The case `step-100m`: a step of training beside Kosmos-2 of transformers under a plain loop.

12 layers of 768 and 32,000 words, ViT-B/32 frozen, four sequences of 512 rows, one picture each. All sides read the
same shards with the same loader, train as many parameters with the same AdamW, clip at the same norm and drop out at
the same rates; ours is a step of `Learner`. Each side stands in a process of its own and computes in the faster of
float32 and bfloat16, found by real steps before the turns. `transformers` flushes denormals as ours does;
`transformers-default` is the same loop as people run it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from data_pipelines.loader.loader import Loader
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import mixture_of
from kosmos.bench.figure import Figure
from kosmos.bench.floors import RATE_DTYPES, is_bf16_thinkable, square_flops, squares
from kosmos.bench.own_process import Contestant, OwnProcess
from kosmos.bench.timing import Timed, in_turn
from kosmos.bench.train_documents import pictured_texts
from kosmos.config import KosmosConfig, TokenizerConfig
from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.processor import Encoded, Processor
from kosmos.training.encoding import DocumentEncoder
from kosmos.training.learner import Learner
from kosmos.training.objective import KosmosObjective, Part, Sum
from kosmos.training.planning.activations import Load
from kosmos.training.planning.flops import sequence_flops
from kosmos.training.planning.inventory import take_inventory
from kosmos.training.precision import autocast
from kosmos.training.recipe import OptimiserRecipe
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.kernels.memory import keep_freed_memory
from text.tokenizer import Tokenizer
from vision.config import ResamplerConfig, TowerConfig

if TYPE_CHECKING:
    from kosmos.bench.train import TrainBench

__all__ = ["OPTIMISER", "STEP_SHAPE", "StepWork", "our_steps", "processor_of", "step_case"]

STEP_SHAPE = KosmosConfig(
    name="bench-100m",
    tower=TowerConfig(
        kind="clip",
        name="ViT-B-32-quickgelu",
        image_size=224,
        width=768,
        num_features=50,
        num_layers=12,
        num_heads=12,
        mlp_width=3072,
        patch_size=32,
    ),
    resampler=ResamplerConfig(num_latents=49, num_heads=12, dropout=0.1),
    decoder=DecoderConfig(
        vocab_size=32_000,
        num_layers=12,
        width=768,
        num_heads=12,
        ffn_width=3072,
        positions="sinusoidal",  # as Kosmos-2 of transformers has them
        initialisation="released",
    ),
    tokenizer=TokenizerConfig(specials="kosmos1", num_words=8185),
)
OPTIMISER = OptimiserRecipe(
    steps=10_000,
    learning_rate=2e-4,
    warmup_steps=375,
    weight_decay=0.01,
    clip_norm=2.0,
    label_smoothing=0.0,
    average_decay=0.0,
)
BATCHES = 4  # taken in turn
AROUND_A_PICTURE = 4  # rows: <s>, <image>, </image>, </s>
FORMATS = tuple(str(dtype).removeprefix("torch.") for dtype in RATE_DTYPES)
VOCABULARY = files("kosmos") / "tiny" / "tokenizer.model"


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What every side does.

    Attributes:
        rows: of a step.   length: of a sequence.
    """

    config: KosmosConfig
    shards: tuple[str, ...]
    rows: int
    length: int

    def batches(self) -> list[Packed]:
        """The same for every side."""
        encoder = DocumentEncoder(processor_of(self.config))
        stream: Stream[Encoded, Packed] = Stream(
            mixture=mixture_of(self.shards), encoder=encoder, rows=self.rows, max_length=self.length, look_ahead=1
        )
        return [batch["caption"] for batch in islice(Loader({"caption": stream}, lanes=1), BATCHES)]


def processor_of(config: KosmosConfig) -> Processor:
    """With the words of the built-in model, whatever room the shape has for more."""
    tokenizer = Tokenizer(VOCABULARY.read_bytes(), specials=config.tokenizer.specials)
    return Processor(tokenizer, config, pictures="late")


def our_steps(work: StepWork) -> Contestant:
    """A step of training as the loop takes it, in a process that keeps its memory as `kosmos train` does."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = KosmosModel(work.config).train()
    model.tower.requires_grad_(False)
    objective = KosmosObjective(model)
    learner = Learner(objective)
    learner.begin(OPTIMISER)
    batches, numbers = cycle(work.batches()), cycle(range(OPTIMISER.steps))

    def step(number_format: str) -> None:
        parts = objective.parts({"caption": next(batches)})
        learner.step(next(numbers), [partial(_in_format, number_format, part) for part in parts])

    return step


def _in_format(number_format: str, part: Part) -> dict[str, Sum]:
    with autocast(number_format):
        return part()


def step_case(bench: TrainBench, folder: Path) -> Figure:
    """Tokens a second, pictures' rows counted; the limit is the step's products at the rate of large ones.

    Peers come one after the other, each in turn with ours: both at once would not fit a small machine's memory.
    """
    work, real = _work(bench, folder)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    busy: defaultdict[str, list[float]] = defaultdict(list)
    with OwnProcess(our_steps, work, flush_denormals=True) as ours:
        formats = {"ours": _faster_format(ours)}
        for name, build in _peers(bench, work).items():
            with build() if build else nullcontext() as peer:
                sides = {"ours": ours} if peer is None else {"ours": ours, name: peer}
                formats |= {side: _faster_format(process) for side, process in sides.items() if side not in formats}
                _take_turns(bench, sides, formats, seconds, busy)
    timed = {name: Timed(tuple(found)) for name, found in seconds.items()}
    rate = square_flops() / timed.pop("limit").median
    flops = sequence_flops(take_inventory(work.config, "frozen"), Load(rows=work.length, pictures=1)).total
    notes = {"real documents": float(real), "GFLOP a token": flops / work.length / 1e9}
    notes |= {f"bfloat16, {name}": float(found == "bfloat16") for name, found in formats.items()}
    notes |= {f"processor s, {name}": median(found) for name, found in busy.items()}
    return _figure(work.rows, timed, limit=rate * work.length / flops, notes=notes)


def _take_turns(
    bench: TrainBench,
    sides: Mapping[str, OwnProcess],
    formats: Mapping[str, str],
    seconds: Mapping[str, list[float]],
    busy: Mapping[str, list[float]],
) -> None:
    """Of these sides and of large products; adds to what was found before."""
    rounds = max(1, bench.rounds // 2)
    contestants: dict[str, Callable[[], object]] = {
        name: partial(side.turn, formats[name]) for name, side in sides.items()
    }
    contestants["limit"] = squares(getattr(torch, formats["ours"]))
    for name, timed in in_turn(contestants, rounds, bench.clock).items():
        seconds[name].extend(timed.seconds)
    for name, side in sides.items():
        busy[name].extend(side.processor_seconds[-rounds:])


def _work(bench: TrainBench, folder: Path) -> tuple[StepWork, bool]:
    """Sequences are filled to the last row, so that no side pads."""
    config, count = bench.step_shape, BATCHES * bench.rows // bench.length
    words = bench.length - AROUND_A_PICTURE - config.resampler.num_latents
    corpus = pictured_texts(folder, bench.data, processor_of(config).tokenizer, tokens=words, documents=count)
    work = StepWork(config=config, shards=corpus.shards, rows=bench.rows, length=bench.length)
    return work, corpus.real


def _peers(bench: TrainBench, work: StepWork) -> dict[str, Callable[[], OwnProcess] | None]:
    """How each is made; one that is nobody where none are wanted. Raises: ValueError if transformers is not there."""
    if not bench.peers:
        return {"nobody": None}
    if find_spec("transformers") is None:
        raise ValueError("the peer needs transformers; install kosmos-mllm[dev], or give --without-peers")
    from kosmos.bench.train_peer import peer_steps

    flushes = {"transformers": True, "transformers-default": False}
    return {name: partial(OwnProcess, peer_steps, work, flush_denormals=on) for name, on in flushes.items()}


def _faster_format(side: OwnProcess) -> str:
    """By a step of each, after one that warms up; where bfloat16 is emulated, without a try."""
    if not is_bf16_thinkable():
        return FORMATS[0]
    timed = in_turn({name: partial(side.turn, name) for name in FORMATS}, 1)
    return min(FORMATS, key=lambda name: timed[name].median)


def _figure(rows: int, timed: Mapping[str, Timed], *, limit: float, notes: Mapping[str, float]) -> Figure:
    rates = {name: rows / entry.median for name, entry in timed.items()}
    return Figure(
        bench="train",
        case="step-100m",
        unit="tokens/s",
        ours=rates.pop("ours"),
        peers=rates,
        spread={name: (rows / entry.spread[1], rows / entry.spread[0]) for name, entry in timed.items()},
        limit=limit,
        notes=notes,
    )
