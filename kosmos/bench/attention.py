"""The bench `attention`: a training step and a decode step beside torchscale's decoder, and what blocks cost by length.

fp32 on both sides, xPos, random weights, denormals flushed, contestants in turn. Cases: `train-step` (12 x 512, 1,024
tokens, forward and backward), `decode-2048` (one token over 2,048 cached), `blockwise-4096` ... `blockwise-32768` (one
layer's attention in blocks of 1,024, beside full attention of the same rows), `blockwise-crossing` (the length from
which blocks are the faster).
Legend: R rows, H heads, K head width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.bench.figure import Figure
from kosmos.bench.floors import best_matrix_rate, matrices_of, read_bytes
from kosmos.bench.timing import Timed, in_turn
from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.cache import CachedSequence, PagedCache
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.paged_attention import PagedAttention
from kosmos.transformer.positions import XPos
from kosmos.transformer.stack import Decoder

__all__ = ["ATTENTION_CASES", "AttentionBench", "run_attention"]

SHAPE = DecoderConfig(
    vocab_size=8192,
    num_layers=12,
    width=512,
    num_heads=8,
    ffn_width=2048,
    dropout=0.0,
    attention_dropout=0.0,
    scale_embedding=False,
)
TRAINED, CACHED, PAGE_SIZE, BLOCK, HEADS, HEAD_DIM = 1024, 2048, 32, 1024, 8, 64
LENGTHS = (4096, 8192, 16384, 32768)
MOST_FULL = 16384  # rows that full attention is asked for: its cost grows fourfold from one case to the next
AROUND_CROSSING = (3, 4, 5, 6)  # blocks; by multiply-adds alone the two meet at the first
ATTENTION_CASES = ("train-step", "decode-2048", *(f"blockwise-{length}" for length in LENGTHS), "blockwise-crossing")
Contestants = dict[str, Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class AttentionBench:
    """What to measure: `steps` tokens a turn of decoding; `peers` runs torchscale beside us."""

    rounds: int = 7
    steps: int = 4
    peers: bool = True
    cases: tuple[str, ...] = ATTENTION_CASES


def run_attention(bench: AttentionBench) -> Iterator[Figure]:
    """Measure and give one figure a case, as they are ready.

    Raises: ValueError if peers are wanted and torchscale is not installed.
    """
    torch.set_flush_denormal(True)
    for case in bench.cases:
        if case == "train-step":
            yield _train_step(bench)
        elif case == "decode-2048":
            yield _decode(bench)
        elif case == "blockwise-crossing":
            yield _crossing(bench)
        else:
            yield _blockwise(bench, int(case.removeprefix("blockwise-")))


def _train_step(bench: AttentionBench) -> Figure:
    torch.manual_seed(0)
    tokens_R = torch.randint(3, SHAPE.vocab_size, (TRAINED,))
    decoder = Decoder(SHAPE).train()
    contestants: Contestants = {"ours": lambda: _backward(decoder, _our_logits(decoder, tokens_R), tokens_R)}
    if bench.peers:
        peer = _torchscale().train()
        contestants["torchscale"] = lambda: _backward(peer, peer(tokens_R[None])[0][0], tokens_R)
    timed = in_turn(contestants, bench.rounds)
    multiply_adds = 3 * TRAINED * sum(matrix.numel() for matrix in matrices_of(decoder))
    return _figure("train-step", timed, TRAINED, limit=TRAINED * best_matrix_rate() / multiply_adds)


def _our_logits(decoder: Decoder, tokens_R: Tensor) -> Tensor:
    context = decoder.context([len(tokens_R)])
    return decoder.logits(decoder(decoder.embed(tokens_R), context.positions_R, context))


def _backward(model: nn.Module, logits_RV: Tensor, tokens_R: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    F.cross_entropy(logits_RV[:-1], tokens_R[1:]).backward()


@torch.inference_mode()
def _decode(bench: AttentionBench) -> Figure:
    torch.manual_seed(0)
    decoder = Decoder(SHAPE).eval()
    contestants: Contestants = {"ours": _our_decoding(decoder, bench)}
    if bench.peers:
        contestants["torchscale"] = _peer_decoding(_torchscale().eval(), bench)
    read, bytes_read = read_bytes()
    contestants["read"] = read
    timed = in_turn(contestants, bench.rounds)
    numbers = sum(matrix.numel() for matrix in matrices_of(decoder))
    numbers += 2 * SHAPE.num_layers * CACHED * SHAPE.width  # keys and values
    limit = bytes_read / (4 * numbers * timed.pop("read").median)
    return _figure("decode-2048", timed, bench.steps, limit=limit)


def _our_decoding(decoder: Decoder, bench: AttentionBench) -> Callable[[], None]:
    room = CACHED + bench.steps * (bench.rounds + 1)
    cache = PagedCache(
        num_layers=SHAPE.num_layers,
        num_heads=SHAPE.num_heads,
        head_dim=SHAPE.head_dim,
        num_pages=-(-room // PAGE_SIZE),
        page_size=PAGE_SIZE,
    )
    cache.keys_LSHK.normal_()
    cache.values_LSHK.normal_()
    stored = cache.allocate(room)
    stored.length = CACHED

    def run() -> None:
        for _ in range(bench.steps):
            _one_step(decoder, cache, stored)

    return run


def _one_step(decoder: Decoder, cache: PagedCache, stored: CachedSequence) -> None:
    context = PagedAttention(cache, [stored], [1], rotation=decoder.rotation)
    hidden_RD = decoder(decoder.embed(torch.tensor([3])), context.positions_R, context)
    decoder.logits(hidden_RD).argmax(-1)
    context.advance()


def _peer_decoding(peer: Any, bench: AttentionBench) -> Callable[[], None]:
    """Its incremental state filled with random keys; it is handed the whole prefix and reads the last token."""
    keys = (1, SHAPE.num_heads, CACHED, SHAPE.head_dim)
    state: dict[int, dict[str, Tensor]] = {
        layer: {"prev_key": torch.randn(keys), "prev_value": torch.randn(keys)} for layer in range(SHAPE.num_layers)
    }
    tokens = {"seen": torch.full((1, CACHED + 1), 3)}

    def run() -> None:
        for _ in range(bench.steps):
            logits = peer(tokens["seen"], incremental_state=state)[0]
            tokens["seen"] = torch.cat([tokens["seen"], logits[:, -1:].argmax(-1)], dim=1)

    return run


def _torchscale() -> Any:
    """Its decoder of our shape: Sub-LN, xPos."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            from torchscale.architecture.config import DecoderConfig as PeerConfig
            from torchscale.architecture.decoder import Decoder as PeerDecoder
            from torchscale.component.embedding import TextEmbedding
    except ImportError:
        raise ValueError("the peer needs torchscale (`make setup`); or give --without-peers") from None
    config = PeerConfig(
        vocab_size=SHAPE.vocab_size,
        decoder_embed_dim=SHAPE.width,
        decoder_attention_heads=SHAPE.num_heads,
        decoder_ffn_embed_dim=SHAPE.ffn_width,
        decoder_layers=SHAPE.num_layers,
        subln=True,
        xpos_rel_pos=True,
        share_decoder_input_output_embed=True,
    )
    return PeerDecoder(config, embed_tokens=TextEmbedding(SHAPE.vocab_size, SHAPE.width))


@torch.inference_mode()
def _blockwise(bench: AttentionBench, length: int) -> Figure:
    contestants = _blocks_and_full(length)
    if length > MOST_FULL:
        del contestants["full"]
    timed = in_turn(contestants, max(bench.rounds // 2, 1))
    # Each row meets one and a half blocks on average, once for the scores and once for the values.
    multiply_adds = 2 * length * 1.5 * BLOCK * HEADS * HEAD_DIM
    return _figure(f"blockwise-{length}", timed, length, limit=length * best_matrix_rate() / multiply_adds)


@torch.inference_mode()
def _crossing(bench: AttentionBench) -> Figure:
    """Blocks cost the same a row at any length, full attention grows with it: they meet at a length over its gain."""
    lengths = [blocks * BLOCK for blocks in AROUND_CROSSING]
    contestants = {(name, length): run for length in lengths for name, run in _blocks_and_full(length).items()}
    timed = in_turn(contestants, max(bench.rounds // 2, 1))
    meetings = {length: length * timed["ours", length].median / timed["full", length].median for length in lengths}
    nearest = min(lengths, key=lambda length: abs(meetings[length] - length))
    return Figure(
        bench="attention",
        case="blockwise-crossing",
        unit="tokens",
        ours=meetings[nearest],
        spread={"ours": (min(meetings.values()), max(meetings.values()))},
        limit=lengths[0],
    )


def _blocks_and_full(length: int) -> Contestants:
    """One layer's attention of the same random rows, in blocks and over all that came before."""
    rows = torch.randn(3, length, HEADS, HEAD_DIM)
    query, key, value = (x.transpose(0, 1)[None] for x in rows)
    blocks = PackedAttention([length], causal_block=BLOCK, rotation=XPos(HEAD_DIM, BLOCK, 512))
    return {
        "ours": lambda: blocks.attend(0, *rows),
        "full": lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True),
    }


def _figure(case: str, timed: dict[str, Timed], tokens: int, *, limit: float) -> Figure:
    """Tokens a second of every contestant."""
    peers = {name: tokens / entry.median for name, entry in timed.items() if name != "ours"}
    spread = {name: (tokens / entry.spread[1], tokens / entry.spread[0]) for name, entry in timed.items()}
    return Figure(
        bench="attention",
        case=case,
        unit="tokens/s",
        ours=tokens / timed["ours"].median,
        peers=peers,
        spread=spread,
        limit=limit,
    )
