"""`kosmos data preview`: documents as they read, in one HTML file or from a server on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kosmos.cli.data.flags import add_shards_argument, add_tokenizer_argument, count, repair_advised

if TYPE_CHECKING:
    from data_pipelines.shard_set import ShardSet
    from text.tokenizer import Tokenizer

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which documents, and where to look at them."""
    add_shards_argument(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, metavar="PAGE.html", help="one file that holds everything it shows")
    where.add_argument("--serve", action="store_true", help="a server on 127.0.0.1, for sets of any size")
    parser.add_argument("--documents", type=count, default=100, metavar="N", help="in the file, at most (100)")
    parser.add_argument("--max-megabytes", type=count, default=25, metavar="N", help="of documents in the file (25)")
    parser.add_argument("--seed", type=int, help="draw the documents by this seed; without it, the first ones")
    parser.add_argument("--port", type=_port, default=8100, help="of the server (8100; 0: any free one)")
    add_tokenizer_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the page, or serve until interrupted."""
    from data_pipelines.shard_set import ShardSet
    from data_pipelines.stores import expand
    from text.tokenizer import Tokenizer

    tokenizer = Tokenizer(arguments.tokenizer, specials="kosmos2")
    title = " ".join(arguments.shards)
    paths = expand(arguments.shards, allow_pipe=arguments.allow_pipe)
    with repair_advised(), ShardSet(paths, allow_pipe=arguments.allow_pipe) as samples:
        if arguments.serve:
            _serve(samples, tokenizer, title, arguments.port)
        else:
            _write(samples, tokenizer, title, arguments)
    return 0


def _serve(samples: ShardSet, tokenizer: Tokenizer, title: str, port: int) -> None:
    from data_pipelines.preview.server import PreviewServer

    with PreviewServer(samples, tokenizer, title=title, port=port) as server:
        print(f"{len(samples):,} documents at {server.url} (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def _write(samples: ShardSet, tokenizer: Tokenizer, title: str, arguments: argparse.Namespace) -> None:
    from data_pipelines.preview.page import preview_page
    from data_pipelines.whole_file import whole_file

    page = preview_page(
        samples,
        tokenizer,
        title=title,
        documents=arguments.documents,
        max_bytes=arguments.max_megabytes * 2**20,
        seed=arguments.seed,
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(arguments.output) as file:
        file.write(page.encode())
    print(f"{arguments.output}: {len(page) / 2**20:.1f} MiB of {len(samples):,} documents", file=sys.stderr)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0 to 65535")
    return int(text)
