"""How a model lies on many devices: axes, placements on 64 of them, what is refused, what one process does alone."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from kosmos.checkpoint import empty_model
from kosmos.training.distributed import Launch
from kosmos.training.learning import choose_parameters
from kosmos.training.objective import KosmosObjective
from kosmos.training.parallel import ALONE, Layout, lay_out, share_out
from kosmos.training.recipe import Checkpointing, ComputeRecipe, ParallelRecipe
from kosmos.transformer.config import ExpertsConfig
from tests.distributed.drawn import drawn_config, drawn_model, sequences, together

RANKS, NODE = 64, 8
WIDE: dict[str, Any] = {"num_heads": 8, "width": 256, "ffn_width": 512}
BLOCK = "model.decoder.blocks.0."


@pytest.mark.parametrize(
    ("recipe", "layout"),
    [
        (ParallelRecipe(), (64, 1, 1)),
        (ParallelRecipe(sharding="fsdp"), (1, 64, 1)),
        (ParallelRecipe(sharding="hsdp"), (8, 8, 1)),
        (ParallelRecipe(sharding="hsdp", node=16), (4, 16, 1)),
        (ParallelRecipe(tensor_parallel=4), (16, 1, 4)),
        (ParallelRecipe(sharding="fsdp", tensor_parallel=4), (1, 16, 4)),
        (ParallelRecipe(sharding="hsdp", tensor_parallel=2), (8, 4, 2)),
    ],
)
def test_devices_are_shared_out_over_three_axes(recipe: ParallelRecipe, layout: tuple[int, int, int]) -> None:
    assert lay_out(recipe, RANKS, NODE) == Layout(*layout)


@pytest.mark.parametrize(
    ("recipe", "ranks", "says"),
    [
        (ParallelRecipe(tensor_parallel=3), 64, "tensor_parallel=3 on 64 devices"),
        (ParallelRecipe(tensor_parallel=2), 1, "start a multiple of 2 processes"),
        (ParallelRecipe(sharding="hsdp"), 8, "several whole nodes"),
        (ParallelRecipe(sharding="hsdp", node=5), 64, "several whole nodes"),
        (ParallelRecipe(sharding="hsdp"), 1, "several whole nodes"),
        (ParallelRecipe(sharding="hsdp", node=4, tensor_parallel=8), 64, "does not divide a node of 4"),
    ],
)
def test_devices_that_do_not_fit_are_told_so(recipe: ParallelRecipe, ranks: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        lay_out(recipe, ranks, min(ranks, NODE))


@pytest.fixture
def many() -> Iterator[Launch]:
    """The first of 64 processes, of which there is no other."""
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    yield Launch(rank=0, ranks=RANKS, local_rank=0, local_ranks=NODE)
    dist.destroy_process_group()


def _shared_out(recipe: ParallelRecipe, here: Launch, **changes: Any) -> KosmosObjective:
    model = empty_model(drawn_config(**{**WIDE, **changes}))
    choose_parameters(model, "last-layer")
    objective = KosmosObjective(model)
    parallel = share_out(objective, recipe, ComputeRecipe(checkpointing="full"), here)
    assert (parallel.rank, parallel.ranks, parallel.first) == (0, RANKS // recipe.tensor_parallel, True)
    return objective


def _placed(objective: nn.Module, name: str) -> tuple[tuple[int, ...], tuple[Placement, ...]]:
    parameter = objective.get_parameter(name)
    assert isinstance(parameter, DTensor)
    return tuple(parameter.device_mesh.shape), parameter.placements


def test_hsdp_shares_out_within_nodes_and_copies_across(many: Launch) -> None:
    objective = _shared_out(ParallelRecipe(sharding="hsdp"), many)
    for name, _ in objective.named_parameters():
        assert _placed(objective, name) == ((8, 8), (Replicate(), Shard(0))), name
    decoder = objective.model.decoder
    assert [part for part in objective.modules() if isinstance(part, FSDPModule)] == [objective, *decoder.blocks]
    assert decoder.head.weight is decoder.embedding.weight
    assert [name for name, _ in objective.model.named_parameters()] == [
        name for name, _ in empty_model(drawn_config(**WIDE)).named_parameters()
    ]


SPLIT = {
    "attention.q_proj.weight": 0,
    "attention.v_proj.bias": 0,
    "attention.norm.weight": 0,
    "attention.out_proj.weight": 1,
    "feedforward.fc1.weight": 0,
    "feedforward.fc1.bias": 0,
    "feedforward.norm.bias": 0,
    "feedforward.fc2.weight": 1,
}
WHOLE = ("attention_norm.weight", "attention.out_proj.bias", "feedforward_norm.bias", "feedforward.fc2.bias")


@pytest.mark.parametrize(
    ("recipe", "data", "copies"),
    [
        (ParallelRecipe(sharding="fsdp", tensor_parallel=4), (16,), ()),
        (ParallelRecipe(tensor_parallel=4), (16, 1), (Replicate(),)),
        (ParallelRecipe(sharding="hsdp", tensor_parallel=4), (8, 2), (Replicate(),)),
    ],
)
def test_matrices_are_split_by_columns_then_rows_and_norms_between_with_them(
    many: Launch, recipe: ParallelRecipe, data: tuple[int, ...], copies: tuple[Placement, ...]
) -> None:
    objective = _shared_out(recipe, many)
    for name, axis in SPLIT.items():
        mesh, placements = _placed(objective, BLOCK + name)
        assert (mesh, placements[:-2], placements[-1]) == ((*data, 4), copies, Shard(axis)), name
        parameter = objective.get_parameter(BLOCK + name)
        assert isinstance(parameter, DTensor)
        assert parameter.to_local().numel() * data[-1] * 4 == parameter.numel(), name
    for name in (*(BLOCK + name for name in WHOLE), "model.decoder.embedding.weight", "model.resampler.q_proj.weight"):
        assert _placed(objective, name) == (data, (*copies, Shard(0))), name
    assert objective.model.decoder.blocks[0].attention.num_heads == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_heads": 4}, "4 heads do not divide over 8 devices"),
        ({"ffn_width": 100}, "100 features of a feed-forward do not divide"),
        ({"experts": ExpertsConfig(num_experts=4)}, "layer 1 is sparse"),
    ],
)
def test_a_decoder_that_cannot_be_split_is_told_so(many: Launch, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        _shared_out(ParallelRecipe(tensor_parallel=8), many, **changes)


def test_a_layer_with_adapters_is_not_split(many: Launch) -> None:
    model = empty_model(drawn_config(**WIDE))
    adapted = nn.Module()
    adapted.base_layer = model.decoder.blocks[1].attention.q_proj  # type: ignore[union-attr, assignment]
    setattr(model.decoder.blocks[1].attention, "q_proj", adapted)  # noqa: B010
    with pytest.raises(ValueError, match="layer 1 has adapters"):
        share_out(KosmosObjective(model), ParallelRecipe(tensor_parallel=8), ComputeRecipe(), many)


def test_one_process_has_nothing_to_share() -> None:
    objective = KosmosObjective(empty_model(drawn_config()))
    for sharding in ("ddp", "fsdp"):
        assert share_out(objective, ParallelRecipe(sharding=sharding), ComputeRecipe()) == ALONE
    assert not any(isinstance(parameter, DTensor) for parameter in objective.parameters())


def test_alone_sums_and_norms_are_of_what_is_there() -> None:
    layer = nn.Linear(3, 2)
    ALONE.backward(layer(torch.ones(4, 3)).square().sum(), last=True)
    kept = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    ALONE.sum_gradients(layer.parameters())
    norm = ALONE.gradient_norm(layer.parameters())
    assert all(torch.equal(p.grad, one) for p, one in zip(layer.parameters(), kept, strict=True) if p.grad is not None)
    torch.testing.assert_close(norm, torch.cat([one.flatten() for one in kept]).norm())
    assert ALONE.gathered("here") == ["here"]
    assert float(ALONE.gradient_norm([])) == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["none", "selective"])
def test_compiled_blocks_are_those_of_torch_and_compiled_once_for_all_lengths(
    how: Checkpointing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, compiled = (KosmosObjective(drawn_model(seed=0)) for _ in range(2))
    share_out(compiled, ParallelRecipe(), ComputeRecipe(compile=True, checkpointing=how))
    texts, graphs = sequences()["text"], []
    for count in (1, 2, 3, 4):
        totals = [objective(together(texts[:count]))["words"] for objective in (plain, compiled)]
        for total in totals:
            total.backward()
        torch.testing.assert_close(totals[1], totals[0])
        graphs.append(counters["stats"]["unique_graphs"])
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=lambda m, name=name: f"{name}: {m}")
    assert 0 < graphs[1] == graphs[2] == graphs[3]
