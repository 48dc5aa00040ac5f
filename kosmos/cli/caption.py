"""`kosmos caption`: a line of JSON for every picture of a folder; a run that was stopped goes on where it was.

Lines are appended whole, a batch at a time, in the sorted order of the paths. Pictures that cannot be read get a line
with `error` in place of `caption`, and are counted by reason at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kosmos.cli.caption_file import CaptionFile
from kosmos.cli.flags import PICTURE_ENDINGS, add_model_arguments, add_sampling_arguments, options_of

if TYPE_CHECKING:
    from kosmos.options import GenerationOptions
    from kosmos.pretrained import Kosmos
    from vision.image import Picture

__all__ = ["add_arguments", "run"]


class _Found(NamedTuple):
    """A picture: what the output calls it, and where it is."""

    name: str
    path: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where pictures are, where captions go, how they are made."""
    parser.add_argument("source", nargs="+", metavar="FOLDER | PICTURE", help="folders (with all below) or pictures")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON lines; a run goes on where it stopped")
    parser.add_argument("--prompt", default="", help='words that captions go on from, e.g. "A photo of"')
    parser.add_argument("--batch-size", type=int, default=16, help="pictures described together (default 16)")
    parser.add_argument("--retry-errors", action="store_true", help="try pictures again that had an error line")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON object")
    add_model_arguments(parser)
    add_sampling_arguments(parser, num_beams=5)


def run(arguments: argparse.Namespace) -> int:
    """Caption what has no line yet. Returns 1 if a picture could not be read."""
    options = options_of(arguments)
    if arguments.batch_size < 1:
        raise argparse.ArgumentTypeError(f"--batch-size {arguments.batch_size}; give at least 1")
    found = list(_find(arguments.source))
    with CaptionFile(Path(arguments.output), retry_errors=arguments.retry_errors) as output:
        waiting = [picture for picture in found if picture.name not in output.names]
        written: Counter[str] = Counter()
        if waiting:
            written = _caption(_load(arguments), waiting, output, arguments, options)
    counts = {
        "pictures": len(found),
        "captioned": written.pop("", 0),
        "already": len(found) - len(waiting),
        "errors": dict(sorted(written.items())),
        "damaged_lines": output.num_damaged,
    }
    _report(counts, written, as_json=arguments.json)
    return 1 if written else 0


def _find(sources: Sequence[str]) -> Iterator[_Found]:
    """Pictures below folders (named relative to their folder) and pictures named one by one, sorted, each once.

    Raises: ValueError for a source that is not there, for no picture at all, or for two pictures of one name.
    """
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise ValueError(f"{source} is not there; give a folder or a picture")
        below = sorted(_below(source)) if source.is_dir() else [source]
        for path in below:
            name = _printable(path.relative_to(source).as_posix() if source.is_dir() else path.name)
            if found.setdefault(name, path) != path:
                raise ValueError(f"{found[name]} and {path} would both be called {name!r}; caption them apart")
    if not found:
        raise ValueError(f"no picture in {', '.join(sources)}; endings known: {', '.join(PICTURE_ENDINGS)}")
    for name in sorted(found):
        yield _Found(name, found[name])


def _below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if name.lower().endswith(PICTURE_ENDINGS) and path.is_file():
                yield path


def _printable(name: str) -> str:
    """A file name that is no UTF-8 is written with escapes, so that the output stays UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _load(arguments: argparse.Namespace) -> Kosmos:
    from kosmos.pretrained import load

    quantize = None if arguments.quantize == "none" else arguments.quantize
    return load(arguments.model, device=arguments.device, dtype=arguments.dtype, quantize=quantize)


def _caption(
    model: Kosmos,
    waiting: Sequence[_Found],
    output: CaptionFile,
    arguments: argparse.Namespace,
    options: GenerationOptions,
) -> Counter[str]:
    """Batch after batch, the next one decoded meanwhile. Returns how often each reason came up; "" is success."""
    batches = [waiting[at : at + arguments.batch_size] for at in range(0, len(waiting), arguments.batch_size)]
    reasons: Counter[str] = Counter()
    done = 0
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(_read, batches[0])
        for index, batch in enumerate(batches):
            pictures = ahead.result()
            if index + 1 < len(batches):
                ahead = reader.submit(_read, batches[index + 1])
            captions = iter(_captions(model, pictures, arguments.prompt, options))
            lines = []
            for found, picture in zip(batch, pictures, strict=True):
                if isinstance(picture, str):
                    lines.append({"image": found.name, "error": picture})
                    reasons[_reason(picture)] += 1
                else:
                    lines.append({"image": found.name, "caption": next(captions)})
                    reasons[""] += 1
            output.append(lines)
            done += len(batch)
            _progress(done, len(waiting))
    return reasons


def _read(batch: Sequence[_Found]) -> list[Picture | str]:
    """Each picture, or why there is none. Read as bytes, so that no message depends on where the folder lies."""
    from vision.image import ImageLimits, open_image

    limits = ImageLimits()
    pictures: list[Picture | str] = []
    for found in batch:
        try:
            with open(found.path, "rb") as file:
                pictures.append(open_image(file.read(limits.max_bytes + 1), limits=limits))
        except ValueError as error:
            pictures.append(str(error))
        except OSError as error:
            pictures.append(error.strerror or "it cannot be read")
    return pictures


def _captions(model: Kosmos, pictures: Sequence[Picture | str], prompt: str, options: GenerationOptions) -> list[str]:
    from PIL import Image as PillowImage

    from kosmos.chat import Turn, document_of_chat
    from text.document import Image, Text

    documents = [
        document_of_chat(
            [Turn(role="user", content=(Image(PillowImage.fromarray(picture)), Text(prompt)))], model.chat_template
        )
        for picture in pictures
        if not isinstance(picture, str)
    ]
    if not documents:
        return []
    return [generation.text for generation in model.generate(documents, **asdict(options))]


def _reason(error: str) -> str:
    """The error without its numbers, so that equal reasons are counted together."""
    return re.sub("[0-9]+", "#", error)


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} pictures", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _report(counts: dict[str, object], errors: Counter[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(counts))
        return
    parts = [f"{counts['captioned']} captioned", f"{counts['already']} had a line already"]
    if counts["damaged_lines"]:
        parts.append(f"{counts['damaged_lines']} damaged lines removed")
    if errors:
        parts.append(f"{sum(errors.values())} could not be read")
    print(f"{counts['pictures']} pictures: {', '.join(parts)}", file=sys.stderr)
    for reason, number in errors.most_common():
        print(f"  {number} x {reason}", file=sys.stderr)
