"""`kosmos serve`: answers over HTTP, with a page to try it. Flag, else environment `KOSMOS_*`, else default."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TypeVar

__all__ = ["add_arguments", "run"]

DTYPES = ("auto", "float32", "bfloat16")
QUANTIZE = ("none", "int4", "int8")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
Value = TypeVar("Value")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every flag may also be set by its environment variable, `--max-waiting` by KOSMOS_MAX_WAITING and so on."""
    _add(parser, "--model", "tiny", str, "name, folder or hub id")
    _add(parser, "--host", "127.0.0.1", str, "address to listen on; 0.0.0.0 lets other machines in")
    _add(parser, "--port", "8000", _port, "port to listen on; 0 takes a free one")
    _add(parser, "--device", "auto", str, "where the model runs: auto, cpu, cuda ...")
    _add(parser, "--dtype", "auto", _one_of(DTYPES), f"of the weights: {', '.join(DTYPES)}")
    _add(parser, "--quantize", "none", _one_of(QUANTIZE), f"weights of the decoder: {', '.join(QUANTIZE)}")
    _add(parser, "--served-model-name", "", str, "what requests call the model; several by comma (its own name)")
    _add(parser, "--max-waiting", "64", _count, "requests that may wait; more are told to come back later")
    _add(parser, "--max-beam-tokens", "8192", _count, "tokens one request's beams may hold together; 0: no beam search")
    _add(parser, "--max-body-mb", "32", _count, "largest request, in MB of 2**20 bytes")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    import logging

    from serving.engine.settings import EngineSettings
    from serving.http.server import serve
    from serving.http.settings import ServerSettings

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    names = tuple(name.strip() for name in arguments.served_model_name.split(",") if name.strip())
    settings = ServerSettings(
        engine=EngineSettings(
            model=arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            quantize=None if arguments.quantize == "none" else arguments.quantize,
            max_waiting=arguments.max_waiting,
            max_beam_tokens=arguments.max_beam_tokens,
        ),
        host=arguments.host,
        port=arguments.port,
        served_names=names,
        max_body_bytes=max(arguments.max_body_mb, 1) * 2**20,
    )
    if arguments.host not in LOOPBACK:
        _say(f"Anybody who reaches {arguments.host}:{arguments.port} may ask this model; there is no key.")
    _say(f"Loading {settings.names[0]} ...")
    serve(settings, when_ready=_announce)
    return 0


def _announce(address: str) -> None:
    print(f"Kosmos is ready at {address} (Ctrl-C stops it)", flush=True)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _add(parser: argparse.ArgumentParser, flag: str, default: str, kind: Callable[[str], Value], help: str) -> None:
    """Declare a flag. argparse reads a default that is a string as if it were typed, so the environment is checked."""
    variable = "KOSMOS_" + flag.removeprefix("--").replace("-", "_").upper()
    shown = f" (default {default})" if default else ""
    parser.add_argument(
        flag,
        default=os.environ.get(variable) or default,
        type=kind,
        metavar=flag.rpartition("-")[2].upper(),
        help=f"{help}{shown}; or {variable}",
    )


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give 0 or more")
    return int(text)


def _one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown; give one of {', '.join(names)}")
        return text

    return read
