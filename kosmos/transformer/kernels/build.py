"""Build the compiled kernels once for this processor and keep the library in the user's cache.

Nothing happens at import. The cache key covers the sources, the compiler, its flags and torch, so a changed machine
builds anew; a digest beside the library catches a damaged file before it is loaded. Whatever is missing (compiler,
AVX2, a writable cache) is logged once and answered by None: torch's own operations then do the work.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

__all__ = ["SWITCH", "cache_folder", "load_library"]

SWITCH = "KOSMOS_KERNELS"  # set to "off": never compile or load, use torch's products only
FOLDER = Path(__file__).with_name("native")
COMPILE_TIMEOUT_S = 180
# What torch calls a feature, and what the compiler does. The widest set that the processor has whole is taken.
WIDE = {"avx512_f": "avx512f", "avx512_bw": "avx512bw", "avx512_dq": "avx512dq", "avx512_vl": "avx512vl"}
WIDE |= {"avx512_vnni": "avx512vnni", "fma3": "fma"}
NARROW = {"avx2": "avx2", "fma3": "fma"}
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-exceptions", "-fno-rtti")

log = logging.getLogger(__name__)


class _UnavailableError(RuntimeError):
    """Why the compiled products cannot be used here; never leaves this file."""


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The compiled kernels, built on first use; None where they cannot be had (the reason is logged)."""
    try:
        return _open_or_build()
    except (RuntimeError, OSError, subprocess.SubprocessError) as reason:  # a home that is not known is one, too
        log.info("compiled kernels are off, torch's are used: %s", reason)
        return None


def cache_folder() -> Path:
    """Where built libraries are kept: the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "kosmos" / "kernels"


def _open_or_build() -> ctypes.CDLL:
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no"):
        raise _UnavailableError(f"{SWITCH} is off")
    flags = FLAGS + _processor_flags()
    compiler = _compiler()
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_foreign(folder)
    library = folder / f"kernels-{_key(compiler, flags)}.so"
    if not _is_whole(library):
        _build(compiler, flags, library)
    return ctypes.CDLL(str(library))


def _processor_flags() -> tuple[str, ...]:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise _UnavailableError(
            f"they are written for Linux on x86-64, this is {platform.system()} on {platform.machine()}"
        )
    has = torch.cpu.get_capabilities()
    for features in (WIDE, NARROW):
        if all(has.get(name) for name in features):
            bf16 = ("-mavx512bf16",) if features is WIDE and has.get("avx512_bf16") else ()
            return (*(f"-m{flag}" for flag in features.values()), *bf16)
    raise _UnavailableError("the processor lacks AVX2 or FMA")


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "c++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise _UnavailableError("no C++ compiler was found (g++ or c++, or the variable CXX)")


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    sources = (file.read_text(encoding="utf-8") for file in sorted(FOLDER.iterdir()) if file.is_file())
    parts = (*sources, compiler, version, " ".join(flags), torch.__version__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _refuse_foreign(folder: Path) -> None:
    # a library is code: a folder that others can write must not provide it
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _UnavailableError(
            f"{folder} belongs to, or can be written by, somebody else; fix its owner and mode (0700)"
        )


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_whole(library: Path) -> bool:
    try:
        return _digest_file(library).read_text() == hashlib.sha256(library.read_bytes()).hexdigest()
    except OSError:
        return False


def _build(compiler: str, flags: tuple[str, ...], library: Path) -> None:
    log.info("compiling the kernels for this processor (once)")
    sources = sorted(FOLDER.glob("*.cpp"))
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch, ThreadPoolExecutor() as compilers:
        made, linked = [Path(scratch, f"{source.stem}.o") for source in sources], Path(scratch, "kernels.so")
        commands = ([compiler, *flags, "-c", str(s), "-o", str(o)] for s, o in zip(sources, made, strict=True))
        list(compilers.map(_run, commands))
        # linked without OpenMP on purpose: the symbols come from the runtime that torch loaded: one pool of threads
        _run([compiler, "-shared", *map(str, made), "-o", str(linked)])
        digest = Path(scratch, "digest")
        digest.write_text(hashlib.sha256(linked.read_bytes()).hexdigest())
        os.replace(linked, library)
        os.replace(digest, _digest_file(library))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise _UnavailableError(f"{command[0]} failed: {reason[0] if reason else 'without a word'}")
