"""The state of a run as files: tensors through torch's distributed checkpoints (DCP), plain values as JSON. No pickle.

    state/shard-00001-of-00002.safetensors   what the first of two processes wrote: tensors, or its part of each
    state/index.json                         every shard and its size
    state.json                               plain values

Each process writes what no other writes, and any number of processes reads back what each of them needs. The shards are
laid out as those of torch's HuggingFaceStorageWriter, so its tools read them; that writer itself builds a shard in
memory, twice, before its first byte, where `ShardWriter` streams tensors out of the one copy made for it.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.staging import DefaultStager
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult

from kosmos.weight_files import check_whole, read_json

__all__ = [
    "VALUES",
    "ShardWriter",
    "begin_save",
    "cause",
    "check_state",
    "plain_text",
    "read_plain",
    "read_tensors",
    "write_index",
]

STATE, INDEX, VALUES = "state", "index.json", "state.json"
SHARD = re.compile(r"shard-[0-9]{5,9}-of-[0-9]{5,9}\.safetensors")
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
MAX_VALUES_BYTES = 256 * 1024**2  # the place of thousands of ranks in their data


# ---- out ----


def begin_save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    finish: Callable[[Mapping[str, int]], None],
    *,
    group: ProcessGroup | None = None,
    stager: DefaultStager | None = None,
) -> Future[object]:
    """Copy `tensors` to the host's memory, then write them into `folder`/state from another thread.

    Args:
        finish: called on the first process, in that thread, when all have written: file names and sizes.
        group: of all processes, used by nothing else meanwhile; None when alone.
        stager: keeps the memory of the copy from one call to the next; None takes it anew.
    Returns: done when `finish` is; a failure of any process is everybody's. See `cause`.
    Raises: ValueError for a tensor of a kind that safetensors does not hold.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}, which a checkpoint does not hold")
    _allow_one_process()
    saved = async_save(
        {name: tensor.detach() for name, tensor in tensors.items()},
        storage_writer=ShardWriter(folder / STATE, finish),
        planner=DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
        process_group=group,
        async_stager=stager,
    )
    return cast("Future[object]", saved)


class ShardWriter(StorageWriter):
    """DCP's way to a disk: one safetensors file a process."""

    def __init__(self, folder: Path, finish: Callable[[Mapping[str, int]], None]) -> None:
        self._folder, self._finish = folder, finish

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing to forget: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The folder above must be there: one that vanished is not made anew."""
        self._folder.mkdir(exist_ok=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Name each process its file."""
        count = len(plans)
        return [
            replace(plan, storage_data=f"shard-{number:05d}-of-{count:05d}.safetensors")
            for number, plan in enumerate(plans, start=1)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """Write this process's file; none where others write all."""
        written: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        written.set_result(self._write(plan, planner) if plan.items else [])
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the first process, when all have written."""
        self._finish(dict(result.storage_data for results_of_one in results for result in results_of_one))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Never chosen by a name."""
        return False

    def _write(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        path = self._folder / plan.storage_data
        items = sorted(plan.items, key=lambda item: (-_dtype(item).itemsize, item.index.fqn))  # aligned, as they must
        header = _header(items)
        with path.open("xb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for item in items:
                file.write(_content(cast(Tensor, planner.resolve_data(item))))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        return [WriteResult(item.index, _num_bytes(item), (path.name, size)) for item in items]


def _header(items: Sequence[WriteItem]) -> bytes:
    """The head of a safetensors file, with DCP's note of where in the whole tensor each part begins."""
    tensors: dict[str, object] = {}
    begin = 0
    for item in items:
        end = begin + _num_bytes(item)
        shape = list(_chunk(item).sizes)
        tensors[item.index.fqn] = {"dtype": DTYPES[_dtype(item)], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    if len(tensors) < len(items):
        raise ValueError("a process holds two parts of one tensor; one file cannot hold both by the same name")
    offsets = {item.index.fqn: {"saved_offsets": list(_chunk(item).offsets)} for item in items}
    notes = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)}
    text = json.dumps({"__metadata__": notes, **tensors}).encode()
    return text + b" " * (-len(text) % 8)


def _chunk(item: WriteItem) -> ChunkStorageMetadata:
    assert item.tensor_data is not None
    return item.tensor_data.chunk


def _dtype(item: WriteItem) -> torch.dtype:
    assert item.tensor_data is not None
    return item.tensor_data.properties.dtype


def _num_bytes(item: WriteItem) -> int:
    return math.prod(_chunk(item).sizes) * _dtype(item).itemsize


def _content(tensor: Tensor) -> memoryview:
    array: np.ndarray[Any, Any] = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array.data


def write_index(folder: Path, shards: Mapping[str, int]) -> None:
    """Note which shards make the state of `folder`, and their sizes: the last file of it."""
    (folder / STATE / INDEX).write_text(json.dumps({"shards": dict(sorted(shards.items()))}, indent=2) + "\n", "utf-8")


def plain_text(values: Mapping[str, object]) -> str:
    """Plain values as the JSON that gives back exactly them.

    Raises: ValueError that names one that is not plain.
    """
    _check_plain(dict(values), "")
    return json.dumps(values) + "\n"


def _check_plain(value: object, place: str) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            if type(key) is not str:
                raise ValueError(f"state {place or 'values'}: key {key!r} is no text, so JSON would change it")
            _check_plain(part, f"{place}.{key}" if place else key)
    elif type(value) is list:
        for number, part in enumerate(value):
            _check_plain(part, f"{place}[{number}]")
    elif type(value) is float and not math.isfinite(value):
        raise ValueError(f"state {place} is {value}, which JSON has not")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise ValueError(
            f"state {place} is a {type(value).__name__}; plain are dict, list, str, int, float, bool, None"
        )


# ---- in ----


def check_state(folder: Path) -> None:
    """Raises: ValueError if the state of a step is not there or a file of it is missing, cut off or broken."""
    read_plain(folder)
    path = folder / STATE / INDEX
    sizes = read_json(path).get("shards")
    if not isinstance(sizes, dict):
        raise ValueError(f"{path} names no shards")
    there = {shard.name: shard.stat().st_size for shard in (folder / STATE).glob("*.safetensors")}
    wrong = sorted(name for name in {*sizes, *there} if not SHARD.fullmatch(name) or sizes.get(name) != there.get(name))
    if wrong:
        name = wrong[0]
        found, noted = there.get(name, "no"), sizes.get(name, "none")
        raise ValueError(f"{folder / STATE / name} has {found} bytes and {path} says {noted}")
    check_whole(folder / STATE / name for name in there)


def read_plain(folder: Path) -> dict[str, object]:
    """The plain values of a step. Raises: ValueError if there are none."""
    return read_json(folder / VALUES, max_bytes=MAX_VALUES_BYTES)


def read_tensors(folder: Path, tensors: Mapping[str, Tensor], *, group: ProcessGroup | None = None) -> None:
    """Fill `tensors` in place from the state of a step, however many processes wrote it.

    Args:
        tensors: plain or DTensors, the same names on all processes.
    Raises: ValueError if the state is damaged, or has other names, shapes or dtypes: how many, and the first three.
    """
    check_state(folder)
    reader = HuggingFaceStorageReader(str(folder / STATE))
    _check_same(folder, reader.read_metadata(), tensors)
    _allow_one_process()
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        load(dict(tensors), storage_reader=reader, planner=planner, process_group=group)
    except CheckpointException as failed:
        raise ValueError(f"{folder / STATE} cannot be read: {cause(failed)}") from failed


def _check_same(folder: Path, metadata: Metadata, tensors: Mapping[str, Tensor]) -> None:
    stored = {name: _described(found) for name, found in metadata.state_dict_metadata.items()}
    wanted = {name: f"{tuple(tensor.shape)} {DTYPES.get(tensor.dtype)}" for name, tensor in tensors.items()}
    differ = sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))
    if differ:
        missing = "not there"
        named = [f"{name} is {stored.get(name, missing)}, here {wanted.get(name, missing)}" for name in differ[:3]]
        more = "; ..." if len(differ) > 3 else ""
        raise ValueError(
            f"{folder} is of another shape: {len(differ)} tensors differ from this run's: {'; '.join(named)}{more}"
        )


def _described(found: object) -> str:
    assert isinstance(found, TensorStorageMetadata)  # safetensors hold nothing else
    stored, whole = sum(math.prod(chunk.sizes) for chunk in found.chunks), math.prod(found.size)
    return f"{tuple(found.size)} {DTYPES.get(found.properties.dtype)}" + ("" if stored == whole else " in part")


def cause(error: BaseException) -> BaseException:
    """What went wrong on the process where it did, rather than DCP's account of all of them."""
    if isinstance(error, CheckpointException):
        for failure, _ in error.failures.values():
            return failure
    return error


def _allow_one_process() -> None:
    # DCP warns, from its own thread, of each checkpoint of a run that has no process group; one process is no mistake.
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
