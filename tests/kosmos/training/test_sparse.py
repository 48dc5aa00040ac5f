"""Sparse variants: made from a shape or a dense checkpoint, balanced over micro-batches and ranks, saved and opened."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import load_model, save_checkpoint
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.presets import preset
from kosmos.training.distributed import add_over_ranks, run_ranks
from kosmos.training.objective import KosmosObjective, Sum, overall
from kosmos.training.recipe import ExpertsRecipe
from kosmos.training.sparse import expert_counts, expert_figures, sparse_config, upcycled
from kosmos.transformer.config import ExpertsConfig
from kosmos.transformer.experts import experts_of
from tests.models import small_config
from text.tokenizer import Tokenizer

RECIPE = ExpertsRecipe(num=4)
VOCABULARY = 64  # words that the drawn task uses


def drawn(*, sequences: int = 16, length: int = 24, seed: int = 0) -> Packed:
    """A task to learn: each word is the one before plus the sequence's own step, so three words tell the rest."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randint(0, VOCABULARY, (sequences, 1), generator=draw)
    step = torch.randint(1, 4, (sequences, 1), generator=draw)
    words = 10 + (first + step * torch.arange(length)) % VOCABULARY
    weight = torch.ones(sequences, length)
    weight[:, :2] = 0.0
    return Packed(
        tokens=words.flatten(),
        lengths=(length,) * sequences,
        positions=torch.arange(length).repeat(sequences),
        loss_weight=weight.flatten(),
    )


def share(packed: Packed, first: int, last: int) -> Packed:
    """Sequences `first` to `last` of a batch of equal ones."""
    length = packed.lengths[0]
    rows = slice(first * length, last * length)
    assert packed.loss_weight is not None
    return Packed(
        tokens=packed.tokens[rows],
        lengths=packed.lengths[first:last],
        positions=packed.positions[rows],
        loss_weight=packed.loss_weight[rows],
    )


@pytest.fixture
def dense(small_tokenizer: Tokenizer) -> KosmosConfig:
    """A decoder of four layers without dropout."""
    small = small_config(small_tokenizer)
    decoder = replace(small.decoder, num_layers=4, dropout=0.0, attention_dropout=0.0)
    return replace(small, decoder=decoder)


def built(config: KosmosConfig) -> KosmosModel:
    torch.manual_seed(0)
    return KosmosModel(config).train()


def step_sums(model: KosmosModel, packed: Packed) -> dict[str, Sum]:
    return KosmosObjective(model).train().losses({"text": packed})


# ---- shapes ----


def test_every_second_feed_forward_of_a_preset_becomes_experts() -> None:
    config = sparse_config(preset("base"), ExpertsRecipe(num=8, top_k=2, balance_weight=0.02))
    assert config.name == "base-x8"
    assert config.decoder.experts == ExpertsConfig(num_experts=8, every=2, top_k=2, balance_weight=0.02)
    assert config.decoder.experts.router == "xmoe"
    assert replace(config, name="base", decoder=replace(config.decoder, experts=None)) == preset("base")


def test_no_experts_leave_a_shape_as_it_is(dense: KosmosConfig) -> None:
    assert sparse_config(dense, ExpertsRecipe()) is dense
    sparse = sparse_config(dense, RECIPE)
    assert sparse_config(sparse, ExpertsRecipe()) is sparse
    assert sparse_config(sparse, RECIPE) is sparse


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (ExpertsRecipe(num=4, every=3), "num=4, every=3 for the 4 layers of small"),
        (ExpertsRecipe(num=1), "at least 2 experts"),
        (ExpertsRecipe(num=4, every=0), "every=0"),
        (ExpertsRecipe(num=4, top_k=5), "top_k=5 of num_experts=4"),
    ],
)
def test_experts_that_do_not_fit_are_refused(dense: KosmosConfig, recipe: ExpertsRecipe, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse_config(dense, recipe)


def test_other_experts_than_a_model_has_are_refused(dense: KosmosConfig) -> None:
    model = built(sparse_config(dense, RECIPE))
    with pytest.raises(ValueError, match=r"small-x4 has experts already: num=4, every=2, .*; give the same"):
        upcycled(model, ExpertsRecipe(num=8))
    assert upcycled(model, RECIPE) is model
    assert upcycled(model, ExpertsRecipe()) is model


# ---- from a dense checkpoint ----


def test_an_upcycled_model_gives_the_dense_output_and_then_learns(dense: KosmosConfig) -> None:
    model = built(dense)
    sparse = upcycled(model, RECIPE)
    assert sparse.config.name == "small-x4"
    assert len(experts_of(sparse)) == 2
    assert sparse.training
    with torch.no_grad():
        torch.testing.assert_close(sparse(drawn()), model(drawn()))
    overall(step_sums(sparse, drawn())).backward()
    routers = [layer.router.reduction.grad for layer in experts_of(sparse)]  # type: ignore[union-attr]
    assert all(grad is not None and grad.any() for grad in routers)


def test_upcycling_copies_and_leaves_the_dense_model_alone(dense: KosmosConfig) -> None:
    model = built(dense)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sparse = upcycled(model, RECIPE)
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---- training ----


def course(model: KosmosModel) -> tuple[list[float], list[float]]:
    """Nats a word and balance of thirty steps."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    words, balance = [], []
    for step in range(30):
        sums = step_sums(model, drawn(seed=step))
        overall(sums).backward()
        optimiser.step()
        optimiser.zero_grad()
        words.append(sums["text"].total.item() / sums["text"].count)
        balance.append(sums["balance"].total.item() / sums["balance"].count)
    return words, balance


def test_a_sparse_model_learns_a_drawn_task_and_its_balance_loss_keeps_experts_even(dense: KosmosConfig) -> None:
    """1 is even, 4 is one expert for all; at a weight that thirty steps can tell from none."""
    models = {weight: built(sparse_config(dense, replace(RECIPE, balance_weight=weight))) for weight in (0.1, 0.0)}
    courses = {weight: course(model) for weight, model in models.items()}
    assert all(words[-1] < 0.25 * words[0] for words, _ in courses.values())
    late = {weight: sum(balance[-10:]) / 10 for weight, (_, balance) in courses.items()}
    assert 0.98 < late[0.1] < 1.1
    assert late[0.0] > 1.15
    figures = {weight: expert_figures(model) for weight, model in models.items()}
    assert figures[0.1]["experts_entropy_lowest"] > figures[0.0]["experts_entropy_lowest"]
    assert figures[0.1]["experts_idle"] == figures[0.1]["experts_dropped"] == 0.0


def test_a_sparse_checkpoint_comes_back_as_it_was(
    dense: KosmosConfig, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = upcycled(built(dense), RECIPE).eval()
    words = small_tokenizer.model
    save_checkpoint(model, tmp_path / "x4", tokenizer_model=words, chat_template=DEFAULT_CHAT_TEMPLATE, card="# x4\n")
    opened = load_model(tmp_path / "x4")
    assert opened.config == model.config
    with torch.no_grad():
        assert torch.equal(opened(drawn()), model(drawn()))


# ---- balance over micro-batches and ranks ----


def gradients(model: KosmosModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_micro_batches_add_up_to_the_balance_of_each(dense: KosmosConfig) -> None:
    """Each has counts of its own and pulls towards an even share of its own rows; nothing is counted twice."""
    config, batch = sparse_config(dense, RECIPE), drawn()
    parts = [share(batch, 0, 5), share(batch, 5, 16)]
    apart = []
    for part in parts:
        model = built(config)
        sums = step_sums(model, part)
        sums["balance"].total.backward()
        assert sums["balance"].count == 2 * len(part.tokens)  # rows times sparse layers
        apart.append((sums["balance"].total.item(), gradients(model)))
    model, total = built(config), 0.0
    for part in parts:
        sums = step_sums(model, part)
        sums["balance"].total.backward()
        total += sums["balance"].total.item()
    assert total == pytest.approx(sum(value for value, _ in apart))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, apart[0][1][name] + apart[1][1][name], atol=1e-5, rtol=1e-4)
    assert 1 <= total / (2 * len(batch.tokens)) < 4


def test_an_even_split_of_alike_halves_gives_the_balance_of_the_whole(dense: KosmosConfig) -> None:
    half, model = drawn(sequences=8), built(sparse_config(dense, RECIPE))
    twice = replace(
        half,
        tokens=half.tokens.repeat(2),
        lengths=half.lengths * 2,
        positions=half.positions.repeat(2),
        loss_weight=half.loss_weight.repeat(2) if half.loss_weight is not None else None,
    )
    one, both = step_sums(model, half)["balance"], step_sums(model, twice)["balance"]
    assert both.count == 2 * one.count
    torch.testing.assert_close(both.total, 2 * one.total)


def _rank_step(config: KosmosConfig, folder: Path, rank: int, ranks: int) -> None:
    model = built(config)
    for first, middle, last in ((0, 3, 8), (8, 14, 16)):  # two micro-batches, shared out unevenly
        mine = share(drawn(), first, middle) if rank == 0 else share(drawn(), middle, last)
        sums = step_sums(model, mine)
        torch.stack([part.weight * part.total for part in sums.values()]).sum().backward()
    counts = expert_counts(model)
    found = gradients(model)
    add_over_ranks([*found.values(), counts])
    torch.save({"counts": counts, "gradients": found}, folder / f"rank{rank}.pt")


@pytest.mark.slow
def test_two_ranks_balance_together_as_one_process_does(dense: KosmosConfig, tmp_path: Path) -> None:
    config = sparse_config(dense, replace(RECIPE, balance_weight=1.0))  # so that its gradient counts as much as words'
    run_ranks(2, partial(_rank_step, config, tmp_path), tmp_path)
    both = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    model = built(config)
    for first, last in ((0, 8), (8, 16)):
        sums = step_sums(model, share(drawn(), first, last))
        torch.stack([part.weight * part.total for part in sums.values()]).sum().backward()
    assert torch.equal(both[0]["counts"], both[1]["counts"])
    assert torch.equal(both[0]["counts"], expert_counts(model))  # of the last micro-batch of each
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(both[0]["gradients"][name], gradient, atol=2e-5, rtol=1e-4)


# ---- figures ----


def counts_of(*loads: list[int], dropped: int = 0) -> Tensor:
    return torch.tensor([[*layer, sum(layer) + dropped, dropped] for layer in loads], dtype=torch.float64)


def test_figures_tell_even_experts_from_idle_ones(dense: KosmosConfig) -> None:
    model = built(sparse_config(dense, RECIPE))
    even = expert_figures(model, counts_of([5, 5, 5, 5], [3, 3, 3, 3]))
    assert even["experts_entropy"] == even["experts_entropy_lowest"] == pytest.approx(1.0)
    assert (even["experts_busiest"], even["experts_idle"], even["experts_dropped"]) == (0.25, 0.0, 0.0)
    collapsed = expert_figures(model, counts_of([5, 5, 5, 5], [15, 0, 0, 0], dropped=5))
    assert collapsed["experts_entropy"] == pytest.approx(0.5)
    assert collapsed["experts_entropy_lowest"] == 0.0
    assert collapsed["experts_busiest"] == 1.0
    assert collapsed["experts_idle"] == 3 / 8
    assert collapsed["experts_dropped"] == 10 / 45


def test_figures_tell_what_the_router_has_learnt(dense: KosmosConfig) -> None:
    model = built(sparse_config(dense, RECIPE))
    for layer, temperature in zip(experts_of(model), (0.2, 0.4), strict=True):
        layer.router.experts.data = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, -2.0]])
        layer.router.temperature.data = torch.tensor(temperature)  # type: ignore[union-attr]
    figures = expert_figures(model, counts_of([1, 1, 1, 1], [1, 1, 1, 1]))
    assert figures["experts_similarity"] == pytest.approx(0.5)  # 3 of 6 pairs are the same
    assert figures["experts_temperature"] == pytest.approx(0.3)


def test_counts_of_micro_batches_add_up(dense: KosmosConfig) -> None:
    model, batch = built(sparse_config(dense, ExpertsRecipe(num=4, top_k=2))).eval(), drawn()
    parts = []
    with torch.no_grad():
        for first, last in pairwise((0, 5, 16)):
            model(share(batch, first, last))
            parts.append(expert_counts(model))
        model(batch)
    assert torch.equal(parts[0] + parts[1], expert_counts(model))
    rows = len(batch.tokens)
    assert expert_counts(model)[:, :4].sum(1).tolist() == expert_counts(model)[:, 4].tolist() == [2 * rows, 2 * rows]


def test_dropped_choices_are_counted(dense: KosmosConfig) -> None:
    config = sparse_config(dense, RECIPE)
    assert config.decoder.experts is not None
    tight = replace(config.decoder.experts, capacity_factor=0.5)
    model = built(replace(config, decoder=replace(config.decoder, experts=tight)))
    model(drawn())
    figures = expert_figures(model)
    assert 0.5 <= figures["experts_dropped"] < 1
    counts = expert_counts(model)
    assert torch.equal(counts[:, :4].sum(1) + counts[:, 5], counts[:, 4])


def test_a_dense_model_has_no_figures_and_one_that_has_not_run_says_so(dense: KosmosConfig) -> None:
    assert expert_figures(built(dense)) == {}
    with pytest.raises(ValueError, match="2 sparse layers, of which 0 have run; run the model first"):
        expert_figures(built(sparse_config(dense, RECIPE)))
