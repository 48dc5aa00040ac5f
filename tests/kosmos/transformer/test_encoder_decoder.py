"""A decoder that reads an encoder: whole and over a cache alike, each target beside its own source alone."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer.cache import CachedSequence
from kosmos.transformer.config import EncoderConfig, EncoderDecoderConfig, Norms
from kosmos.transformer.encoder_decoder import EncoderDecoder, Memory
from kosmos.transformer.initialisation import decoder_scales, encoder_scales
from kosmos.transformer.paged_attention import PagedAttention
from tests.kosmos.transformer.small import cache_for, small_config, small_decoder, words

SOURCES, TARGETS = [9, 3, 9], [7, 12, 2]


def both_sides(norms: Norms = "subln", *, share: bool = False) -> EncoderDecoder:
    torch.manual_seed(0)
    decoder = replace(small_config(), norms=norms, dropout=0.0, attention_dropout=0.0)
    encoder = EncoderConfig(
        vocab_size=50,
        num_layers=3,
        width=32,
        num_heads=4,
        ffn_width=40,
        norms=norms,
        dropout=0.0,
        attention_dropout=0.0,
    )
    model = EncoderDecoder(EncoderDecoderConfig(encoder=encoder, decoder=decoder, share_embeddings=share))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def sources(model: EncoderDecoder) -> Tensor:
    return model.encoder.embed(torch.cat([words(length, seed) for seed, length in enumerate(SOURCES)]))


def targets() -> list[Tensor]:
    return [words(length, seed + 10) for seed, length in enumerate(TARGETS)]


def whole(model: EncoderDecoder) -> list[Tensor]:
    return list(model(sources(model), SOURCES, torch.cat(targets()), TARGETS).split(TARGETS))


@pytest.mark.parametrize("norms", get_args(Norms))
def test_a_target_depends_on_its_own_source_alone(norms: Norms) -> None:
    model = both_sides(norms)
    parts = zip(whole(model), sources(model).split(SOURCES), targets(), strict=True)
    for together, source, target in parts:
        assert_close(together, model(source, [len(source)], target, [len(target)]), atol=1e-5, rtol=1e-5)
        moved = model(-source, [len(source)], target, [len(target)])
        assert bool((moved - together).abs().amax(-1).gt(1e-3).all()), "every row reads the source"


@pytest.mark.parametrize("norms", get_args(Norms))
@pytest.mark.parametrize("piece", [1, 5])
def test_targets_written_over_a_cache_are_the_targets_written_whole(norms: Norms, piece: int) -> None:
    model = both_sides(norms).requires_grad_(False)
    memory = model.remember(sources(model), SOURCES)
    cache, stored = cache_for(model.decoder), [CachedSequence() for _ in TARGETS]
    rows: list[list[Tensor]] = [[] for _ in TARGETS]
    for start in range(0, max(TARGETS), piece):
        pieces = [target[start : start + piece] for target in targets()]
        lengths = [len(part) for part in pieces]
        context = PagedAttention(cache, stored, lengths, rotation=model.decoder.rotation)
        hidden = model.write(torch.cat(pieces), context.positions_R, context, memory.read_by(lengths))
        context.advance()
        for own, new in zip(rows, hidden.split(lengths), strict=True):
            own.append(new)
    for own, expected in zip(rows, whole(model), strict=True):
        assert_close(torch.cat(own), expected, atol=1e-5, rtol=1e-5)


def test_sources_are_read_once_however_long_the_target() -> None:
    model = both_sides().requires_grad_(False)
    calls: list[str] = []
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        for name, part in block.named_modules():
            if name in ("attention.k_proj", "cross_attention.k_proj"):
                part.register_forward_hook(lambda *_, name=name: calls.append(name))
    memory = model.remember(sources(model), SOURCES)
    assert (calls.count("attention.k_proj"), calls.count("cross_attention.k_proj")) == (3, 2)
    cache, stored = cache_for(model.decoder), [CachedSequence() for _ in TARGETS]
    for step in range(4):
        context = PagedAttention(cache, stored, [1] * 3, rotation=model.decoder.rotation)
        model.write(torch.full((3,), 5 + step), context.positions_R, context, memory.read_by([1] * 3))
        context.advance()
    assert calls.count("cross_attention.k_proj") == 2


def test_continuous_sources_are_read_like_words() -> None:
    torch.manual_seed(0)
    ears = EncoderConfig(num_layers=2, width=32, num_heads=4, ffn_width=40, positions="rope")
    model = EncoderDecoder(EncoderDecoderConfig(encoder=ears, decoder=small_config())).eval()
    frames = torch.randn(11, 32, requires_grad=True)
    hidden = model(frames, [8, 3], torch.cat(targets()[:2]), TARGETS[:2])
    assert_close(hidden[:7], model(frames[:8], [8], targets()[0], [7]), atol=1e-5, rtol=1e-5)
    hidden[:7].pow(2).sum().backward()
    assert frames.grad is not None
    assert bool(frames.grad[:8].any(-1).all())
    assert not frames.grad[8:].any()


@pytest.mark.parametrize("norms", get_args(Norms))
def test_every_parameter_of_both_sides_learns(norms: Norms) -> None:
    model = both_sides(norms)
    hidden = torch.cat(whole(model))
    F.cross_entropy(model.decoder.logits(hidden), torch.cat(targets()).roll(-1)).backward()
    idle = [
        name
        for name, part in model.named_parameters()
        # A key's bias adds the same to all scores of a query where nothing turns it.
        if not name.endswith("k_proj.bias") and (part.grad is None or not part.grad.any())
    ]
    assert idle == []


def test_shared_embeddings_are_one_table_even_after_empty_memory() -> None:
    model = both_sides(share=True)
    assert model.encoder.embedding is not None
    assert model.encoder.embedding.weight is model.decoder.embedding.weight
    with torch.device("meta"):
        empty = EncoderDecoder(model.config)
    empty.to_empty(device="cpu")
    empty.tie()
    assert empty.encoder.embedding is not None
    assert empty.encoder.embedding.weight is empty.decoder.embedding.weight is empty.decoder.head.weight
    apart = both_sides()
    assert apart.encoder.embedding is not None
    assert apart.encoder.embedding.weight is not apart.decoder.embedding.weight


def test_each_side_knows_the_depth_of_the_other() -> None:
    model = both_sides("deepnorm")
    assert {block.alpha for block in model.encoder.blocks} == {encoder_scales("deepnorm", 3, 2).alpha}
    assert {block.alpha for block in model.decoder.blocks} == {decoder_scales("deepnorm", 2, 3).alpha}


def test_a_memory_that_is_missing_or_not_read_is_refused() -> None:
    model, ids = both_sides(), words(3, 0)
    context = model.decoder.context([3])
    with pytest.raises(ValueError, match="behind 3 encoder layers was given no memory"):
        model.decoder(model.decoder.embed(ids), context.positions_R, context)
    alone = small_decoder()
    memory: Memory = model.remember(sources(model), SOURCES)
    with pytest.raises(ValueError, match="a memory that it does not read"):
        alone(alone.embed(ids), context.positions_R, context, memory=memory.read_by([1, 1, 1]))
    with pytest.raises(ValueError, match="2 query sequences but 3 memories"):
        memory.read_by([1, 2])
