"""Shards with every fault `lint` knows, made by hand byte by byte."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from tarfile import USTAR_FORMAT, TarInfo

from blake3 import blake3
from PIL import Image as Pillow

from data_pipelines.index import index_path, sample_starts, write_index
from data_pipelines.tar import END, header, padded

__all__ = ["drawn", "file", "page", "torture_folder"]


def drawn(color: str = "red", form: str = "PNG") -> bytes:
    packed = io.BytesIO()
    Pillow.new("RGB", (8, 8), color).save(packed, form)
    return packed.getvalue()


def file(name: str, contents: bytes | str) -> bytes:
    data = contents.encode() if isinstance(contents, str) else contents
    return header(name, len(data)) + data + bytes(padded(len(data)) - len(data))


def record(*segments: dict[str, object]) -> str:
    return json.dumps({"segments": segments, "meta": {}})


def page(key: str, *pictures: bytes, words: str = "words") -> bytes:
    """A sound document: its words and its pictures."""
    images = [{"image": f"{key}.{n}.png", "blake3": blake3(data).hexdigest()} for n, data in enumerate(pictures)]
    members = [file(f"{key}.{n}.png", data) for n, data in enumerate(pictures)]
    return file(f"{key}.json", record(*images, {"text": words})) + b"".join(members)


def _names() -> bytes:
    return (
        page("n1", drawn())
        + file("photo 1.json", record({"text": "a key with a blank"}))
        + file("../evil.json", record({"text": "out of the folder"}))
        + file("n2.json", record({"text": "with a pickle"}))
        + file("n2.pkl", b"cos\nsystem\n.")
        + file("n3.json", record({"text": "with a part of another alphabet"}))
        + file("n3.größe", "1")
        + file("README", "no document")
        + file("/etc/noext", "a stray with an absolute name")
        + file("__notes__/read.me", "passed over by all readers")
        + END
    )


def _contents() -> bytes:
    return (
        page("c00", drawn())
        + file("c01.json", '{"segments": [')
        + file("c02.json", b'{"segments": "\xff"}')
        + file("c03.json", '{"meta": {}}')
        + file("c04.json", record({"sound": "c04.0.wav"}))
        + file("c05.json", record({"text": "abc", "phrases": [{"start": 2, "end": 9, "boxes": []}]}))
        + file("c06.json", record({"image": "c06.0.png"}))
        + page("c07", words="nothing of a picture")
        + file("c07.0.png", drawn())
        + file("c08.json", record({"image": "c08.0.png"}))
        + file("c08.0.png", drawn()[:40])
        + file("c09.json", record({"image": "c09.0.png", "blake3": blake3(b"another").hexdigest()}))
        + file("c09.0.png", drawn())
        + file("c10.jpg", drawn(form="JPEG"))
        + file("c10.txt", "")
        + file("c11.jpg", drawn(form="JPEG"))
        + file("c11.txt", "a sound pair")
        + END
    )


def _keys() -> bytes:
    apart, middle = page("k1", drawn()), page("k2", drawn("blue"))
    first = 512 + padded(len(record({"image": "k1.0.png", "blake3": "0" * 64}, {"text": "words"})))
    return (
        apart[:first]
        + middle
        + apart[first:]
        + page("k3", words="the first")
        + page("k4")
        + page("k3", words="the second")
        + page("good-1", words="good.tar has this key already")
        + END
    )


def _torn() -> bytes:
    """A wrong bit in a header, a hundred bytes missing, half of a pair lost, a name in no alphabet, and a cut tail."""
    wrong_bit = bytearray(page("t2"))
    wrong_bit[3] ^= 4
    missing = page("t4") + page("t5")
    pair = bytearray(file("t7.jpg", drawn(form="JPEG")) + file("t7.txt", "lost"))
    pair[-1024] ^= 4
    nameless = TarInfo("t\xff.json").tobuf(USTAR_FORMAT, "latin-1")
    cut = page("t9", drawn())
    return (
        page("t1")
        + bytes(wrong_bit)
        + page("t3")
        + missing[:700]
        + missing[800:]
        + page("t6")
        + bytes(pair)
        + page("t8")
        + nameless
        + cut[:-700]
    )


def torture_folder(folder: Path) -> Path:
    """Nine broken shards beside a good one: 41 documents, every fault at least once."""
    folder.mkdir()
    shards = {
        "good.tar": page("good-1", drawn()) + page("good-2", drawn("blue"), drawn("green")) + page("good-3") + END,
        "keys.tar": _keys(),
        "contents.tar": _contents(),
        "names.tar": _names(),
        "torn.tar": _torn(),
        "garbage.tar": b"This was never a tar. " * 100,
        "joined.tar": page("j1") + END + page("j2") + END,
        "endless.tar": page("e1") + page("e2"),
        "stale.tar": page("s1") + END,
        "mismatch.tar": page("m1") + page("m2") + END,
    }
    for name, contents in shards.items():
        (folder / name).write_bytes(contents)
    write_index(folder / "good.tar", sample_starts(shards["good.tar"], "good.tar"))
    write_index(folder / "stale.tar", [0, 1024])
    os.utime(index_path(folder / "stale.tar"), ns=(1, 1))
    write_index(folder / "mismatch.tar", [0, 1024])
    return folder
