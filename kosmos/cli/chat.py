"""`kosmos chat`: one answer about pictures, or a conversation at the terminal (or on piped lines).

The model goes on from the words it is given, so a beginning such as "A photo of" is a good question.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kosmos.cli.flags import PICTURE_ENDINGS, add_model_arguments, add_sampling_arguments, options_of

if TYPE_CHECKING:
    from kosmos.answer import Generation
    from kosmos.chat import Turn
    from kosmos.options import GenerationOptions
    from kosmos.pretrained import Kosmos
    from text.document import Image, Text

__all__ = ["add_arguments", "run"]

COMMANDS = "/image PATH adds a picture, /reset starts over, /quit ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Pictures and words, and how to answer."""
    parser.add_argument(
        "about",
        nargs="*",
        metavar="PICTURE | PROMPT",
        help='pictures, then words to go on from: photo.jpg "A photo of"; without words, a conversation',
    )
    parser.add_argument("--grounding", action="store_true", help="mark phrases with boxes, if the model can")
    parser.add_argument("--json", action="store_true", help="one JSON object an answer")
    add_model_arguments(parser)
    add_sampling_arguments(parser, num_beams=1)


def run(arguments: argparse.Namespace) -> int:
    """Answer once if there is a prompt, else converse until the end of input."""
    options = options_of(arguments)
    pictures, prompt = _split(arguments.about)
    opened = [_open(path) for path in pictures]

    from kosmos.pretrained import load

    quantize = None if arguments.quantize == "none" else arguments.quantize
    model = load(arguments.model, device=arguments.device, dtype=arguments.dtype, quantize=quantize)
    if arguments.grounding and not model.processor.tokenizer.has_locations:
        raise ValueError(f"model {arguments.model!r} marks no boxes; leave --grounding out")
    conversation = _Conversation(model, options, grounding=arguments.grounding, as_json=arguments.json)
    for image in opened:
        conversation.show(image)
    if prompt is not None:
        conversation.ask(prompt)
        return 0
    return _converse(conversation)


class _Conversation:
    """Turns so far, and pictures that go with the next words."""

    def __init__(self, model: Kosmos, options: GenerationOptions, *, grounding: bool, as_json: bool) -> None:
        self._model, self._options = model, options
        self._grounding, self._as_json = grounding, as_json
        self.reset()

    def reset(self) -> None:
        self._turns: list[Turn] = []
        self._shown: list[Image | Text] = []

    @property
    def has_pictures(self) -> bool:
        return bool(self._shown)

    def show(self, image: Image) -> None:
        self._shown.append(image)

    def ask(self, words: str) -> None:
        """Print the answer as it comes; it is part of the conversation once it is whole."""
        from kosmos.chat import Turn, document_of_chat
        from text.document import Text

        question = Turn(role="user", content=(*self._shown, Text(words)))
        turns = [*self._turns, question]
        document = document_of_chat(turns, self._model.chat_template, grounding=self._grounding)
        generation: Generation | None = None
        for piece in self._model.stream_pieces(document, self._options):
            generation = piece.generation or generation
            if not self._as_json:
                print(piece.text, end="", flush=True)
        if generation is None:
            raise RuntimeError("the stream ended without its generation")
        self._print_end(generation)
        self._turns = [*turns, Turn(role="assistant", content=(Text(generation.text),))]
        self._shown = []

    def _print_end(self, generation: Generation) -> None:
        boxes = [{"phrase": entity.phrase, "span": entity.span, "boxes": entity.boxes} for entity in generation.boxes]
        if self._as_json:
            values = {"text": generation.text, "finish_reason": generation.finish_reason, "boxes": boxes}
            print(json.dumps(values, ensure_ascii=False), flush=True)
            return
        print(flush=True)
        for entity in generation.boxes:
            places = "; ".join("(" + ", ".join(f"{side:.3f}" for side in box) + ")" for box in entity.boxes)
            print(f"  {entity.phrase}: {places}")


def _converse(conversation: _Conversation) -> int:
    """Lines from the terminal or a pipe; a line that fails is reported and the conversation goes on."""
    interactive = sys.stdin.isatty()
    failed = False
    if interactive:
        print(COMMANDS, file=sys.stderr)
    while True:
        if interactive:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "/quit":
            return 1 if failed and not interactive else 0
        try:
            _obey(conversation, line.strip())
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            failed = True
            print(f"kosmos chat: {error}", file=sys.stderr, flush=True)


def _obey(conversation: _Conversation, line: str) -> None:
    command, _, rest = line.partition(" ")
    if command == "/image":
        conversation.show(_open(rest.strip()))
    elif command == "/reset":
        conversation.reset()
    elif command.startswith("/"):
        raise ValueError(f"unknown command {command}; {COMMANDS}")
    elif line or conversation.has_pictures:
        conversation.ask(line)


def _split(about: list[str]) -> tuple[list[str], str | None]:
    """Pictures, and the prompt if the last argument is none. Raises: ArgumentTypeError for words before a picture."""
    if not about:
        return [], None
    *first, last = about
    pictures, prompt = (about, None) if _looks_like_picture(last) else (first, last)
    strange = [argument for argument in pictures if not _looks_like_picture(argument)]
    if strange:
        raise argparse.ArgumentTypeError(
            f"{strange[0]!r} is no picture; give pictures first, then one prompt in quotes"
        )
    return pictures, prompt


def _looks_like_picture(argument: str) -> bool:
    # A path too long for the system, or with a zero byte, is words.
    try:
        return argument.lower().endswith(PICTURE_ENDINGS) or Path(argument).is_file()
    except (OSError, ValueError):
        return False


def _open(path: str) -> Image:
    """Decoded now, so that a wrong path is reported before a model is loaded. Raises: ValueError or OSError."""
    from PIL import Image as PillowImage

    from text.document import Image
    from vision.image import open_image

    if not path:
        raise ValueError("/image needs the path of a picture")
    return Image(PillowImage.fromarray(open_image(path)))
