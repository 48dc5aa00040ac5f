"""The bench `decode`: how fast tokens come, beside Kosmos-2 of transformers and what the machine could do at best.

Random weights, a prompt of 74 tokens with one image, all contestants in turn in one process with the same threads and
flushed denormals. Cases: `bf16-batch1`, `bf16-batch8`, `int4-batch1`, `quantized-batch8`, `prefill-image`.
Legend: N sequences, T positions of the prompt, L latents of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kosmos.bench.figure import Figure
from kosmos.bench.floors import best_matrix_rate, matrices_of, multiply_all, read_bytes
from kosmos.bench.peer import build_peer, peer_decoding, peer_prefill
from kosmos.bench.random_weights import fill_randomly
from kosmos.bench.timing import Timed, in_turn
from kosmos.checkpoint import assign_weights, empty_model
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.options import GenerationOptions
from kosmos.packed import Packed
from kosmos.presets import preset
from kosmos.sampling import choose_tokens, constrain
from kosmos.session import Session
from kosmos.transformer.kernels.quantized import QuantizeMode, quantize, stored_bytes
from kosmos.transformer.precision import choose_dtypes, store_weights

__all__ = ["CASES", "DecodeBench", "run_decode"]

TEXT_TOKENS = 10  # 64 latents and 10 words: the usual "<image> An image of" with its markers
IMAGE_START = 2
BATCH = 8
PEERS = ("transformers", "transformers-batch8")
EOS_ID = 2
QUANTIZED: dict[str, QuantizeMode] = {"int4-batch1": "int4", "quantized-batch8": "int8"}
DECODING = ("bf16-batch1", "bf16-batch8", *QUANTIZED)
CASES = (*DECODING, "prefill-image")


@dataclass(frozen=True, kw_only=True)
class DecodeBench:
    """What to measure.

    Attributes:
        rounds: how often every contestant takes its turn.
        steps: tokens a turn.
        peers: run transformers beside us.
        cases: which cases to measure.
    """

    preset: str = "kosmos2"
    rounds: int = 7
    steps: int = 4
    peers: bool = True
    cases: tuple[str, ...] = CASES

    @property
    def room(self) -> int:
        """New tokens each session must hold: all turns and the one that warms up."""
        return self.steps * (self.rounds + 1) + 1


def run_decode(bench: DecodeBench) -> Iterator[Figure]:
    """Measure and give one figure a case, as they are ready."""
    torch.set_flush_denormal(True)
    config = preset(bench.preset)
    with torch.inference_mode():
        network = _random_network(config)
        peer = build_peer(config, torch.bfloat16) if bench.peers else None
        decoding = tuple(case for case in DECODING if case in bench.cases)
        if decoding:
            yield from _decoding(bench, decoding, network, peer)
        if "prefill-image" in bench.cases:
            yield _prefill(bench, network, peer)


def _random_network(config: KosmosConfig) -> KosmosModel:
    """Our network, its decoder stored in bf16 and the rest in what this machine computes best."""
    dtypes = choose_dtypes("bfloat16")
    source = empty_model(config)
    fill_randomly(source, torch.bfloat16)
    network = empty_model(config)
    weights = {name: tensor for name, tensor in source.state_dict().items() if name != "decoder.head.weight"}
    assign_weights(network, weights.items(), "random weights", device="cpu", dtype=torch.bfloat16)
    network.tower.to(dtypes.tower)
    network.resampler.to(dtypes.tower)
    store_weights(network.decoder, dtypes)
    return network.eval()


def _quantized(network: KosmosModel, mode: QuantizeMode) -> KosmosModel:
    """The same network with smaller matrices; everything else is shared, not copied."""
    smaller = empty_model(network.config)
    for name in ("tower", "resampler"):
        setattr(smaller, name, getattr(network, name))
    smaller.decoder.load_state_dict(network.decoder.state_dict(), assign=True)
    smaller.decoder.positions = network.decoder.positions
    quantize(smaller.decoder, mode)
    return smaller.eval()


def _prompt(config: KosmosConfig, batch: int, **pictures: Tensor) -> Packed:
    """`batch` copies of the prompt; `pictures` is one of the picture fields of `Packed`."""
    latents = config.resampler.num_latents
    length = latents + TEXT_TOKENS
    slots = torch.arange(IMAGE_START, IMAGE_START + latents)
    return Packed(
        tokens=_random_tokens(config, batch * length),
        lengths=(length,) * batch,
        positions=torch.arange(length).repeat(batch),
        image_rows=torch.stack([slots + copy * length for copy in range(batch)]),
        **pictures,
    )


def _random_tokens(config: KosmosConfig, count: int) -> Tensor:
    return torch.randint(EOS_ID + 1, config.decoder.vocab_size, (count,))


def _our_decoding(network: KosmosModel, batch: int, bench: DecodeBench) -> Callable[[], None]:
    """Prefill, then `steps` greedy tokens a call, each through the sampling that `generate` uses."""
    config = network.config
    latents = torch.randn(batch, config.resampler.num_latents, config.decoder.width)
    packed = _prompt(config, batch, latents=latents)
    session = Session(network, [length + bench.room for length in packed.lengths])
    members, options = list(range(batch)), [GenerationOptions()] * batch
    generators = [torch.Generator() for _ in members]
    state = {"logits": session.prefill(packed)}

    def run() -> None:
        for _ in range(bench.steps):
            logits_NV = constrain(state["logits"], options, [[]] * batch, [0] * batch, EOS_ID)
            state["logits"] = session.decode(members, choose_tokens(logits_NV, options, generators))

    return run


def _decoding(bench: DecodeBench, cases: tuple[str, ...], network: KosmosModel, peer: Any) -> Iterator[Figure]:
    matrices = matrices_of(network.decoder)
    sizes = dict.fromkeys(cases, sum(matrix.numel() * matrix.element_size() for matrix in matrices))
    read, bytes_read = read_bytes()
    contestants: dict[str, Callable[[], object]] = {"limit": multiply_all(matrices), "read": read}
    for case in cases:
        used = _quantized(network, QUANTIZED[case]) if case in QUANTIZED else network
        if case in QUANTIZED:
            sizes[case] = _matrix_bytes(used)
        contestants[case] = _our_decoding(used, _batch_of(case), bench)
    if peer is not None:
        length = network.config.resampler.num_latents + TEXT_TOKENS
        for name in PEERS:
            contestants[name] = peer_decoding(peer, network.config, length, _batch_of(name), bench.steps)
    timed = in_turn(contestants, bench.rounds)
    for case in cases:
        read_limit = _batch_of(case) * bytes_read / (timed["read"].median * sizes[case])
        # bf16 is held against its own matrices by F.linear; smaller ones have no such product and are held to reading
        limit = read_limit if case in QUANTIZED else _batch_of(case) / timed["limit"].median
        yield _tokens_figure(bench, case, timed, limit=limit, read_limit=read_limit)


def _batch_of(name: str) -> int:
    return BATCH if name.endswith("batch8") else 1


def _peer_prompt(config: KosmosConfig) -> tuple[Tensor, Tensor]:
    """Tokens [T] and 1 where the image stands [T]."""
    tokens_T = _random_tokens(config, config.resampler.num_latents + TEXT_TOKENS)
    image_T = torch.zeros_like(tokens_T)
    image_T[IMAGE_START : IMAGE_START + config.resampler.num_latents] = 1
    return tokens_T, image_T


def _matrix_bytes(network: KosmosModel) -> int:
    """Bytes of a quantised decoder that one token reads: all but the embedding table."""
    return stored_bytes(network.decoder) - stored_bytes(network.decoder.embedding)


def _tokens_figure(
    bench: DecodeBench, case: str, timed: Mapping[str, Timed], *, limit: float, read_limit: float
) -> Figure:
    def rate(name: str, seconds: float) -> float:
        return _batch_of(name) * bench.steps / seconds

    shown = {"ours": case} | {name: name for name in PEERS if name in timed}
    return Figure(
        bench="decode",
        case=case,
        unit="tokens/s",
        ours=rate(case, timed[case].median),
        peers={name: rate(name, timed[name].median) for label, name in shown.items() if label != "ours"},
        spread={
            label: (rate(name, timed[name].spread[1]), rate(name, timed[name].spread[0]))
            for label, name in shown.items()
        },
        limit=limit,
        read_limit=read_limit,
    )


def _prefill(bench: DecodeBench, network: KosmosModel, peer: Any) -> Figure:
    """Tower, resampler and prefill with one image, ours in the formats this machine does best.

    The peer runs in bf16, then in fp32, each in turn with ours: both at once would not fit a small machine's memory.
    """
    config, size = network.config, network.config.tower.image_size
    packed = _prompt(config, 1, pixels=torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8))
    rounds = max(bench.rounds // 2, 1)

    def ours() -> object:
        return Session(network, [packed.lengths[0] + 1]).prefill(packed)

    seconds: list[float] = []
    theirs: dict[str, Timed] = {}
    for dtype in (torch.bfloat16, torch.float32) if peer is not None else ():
        name = "transformers-" + str(dtype).removeprefix("torch.")
        timed = in_turn({"ours": ours, name: peer_prefill(peer.to(dtype), *_peer_prompt(config), size)}, rounds)
        seconds += timed["ours"].seconds
        theirs[name] = timed[name]
    mine = Timed(tuple(seconds)) if seconds else in_turn({"ours": ours}, rounds)["ours"]
    peers = {name: entry.median for name, entry in theirs.items()}
    return Figure(
        bench="decode",
        case="prefill-image",
        unit="s",
        ours=mine.median,
        peers={"transformers": min(peers.values()), **peers} if peers else {},
        spread={"ours": mine.spread} | {name: entry.spread for name, entry in theirs.items()},
        limit=_multiply_adds(network, packed) / best_matrix_rate(),
    )


def _multiply_adds(network: KosmosModel, packed: Packed) -> float:
    """Of all matrices: the decoder's for every row but the head's for one, the tower's for every patch."""
    decoder, config = network.decoder, network.config
    in_blocks = sum(matrix.numel() for matrix in matrices_of(decoder.blocks))
    in_tower = sum(parameter.numel() for parameter in network.tower.parameters() if parameter.ndim == 2)
    return float(
        in_blocks * len(packed.tokens) + decoder.embedding.weight.numel() + in_tower * config.tower.num_features
    )
