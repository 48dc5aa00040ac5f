"""From files as people have them to what a loss is asked for: captions, questions, places, instructions.

Each goes the whole way: `kosmos data create`, the shard on disk, the processor that training uses.
Sources: Kosmos-1 (arXiv 2302.14045, sections 3.2 and 3.3), Kosmos-2 (arXiv 2306.14824, section 3.2, table 9).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.shard import open_shard
from kosmos.cli.main import main
from kosmos.processor import Encoded, Processor
from tests.data_pipelines.sources.piles import photo, put, put_lines
from tests.models import small_config
from text.tokenizer import Tokenizer

LATENTS = 4  # a picture's rows in the small model


@pytest.fixture(scope="module")
def processor(small_tokenizer: Tokenizer) -> Processor:
    """Of the small model with Kosmos-2's tokens; pictures stay closed, as in training."""
    return Processor(small_tokenizer, small_config(small_tokenizer), pictures="late")


def _encoded(processor: Processor, source: Path, *flags: str) -> list[Encoded]:
    """What training would read of a source."""
    out = source.parent / f"shards-of-{source.stem}"
    assert main(["data", "create", str(source), str(out), *flags]) == 0
    with open_shard(str(out / "documents-000000.tar")) as shard:
        return [processor.encode_whole(sample.document()) for sample in shard]


def _learnt(rows: Encoded) -> list[int]:
    """Ids whose prediction the loss counts; it counts each whole or not at all."""
    assert set(rows.loss_weights) <= {0.0, 1.0}
    return [id for id, weight in zip(rows.ids, rows.loss_weights, strict=True) if weight]


def _read(rows: Encoded) -> list[int]:
    """Ids that are given."""
    return [id for id, weight in zip(rows.ids, rows.loss_weights, strict=True) if not weight]


def _picture(words: Tokenizer) -> list[int]:
    return [words.bos_id, *[words.image_id] * (1 + LATENTS), words.end_image_id]


def _place(words: Tokenizer, phrase: str, *cells: str) -> list[int]:
    """A phrase in its tags with the corners of one place."""
    pair = [words.id_of(f"<patch_index_{cell}>") for cell in cells]
    return [
        *(words.id_of("<phrase>"), *words.encode(phrase), words.id_of("</phrase>")),
        *(words.id_of("<object>"), *pair, words.id_of("</object>")),
    ]


def _folder(tmp_path: Path) -> Path:
    put(tmp_path / "photos" / "a.jpg", photo(1))
    put(tmp_path / "photos" / "b.jpg", photo(2))
    return tmp_path / "photos"


def test_a_caption_is_learnt_from_its_first_word_to_the_end_and_its_picture_is_not(
    processor: Processor, tmp_path: Path
) -> None:
    folder, words = _folder(tmp_path), processor.tokenizer
    put_lines(folder / "metadata.jsonl", [{"file_name": "a.jpg", "text": "A dog runs on the beach."}])
    (rows,) = _encoded(processor, folder)
    assert _read(rows) == _picture(words)
    assert _learnt(rows) == [*words.encode("A dog runs on the beach."), words.eos_id]
    assert len(rows.images) == 1


def test_a_folder_of_pictures_with_text_files_is_as_good(processor: Processor, tmp_path: Path) -> None:
    folder, words = _folder(tmp_path), processor.tokenizer
    put(folder / "a.txt", "A dog runs.")
    put(folder / "b.txt", "A cat sleeps.")
    dog, cat = _encoded(processor, folder)
    assert _learnt(dog) == [*words.encode("A dog runs."), words.eos_id]
    assert _learnt(cat) == [*words.encode("A cat sleeps."), words.eos_id]


def test_of_questions_the_answers_alone_are_learnt(processor: Processor, tmp_path: Path) -> None:
    folder, words = _folder(tmp_path), processor.tokenizer
    put_lines(folder / "vqa.jsonl", [{"image": "a.jpg", "question": "Who runs?", "answer": "a dog"}])
    (rows,) = _encoded(processor, folder / "vqa.jsonl")
    assert _read(rows) == [*_picture(words), *words.encode("Question: Who runs? Answer:")]
    assert _learnt(rows) == [*words.encode("a dog"), words.eos_id]


def test_of_a_chat_about_a_picture_the_answers_alone_are_learnt(processor: Processor, tmp_path: Path) -> None:
    folder, words = _folder(tmp_path), processor.tokenizer
    turns = [("human", "<image>\nWho runs?"), ("gpt", "A dog."), ("human", "Where?"), ("gpt", "On the beach.")]
    chat = [{"from": who, "value": said} for who, said in turns]
    put(folder / "llava.json", [{"id": "1", "image": "a.jpg", "conversations": chat}])
    (rows,) = _encoded(processor, folder / "llava.json")
    assert _read(rows) == [*_picture(words), *words.encode("Who runs?"), *words.encode("Where?")]
    assert _learnt(rows) == [*words.encode("A dog."), *words.encode("On the beach."), words.eos_id]


def test_of_an_instruction_the_outcome_alone_is_learnt(processor: Processor, tmp_path: Path) -> None:
    words = processor.tokenizer
    triplet = {"instruction": "Say where the dog is.", "input": "A dog on the beach.", "output": "on the beach"}
    (rows,) = _encoded(processor, put(tmp_path / "alpaca.json", [triplet]))
    assert _read(rows) == [words.bos_id, *words.encode("Say where the dog is.\nA dog on the beach.")]
    assert _learnt(rows) == [*words.encode("on the beach"), words.eos_id]
    assert rows.images == ()


def test_places_of_coco_are_learnt_with_their_names_and_tags(processor: Processor, tmp_path: Path) -> None:
    folder, words = _folder(tmp_path), processor.tokenizer
    coco = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 120, "height": 80}],
        "annotations": [{"image_id": 7, "category_id": 18, "bbox": [0, 0, 60, 40], "iscrowd": 0}],
        "categories": [{"id": 18, "name": "dog"}],
    }
    (rows,) = _encoded(processor, put(folder / "instances.json", coco))
    assert _read(rows) == _picture(words)
    # The training quantiser puts a corner that lies on a line of the grid into the cell after it.
    grounded = [words.id_of("<grounding>"), *_place(words, "dog", "0000", "0528")]
    assert _learnt(rows) == [*grounded, words.eos_id]


def test_phrases_of_grit_are_learnt_within_their_caption(processor: Processor, tmp_path: Path) -> None:
    folder, words = _folder(tmp_path), processor.tokenizer
    record = {"image": "a.jpg", "caption": "A dog runs", "ref_exps": [[0, 5, 0.0, 0.0, 1.0, 1.0, 0.9]]}
    (rows,) = _encoded(processor, put_lines(folder / "grit.jsonl", [record]))
    assert _read(rows) == _picture(words)
    grounded = [words.id_of("<grounding>"), *_place(words, "A dog", "0000", "1023")]
    assert _learnt(rows) == [*grounded, *words.encode("runs"), words.eos_id]


def test_sentences_of_flickr30k_entities_are_learnt_with_their_places(processor: Processor, tmp_path: Path) -> None:
    folder, words = _folder(tmp_path), processor.tokenizer
    box = "<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>120</xmax><ymax>80</ymax></bndbox>"
    size = "<size><width>120</width><height>80</height></size>"
    put(
        tmp_path / "set" / "Annotations" / "a.xml",
        f"<annotation>{size}<object><name>5</name>{box}</object></annotation>",
    )
    put(tmp_path / "set" / "Sentences" / "a.txt", "[/EN#5/animals A dog] runs on [/EN#6/scene the beach]\n")
    (rows,) = _encoded(processor, tmp_path / "set", "--images", str(folder), "--verbatim")
    assert _read(rows) == _picture(words)
    grounded = [words.id_of("<grounding>"), *_place(words, "A dog", "0000", "1023")]
    assert _learnt(rows) == [*grounded, *words.encode("runs on the beach"), words.eos_id]


def test_a_place_that_is_asked_about_is_given_and_what_is_there_is_learnt(processor: Processor, tmp_path: Path) -> None:
    folder, words = _folder(tmp_path), processor.tokenizer
    asked = {"text": "What is it?", "loss": False, "phrases": [{"start": 8, "end": 10, "boxes": [[0, 0, 1, 1]]}]}
    segments = [{"image": "a.jpg"}, {"control": "<grounding>"}, asked, {"text": "It is a dog."}]
    (rows,) = _encoded(processor, put_lines(folder / "refer.jsonl", [{"segments": segments}]))
    pieces = words.encode("What is it?")
    assert _learnt(rows) == [*words.encode("It is a dog."), words.eos_id]
    assert words.id_of("<patch_index_1023>") in _read(rows)
    assert [id for id in _read(rows) if id in pieces] == pieces
