"""Kosmos: what `load` gives, a network with its words, and the five things people do with it.

Opens the built-in `tiny`, a checkpoint folder, a run folder (its newest good step), a LoRA adapter (with the checkpoint
it names) or a Kosmos-2 checkpoint of transformers, by folder or hub id. Each method is one call of a module below.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Unpack

import torch
from torch import Tensor

from kosmos import checkpoint, huggingface
from kosmos.answer import Generation
from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.generate import StreamPiece, generate, stream
from kosmos.model import KosmosModel
from kosmos.options import GenerationFields, GenerationOptions
from kosmos.processor import Encoded, Processor
from kosmos.score import Score, embed, score
from kosmos.transformer.kernels.quantized import Int4Linear, Int8Linear, QuantizeMode
from kosmos.transformer.kernels.quantized import quantize as quantize_linears
from kosmos.transformer.precision import Requested, choose_dtypes, store_weights
from text.document import Document, Prompt, Text, document_of
from text.tokenizer import Tokenizer

__all__ = ["Kosmos", "Opened", "load", "open_checkpoint"]

BUILT_IN = ("tiny",)
NOTICES = ("NOTICE*", "LICENSE*")
MOST_ADAPTERS = 8  # one on top of the other
KNOWN = "`tiny`, a checkpoint or run folder, or a hub id such as microsoft/kosmos-2-patch14-224"


class Kosmos:
    """A network and its processor. `network` and `processor` are open for those who need the parts."""

    def __init__(
        self,
        network: KosmosModel,
        processor: Processor,
        *,
        name: str,
        chat_template: str,
        tokenizer_model: bytes,
        card: str = "",
        notices: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            card: the model card it came with.
            notices: licence files it came with, by name; they go wherever the weights go.
        """
        self.network, self.processor = network.eval(), processor
        self.name, self.chat_template = name, chat_template
        self._tokenizer_model = tokenizer_model
        self._card, self._notices = card, notices

    def generate(
        self, prompts: Sequence[Prompt], *, batch_size: int = 64, **options: Unpack[GenerationFields]
    ) -> list[Generation]:
        """Continue each prompt: words, a picture, a list of both, or a `Document`.

        Args:
            batch_size: prompts decoded together; results do not depend on it.
            options: fields of `GenerationOptions`.
        Raises: ValueError for options out of range, pictures that cannot be read, prompts too long for the model.
        """
        if isinstance(prompts, str | Document):
            raise ValueError("generate takes a list of prompts; put the prompt into a list")
        encoded = [self.encode(prompt) for prompt in prompts]
        return generate(self.network, self.processor, encoded, GenerationOptions(**options), batch_size=batch_size)

    def stream(self, prompt: Prompt, **options: Unpack[GenerationFields]) -> Iterator[str]:
        """Continue one prompt, giving words as they come."""
        for piece in self.stream_pieces(prompt, GenerationOptions(**options)):
            if piece.text:
                yield piece.text

    def stream_pieces(self, prompt: Prompt, options: GenerationOptions) -> Iterator[StreamPiece]:
        """As `stream`; the last piece carries the whole `Generation`."""
        return stream(self.network, self.processor, self.encode(prompt), options)

    def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Score]:
        """How probable each continuation is after its prompt; a continuation is literal words.

        Raises: ValueError if there is not one continuation for each prompt, or one has no tokens.
        """
        if len(prompts) != len(continuations):
            raise ValueError(f"{len(prompts)} prompts but {len(continuations)} continuations; give one each")
        wholes, counts = [], []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            document = document_of(prompt)
            whole = Document((*document.segments, Text(continuation)), document.meta)
            wholes.append(self.processor.encode(whole))
            counts.append(len(wholes[-1].ids) - len(self.processor.encode(document).ids))
        return score(self.network, self.processor, wholes, counts)

    def embed(self, prompts: Sequence[Prompt]) -> Tensor:
        """Mean hidden state of each prompt, float32 [prompts, width]."""
        return embed(self.network, self.processor, [self.encode(prompt) for prompt in prompts])

    def encode(self, prompt: Prompt) -> Encoded:
        """Ids and pictures as the network reads them."""
        return self.processor.encode(document_of(prompt))

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder, whole or not at all.

        Raises: ValueError for a quantised model, whose weights are no longer there.
        """
        if any(isinstance(part, Int4Linear | Int8Linear) for part in self.network.modules()):
            raise ValueError("a quantised model cannot be saved; load it without quantize and save that")
        checkpoint.save_checkpoint(
            self.network,
            folder,
            tokenizer_model=self._tokenizer_model,
            chat_template=self.chat_template,
            card=self._card or f"# {Path(self.name).name}\n",
            extra_files=self._notices,
        )


def load(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: Requested = "auto",
    quantize: QuantizeMode | None = None,
    deterministic: bool = False,
) -> Kosmos:
    """Open a model.

    Args:
        name: `tiny`, a checkpoint folder, a run folder, a folder with a LoRA adapter, or a Kosmos-2 checkpoint (folder
            or hub id).
        device: `auto` takes a GPU where there is one.
        dtype: `auto` is decided by a short probe of this machine, separately for reading weights and for computing.
        quantize: `int4` or `int8` weights for the decoder; None leaves them.
        deterministic: the same bits alone, batched or cached; float32 and slow.
    Raises: ValueError that says what is wrong with the name, the folder or the combination.
    """
    if deterministic and (quantize is not None or dtype not in ("auto", "float32")):
        raise ValueError("deterministic means float32 without quantisation; drop dtype and quantize")
    torch.set_flush_denormal(True)
    place = _device(device)
    opened = open_checkpoint(name, place)
    network = opened.network
    _set_dtypes(network, "float32" if deterministic else dtype, place)
    if quantize is not None:
        quantize_linears(network.decoder, quantize)
    network.set_deterministic(on=deterministic)
    tokenizer = Tokenizer(opened.tokenizer_model, specials=network.config.tokenizer.specials)
    return Kosmos(
        network,
        Processor(tokenizer, network.config),
        name=str(name),
        chat_template=opened.chat_template,
        tokenizer_model=opened.tokenizer_model,
        card=opened.card,
        notices=opened.notices,
    )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a name stood for; `format` says whose files they are."""

    network: KosmosModel
    tokenizer_model: bytes
    format: Literal["kosmos", "kosmos-2"]
    chat_template: str = DEFAULT_CHAT_TEMPLATE
    card: str = ""
    notices: Mapping[str, bytes] = field(default_factory=dict)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):
        raise ValueError(f"device {device!r} is not there; give auto, cpu, or a GPU of this machine") from None


def _set_dtypes(network: KosmosModel, requested: Requested, device: torch.device) -> None:
    """Cast the network to what this machine does best, or to what was asked for."""
    num_bytes = 4 * sum(parameter.numel() for parameter in network.decoder.parameters())
    chosen = choose_dtypes(requested, weight_bytes=num_bytes, device=device)
    network.tower.to(chosen.tower)
    network.resampler.to(chosen.tower)
    store_weights(network.decoder, chosen)


def open_checkpoint(name: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Opened:
    """The parts of a model, for those who want no `Kosmos` of it.

    Args:
        name: as `load` takes it.
        dtype: of every weight; None leaves each as it is stored.
    Raises: ValueError that says what is wrong with the name or the files.
    """
    name = str(name)
    if not name.strip():
        raise ValueError(f"no model is named; give {KNOWN}")
    path = Path(str(files("kosmos") / name)) if name in BUILT_IN else Path(os.path.expanduser(name))
    if checkpoint.is_adapter(path):
        return _open_adapter(path, device, dtype)
    if path.exists() and not huggingface.is_kosmos2(path):
        return _open_folder(checkpoint.checkpoint_folder(path), device, dtype)
    if not path.exists() and name.startswith((".", "/", "~")):
        raise ValueError(f"{name} is not there; give {KNOWN}")
    network, tokenizer_model = huggingface.load_kosmos2(path if path.exists() else name, device, dtype)
    return Opened(network=network, tokenizer_model=tokenizer_model, format="kosmos-2")


def _open_adapter(folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> Opened:
    """The checkpoint an adapter was trained beside, with the adapter in its weights; that may be an adapter too."""
    adapters = {str(folder): checkpoint.read_adapter(folder)}
    base = adapters[str(folder)].base
    while base and checkpoint.is_adapter(base):
        if base in adapters or len(adapters) == MOST_ADAPTERS:
            raise ValueError(f"{folder} is an adapter to an adapter to an adapter ... and reaches no checkpoint")
        adapters[base] = checkpoint.read_adapter(base)
        base = adapters[base].base
    if not base:
        raise ValueError(f"{folder} does not say which checkpoint it is an adapter to (base_model_name_or_path)")
    try:
        opened = open_checkpoint(base, device, dtype)
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder} is an adapter to {base}, which does not open: {error}") from None
    for place, adapter in reversed(adapters.items()):
        checkpoint.merge_adapter(opened.network, adapter, place)
    return opened


def _open_folder(folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> Opened:
    template, card = folder / checkpoint.CHAT_TEMPLATE, folder / checkpoint.CARD
    return Opened(
        network=checkpoint.load_model(folder, device, dtype),
        tokenizer_model=(folder / checkpoint.TOKENIZER).read_bytes(),
        format="kosmos",
        chat_template=template.read_text(encoding="utf-8") if template.exists() else DEFAULT_CHAT_TEMPLATE,
        card=card.read_text(encoding="utf-8") if card.exists() else "",
        notices={file.name: file.read_bytes() for kind in NOTICES for file in sorted(folder.glob(kind))},
    )
