"""MFU counts what was computed and nothing else; rates are of usual steps, and what is left is of all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from kosmos.config import KosmosConfig, TokenizerConfig
from kosmos.packed import Packed
from kosmos.training.planning.activations import Load
from kosmos.training.planning.flops import sequence_flops
from kosmos.training.planning.inventory import Inventory, take_inventory
from kosmos.training.recipe import EyeName, LoraRecipe
from kosmos.training.throughput import BatchFlops, Throughput, Work, matrix_rate, peak_rate
from kosmos.transformer.config import DecoderConfig
from vision.config import ResamplerConfig, TowerConfig

LATENTS, VOCABULARY, WIDTH, SIZE = 4, 512, 64, 32
CONFIG = KosmosConfig(
    name="small",
    tower=TowerConfig(
        kind="clip", name="ViT-B-32-quickgelu", image_size=SIZE, width=32, num_features=17, num_layers=2,
        num_heads=2, mlp_width=64, patch_size=8,
    ),
    resampler=ResamplerConfig(num_latents=LATENTS, num_heads=2),
    decoder=DecoderConfig(vocab_size=VOCABULARY, num_layers=2, width=WIDTH, num_heads=4, ffn_width=256),
    tokenizer=TokenizerConfig(specials="kosmos1", num_words=505),
)  # fmt: skip
HEAD_ROW = 3 * 2 * VOCABULARY * WIDTH  # forward and backward


@pytest.fixture(scope="module")
def inventories() -> dict[EyeName, Inventory]:
    eyes: tuple[EyeName, ...] = ("last-layer", "frozen", "all")
    return {eye: take_inventory(CONFIG, eye) for eye in eyes}


@pytest.fixture(scope="module")
def inventory(inventories: dict[EyeName, Inventory]) -> Inventory:
    return inventories["last-layer"]


def _packed(*sequences: tuple[int, int], unasked: int = 0, kind: str = "pixels") -> Packed:
    """Sequences of (rows, pictures); each word but a sequence's first has a loss, but for the last `unasked` ones."""
    weights, starts, images = [], [], 0
    for rows, pictures in sequences:
        held = 1 + pictures * LATENTS
        starts += [len(weights) + 1 + LATENTS * place for place in range(pictures)]
        weights += [0.0] * held + [1.0] * (rows - held)
        images += pictures
    weight = torch.tensor(weights)
    weight[len(weights) - unasked :] = 0.0
    given = {
        "pixels": torch.zeros(images, 3, SIZE, SIZE, dtype=torch.uint8),
        "features": torch.zeros(images, 17, 32),
        "latents": torch.zeros(images, LATENTS, WIDTH),
    }
    return Packed(
        tokens=torch.zeros(len(weights), dtype=torch.long),
        lengths=tuple(rows for rows, _ in sequences),
        positions=torch.cat([torch.arange(rows) for rows, _ in sequences]),
        loss_weight=weight,
        image_rows=torch.tensor(starts)[:, None] + torch.arange(LATENTS) if images else None,
        **({kind: given[kind]} if images else {}),
    )


def test_a_packed_batch_costs_what_the_plan_says_of_its_sequences(inventory: Inventory) -> None:
    work = BatchFlops(inventory).of(_packed((40, 2), (12, 0), (30, 1)))
    planned = sum(
        sequence_flops(inventory, Load(rows=rows, pictures=n)).total for rows, n in ((40, 2), (12, 0), (30, 1))
    )
    assert work.flops == pytest.approx(planned, rel=1e-12)
    assert (work.tokens, work.images) == (82, 3)


def test_words_without_a_loss_cost_no_logits(inventory: Inventory) -> None:
    flops = BatchFlops(inventory)
    whole, part = flops.of(_packed((40, 0))), flops.of(_packed((40, 0), unasked=11))
    assert whole.flops - part.flops == pytest.approx(11 * HEAD_ROW)


def test_one_long_sequence_costs_more_than_the_same_rows_in_two(inventory: Inventory) -> None:
    flops = BatchFlops(inventory)
    squares = flops.of(_packed((64, 0))).flops - flops.of(_packed((32, 0), (32, 0))).flops
    assert squares == pytest.approx(3 * 4 * (64**2 - 2 * 32**2) * WIDTH * 2 + HEAD_ROW)  # and one more row is asked


def test_a_frozen_tower_is_counted_forward_only(inventories: dict[EyeName, Inventory]) -> None:
    batch = _packed((20, 1))
    costs = {eye: BatchFlops(found).of(batch).flops for eye, found in inventories.items()}
    tower = inventories["all"].eye.flops
    dense = (
        2 * 17 * 32 * WIDTH
    )  # of features to the width of the decoder: its input needs a gradient where an eye trains
    assert costs["all"] - costs["frozen"] == pytest.approx(2 * tower + dense)
    assert costs["frozen"] < costs["last-layer"] < costs["all"]


def test_a_batch_of_features_ran_no_tower_and_one_of_latents_no_resampler(
    inventories: dict[EyeName, Inventory],
) -> None:
    flops = BatchFlops(inventories["frozen"])
    pixels, features, latents = (flops.of(_packed((20, 1), kind=kind)) for kind in ("pixels", "features", "latents"))
    assert pixels.flops - features.flops == pytest.approx(inventories["frozen"].eye.flops)
    words = flops.of(_packed((20, 0), unasked=LATENTS)).flops
    assert latents.flops == pytest.approx(words)
    assert features.flops > latents.flops
    assert pixels.images == features.images == latents.images == 1
    learning = BatchFlops(inventories["all"])  # a tower that would train does not, where it does not run
    assert learning.of(_packed((20, 1), kind="features")).flops == pytest.approx(features.flops)


def test_adapters_need_no_gradient_of_frozen_matrices(inventory: Inventory) -> None:
    words, pictures = _packed((40, 0)), _packed((40, 1))
    whole, lora = BatchFlops(inventory), BatchFlops(inventory, LoraRecipe(rank=8))
    attention = 3 * sequence_flops(inventory, Load(rows=40, pictures=0)).attention
    assert lora.of(words).flops - attention == pytest.approx((whole.of(words).flops - attention) * 2 / 3)
    resampling = BatchFlops(inventory, LoraRecipe(rank=8, resampler=True))
    assert lora.of(pictures).flops < resampling.of(pictures).flops < whole.of(pictures).flops
    assert BatchFlops(inventory, LoraRecipe(rank=0)).of(words) == whole.of(words)


def test_the_work_of_a_step_is_that_of_its_packed_batches(inventory: Inventory) -> None:
    flops = BatchFlops(inventory)
    one, other = _packed((20, 1)), _packed((12, 0))
    step = flops.work([{"caption": one, "photographs": ("a", "b")}, {"text": other, "caption": one}])
    assert step == flops.of(one) + flops.of(other) + flops.of(one)
    assert flops.work([]) == Work()


class _Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _after(throughput: Throughput, clock: _Clock, steps: list[tuple[float, float]], work: Work) -> dict[str, float]:
    """Figures after steps of (seconds, pause before)."""
    figures = {}
    for seconds, pause in steps:
        clock.now += pause + seconds
        figures = throughput.step(work, seconds)
    return figures


WORK = Work(tokens=1000, images=10, flops=4e9)


def test_rates_are_those_of_usual_steps_without_the_first_ones() -> None:
    clock = _Clock()
    steps = [(60.0, 0.0), (9.0, 0.0), (2.0, 0.0), (50.0, 0.0), (2.0, 0.0), (2.0, 0.0), (1.0, 0.0)]
    figures = _after(Throughput(peak=4e9, clock=clock), clock, steps, WORK)
    assert figures == {"tokens_per_s": 500.0, "images_per_s": 5.0, "mfu": 0.5, "seconds_per_step": 2.0}


def test_pauses_are_in_what_is_left_and_in_no_rate() -> None:
    clock = _Clock()
    steps = [(2.0, 0.0)] * 6 + [(2.0, 30.0)] + [(2.0, 0.0)] * 4
    figures = _after(Throughput(peak=4e9, clock=clock), clock, steps, WORK)
    assert figures["tokens_per_s"] == 500.0
    assert figures["seconds_per_step"] == pytest.approx(2.0 + 30.0 / 10)


def test_only_recent_steps_are_in_a_rate() -> None:
    clock = _Clock()
    figures = _after(Throughput(clock=clock), clock, [(2.0, 0.0)] * 60 + [(1.0, 0.0)] * 50, WORK)
    assert figures["tokens_per_s"] == 1000.0


def test_the_first_steps_tell_nothing_but_how_long_a_step_takes() -> None:
    clock = _Clock()
    assert _after(Throughput(peak=1e9, clock=clock), clock, [(7.0, 0.0), (3.0, 0.0)], WORK) == {"seconds_per_step": 3.0}


def test_shares_multiply_rates_and_devices_divide_the_peak() -> None:
    clock = _Clock()
    # 4 processes: 2 shares of the batch, each by 2 that share the matrices.
    figures = _after(Throughput(shares=2, devices=4, peak=1e9, clock=clock), clock, [(2.0, 0.0)] * 5, WORK)
    assert figures["tokens_per_s"] == 1000.0
    assert figures["images_per_s"] == 10.0
    assert figures["mfu"] == pytest.approx(2 * 4e9 / 2.0 / (4 * 1e9))


def test_there_is_no_figure_for_what_is_not_known() -> None:
    clock = _Clock()
    words = replace(WORK, images=0)
    assert set(_after(Throughput(clock=clock), clock, [(1.0, 0.0)] * 4, words)) == {"tokens_per_s", "seconds_per_step"}
    uncounted = replace(words, flops=0.0)
    assert "mfu" not in _after(Throughput(peak=1e9, clock=clock), clock, [(1.0, 0.0)] * 4, uncounted)


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989.4e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("AMD Instinct MI300X", torch.bfloat16, 1307.4e12),
        ("NVIDIA H100 80GB HBM3", torch.float32, None),
        ("NVIDIA H100 PCIe", torch.bfloat16, None),
        ("NVIDIA H100 NVL", torch.bfloat16, None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", torch.bfloat16, None),
        ("NVIDIA GH200 480GB", torch.bfloat16, None),
        ("NVIDIA GeForce RTX 5090", torch.bfloat16, None),
    ],
)
def test_a_gpu_has_the_peak_of_its_data_sheet_or_none(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_rate(torch.device("cuda", 0), dtype) == peak


def test_a_cpu_is_measured_and_other_devices_are_not_known() -> None:
    rate = peak_rate(torch.device("cpu"), torch.float32)
    assert rate is not None
    assert math.isfinite(rate)
    assert rate > 1e7  # the slowest CPU that trains anything
    assert peak_rate(torch.device("meta"), torch.float32) is None


def test_a_slow_number_format_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def slow(width: int, dtype: torch.dtype) -> float:
        asked.append(width)
        return 0.5 * (width / 256) ** 3

    monkeypatch.setattr("kosmos.training.throughput._best_seconds", slow)
    assert matrix_rate(torch.bfloat16) == pytest.approx(2 * 256**3 / 0.5)
    assert asked == [256]
