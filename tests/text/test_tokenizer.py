"""Words to ids and back: literal words, trusted tags, streams, any SentencePiece model."""

from __future__ import annotations

import pickle
import subprocess
import sys
from io import BytesIO

import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from text.specials import TAGS, location_name
from text.tokenizer import StreamDecoder, Tokenizer

TAGGED = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from(["<grounding>", "</s>", "<unk>", "<image>", "<patch_index_0007>"])),
    max_size=12,
).map("".join)
IDS = st.lists(st.integers(0, 10**6), max_size=40)


def test_special_tokens_follow_the_words(small_tokenizer: Tokenizer) -> None:
    words = small_tokenizer.num_words
    assert [small_tokenizer.id_of(name) for name in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert [small_tokenizer.id_of(name) for name in TAGS["kosmos2"]] == [
        *range(words + 1, words + 13),
        *range(words + 13, words + 13 + 1024),
    ]
    assert small_tokenizer.vocab_size == words + 1037
    assert small_tokenizer.location_id(1023) == small_tokenizer.vocab_size - 1
    assert (small_tokenizer.image_id, small_tokenizer.end_image_id) == (words + 3, words + 4)


def test_kosmos1_has_six_special_tokens_and_no_locations(small_tokenizer: Tokenizer) -> None:
    first = Tokenizer(small_tokenizer.model, specials="kosmos1")
    assert first.vocab_size == first.num_words + 7
    assert not first.has_locations
    with pytest.raises(ValueError, match="no special token '<grounding>'"):
        first.encode_tagged("<grounding> a dog")
    with pytest.raises(ValueError, match="no special token '<patch_index_0000>'"):
        first.location_id(0)


def test_every_id_has_one_name_and_every_special_name_one_id(small_tokenizer: Tokenizer) -> None:
    names = [small_tokenizer.name_of(id) for id in range(small_tokenizer.vocab_size)]
    assert len(set(names)) == len(names)
    assert all(small_tokenizer.id_of(name) == id for id, name in enumerate(names) if small_tokenizer.is_special(id))


@given(TAGGED)
@example("<s>a</s><pad><unk><mask>")
def test_typed_tags_stay_words(small_tokenizer: Tokenizer, words: str) -> None:
    ids = small_tokenizer.encode(words)
    assert not any(small_tokenizer.is_special(id) for id in ids)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc", "Cf", "Cn", "Co", "Z"]), max_size=20))
def test_words_come_back_as_sentencepiece_normalises_them(small_tokenizer: Tokenizer, words: str) -> None:
    normal = sentencepiece.SentencePieceProcessor(model_proto=small_tokenizer.model)
    ids = small_tokenizer.encode(words)
    assert small_tokenizer.decode(ids) == normal.decode([id - 1 for id in ids])


def test_unseen_characters_are_spelt_in_bytes(small_tokenizer: Tokenizer) -> None:
    for words in ("你好 world", "🙂", "naïve Ω"):
        assert small_tokenizer.decode(small_tokenizer.encode(words)) == words


@given(TAGGED)
def test_pieces_are_the_ids_with_their_places(small_tokenizer: Tokenizer, words: str) -> None:
    pieces = small_tokenizer.pieces(words)
    assert [piece.id for piece in pieces] == small_tokenizer.encode(words)
    ends = [0, *(piece.end for piece in pieces)]
    assert all(piece.start >= end for piece, end in zip(pieces, ends, strict=False))
    assert all(piece.start <= piece.end <= len(words) for piece in pieces)


def test_tags_cut_a_trusted_string_into_stretches(small_tokenizer: Tokenizer) -> None:
    encode, id_of = small_tokenizer.encode, small_tokenizer.id_of
    tagged = "two dogs <phrase>  a cat</phrase>.<patch_index_0007> \n"
    assert small_tokenizer.encode_tagged(tagged) == [
        *encode("two dogs"),
        id_of("<phrase>"),
        *encode("a cat"),
        id_of("</phrase>"),
        *encode("."),
        small_tokenizer.location_id(7),
    ]
    assert small_tokenizer.encode_tagged("<s>a</s>") == encode("<s>a</s>")


@given(TAGGED)
def test_a_string_without_tags_is_encoded_the_same_either_way(small_tokenizer: Tokenizer, words: str) -> None:
    plain = words.replace("<", "(")
    assert small_tokenizer.encode_tagged(plain) == small_tokenizer.encode(plain)


@given(IDS, st.booleans())
def test_a_stream_gives_what_decode_gives(small_tokenizer: Tokenizer, numbers: list[int], keep: bool) -> None:
    ids = [number % small_tokenizer.vocab_size for number in numbers]
    # Bytes are rare among all ids, so every other id is one: broken and whole characters in all orders.
    first_byte = small_tokenizer.encode("\x00")[-1]
    ids = [id if place % 2 else first_byte + id % 256 for place, id in enumerate(ids)]
    stream = StreamDecoder(small_tokenizer, keep_specials=keep)
    arrived = [stream.push(id) for id in ids]
    assert "".join([*arrived, stream.finish()]) == small_tokenizer.decode(ids, keep_specials=keep)


@given(st.text(max_size=12))
def test_a_stream_never_shows_half_a_character(small_tokenizer: Tokenizer, words: str) -> None:
    ids = small_tokenizer.encode(words)
    whole = small_tokenizer.decode(ids)
    stream, shown = StreamDecoder(small_tokenizer), ""
    for id in ids:
        shown += stream.push(id)
        assert whole.startswith(shown)
    assert shown == whole
    assert stream.finish() == ""


def test_half_a_character_ends_as_a_replacement_character(small_tokenizer: Tokenizer) -> None:
    *half, _ = small_tokenizer.encode("🙂")
    assert small_tokenizer.decode(half) == "\ufffd"
    # A special token ends it too: what follows is no part of that character.
    assert small_tokenizer.decode([*half, 2, *small_tokenizer.encode("a")]) == "\ufffd a"


def test_only_the_first_space_of_a_text_is_dropped(small_tokenizer: Tokenizer) -> None:
    ids = [0, small_tokenizer.id_of("<grounding>"), *small_tokenizer.encode("a cat"), 2]
    assert small_tokenizer.decode(ids) == "a cat"
    assert small_tokenizer.decode(ids, keep_specials=True) == "<s><grounding> a cat</s>"
    newline = small_tokenizer.encode("\x00")[-1] + ord("\n")  # the byte pieces follow each other
    assert small_tokenizer.decode([newline, *ids]) == "\n a cat"


def test_a_stream_can_go_on_from_earlier_words(small_tokenizer: Tokenizer) -> None:
    before, after = small_tokenizer.encode("two"), small_tokenizer.encode("dogs")
    stream = StreamDecoder(small_tokenizer, after=before)
    assert "".join([*map(stream.push, after), stream.finish()]) == " dogs"


def test_a_tokenizer_pickles(small_tokenizer: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(small_tokenizer))  # noqa: S301  (our own bytes)
    assert again.encode_tagged("<grounding> a cat") == small_tokenizer.encode_tagged("<grounding> a cat")


def test_ids_outside_the_vocabulary_are_refused(small_tokenizer: Tokenizer) -> None:
    for id in (-1, small_tokenizer.vocab_size):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            small_tokenizer.decode([id])


def test_a_lone_surrogate_is_refused(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="character 1 of the text is a lone surrogate"):
        small_tokenizer.encode("a\ud800")


@pytest.mark.parametrize("index", [-1, 1024])
def test_locations_outside_the_grid_are_refused(index: int) -> None:
    with pytest.raises(ValueError, match="outside the grid"):
        location_name(index)


@pytest.mark.parametrize("model", [b"", b"no model", b"\x0a\x05hello"])
def test_what_is_no_sentencepiece_model_is_refused(model: bytes) -> None:
    with pytest.raises(ValueError, match="no SentencePiece model"):
        Tokenizer(model, specials="kosmos1")


def test_a_model_with_other_control_numbers_is_refused() -> None:
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g"] * 10),
        model_writer=model,
        vocab_size=20,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="numbers <unk>, <s>, </s> as 1, 2, 3"):
        Tokenizer(model.getvalue(), specials="kosmos1")


def test_white_space_left_of_a_tag_is_dropped_even_where_words_keep_theirs() -> None:
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b  c", "c  b a"] * 10),
        model_writer=model,
        vocab_size=20,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    tokenizer = Tokenizer(model.getvalue(), specials="kosmos2")
    assert tokenizer.encode("a  ") != tokenizer.encode("a")
    tag = tokenizer.id_of("<grounding>")
    assert tokenizer.encode_tagged("a  <grounding>") == [*tokenizer.encode("a"), tag]
    # Of the spaces at the beginning of a text, one belongs to its first word.
    assert tokenizer.decode(tokenizer.encode("  a")) == "  a"


def test_an_unknown_set_of_specials_is_refused(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="known: kosmos1, kosmos2"):
        Tokenizer(small_tokenizer.model, specials="kosmos3")  # type: ignore[arg-type]


def test_words_need_no_torch() -> None:
    subprocess.run([sys.executable, "-c", "import sys, text.tokenizer; assert 'torch' not in sys.modules"], check=True)
