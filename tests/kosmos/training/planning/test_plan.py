"""A plan against what torch really holds and counts: parameters, FLOPs, state and activations of a small Kosmos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kosmos.config import KosmosConfig, TokenizerConfig
from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.presets import preset
from kosmos.training.cross_entropy import rows_at_once
from kosmos.training.objective import KosmosObjective, overall
from kosmos.training.planning.activations import FORMATS, Load, NumberFormat, sequence_activations
from kosmos.training.planning.flops import sequence_flops
from kosmos.training.planning.gpus import GPUS
from kosmos.training.planning.inventory import Inventory, take_inventory
from kosmos.training.planning.memory import SHARDINGS, Layout, device_memory, fault, most_sequences
from kosmos.training.planning.plan import CHECKPOINTINGS, check_fits, default_load, make_plan
from kosmos.training.recipe import EyeName
from kosmos.transformer import experts, training_rows
from kosmos.transformer.config import DecoderConfig, ExpertsConfig, Norms, PositionScheme
from kosmos.transformer.expert_products import Stack, by_groups
from kosmos.transformer.gradient_room import GradientRoom
from vision.config import ResamplerConfig, TowerConfig

LOAD = Load(rows=64, pictures=3, micro_batch=2)
CPU_FLOAT32 = NumberFormat(compute=4, stream=4, norm=4, mask=4)  # a dropout mask is as wide as what it masks here
CPU_BFLOAT16 = NumberFormat(compute=2, stream=4, norm=2, mask=2)  # autocast leaves norms alone here
GB = 1e9


def small(
    *,
    dropout: float = 0.1,
    positions: PositionScheme = "xpos",
    norms: Norms = "subln",
    sparse: ExpertsConfig | None = None,
) -> KosmosConfig:
    """Two layers of 64 channels behind a two-layer eye; no dropout inside attention, which the CPU cannot fuse."""
    return KosmosConfig(
        name="small",
        tower=TowerConfig(
            kind="clip", name="ViT-B-32-quickgelu", image_size=32, width=32, num_features=17, num_layers=2,
            num_heads=2, mlp_width=64, patch_size=8,
        ),
        resampler=ResamplerConfig(num_latents=4, num_heads=2),
        decoder=DecoderConfig(
            vocab_size=512, num_layers=2, width=64, num_heads=4, ffn_width=256, positions=positions, norms=norms,
            dropout=dropout, attention_dropout=0.0, experts=sparse,
        ),
        tokenizer=TokenizerConfig(specials="kosmos1", num_words=505),
    )  # fmt: skip


def step_batch(load: Load, config: KosmosConfig) -> Packed:
    """Sequences that begin with their pictures after one token; no loss on the first row and on pictures."""
    rows, latents, size = load.rows, config.resampler.num_latents, config.tower.image_size
    starts = [n * rows + 1 + i * latents for n in range(load.micro_batch) for i in range(load.pictures)]
    weight_R = torch.ones(load.micro_batch * rows).view(load.micro_batch, rows)
    weight_R[:, : 1 + load.pictures * latents] = 0.0
    pixels_N3HW = torch.randint(0, 256, (len(starts), 3, size, size), dtype=torch.uint8)
    return Packed(
        tokens=torch.randint(5, 500, (load.micro_batch * rows,)),
        lengths=(rows,) * load.micro_batch,
        positions=torch.arange(rows).repeat(load.micro_batch),
        image_rows=torch.tensor(starts)[:, None] + torch.arange(latents),
        pixels=pixels_N3HW,
        loss_weight=weight_R.flatten(),
    )


@dataclass
class Measured:
    """A model that trains exactly what an inventory says."""

    inventory: Inventory
    model: KosmosModel

    @staticmethod
    def of(config: KosmosConfig, eye: EyeName | None = None) -> Measured:
        torch.manual_seed(0)
        inventory, model = take_inventory(config, eye), KosmosModel(config).train()
        trained = {p.name for p in inventory.parameters if p.trained}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return Measured(inventory, model)

    def loss(self, *, whole_logits: bool = True) -> Tensor:
        packed = step_batch(LOAD, self.inventory.config)
        if not whole_logits:
            return overall(KosmosObjective(self.model).losses({"caption": packed}))
        assert packed.loss_weight is not None
        targets = torch.nonzero(packed.loss_weight, as_tuple=True)[0]
        logits_LV = self.model.logits(self.model(packed)[targets - 1])
        return F.cross_entropy(logits_LV.float(), packed.tokens[targets], reduction="none").sum()

    def kept(self, *, bfloat16: bool = False, whole_logits: bool = True) -> int:
        """Bytes of all storages that a forward pass keeps for its backward, without weights and their casts."""
        shapes = {parameter.shape for parameter in self.model.parameters()}
        ours = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        seen: dict[int, Tensor] = {}

        def note(tensor: Tensor) -> Tensor:
            is_cast = tensor.dtype == torch.bfloat16 and _shape_of_storage(tensor) in shapes
            if tensor.untyped_storage().data_ptr() not in ours and not is_cast:
                seen[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
            return tensor

        cast = torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), cast:
            self.loss(whole_logits=whole_logits)
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def _shape_of_storage(tensor: Tensor) -> torch.Size:
    """Shape of what was saved, transposed back: a weight is saved as its transpose."""
    return tensor.shape if tensor.is_contiguous() or tensor.ndim != 2 else tensor.t().shape


def planned(inventory: Inventory, numbers: NumberFormat) -> float:
    """Bytes that two sequences keep, with one copy of log-probabilities in place of the peak of the loss."""
    one = sequence_activations(inventory, LOAD, numbers, whole_logits=True)
    return LOAD.micro_batch * (one.kept + one.asked_rows * one.logits_row / 3)


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan reckons with torch's operations; the compiled ones of the CPU keep less."""
    monkeypatch.setattr(training_rows, "load_training_rows", lambda: None)


@pytest.fixture(scope="module")
def kosmos1() -> Inventory:
    return take_inventory(preset("kosmos1"))


# ---- parameters ----


def test_kosmos_1_has_the_parameters_of_its_parts(kosmos1: Inventory) -> None:
    count = kosmos1.count
    assert count() == 1_662_375_936
    assert (count("tower"), count("resampler"), count("embedding")) == (303_179_776, 19_015_680, 131_086_336)
    assert count("decoder") + count("embedding") == 1_340_180_480


def test_of_clip_the_last_layer_trains_unless_told_otherwise(kosmos1: Inventory) -> None:
    assert kosmos1.count("tower", trained=True) == 12_598_272
    assert kosmos1.count(trained=False) == 303_179_776 - 12_598_272
    assert take_inventory(small(), "frozen").count("tower", trained=True) == 0
    assert take_inventory(small(), "all").count(trained=False) == 0


def test_kosmos_2_as_its_paper_trains_it_trains_everything() -> None:
    assert take_inventory(preset("kosmos2"), "all").count(trained=True) == 1_664_485_376


def test_an_eye_that_is_no_clip_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="frozen"):
        take_inventory(preset("tiny"), "all")
    assert take_inventory(preset("tiny")).count("tower", trained=False) == 3_350_000


def test_a_row_meets_one_of_four_experts() -> None:
    dense, sparse = take_inventory(small()), take_inventory(small(sparse=ExpertsConfig(num_experts=4)))
    router = sum(p.numel for p in sparse.parameters if ".router." in p.name)
    assert sparse.count() > dense.count() + router
    assert sparse.count(active=True) == dense.count() + router


# ---- FLOPs ----


@pytest.mark.parametrize("eye", ["frozen", "last-layer", "all"])
def test_flops_are_those_torch_counts(eye: EyeName) -> None:
    """Both count whole squares. Ours leave out the latents' own projections and what enters a trained tower."""
    measured = Measured.of(small(), eye)
    flops = sequence_flops(measured.inventory, LOAD)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = measured.loss()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    times = LOAD.micro_batch
    assert times * (flops.forward + flops.attention) == pytest.approx(forward.get_total_flops(), rel=0.01)
    assert times * (flops.backward + 2 * flops.attention) == pytest.approx(backward.get_total_flops(), rel=0.02)


def test_a_fused_backward_adds_the_scores_it_computes_again() -> None:
    measured = Measured.of(small(), "frozen")
    counted = {}
    for kernel in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(kernel):
            loss = measured.loss()
            with FlopCounterMode(display=False) as backward:
                loss.backward()
        counted[kernel] = backward.get_total_flops()
    again = counted[SDPBackend.FLASH_ATTENTION] - counted[SDPBackend.MATH]
    scores = LOAD.micro_batch * sequence_flops(measured.inventory, LOAD).attention / 2
    assert scores <= again <= 1.2 * scores  # the resampler's are in it too


def test_attention_grows_with_the_square_and_the_rest_with_the_length(kosmos1: Inventory) -> None:
    short, long = (sequence_flops(kosmos1, Load(rows=rows, pictures=0)) for rows in (1024, 2048))
    assert long.attention == 4 * short.attention
    assert long.forward == pytest.approx(2 * short.forward, rel=1e-3)
    assert long.attention == 24 * 4 * 2048**2 * 2048


def test_the_eye_costs_what_a_vit_l_14_costs(kosmos1: Inventory) -> None:
    width, features = 1024, 257
    layer = 2 * features * 12 * width**2 + 4 * features**2 * width
    patches = 2 * 256 * 3 * 14 * 14 * width
    assert kosmos1.eye.flops == 24 * layer + patches


def test_experts_cost_what_a_row_meets() -> None:
    dense = sequence_flops(take_inventory(small()), LOAD)
    sparse = take_inventory(small(sparse=ExpertsConfig(num_experts=4, top_k=2)))
    config = sparse.config.decoder
    router = sum(p.numel for p in sparse.parameters if ".router." in p.name and p.multiplies)
    second_expert = 2 * LOAD.rows * 2 * config.width * config.ffn_width
    assert router > 0
    assert sequence_flops(sparse, LOAD).blocks == dense.blocks + second_expert + 2 * LOAD.rows * router


# ---- memory ----


@pytest.mark.parametrize("eye", ["frozen", "last-layer", "all"])
def test_weights_gradients_and_optimiser_are_what_torch_holds_to_the_byte(eye: EyeName) -> None:
    measured = Measured.of(small(), eye)
    parameters = [p for p in measured.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, fused=True)
    measured.loss(whole_logits=False).backward()
    optimiser.step()
    memory = device_memory(measured.inventory, LOAD, Layout(numbers=CPU_FLOAT32, average=True))
    assert memory.weights == storage_bytes(measured.model.parameters())
    assert memory.gradients == storage_bytes(p.grad for p in parameters if p.grad is not None)
    assert memory.optimiser == storage_bytes(t for state in optimiser.state.values() for t in state.values())
    assert memory.average == storage_bytes(p.detach().clone() for p in parameters)


def storage_bytes(tensors: Iterator[Tensor]) -> int:
    """Bytes of all storages, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in list(tensors)}.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("positions", "norms"), [("xpos", "subln"), ("sinusoidal", "subln"), ("none", "pre")])
def test_activations_are_what_autograd_keeps(dropout: float, positions: PositionScheme, norms: Norms) -> None:
    measured = Measured.of(small(dropout=dropout, positions=positions, norms=norms), "frozen")
    assert measured.kept() == pytest.approx(planned(measured.inventory, CPU_FLOAT32), rel=0.005)


@pytest.mark.parametrize("eye", ["last-layer", "all"])
def test_activations_of_a_trained_eye_are_within_one_percent(eye: EyeName) -> None:
    measured = Measured.of(small(), eye)
    assert measured.kept() == pytest.approx(planned(measured.inventory, CPU_FLOAT32), rel=0.01)


def test_activations_under_autocast_are_within_two_percent() -> None:
    measured = Measured.of(small(), "frozen")
    assert measured.kept(bfloat16=True) == pytest.approx(planned(measured.inventory, CPU_BFLOAT16), rel=0.02)


def test_activations_of_experts_on_a_gpu_are_within_two_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs take the grouped product, which runs here too, if slowly."""
    monkeypatch.setattr(experts, "by_slices", grouped)
    measured = Measured.of(small(sparse=ExpertsConfig(num_experts=4, top_k=2)), "frozen")
    assert measured.kept() == pytest.approx(planned(measured.inventory, CPU_FLOAT32), rel=0.02)


def grouped(
    x_SD: Tensor, counts: Sequence[int], stack: Stack, *, eps: float, dropout: float, room: GradientRoom
) -> Tensor:
    """The arguments of `by_slices` for `by_groups`."""
    return by_groups(x_SD, torch.tensor(counts), stack, eps=eps, dropout=dropout)


def test_a_loss_in_chunks_keeps_rows_but_no_logits() -> None:
    """What the loss holds without saving it, the gradient of its rows, is in the plan and not in the measure."""
    measured = Measured.of(small(), "frozen")
    one = sequence_activations(measured.inventory, LOAD, CPU_FLOAT32)
    expected = LOAD.micro_batch * (one.kept - one.asked_rows * measured.inventory.config.decoder.width * 4)
    assert measured.kept(whole_logits=False) == pytest.approx(expected, rel=0.005)


def test_fsdp_shares_the_state_out_evenly(kosmos1: Inventory) -> None:
    load, numbers = default_load(kosmos1.config), FORMATS["bfloat16"]
    whole = device_memory(kosmos1, load, Layout(numbers=numbers, gpus=64))
    shared = device_memory(kosmos1, load, Layout(numbers=numbers, gpus=64, sharding="fsdp"))
    node = device_memory(kosmos1, load, Layout(numbers=numbers, gpus=64, sharding="hsdp"))
    assert (shared.weights, node.weights) == (whole.weights / 64, whole.weights / 8)
    assert shared.gradients == whole.gradients / 64
    assert shared.activations == whole.activations


def test_tensor_parallelism_leaves_eye_words_and_outer_norms_whole(kosmos1: Inventory) -> None:
    layout = Layout(numbers=FORMATS["float32"], gpus=8, sharding="tp4")
    outer = 24 * (4 * 2048 + 2 * 2048) + 4_096  # two norms and two biases a layer, the last norm
    split = kosmos1.count("decoder") - outer
    whole = sum(kosmos1.count(part) for part in ("tower", "resampler", "embedding")) + outer
    assert device_memory(kosmos1, default_load(kosmos1.config), layout).weights == 4 * (split / 4 + whole)


def test_checkpointing_keeps_less_and_less(kosmos1: Inventory) -> None:
    load = default_load(kosmos1.config)
    none, selective, full = (sequence_activations(kosmos1, load, FORMATS["bfloat16"], c) for c in CHECKPOINTINGS)
    assert none.kept > 1.5 * selective.kept > 3 * full.kept
    assert none.recomputed == 0 < selective.recomputed < full.recomputed
    assert full.kept > 24 * 2048 * 2048 * 4


def test_chunks_take_logits_from_gigabytes_to_a_quarter_of_one(kosmos1: Inventory) -> None:
    load = replace(default_load(kosmos1.config), micro_batch=8)
    layout = Layout(numbers=FORMATS["bfloat16"])
    chunked, whole = (device_memory(kosmos1, load, replace(layout, whole_logits=at)).logits for at in (False, True))
    assert chunked == rows_at_once(64_007) * 64_007 * 6 < 0.25 * GB
    assert whole == 8 * load.asked_rows(kosmos1.config) * 64_007 * 12


# ---- what fits ----


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_the_largest_micro_batch_fits_and_one_more_does_not(kosmos1: Inventory, sharding: str) -> None:
    load, room = default_load(kosmos1.config), GPUS["h100"].usable_bytes
    plan = make_plan(kosmos1, load, Layout(numbers=FORMATS["bfloat16"], gpus=64), GPUS["h100"])
    for option in plan.options:
        if option.layout.sharding == sharding:
            most = [device_memory(kosmos1, replace(load, micro_batch=option.largest + more), option.layout).total
                    for more in (0, 1)]  # fmt: skip
            assert most[0] <= room < most[1]


def test_days_are_tokens_times_flops_over_the_rate(kosmos1: Inventory) -> None:
    layout = Layout(numbers=FORMATS["bfloat16"], gpus=64)
    plan = make_plan(kosmos1, default_load(kosmos1.config), layout, GPUS["a100"], mfu=0.5, tokens=1e9)
    assert plan.days is not None
    assert plan.days * 86400 == pytest.approx(1e9 * plan.flops.total / (64 * 312e12 * 0.5))


@pytest.mark.parametrize(
    ("load", "layout", "advice"),
    [
        (
            Load(rows=2048, pictures=0, micro_batch=6),
            Layout(numbers=FORMATS["bfloat16"], whole_logits=True),
            "in chunks",
        ),
        (Load(rows=2048, pictures=0, micro_batch=12), Layout(numbers=FORMATS["bfloat16"]), "a micro-batch of 7 fits"),
        (Load(rows=32768, pictures=0), Layout(numbers=FORMATS["bfloat16"]), "checkpointing selective fits"),
    ],
)
def test_what_cannot_fit_is_told_with_the_smallest_change(
    kosmos1: Inventory, load: Load, layout: Layout, advice: str
) -> None:
    with pytest.raises(ValueError, match=rf"kosmos1 needs [\d.]+ GB on each h100.*72\.0 of 80 GB.*{advice}"):
        check_fits(kosmos1, load, layout, "h100")


def test_a_model_too_large_for_its_gpus_is_told_how_many_it_needs() -> None:
    config = preset("kosmos1")
    large = take_inventory(replace(config, decoder=replace(config.decoder, experts=ExpertsConfig(num_experts=64))))
    assert large.count() > 20e9
    with pytest.raises(ValueError, match=r"sharding fsdp over \d+ GPUs with checkpointing full"):
        check_fits(large, default_load(config), Layout(numbers=FORMATS["bfloat16"], gpus=2), "h100")


def test_what_fits_passes(kosmos1: Inventory) -> None:
    check_fits(kosmos1, default_load(kosmos1.config), Layout(numbers=FORMATS["bfloat16"]), "h100")


def test_a_sharding_that_there_cannot_be_says_why(kosmos1: Inventory) -> None:
    layout = Layout(numbers=FORMATS["bfloat16"], gpus=6, sharding="tp4")
    with pytest.raises(ValueError, match="needs a multiple of 4 GPUs"):
        check_fits(kosmos1, default_load(kosmos1.config), layout, "h100")
    assert fault(preset("tiny"), replace(layout, gpus=8, sharding="tp8")) is not None
    assert fault(kosmos1.config, replace(layout, gpus=8, sharding="hsdp")) is not None


def test_nothing_fits_where_there_is_no_room(kosmos1: Inventory) -> None:
    assert most_sequences(kosmos1, default_load(kosmos1.config), Layout(numbers=FORMATS["bfloat16"]), 1 * GB) == 0


def test_pictures_must_leave_room_for_words(kosmos1: Inventory) -> None:
    with pytest.raises(ValueError, match="40 pictures take 2560 of 2048 rows"):
        make_plan(kosmos1, Load(rows=2048, pictures=40), Layout(numbers=FORMATS["bfloat16"]), GPUS["h100"])
