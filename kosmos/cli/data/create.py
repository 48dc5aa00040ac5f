"""`kosmos data create`: shards from captions, pages, chats, parallel text and other foreign formats."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kosmos.cli.data.flags import add_execution_arguments, count, execution_of, print_report, repair_advised

__all__ = ["FORMATS", "add_arguments", "run"]

FORMATS = (
    *("captioned", "webdataset", "grounded", "boxes", "entities", "picture-records", "vqa", "instructions", "mmc4"),
    *("obelics", "llava", "documents", "coco", "flickr", "pages", "parallel-records", "parallel-lines", "tmx"),
    *("text-records", "text"),
)
"""As the table of `data_pipelines.sources.formats`, which a parser should not have to import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, where to, and what a source cannot say of itself."""
    parser.add_argument("source", nargs="+", help="files or folders of one format")
    parser.add_argument("out", type=Path, help="folder of the shards")
    known = f"overrule the format that is found: {', '.join(FORMATS)}"
    parser.add_argument("--format", choices=FORMATS, default="", metavar="FORMAT", help=known)
    parser.add_argument(
        "--documents-per-shard", type=count, default=1_000, metavar="N", help="entries of the source a shard (1000)"
    )
    parser.add_argument(
        "--name", type=_name, default="documents", help="what shards are called: NAME-000000.tar (documents)"
    )
    group = parser.add_argument_group("what the source means")
    group.add_argument("--captions", metavar="FIELD", help="of KEY.jpg + KEY.json: the field of the captions")
    group.add_argument("--questions", metavar="FIELD", help="of KEY.jpg + KEY.json: the field of questions and answers")
    group.add_argument(
        "--each",
        choices=("picture", "caption"),
        default="picture",
        help="one document a picture, with its first caption or all its questions (the others stay in meta.captions), "
        "or one a caption or question (picture)",
    )
    group.add_argument("--verbatim", action="store_true", help="captions as released: no repair of spaced punctuation")
    group.add_argument("--images", type=Path, metavar="PATH", help="folder or tar of the pictures that records name")
    group.add_argument("--text", default="text", metavar="FIELD", help="field or column that holds the words (text)")
    group.add_argument("--languages", type=_languages, default=(), metavar="en,de", help="of parallel text, in order")
    group.add_argument(
        "--sample-by", choices=("document", "paragraph", "line"), default="document", help="of plain text files"
    )
    group.add_argument("--split", help="only documents that the source counts to this split")
    add_execution_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find the format out, say it, write the shards.

    Returns: 1 if no document was written.
    """
    from data_pipelines.creation import create, plan
    from data_pipelines.sources.places import source_paths
    from data_pipelines.sources.source import Options

    options = Options(
        captions=arguments.captions,
        questions=arguments.questions,
        each=arguments.each,
        verbatim=arguments.verbatim,
        images=arguments.images,
        text=arguments.text,
        languages=arguments.languages,
        sample_by=arguments.sample_by,
        split=arguments.split,
    )
    with repair_advised(), source_paths(arguments.source) as paths:
        creation = plan(
            paths,
            options,
            format=arguments.format,
            per_shard=arguments.documents_per_shard,
            name=arguments.name,
        )
        print(f"reading as {creation.format}{_guess(creation.guessed)}", file=sys.stderr)
        report = create(creation, arguments.out, execution_of(arguments))
    return print_report(report, as_json=arguments.json)


def _guess(guessed: bool) -> str:
    return " (found out; overrule by --format)" if guessed else ""


def _name(text: str) -> str:
    if not text or text.startswith(".") or "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file")
    return text


def _languages(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    if len(found) < 2 or not all(found) or len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of languages, such as en,de")
    return found
