"""A mixture means what Energon's reader makes of the same YAML; what it cannot mean is refused with its place."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from data_pipelines.mixture import Component, Mixture, mixture_of, read_mixture
from data_pipelines.shard import ShardWriter
from text.document import Document, Text

HEAD = "__module__: megatron.energon\n__class__: MetadatasetV2\n"


def written(path: Path, train: str) -> Path:
    """A mixture file whose split `train` is the YAML `train` (indented by four)."""
    path.write_text(f"{HEAD}splits:\n  train:\n" + "\n".join("    " + line for line in train.splitlines()) + "\n")
    return path


def shares(mixture: Mixture) -> dict[str, float]:
    return {component.name: component.weight for component in mixture.components}


def test_weights_become_shares_and_paths_are_seen_from_the_file(tmp_path: Path) -> None:
    train = "blend:\n- {weight: 3, path: web}\n- {path: 'pairs-{0..1}.tar', subset: {range: [0%, 90%]}}"
    mixture = read_mixture(written(tmp_path / "m.yaml", train))
    assert mixture.by == "document"
    assert mixture.components == (
        Component(name="web", shards=(str(tmp_path / "web"),), weight=0.75),
        Component(name="pairs-{0..1}.tar", shards=(str(tmp_path / "pairs-{0..1}.tar"),), weight=0.25, subset=(0, 0.9)),
    )


@pytest.mark.parametrize(
    ("train", "by", "weights"),
    [
        ("by: token\nblend: [{path: a}, {path: b, weight: 4}]", "token", [0.2, 0.8]),
        ("blend_epochized: [{path: a, repetitions: 2}, {path: b, repetitions: 0.5}]", "epoch", [2, 0.5]),
        ("path: a", "document", [1]),
    ],
)
def test_weights_count_documents_tokens_or_epochs(tmp_path: Path, train: str, by: str, weights: list[float]) -> None:
    mixture = read_mixture(written(tmp_path / "m.yaml", train))
    assert mixture.by == by
    assert [part.weight for part in mixture.components] == pytest.approx(weights)


def test_a_mixture_in_a_mixture_multiplies_weights_and_narrows_subsets(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    inner = "subset: {range: [0%, 50%]}\nblend: [{path: a, weight: 3}, {path: ../b, weight: 1}]"
    written(tmp_path / "in" / "inner.yaml", inner)
    outer = "blend: [{path: in/inner.yaml, weight: 4, subset: {range: [50%, end]}}, {path: a, weight: 4}]"
    mixture = read_mixture(written(tmp_path / "outer.yaml", outer))
    assert shares(mixture) == pytest.approx({"a": 0.375, "../b": 0.125, "a#2": 0.5})
    assert mixture.components[0].subset == (0.25, 0.5)
    assert [Path(part.shards[0]).resolve() for part in mixture.components] == [
        tmp_path / "in" / "a",
        tmp_path / "b",
        tmp_path / "a",
    ]


def test_addresses_and_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    mixture = read_mixture(written(tmp_path / "m.yaml", "blend: [{path: 's3://bucket/web'}, {path: /data/pairs}]"))
    assert [part.shards for part in mixture.components] == [("s3://bucket/web",), ("/data/pairs",)]


def test_subsets_side_by_side_share_no_document_and_lose_none() -> None:
    ends = (0.0, 0.33, 0.5, 0.77, 1.0)
    parts = [Component(name="a", shards=("a",), subset=pair) for pair in pairwise(ends)]
    assert [number for part in parts for number in part.documents(101)] == list(range(101))


def test_a_list_of_shards_is_a_mixture_of_one() -> None:
    (only,) = mixture_of(["a-{0..3}.tar", "b"]).components
    assert (only.shards, only.weight, only.subset) == (("a-{0..3}.tar", "b"), 1.0, (0.0, 1.0))


def prepared(folder: Path, split: str) -> Path:
    (folder / ".nv-meta").mkdir(parents=True)
    (folder / ".nv-meta" / "split.yaml").write_text(split)
    return folder


def test_a_folder_prepared_for_energon_gives_the_shards_of_its_split(tmp_path: Path) -> None:
    prepared(tmp_path / "web", "split_parts: {train: ['w-{0..2}.tar'], val: [v.tar]}\nexclude: [w-1.tar]")
    train = "blend: [{path: web}, {path: web, split_part: val}]"
    first, second = read_mixture(written(tmp_path / "m.yaml", train)).components
    assert [Path(shard).name for shard in first.shards] == ["w-0.tar", "w-2.tar"]
    assert [Path(shard).name for shard in second.shards] == ["v.tar"]


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ("split_parts: {val: [a.tar]}", "has no split 'train'; it has val"),
        ("split_parts: {train: [../../other.tar]}", "lies outside the folder"),
        ("split_parts: {train: [/etc/other.tar]}", "lies outside the folder"),
        ("split_parts: {train: [a.tar]}\nexclude: [a.tar/17]", "single samples"),
        ("split_parts: {train: [a.tar]}\nexclude: [a.tar]", "leaves no shard"),
    ],
)
def test_a_prepared_folder_is_not_believed_blindly(tmp_path: Path, split: str, told: str) -> None:
    prepared(tmp_path / "web", split)
    with pytest.raises(ValueError, match=told):
        read_mixture(written(tmp_path / "m.yaml", "path: web"))


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ("blend: [{path: a, wieght: 3}]", r"train\.blend\[0\]: unknown key 'wieght'; did you mean `weight`\?"),
        ("blend: [{path: a, weight: 0}]", r"blend\[0\]\.weight is '0'; give a number above 0"),
        ("blend: [{path: a, weight: .inf}]", "give a number above 0"),
        ("blend: [{path: a, weight: .nan}]", "give a number above 0"),
        ("blend: [{path: a, weight: true}]", "give a number above 0"),
        ("blend: [{weight: 1}]", "path is missing"),
        ("blend: []", "at least one entry"),
        ("join: [{path: a}, {path: b}]", "joins of data sets are not read"),
        ("blend: [{join: [{path: a}]}]", "joins of data sets are not read"),
        ("by: word\nblend: [{path: a}]", "`document` or `token`"),
        ("by: token\nblend_epochized: [{path: a}]", "goes with `blend`"),
        ("blend: [{path: a}]\nblend_epochized: [{path: a}]", "unknown key 'blend_epochized'"),
        ("blend: [{path: a, subset: {range: [0, 100]}}]", "give percentages"),
        ("blend: [{path: a, subset: {range: [50%, 20%]}}]", "give the smaller first"),
        ("blend: [{path: a, subset: {range: [50%, 120%]}}]", "give percentages"),
        ("blend: [{path: a, repetitions: 2}]", "unknown key 'repetitions'"),
        ("blend: [{path: 's3://bucket/other.yaml'}]", "copy the mixture here"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
        ("blend: " + "[" * 5000, "is no YAML"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(tmp_path: Path, train: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_mixture(written(tmp_path / "m.yaml", train))


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    path = written(tmp_path / "m.yaml", "path: a")
    with pytest.raises(ValueError, match="no split 'val'; it has train"):
        read_mixture(path, "val")


def test_mixtures_that_refer_to_each_other_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a.yaml", "blend: [{path: b.yaml}]")
    written(tmp_path / "b.yaml", "blend: [{path: a.yaml}]")
    with pytest.raises(ValueError, match=r"a\.yaml refers to itself through b\.yaml"):
        read_mixture(tmp_path / "a.yaml")


def test_documents_and_epochs_are_not_blended_into_each_other(tmp_path: Path) -> None:
    written(tmp_path / "epochs.yaml", "blend_epochized: [{path: a, repetitions: 2}]")
    with pytest.raises(ValueError, match="by epoch cannot be part of one by document"):
        read_mixture(written(tmp_path / "m.yaml", "blend: [{path: epochs.yaml}]"))


def test_a_small_file_cannot_grow_into_millions_of_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.mixture.MAX_COMPONENTS", 100)
    for level in range(4):
        below = f"level{level - 1}.yaml" if level else "leaf"
        written(tmp_path / f"level{level}.yaml", "blend: [" + ", ".join([f"{{path: {below}}}"] * 9) + "]")
    with pytest.raises(ValueError, match="more than 100 components"):
        read_mixture(tmp_path / "level3.yaml")


def _energon_folder(folder: Path, documents: int) -> None:
    with ShardWriter(folder / "s-0.tar") as writer:
        for number in range(documents):
            writer.write(f"{folder.name}-{number:03d}", Document((Text(f"words {number}"),)))
    meta = folder / ".nv-meta"
    meta.mkdir()
    (meta / ".info.json").write_text(f'{{"energon_version": "7.4.1", "shard_counts": {{"s-0.tar": {documents}}}}}')
    (meta / "split.yaml").write_text("split_parts: {train: [s-0.tar]}\nexclude: []\n")
    (meta / "dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")


@pytest.mark.slow
def test_energon_reads_the_same_file_the_same_way(tmp_path: Path) -> None:
    energon = pytest.importorskip(
        "megatron.energon", reason="megatron-energon is not installed: its reader was not asked"
    )
    from megatron.energon.epathlib import EPath
    from megatron.energon.metadataset.loader import load_dataset

    for name, documents in (("web", 40), ("pairs", 10)):
        _energon_folder(tmp_path / name, documents)
    written(tmp_path / "inner.yaml", "blend: [{path: web, weight: 1}, {path: pairs, weight: 3}]")
    train = "blend:\n- {path: inner.yaml, weight: 3, subset: {range: [50%, 100%]}}\n- {path: web, weight: 1}"
    path = written(tmp_path / "m.yaml", train)

    theirs = load_dataset(EPath(str(path))).get_datasets(
        training=True, split_part="train", worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0)
    )
    ours = read_mixture(path)
    assert [part.weight for part in ours.components] == pytest.approx([one.weight for one in theirs.datasets])
    assert [tuple(part.subset) for part in ours.components[:2]] == [
        tuple(one.dataset.subset.range) for one in theirs.datasets[:2]
    ]
