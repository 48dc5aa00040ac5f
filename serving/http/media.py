"""Pictures that arrive as data: URLs. Nothing is ever fetched from elsewhere; nothing is opened from a path.

The content decides what a picture is, whatever the URL or the file calls itself. No torch here.
"""

from __future__ import annotations

import base64
import binascii
import re

from serving.http.errors import ApiError
from vision.image import SERVING_FORMATS, ImageLimits, Picture, ResizeRule, open_image, resize

__all__ = ["LIMITS", "picture_of_url"]

LIMITS = ImageLimits(max_bytes=20 * 2**20, max_pixels=64_000_000)
HEAD = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE | re.ASCII)
LONGEST_HEAD = 80


def picture_of_url(url: str, *, param: str, side: int, rule: ResizeRule) -> Picture:
    """The picture inside `data:image/...;base64,...`, made square as the model's eye wants it.

    Small pixels travel to the engine instead of large files; the eye would make the same square of the original.

    Raises: ApiError 400 that names `param`.
    """
    head = HEAD.match(url[:LONGEST_HEAD])
    if not head:
        scheme = url[:LONGEST_HEAD].partition(":")[0].lower()
        if scheme in ("http", "https", "file", "ftp"):
            raise _refusal(f"{scheme}: addresses are not fetched; send the picture itself as a data: URL", param)
        raise _refusal("give the picture as data:image/png;base64,... (or jpeg, webp, gif)", param)
    if len(url) - head.end() > LIMITS.max_bytes * 4 // 3 + 4:
        raise _refusal(f"the picture has more than {LIMITS.max_bytes} bytes; make it smaller", param)
    try:
        data = base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _refusal("the picture's base64 is broken", param) from None
    try:
        return resize(open_image(data, formats=SERVING_FORMATS, limits=LIMITS), side, rule)
    except ValueError as error:
        raise _refusal(str(error), param) from None


def _refusal(message: str, param: str) -> ApiError:
    return ApiError(400, f"{param}: {message}", code="invalid_image", param=param)
