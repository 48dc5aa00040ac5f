"""Pictures for the tests: drawn here, or photographs that scikit-learn and scikit-image ship."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vision.image import Picture

LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
]
ALL_KINDS: list[tuple[str, dict[str, Any]]] = [
    *LOSSLESS,
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {}),
    ("GIF", {}),
]


def drawn(height: int = 30, width: int = 40, seed: int = 0) -> Picture:
    """Smooth random colours, so that lossy files stay near them; no symmetry, so that no turn goes unseen."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def noise(height: int, width: int, seed: int = 0) -> Picture:
    """The hardest picture to resize alike: every pixel random."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | Picture, file_format: str, **options: object) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, file_format, **options)
    return file.getvalue()


def photographs() -> list[Path]:
    """Real pictures of several sizes: colour and grey, JPEG and PNG."""
    import skimage
    from sklearn import datasets

    samples = Path(datasets.__file__).parent / "images"
    more = Path(skimage.__file__).parent / "data"
    return [samples / "china.jpg", samples / "flower.jpg", more / "rocket.jpg", more / "chelsea.png", more / "page.png"]


def png(width: int, height: int, *, bits: int = 8, color: int = 0, rows: bytes = b"", chunks: bytes = b"") -> bytes:
    """A PNG file written by hand: whatever its header claims."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    colour_key = chunk(b"tRNS", chunks) if chunks else b""
    body = chunk(b"IHDR", header) + colour_key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
