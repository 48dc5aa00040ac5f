"""Documents made to do harm to whoever looks at them."""

from __future__ import annotations

import json
from pathlib import Path

from data_pipelines.shard import ShardWriter
from tests.vision.pictures import drawn, encoded
from text.document import Control, Document, Image, Phrase, Text

ATTACKS = (
    "<script>window.owned = 1</script>",
    "</script><script>window.owned = 1</script>",
    "<!--<script>",
    "</script x='<script y=",
    "</style><style>body { display: none }</style>",
    '"><img src=x onerror="window.owned = 1">',
    "<img src=https://example.org/beacon.png>",
    "{{SCRIPT}} {{CONTENT}}",
    "\u2028\u2029\u202e\0",
)


def write_hostile(path: Path) -> None:
    """One shard: each attack as words, key-like name, alternative words, source, reason and meta; and broken parts."""
    picture = encoded(drawn(), "PNG")
    with ShardWriter(path) as writer:
        for number, attack in enumerate(ATTACKS):
            meta = {"source": attack, "dropped": attack, attack: {"deep": [attack, float("nan")]}}
            segments = (Image(picture, meta={"alt": attack}), Text(attack), Text(attack, loss=False))
            writer.write(f"attack-{number}", Document(segments, meta))
        writer.write("huge", Document((Text("word " * 100_000), *[Text("x")] * 3_000), {"list": ["y" * 100_000]}))
        words = Text("a dog", phrases=(Phrase(start=2, end=5, boxes=((0.1, 0.1, 0.5, 0.5),)),))
        writer.write("odd-boxes", Document((Control("<grounding>"), Image(picture), words)))
        writer.write("cut-picture", Document((Image(picture[:90]), Text("words stay"))))
        writer.write_parts("broken", {"json": b'{"segments": "<b>"}'})
        boxes = [[-5, 0, 2, 9], [1e300, 0, 1, 1]]
        phrases = [{"start": 0, "end": 1, "boxes": boxes}]
        record = {"segments": [{"text": "x", "phrases": phrases}], "meta": {"source": {"a": 1}, "dropped": 5}}
        writer.write_parts("bad-boxes", {"json": json.dumps(record).encode()})
