"""The published Kosmos-2 vocabulary gives the ids of the released models, and those of transformers on real text.

Two differences to transformers are named here: it takes a typed `<s>`, `</s>`, `<pad>`, `<unk>` or `<mask>` for the
control token, where the release and we read words; and where two segmentations of a word are equally probable
("----"), its own arithmetic now and then prefers the other one.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from transformers import Kosmos2Processor, XLMRobertaTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from text.tokenizer import Tokenizer

NUM_LINES = 10_000
CONTROLS = ("<s>", "</s>", "<pad>", "<unk>", "<mask>")

# Published vectors; the leading <s> is the processor's.
VECTORS = [
    ("An image of", "712 1648 9"),
    ("<grounding>An image of", "64012 712 1648 9"),
    ("<grounding> An image of", "64012 712 1648 9"),
    ("<grounding>Describe this image in detail:", "64012 34645 247 38 1648 12 3391 55"),
    ("Question: What is in the image? Answer:", "14895 55 352 17 12 5 1648 93 20032 55"),
    ("The photo of the", "24 1121 9 5"),
    (
        "<phrase>It</phrase><object><patch_index_0044><patch_index_0863></object> is",
        "64007 67 64008 64009 64057 64876 64010 17",
    ),
    ("<grounding><phrase>a snowman</phrase>", "64012 64007 10 43867 64008"),
    ("<grounding> <phrase> a snowman </phrase> .", "64012 64007 10 43867 64008 106 4"),
    (
        "<grounding>A man in a blue hard hat and <phrase>orange safety vest</phrase>",
        "64012 95 242 12 10 1486 354 3958 8 64007 5195 1123 13473 64008",
    ),
    ("Hello, world!", "10896 6 210 127"),
    ("  Hello   world  ", "10896 210"),
    ("hello\nworld", "13976 210"),
    ("café ＡＢＣ ½", "17884 3794 25113"),
    ("It's 3.14%", "67 15 11 288 44685"),
    ("你好", "106 3"),
    ("🙂 ok", "106 63998 5565"),
    ("", ""),
    ("Here are three images:", "1114 33 162 2507 55"),
    ("Is it correct?", "13 11 22 3091 93"),
    ("Yes", "1544"),
    (
        "Question: what is the sentiment of the opinion? Answer: positive",
        "14895 55 79 17 5 6848 9 5 2252 93 20032 55 1278",
    ),
    ("Introduce this picture in detail:", "83 28 16397 22070 38 1096 12 3391 55"),
    (
        "Question: does this picture contain real hate speech? Answer: yes",
        "14895 55 316 38 1096 4165 451 2071 1704 93 20032 55 2141",
    ),
    (
        "<phrase>two dogs</phrase><object><patch_index_0079><patch_index_1016></delimiter_of_multi_objects/>"
        "<patch_index_0135><patch_index_1008></object>",
        "64007 94 2176 64008 64009 64092 65029 64011 64148 65021 64010",
    ),
    ("Kosmos-1 can perceive multimodal input.", "17544 13361 4159 64 15802 2521 38349 6221 4"),
    ("100%<grounding>x", "6264 64012 3687"),
    ("<grounding> Two puppies sit in a field of grass.", "64012 1264 17772 1357 12 10 770 9 4464 4"),
]


@pytest.fixture(scope="module")
def model(kosmos_data: Path) -> bytes:
    return (kosmos_data / "tokenizers" / "kosmos2.sentencepiece.bpe.model").read_bytes()


@pytest.fixture(scope="module")
def published(model: bytes) -> Tokenizer:
    return Tokenizer(model, specials="kosmos2")


@pytest.fixture(scope="module")
def theirs(model: bytes) -> XLMRobertaTokenizer:
    """transformers' tokenizer with the tags its Kosmos-2 processor adds, built from the SentencePiece file alone."""
    words = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    vocab += [(words.id_to_piece(index), words.get_score(index)) for index in range(3, len(words))]
    charsmap = next(value for number, value in _fields(_normaliser(model)) if number == 2)
    tokenizer = XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap)
    Kosmos2Processor(CLIPImageProcessorPil(), tokenizer)  # adds the tags
    return tokenizer


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of a protobuf message's length-delimited fields: enough for one table, without protobuf."""
    place = 0

    def number() -> int:
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        key = number()
        if key & 7 == 2:
            size = number()
            yield key >> 3, message[place : place + size]
            place += size
        elif key & 7 == 0:
            number()
        else:
            place += 4 if key & 7 == 5 else 8


def _normaliser(model: bytes) -> bytes:
    return next(content for number, content in _fields(model) if number == 3)


@pytest.fixture(scope="module")
def lines(kosmos_data: Path) -> list[str]:
    """All lines of WikiText-2 and of the held-out books, and as many of the other books as make up the number."""
    found: list[str] = []
    for name in ("wikitext2-test.txt.gz", "wikitext2-valid.txt.gz"):
        found += gzip.decompress((kosmos_data / "text" / name).read_bytes()).decode().splitlines()
    for name in ("books-val.jsonl.gz", "books-train.jsonl.gz"):
        rows = gzip.decompress((kosmos_data / "text" / name).read_bytes()).decode().splitlines()
        found += [line for row in rows for line in json.loads(row)["text"].splitlines()]
    chosen = [line for line in found if line.strip() and not any(name in line for name in CONTROLS)][:NUM_LINES]
    assert len(chosen) == NUM_LINES
    return chosen


@pytest.mark.parametrize(("words", "ids"), VECTORS)
def test_published_vectors(published: Tokenizer, theirs: XLMRobertaTokenizer, words: str, ids: str) -> None:
    expected = [int(id) for id in ids.split()]
    assert published.encode_tagged(words) == expected
    assert theirs(words, add_special_tokens=False).input_ids == expected


def test_special_tokens_have_their_published_ids(published: Tokenizer) -> None:
    named = {
        "<mask>": 64001,
        "</doc>": 64002,
        "<image>": 64003,
        "</image>": 64004,
        "</chunk>": 64005,
        "</line>": 64006,
        "<phrase>": 64007,
        "</phrase>": 64008,
        "<object>": 64009,
        "</object>": 64010,
        "</delimiter_of_multi_objects/>": 64011,
        "<grounding>": 64012,
        "<patch_index_0000>": 64013,
        "<patch_index_1023>": 65036,
    }
    assert {name: published.id_of(name) for name in named} == named
    assert published.vocab_size == 65_037
    assert Tokenizer(published.model, specials="kosmos1").vocab_size == 64_007


def test_typed_controls_are_words_where_transformers_takes_them_for_controls(
    published: Tokenizer, theirs: XLMRobertaTokenizer
) -> None:
    words = [8001, 11, 6785, 185, 39666, 11, 6785]
    assert published.encode("<s>a</s>") == words
    assert published.encode_tagged("<s>a</s>") == words
    assert theirs("<s>a</s>", add_special_tokens=False).input_ids == [0, 10, 2]


@pytest.mark.slow
def test_ten_thousand_lines_of_real_text_have_the_ids_of_transformers(
    published: Tokenizer, theirs: XLMRobertaTokenizer, lines: list[str]
) -> None:
    ours = [published.encode(line) for line in lines]
    differing = [
        (mine, other)
        for mine, other in zip(ours, theirs(lines, add_special_tokens=False).input_ids, strict=True)
        if mine != other
    ]
    assert len(differing) <= 3, "ties are rare"
    for mine, other in differing:  # a tie: the same pieces, so the same probability, in another order
        assert sorted(mine) == sorted(other)
        assert published.decode(mine) == published.decode(other)


@pytest.mark.slow
def test_words_come_back_as_sentencepiece_writes_them(published: Tokenizer, lines: list[str]) -> None:
    words = sentencepiece.SentencePieceProcessor(model_proto=published.model)
    for line in lines[::10]:
        ids = published.encode(line)
        if published.unk_id not in ids:  # SentencePiece prints a sign for what it does not know, we print nothing
            assert published.decode(ids) == words.decode([id - 1 for id in ids])


def test_unknown_words_vanish_from_text_and_stand_by_name_among_specials(published: Tokenizer) -> None:
    ids = published.encode("你好 world")
    assert published.decode(ids) == " world"
    assert published.decode(ids, keep_specials=True) == "<unk> world"
