"""Tensors and plain values come back to the last bit; a state that is damaged or does not fit says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from kosmos.training import training_state
from kosmos.training.training_state import (
    begin_save,
    check_state,
    plain_text,
    read_plain,
    read_tensors,
    write_index,
)


def state() -> dict[str, Tensor]:
    """One tensor of each kind that a run keeps."""
    torch.manual_seed(3)
    return {
        "weights.matrix": nn.Parameter(torch.randn(5, 7)),
        "weights.turned": torch.randn(4, 6).t(),
        "weights.part": torch.randn(10, 3)[2:5],
        "average.half": torch.randn(9).bfloat16(),
        "optimiser.step": torch.tensor(41.0),
        "optimiser.empty": torch.empty(0, 3),
        "random": torch.get_rng_state(),
        "places": torch.arange(6).view(2, 3),
        "flags": torch.tensor([True, False, True]),
    }


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text(plain_text({"step": 7}))
    begin_save(folder, tensors, lambda shards: write_index(folder, shards)).result()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "step", state())
    return tmp_path / "step"


# ---- there and back ----


def test_tensors_of_every_kind_come_back_to_the_last_bit(folder: Path) -> None:
    check_state(folder)
    found = {name: torch.ones_like(tensor) for name, tensor in state().items()}
    places = {name: tensor.data_ptr() for name, tensor in found.items()}
    read_tensors(folder, found)
    for name, tensor in state().items():
        assert torch.equal(found[name], tensor), name
        assert found[name].data_ptr() == places[name], "filled in place"


def test_the_files_are_safetensors_that_anybody_reads(folder: Path) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["state.json", "state/index.json", "state/shard-00001-of-00001.safetensors"]
    with safe_open(folder / names[2], framework="pt") as file:
        assert set(file.keys()) == set(state())
        for name, tensor in state().items():
            assert torch.equal(file.get_tensor(name), tensor)


def test_what_is_written_is_what_was_there_at_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, header = threading.Event(), training_state._header
    monkeypatch.setattr(training_state, "_header", lambda items: changed.wait() and header(items))
    tensors = {"weights": torch.zeros(4)}
    saved = begin_save(tmp_path, tensors, lambda shards: None)
    tensors["weights"].fill_(1.0)
    changed.set()
    saved.result()
    with safe_open(tmp_path / "state" / "shard-00001-of-00001.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("weights"), torch.zeros(4))


def test_a_kind_of_tensor_that_no_file_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"waves is torch.complex64, which a checkpoint does not hold"):
        begin_save(tmp_path, {"waves": torch.zeros(2, dtype=torch.complex64)}, lambda shards: None)


PEAK = """
import sys, torch
from pathlib import Path
from kosmos.training.training_state import begin_save
def peak():  # of this program; getrusage also counts the process that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
small = {"warm": torch.ones(8)}
folder = Path(sys.argv[1])
(folder / "warm").mkdir(), (folder / "large").mkdir()
begin_save(folder / "warm", small, lambda shards: None).result()
tensors = {f"weights.{i}": torch.ones(2**21) for i in range(32)}
size, before = sum(t.nbytes for t in tensors.values()), peak()
begin_save(folder / "large", tensors, lambda shards: None).result()
print((peak() - before) / size)
"""


@pytest.mark.slow
def test_saving_takes_the_memory_of_one_copy(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.2


# ---- plain values ----

KEYS = st.text(max_size=8)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
    | st.text(max_size=20),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(KEYS, parts, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, PLAIN, max_size=5))
def test_plain_values_come_back_as_they_were(values: dict[str, object]) -> None:
    found = json.loads(plain_text(values))
    assert found == values
    assert repr(found) == repr(values), "types too: 1 is not 1.0, nor True"


@pytest.mark.parametrize(
    "values, place",
    [
        ({"batches": {"caption": [1, (2, 3)]}}, r"batches\.caption\[1\] is a tuple"),
        ({"lanes": {3: "x"}}, "lanes: key 3 is no text"),
        ({"loss": float("nan")}, "loss is nan"),
        ({"loss": [float("inf")]}, r"loss\[0\] is inf"),
        ({"weights": torch.ones(2)}, "weights is a Tensor"),
    ],
)
def test_values_that_are_not_plain_are_refused_by_place(values: dict[str, object], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        plain_text(values)


# ---- what does not fit ----


def test_a_state_of_another_shape_names_the_tensors_that_differ(folder: Path) -> None:
    wanted = {name: torch.zeros_like(tensor) for name, tensor in state().items()}
    wanted["weights.matrix"] = torch.zeros(5, 8)
    wanted["average.half"] = torch.zeros(9)
    wanted["lora.down"] = torch.zeros(2)
    del wanted["places"]
    with pytest.raises(ValueError, match="4 tensors differ from this run's") as refused:
        read_tensors(folder, wanted)
    message = str(refused.value)
    assert str(folder) in message
    assert "average.half is (9,) BF16, here (9,) F32" in message
    assert "lora.down is not there, here (2,) F32" in message
    assert "places is (2, 3) I64, here not there; ..." in message
    assert all(not tensor.any() for tensor in wanted.values()), "nothing was filled"


# ---- what is damaged ----


def shard_of(folder: Path) -> Path:
    return folder / "state" / "shard-00001-of-00001.safetensors"


def test_a_shard_that_is_cut_off_lost_or_strange_is_found(folder: Path) -> None:
    shard = shard_of(folder)
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"{shard.name} has {len(content) - 1} bytes and .* says {len(content)}"):
        check_state(folder)
    with pytest.raises(ValueError, match=r"has .* bytes"):
        read_tensors(folder, state())
    shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard.name} has no bytes"):
        check_state(folder)
    shard.write_bytes(b"\xff" * len(content))
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        check_state(folder)
    shard.write_bytes(content)
    check_state(folder)
    (folder / "state" / "more.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"more\.safetensors has .* says none"):
        check_state(folder)


@pytest.mark.parametrize("name", ["state.json", "state/index.json"])
@pytest.mark.parametrize("content", [None, "", "[]", '{"shards": '])
def test_a_broken_or_missing_list_is_found(folder: Path, name: str, content: str | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        check_state(folder)


@pytest.mark.parametrize("content", ['{"shards": []}', "{}", '{"shards": {}}'])
def test_an_index_without_the_shards_that_are_there_is_refused(folder: Path, content: str) -> None:
    (folder / "state" / "index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json"):
        check_state(folder)


def test_an_index_that_names_files_elsewhere_is_refused(folder: Path) -> None:
    (folder / "state" / "index.json").write_text(json.dumps({"shards": {"../../other.safetensors": 8}}))
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        check_state(folder)


def test_plain_values_are_read_alone(folder: Path) -> None:
    assert read_plain(folder) == {"step": 7}
