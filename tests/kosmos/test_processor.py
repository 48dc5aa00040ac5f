"""Documents become rows in one way for training, scoring and prompts; nothing is cut, lost or invented."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from kosmos.config import KosmosConfig, TokenizerConfig
from kosmos.grounding import Entity
from kosmos.processor import Encoded, Processor
from kosmos.transformer.config import DecoderConfig
from text.document import Control, Document, Image, Phrase, Prompt, Segment, Text, document_of
from text.specials import SpecialTokens
from text.tokenizer import Tokenizer
from vision.config import ResamplerConfig, TowerConfig
from vision.image import open_image, resize

SIDE, LATENTS = 8, 3
BOX, CELLS = (0.25, 0.25, 0.5, 0.5), ("<patch_index_0264>", "<patch_index_0495>")


def config(
    *, words: int, resize_rule: Literal["squash", "crop"] = "squash", specials: SpecialTokens = "kosmos2"
) -> KosmosConfig:
    return KosmosConfig(
        name="small",
        tower=TowerConfig(kind="clip", name="none", image_size=SIDE, width=4, num_features=5, resize=resize_rule),
        resampler=ResamplerConfig(num_latents=LATENTS, num_heads=1),
        decoder=DecoderConfig(vocab_size=words, num_layers=1, width=8, num_heads=1, ffn_width=8, max_length=64),
        tokenizer=TokenizerConfig(specials=specials, num_words=words),
    )


@pytest.fixture(scope="module")
def processor(small_tokenizer: Tokenizer) -> Processor:
    return Processor(small_tokenizer, config(words=small_tokenizer.vocab_size))


def drawn(color: str = "red", size: tuple[int, int] = (12, 6)) -> Pillow.Image:
    image = Pillow.new("RGB", size, color)
    image.putpixel((1, 1), (0, 255, 0))
    return image


def encoded_file(image: Pillow.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def asked(encoded: Encoded, tokenizer: Tokenizer) -> list[str]:
    """Names of the ids with loss."""
    pairs = zip(encoded.ids, encoded.loss_weights, strict=True)
    return [tokenizer.name_of(id) for id, weight in pairs if weight]


def test_a_prompt_begins_with_the_begin_token_and_has_no_end(processor: Processor) -> None:
    words = processor.tokenizer.encode("two dogs")
    assert processor.encode("two dogs").ids == (0, *words)
    assert processor.encode("").ids == (0,)


def test_a_picture_is_its_tags_around_one_row_a_latent(processor: Processor) -> None:
    encoded = processor.encode(["a", drawn(), drawn("blue"), "cat"])
    image, end = processor.tokenizer.image_id, processor.tokenizer.end_image_id
    group = [image, *[image] * LATENTS, end]
    words = processor.tokenizer.encode
    assert list(encoded.ids) == [0, *words("a"), *group, *group, *words("cat")]
    first = 1 + len(words("a")) + 1
    assert encoded.image_starts == (first, first + LATENTS + 2)
    assert encoded.length == len(encoded.ids)


@pytest.mark.parametrize("rule", ["squash", "crop"])
def test_pictures_are_opened_and_resized_by_the_models_rule(
    small_tokenizer: Tokenizer, rule: Literal["squash", "crop"], tmp_path: Path
) -> None:
    processor = Processor(small_tokenizer, config(words=small_tokenizer.vocab_size, resize_rule=rule))
    image = drawn()
    path = tmp_path / "picture.png"
    path.write_bytes(encoded_file(image))
    expected = resize(open_image(image), SIDE, rule).transpose(2, 0, 1)
    for source in (image, path, path.read_bytes(), Image(str(path))):
        (pixels,) = processor.encode([source, "a"]).images
        assert isinstance(pixels, np.ndarray)
        np.testing.assert_array_equal(pixels, expected)


def test_late_pictures_are_opened_by_collate(small_tokenizer: Tokenizer, processor: Processor) -> None:
    late = Processor(small_tokenizer, config(words=small_tokenizer.vocab_size), pictures="late")
    closed = late.encode([encoded_file(drawn()), "a"])
    assert isinstance(closed.images[0], Image)
    pixels = processor.collate([processor.encode([drawn(), "a"])]).pixels
    later = late.collate([closed]).pixels
    assert pixels is not None
    assert later is not None
    assert torch.equal(later, pixels)


def test_a_broken_picture_fails_with_its_own_document_and_number(processor: Processor) -> None:
    with pytest.raises(ValueError, match="picture 2 of the prompt: "):
        processor.encode([drawn(), b"no picture", "a"])


def test_hashes_of_pictures_travel_along(processor: Processor) -> None:
    document = Document((Image(drawn(), content_hash="ab"), Image(drawn())))
    assert processor.encode(document).image_hashes == ("ab", None)


def test_typed_tags_in_text_stay_words(processor: Processor) -> None:
    encoded = processor.encode([Text("<grounding><image></s>")])
    assert not any(processor.tokenizer.is_special(id) for id in encoded.ids[1:])


def test_a_tagged_string_gives_the_ids_of_encode_tagged(processor: Processor) -> None:
    tagged = "<grounding> Is <phrase> it </phrase><object><patch_index_0044><patch_index_1023></object>."
    assert list(processor.encode(tagged).ids[1:]) == processor.tokenizer.encode_tagged(tagged)


@pytest.mark.parametrize("name", ["<s>", "<pad>", "<image>", "</image>"])
def test_controls_that_the_processor_puts_are_refused(processor: Processor, name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot hold the control {name}"):
        processor.encode(Control(name))


def test_loss_is_asked_on_words_tags_and_the_end_but_not_on_pictures(processor: Processor) -> None:
    encoded = processor.encode(["<grounding>", drawn(), "a cat"], training=True)
    tokenizer = processor.tokenizer
    words = [tokenizer.name_of(id) for id in tokenizer.encode("a cat")]
    assert asked(encoded, tokenizer) == ["<grounding>", *words, "</s>"]
    assert encoded.loss_weights[0] == 0.0


def test_questions_are_not_asked_for_but_answers_are(processor: Processor) -> None:
    tokenizer = processor.tokenizer
    question, answer = Text("two dogs", loss=False), Text("a cat")
    document = Document((Control("<grounding>"), question, answer))
    names = [tokenizer.name_of(id) for id in tokenizer.encode("a cat")]
    assert asked(processor.encode(document, training=True), tokenizer) == [*names, "</s>"]
    assert asked(processor.encode(Document((question,)), training=True), tokenizer) == []


def test_training_ends_a_document_once(processor: Processor) -> None:
    assert processor.encode("a", training=True).ids[-1] == 2
    ended = processor.encode(["a", Control("</s>")], training=True)
    assert list(ended.ids).count(2) == 1
    assert 2 not in processor.encode("a", training=True, end_document=False).ids
    assert processor.encode("a", end_document=True).ids == processor.encode("a", training=True).ids


def phrase(text: str, words: str, *boxes: tuple[float, float, float, float]) -> Text:
    start = text.index(words)
    return Text(text, phrases=(Phrase(start=start, end=start + len(words), boxes=boxes),))


def test_phrases_are_tagged_and_placed(processor: Processor) -> None:
    tokenizer = processor.tokenizer
    encoded = processor.encode(phrase("the two dogs.", "two dogs", BOX, (0.0, 0.0, 1.0, 1.0)))
    assert list(encoded.ids[1:]) == [
        *tokenizer.encode("the"),
        tokenizer.id_of("<phrase>"),
        *tokenizer.encode("two dogs"),
        *map(tokenizer.id_of, ("</phrase>", "<object>", *CELLS, "</delimiter_of_multi_objects/>")),
        *map(tokenizer.location_id, (0, 1023)),
        tokenizer.id_of("</object>"),
        tokenizer.encode("the two dogs.")[-1],  # the full stop of the whole text, no new word
    ]


def test_training_quantises_as_the_released_training_code(processor: Processor) -> None:
    ids = processor.encode(phrase("two dogs", "two dogs", BOX), training=True).ids
    assert processor.tokenizer.location_id(528) in ids
    assert processor.tokenizer.location_id(495) not in ids


def test_rows_of_phrases_are_known_whoever_wrote_them(processor: Processor) -> None:
    found = processor.encode(phrase("the two dogs.", "two dogs", BOX, (0.0, 0.0, 1.0, 1.0)))
    written = processor.encode("a <phrase> dog </phrase><object><patch_index_0044><patch_index_1023></object> and")
    bare = processor.encode(phrase("the two dogs", "two dogs"))
    for encoded, last in ((found, "</object>"), (written, "</object>"), (bare, "</phrase>")):
        ((first, end),) = encoded.phrases
        names = [processor.tokenizer.name_of(id) for id in encoded.ids]
        assert (names[first], names[end - 1]) == ("<phrase>", last)
    assert processor.encode("words alone").phrases == ()


def test_a_phrase_without_boxes_is_only_tagged(processor: Processor) -> None:
    ids = processor.encode(phrase("the two dogs", "two dogs")).ids
    assert processor.tokenizer.decode(ids, keep_specials=True) == "<s> the<phrase> two dogs</phrase>"


@pytest.mark.parametrize(
    ("text", "words", "printed"),
    [
        ("a 你好 sleeps", "你好", "a<phrase> 你好</phrase> sleeps"),
        ("你好 sleeps", "你好 ", "<phrase> 你好</phrase> sleeps"),
        ("a 你 b", " 你", "a<phrase> 你</phrase> b"),
        ("½ two", "½", "<phrase> 1⁄2</phrase> two"),
    ],
)
def test_phrases_keep_whole_characters_and_the_space_before(
    processor: Processor, text: str, words: str, printed: str
) -> None:
    ids = processor.encode(phrase(text, words)).ids[1:]
    assert processor.tokenizer.decode(ids, keep_specials=True) == printed


def test_a_phrase_of_blanks_or_of_a_taken_word_is_refused(processor: Processor) -> None:
    with pytest.raises(ValueError, match="holds no words of its own"):
        processor.encode(phrase("a   b  ", "  "))
    whole = Text("running", phrases=tuple(Phrase(start=place, end=place + 1, boxes=()) for place in range(7)))
    taken = len(processor.tokenizer.encode("running"))
    assert taken < 7
    with pytest.raises(ValueError, match="holds no words of its own"):
        processor.encode(whole)


WORDS = st.text(alphabet="abc dog.,é你½", min_size=1, max_size=12).filter(str.strip)


@given(WORDS, st.data())
def test_phrases_add_tags_and_change_no_word(processor: Processor, words: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    if not words[start:end].strip():
        return
    text = Text(words, phrases=(Phrase(start=start, end=end, boxes=(BOX,)),))
    ids = processor.encode(text).ids[1:]
    plain = [id for id in ids if not processor.tokenizer.is_special(id)]
    assert plain == processor.tokenizer.encode(words)
    opened = ids.index(processor.tokenizer.id_of("<phrase>"))
    inside = ids[opened + 1 : ids.index(processor.tokenizer.id_of("</phrase>"))]
    assert inside


def test_documents_longer_than_the_model_are_refused_not_cut(processor: Processor) -> None:
    pictures: Prompt = [drawn()] * 13
    with pytest.raises(ValueError, match="has 66 tokens, 65 of them for 13 pictures, but the model reads 64"):
        processor.encode(pictures)
    assert processor.encode([drawn()] * 12).length == 61


def test_a_vocabulary_without_locations_places_nothing(small_tokenizer: Tokenizer) -> None:
    tokenizer = Tokenizer(small_tokenizer.model, specials="kosmos1")
    first = Processor(tokenizer, config(words=tokenizer.vocab_size, specials="kosmos1"))
    with pytest.raises(ValueError, match="no special token '<phrase>'"):
        first.encode(phrase("two dogs", "dogs", BOX))
    assert first.ground(first.encode("a"), first.encode("b").ids) is None


def test_a_tokenizer_of_another_model_is_refused(small_tokenizer: Tokenizer) -> None:
    words = small_tokenizer.vocab_size
    for wrong in (config(words=words - 1), config(words=words, specials="kosmos1")):
        with pytest.raises(ValueError, match=f"the tokenizer has {words} ids with the special tokens of kosmos2, but"):
            Processor(small_tokenizer, wrong)


SEGMENTS = st.lists(
    st.one_of(
        st.text(alphabet="abc dog", max_size=8).map(Text),
        st.sampled_from([Control("</line>"), Control("<grounding>")]),
        st.sampled_from(["red", "blue", "white"]).map(lambda color: Image(drawn(color))),
    ),
    max_size=4,
)


@given(st.lists(SEGMENTS, min_size=1, max_size=4))
def test_a_batch_is_its_documents_laid_end_to_end(processor: Processor, batch: list[list[Segment]]) -> None:
    encoded = [processor.encode(Document(tuple(segments))) for segments in batch]
    packed = processor.collate(encoded)
    assert packed.tokens.tolist() == [id for one in encoded for id in one.ids]
    assert packed.lengths == tuple(one.length for one in encoded)
    assert packed.positions.tolist() == [place for one in encoded for place in range(one.length)]
    assert packed.loss_weight is not None
    assert packed.loss_weight.tolist() == [weight for one in encoded for weight in one.loss_weights]
    images = [image for one in encoded for image in one.images]
    if not images:
        assert packed.pixels is None
        assert packed.image_rows is None
        return
    assert packed.pixels is not None
    assert packed.image_rows is not None
    assert packed.pixels.dtype == torch.uint8
    assert packed.pixels.shape == (len(images), 3, SIDE, SIDE)
    rows = packed.image_rows
    assert rows.shape == (len(images), LATENTS)
    slots = [id == processor.tokenizer.image_id for id in packed.tokens.tolist()]
    # Each picture takes all rows between its own <image> and </image>.
    assert all(slots[row] and slots[row - 1] for row in rows.flatten().tolist())
    assert rows.flatten().unique().numel() == rows.numel() == sum(slots) - len(images)
    assert (packed.tokens[rows[:, -1] + 1] == processor.tokenizer.end_image_id).all()


def test_known_features_stand_in_for_pictures(processor: Processor) -> None:
    batch = [processor.encode([drawn(), "a"]), processor.encode(["b", drawn()])]
    features, latents = torch.rand(2, 5, 4), torch.rand(2, LATENTS, 8)
    seen = processor.collate(batch, features=features)
    assert seen.features is features
    assert seen.pixels is None
    assert processor.collate(batch, latents=latents).latents is latents
    with pytest.raises(ValueError, match="1 pictures but rows for 2"):
        processor.collate(batch, features=features[:1])


def test_an_empty_batch_is_refused(processor: Processor) -> None:
    with pytest.raises(ValueError, match="empty batch"):
        processor.collate([])


def test_workers_can_have_it(processor: Processor) -> None:
    encode, collate = pickle.loads(pickle.dumps((processor.encode, processor.collate)))  # noqa: S301  (our own bytes)
    prompts: list[Prompt] = [[drawn(), "a cat"], "<grounding> two dogs"]
    there = collate(pickle.loads(pickle.dumps([encode(prompt) for prompt in prompts])))  # noqa: S301
    here = processor.collate([processor.encode(prompt) for prompt in prompts])
    assert torch.equal(there.tokens, here.tokens)
    assert there.pixels is not None
    assert here.pixels is not None
    assert torch.equal(there.pixels, here.pixels)


def test_words_and_boxes_come_back(processor: Processor) -> None:
    tokenizer = processor.tokenizer
    prompt = processor.encode([drawn(), "<grounding><phrase>a cat</phrase>"])
    answer = [*tokenizer.encode_tagged(f"<object>{''.join(CELLS)}</object> sleeps"), 2]
    assert processor.decode(answer) == "sleeps"
    grounded = processor.ground(prompt, answer)
    assert grounded is not None
    assert grounded.text == "sleeps"
    assert grounded.entities == (Entity("a cat", (0, 0), ((0.265625, 0.265625, 0.484375, 0.484375),)),)


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("<grounding> Two puppies sit in a field of grass.", "64012 1264 17772 1357 12 10 770 9 4464 4 2"),
        (
            "<grounding> <phrase> Two puppies </phrase> sit in a field of grass.",
            "64012 64007 1264 17772 64008 1357 12 10 770 9 4464 4 2",
        ),
        (
            "<grounding> <phrase> Two puppies </phrase> <object> <patch_index_0079> <patch_index_1016>"
            " </delimiter_of_multi_objects/> <patch_index_0135> <patch_index_1008> </object> sit in a field of"
            " <phrase> grass </phrase> <object> <patch_index_0480> <patch_index_1023> </object>.",
            "64012 64007 1264 17772 64008 64009 64092 65029 64011 64148 65021 64010 1357 12 10 770 9 64007 4464 64008"
            " 64009 64493 65036 64010 106 4 2",
        ),
    ],
)
def test_published_prompts(kosmos_data: Path, prompt: str, ids: str) -> None:
    published = Tokenizer(kosmos_data / "tokenizers" / "kosmos2.sentencepiece.bpe.model", specials="kosmos2")
    processor = Processor(published, config(words=65_037))
    expected = [int(id) for id in ids.split()]
    assert list(processor.encode(prompt, end_document=True).ids) == [0, *expected]
    picture = [64003, *[64003] * LATENTS, 64004]
    assert list(processor.encode([drawn(), prompt], end_document=True).ids) == [0, *picture, *expected]


def test_a_full_stop_after_a_phrase_is_the_one_the_model_was_trained_on(kosmos_data: Path) -> None:
    published = Tokenizer(kosmos_data / "tokenizers" / "kosmos2.sentencepiece.bpe.model", specials="kosmos2")
    processor = Processor(published, config(words=65_037))
    ids = processor.encode(phrase("Two puppies sit in a field of grass.", "grass", (0.0, 0.46875, 1.0, 1.0))).ids
    words = [1264, 17772, 1357, 12, 10, 770, 9]
    assert list(ids) == [0, *words, 64007, 4464, 64008, 64009, 64013 + 480, 64013 + 1023, 64010, 4]


def test_document_of_is_what_encode_applies(processor: Processor) -> None:
    prompt: Prompt = [drawn(), "<grounding> a cat"]
    assert processor.encode(prompt).ids == processor.encode(document_of(prompt)).ids
