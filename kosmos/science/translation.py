"""Claim: an encoder-decoder with Sub-LN translates better than Pre-LN's, and trains at depths where Post-LN does not.

Source: Foundation Transformers (arXiv 2210.06423), machine translation: 18 + 18 layers on OPUS-100, 100K steps, beam 5;
Sub-LN gains half a BLEU over Pre-LN, Post-LN diverges. Here: captions (multi30k) from English to German and French,
small stacks, some hundreds of steps, greedy search: far too little to translate well, enough to see what learns.
Legend: S source rows, R target rows, V vocabulary.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.science.language import LanguageRecipe, train_model
from kosmos.science.report import Cell, Curve, Estimate, Report, estimate
from kosmos.science.runs import Figures, Finished, do_runs, logged, read_runs
from kosmos.science.stability import ASSEMBLIES
from kosmos.training.builtin.vocabulary import train_vocabulary
from kosmos.training.objective import Sum
from kosmos.transformer.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, Norms
from kosmos.transformer.encoder_decoder import EncoderDecoder

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

__all__ = ["Pairs", "TranslationRun", "bleu", "do", "perform", "plan", "read_pairs", "report", "translate"]

Target = Literal["de", "fr"]
END = 2  # `</s>`, which also begins a target; `<s>` is the padding, of which there is none
DEPTHS, QUICK_DEPTHS = (2, 6), (1,)
STEPS, QUICK_STEPS = 160, 4
TAIL = 10  # last steps whose mean loss is held against the first
LONGEST = 40  # words of a translation


@dataclass(frozen=True, kw_only=True)
class TranslationRun:
    """An encoder-decoder of one assembly and depth, and the language it writes."""

    target: Target
    num_layers: int
    norms: Norms
    seed: int
    steps: int = STEPS
    num_words: int = 2000
    width: int = 64
    num_heads: int = 2
    sentences: int = 32
    learning_rate: float = 4e-3
    tested: int = 100

    @property
    def name(self) -> str:
        """See `Run`."""
        return f"{self.target}-{self.norms}-{self.num_layers}-seed{self.seed}"

    @property
    def config(self) -> EncoderDecoderConfig:
        """Both sides alike, one embedding."""
        encoder = EncoderConfig(
            vocab_size=self.num_words,
            num_layers=self.num_layers,
            width=self.width,
            num_heads=self.num_heads,
            ffn_width=4 * self.width,
            positions="sinusoidal",
            norms=self.norms,
            dropout=0.0,
            attention_dropout=0.0,
        )
        decoder = DecoderConfig(
            vocab_size=self.num_words,
            num_layers=self.num_layers,
            width=self.width,
            num_heads=self.num_heads,
            ffn_width=4 * self.width,
            positions="sinusoidal",
            norms=self.norms,
            dropout=0.0,
            attention_dropout=0.0,
        )
        return EncoderDecoderConfig(encoder=encoder, decoder=decoder, share_embeddings=True)


def plan(*, seeds: int, steps: int | None, quick: bool) -> list[TranslationRun]:
    """All runs, one language and one seed after the other."""
    size = {"num_words": 600, "width": 32, "tested": 4, "steps": QUICK_STEPS} if quick else {}
    size |= {"steps": steps} if steps else {}
    targets: tuple[Target, ...] = ("de", "fr")
    return [
        TranslationRun(target=target, num_layers=depth, norms=norms, seed=seed, **size)
        for target, seed, depth, norms in product(targets, range(seeds), QUICK_DEPTHS if quick else DEPTHS, ASSEMBLIES)
    ]


@dataclass(frozen=True)
class Pairs:
    """Sentences of one pair of languages as words, and the references as they were written."""

    words: SentencePieceProcessor
    training: list[tuple[list[int], list[int]]]
    held_out: list[tuple[list[int], list[int]]]
    tested: list[list[int]]
    references: list[str]


def read_pairs(data: Path, folder: Path, *, target: Target, num_words: int) -> Pairs:
    """multi30k; the vocabulary is learned from both sides of what is trained on, and kept in `folder`."""
    import sentencepiece

    rows = {split: _rows(data / "multi30k" / f"{split}.jsonl.gz") for split in ("train", "val", "test2016")}
    model = folder / f"words-{target}-{num_words}.model"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        train_vocabulary((row[side] for row in rows["train"] for side in ("en", target)), model, num_words=num_words)
    words = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def encoded(split: str, side: str) -> list[list[int]]:
        return [[*ids, END] for ids in words.encode([row[side] for row in rows[split]])]

    return Pairs(
        words=words,
        training=list(zip(encoded("train", "en"), encoded("train", target), strict=True)),
        held_out=list(zip(encoded("val", "en"), encoded("val", target), strict=True)),
        tested=encoded("test2016", "en"),
        references=[row[target] for row in rows["test2016"]],
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def do(runs: Sequence[TranslationRun], data: Path, folder: Path, told: Callable[[str], None]) -> None:
    """Do what is not done."""
    kept: dict[tuple[Target, int], Pairs] = {}

    def perform_one(run: TranslationRun, place: Path) -> Figures:
        key = (run.target, run.num_words)
        if key not in kept:
            kept[key] = read_pairs(data, folder, target=run.target, num_words=run.num_words)
        return perform(run, place, kept[key])

    do_runs(runs, folder, perform_one, told)


def perform(run: TranslationRun, place: Path, pairs: Pairs) -> Figures:
    """One run: losses in nats a word, and BLEU of greedy translations of unseen captions."""
    torch.manual_seed(run.seed)
    model = EncoderDecoder(run.config)
    recipe = LanguageRecipe(
        steps=run.steps, learning_rate=run.learning_rate, sequences=run.sentences, length=1, clip_norm=math.inf
    )

    def losses(step: int) -> dict[str, Sum]:
        random = torch.Generator().manual_seed(run.seed * 10_000_000 + step)
        drawn = torch.randint(len(pairs.training), (run.sentences,), generator=random).tolist()
        return {"loss": _nats(model, [pairs.training[number] for number in drawn])}

    def validate(rank: int, ranks: int) -> dict[str, float]:
        with torch.inference_mode():
            nats = _nats(model, pairs.held_out[: run.tested])
        found = [pairs.words.decode(ids) for ids in translate(model, pairs.tested[: run.tested])]
        return {"held_out": float(nats.total) / nats.count, "BLEU": bleu(found, pairs.references[: run.tested])}

    finite = train_model(model, losses, recipe, place, seed=run.seed, validate=validate)
    first, scores = logged(place, "loss"), {name: logged(place, name) for name in ("held_out", "BLEU")}
    done = finite == run.steps
    return {
        "first": first[0] if first else None,
        "last": sum(first[-TAIL:]) / len(first[-TAIL:]) if done else None,
        **{name: course[-1] if done else None for name, course in scores.items()},
    }


def _nats(model: EncoderDecoder, pairs: Sequence[tuple[list[int], list[int]]]) -> Sum:
    """Nats of the targets given their sources."""
    sources, targets = zip(*pairs, strict=True)
    given = torch.tensor([word for target in targets for word in (END, *target[:-1])])
    wanted = torch.tensor([word for target in targets for word in target])
    source = torch.tensor([word for source in sources for word in source])
    hidden_RD = model(model.encoder.embed(source), [len(s) for s in sources], given, [len(t) for t in targets])
    total = F.cross_entropy(model.decoder.logits(hidden_RD).float(), wanted, reduction="sum")
    return Sum(total, float(len(wanted)), 1.0)


@torch.inference_mode()
def translate(model: EncoderDecoder, sources: Sequence[list[int]], *, longest: int = LONGEST) -> list[list[int]]:
    """The likeliest word after the likeliest word, until the end or `longest` words."""
    source = torch.tensor([word for words in sources for word in words])
    memory = model.remember(model.encoder.embed(source), [len(words) for words in sources])
    written = [[END] for _ in sources]
    for length in range(1, longest + 1):
        lengths = [length] * len(sources)
        context = model.decoder.context(lengths)
        target = torch.tensor([word for words in written for word in words])
        hidden_RD = model.write(target, context.positions_R, context, memory.read_by(lengths))
        last: Tensor = model.decoder.logits(hidden_RD.view(len(sources), length, -1)[:, -1]).argmax(dim=-1)
        for words, word in zip(written, last.tolist(), strict=True):
            words.append(word)
        if all(END in words[1:] for words in written):
            break
    return [words[1:][: words[1:].index(END)] if END in words[1:] else words[1:] for words in written]


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Of the corpus, as sacrebleu counts it.

    Raises: ValueError if sacrebleu is missing.
    """
    try:
        import sacrebleu
    except ImportError as missing:
        raise ValueError("BLEU needs sacrebleu: install kosmos-mllm[science]") from missing
    return float(sacrebleu.corpus_bleu(list(translations), [list(references)]).score)


Group = dict[tuple[Target, int, Norms], list[Finished[TranslationRun]]]


def report(folder: Path) -> Report:
    """What the folder's runs say."""
    groups: Group = {}
    for one in read_runs(folder, TranslationRun):
        groups.setdefault((one.run.target, one.run.num_layers, one.run.norms), []).append(one)
    rows: list[dict[str, Cell | Estimate]] = []
    curves: list[Curve] = []
    for target, depth, norms in sorted(groups, key=lambda key: (key[0], key[1], list(ASSEMBLIES).index(key[2]))):
        group = groups[target, depth, norms]
        rows.append(
            {
                "pair": f"en-{target}",
                "layers": f"{depth} + {depth}",
                "assembly": ASSEMBLIES[norms],
                "diverged": f"{sum(map(_diverged, group))} of {len(group)}",
                "nats a word": _of(group, "held_out"),
                "BLEU": _of(group, "BLEU"),
            }
        )
    for target in sorted({key[0] for key in groups}):
        for norms, label in ASSEMBLIES.items():
            depths = sorted(key[1] for key in groups if (key[0], key[2]) == (target, norms))
            found = [(depth, _of(groups[target, depth, norms], "held_out")) for depth in depths]
            points = tuple((float(depth), one.mean, one.half_width) for depth, one in found if one is not None)
            curves.append(Curve(f"en-{target}", label, points))
    return Report(
        claim="translation",
        columns=("pair", "layers", "assembly", "diverged", "nats a word", "BLEU"),
        rows=tuple(rows),
        verdicts=_verdicts(groups),
        curves=tuple(curves),
        axes=("layers of each side", "held-out nats a word"),
    )


def _diverged(one: Finished[TranslationRun]) -> bool:
    first, last, held_out = (one.figures[name] for name in ("first", "last", "held_out"))
    return first is None or last is None or held_out is None or last >= first


def _of(group: Sequence[Finished[TranslationRun]], figure: str) -> Estimate | None:
    """Over the seeds that did not diverge."""
    values = [one.figures[figure] for one in group if not _diverged(one)]
    return estimate([value for value in values if value is not None])


def _verdicts(groups: Group) -> dict[str, bool | None]:
    shapes = sorted({key[:2] for key in groups})
    if not shapes or any((*shape, norms) not in groups for shape in shapes for norms in ASSEMBLIES):
        return {"all four assemblies have runs of every shape": False}

    def nats(shape: tuple[Target, int], norms: Norms) -> float:
        found = _of(groups[shape[0], shape[1], norms], "held_out")
        return found.mean if found else math.inf

    others = [norms for norms in ASSEMBLIES if norms != "subln"]
    deepest = max(shape[1] for shape in shapes)
    verdicts: dict[str, bool | None] = {
        f"Sub-LN has the lowest loss, en-{target}, {depth} + {depth} layers": all(
            nats((target, depth), "subln") < nats((target, depth), norms) for norms in others
        )
        for target, depth in shapes
    }
    verdicts["Post-LN is worst at the greatest depth"] = all(
        nats(shape, "post") >= max(nats(shape, norms) for norms in ASSEMBLIES)
        for shape in shapes
        if shape[1] == deepest
    )
    return verdicts
