"""A real Ray cluster of two nodes on this machine: the bytes of one process, also when a node dies on the way."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.execution import Execution, run_tasks
from data_pipelines.report import Report
from tests.conftest import REPOSITORY
from tests.data_pipelines.copying import Copy, copies, copy_shard, run_copies, write_sources
from tests.data_pipelines.test_execution import contents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STORE_BYTES = 80 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each, and a head that has none: a node can die and the cluster stays."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # A socket's path may have 107 bytes, too few for pytest's own folders.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        Path(folder, "ray").mkdir()
        nodes = Cluster()
        try:
            head = {"include_dashboard": False, "temp_dir": f"{folder}/ray"}
            nodes.add_node(num_cpus=0, object_store_memory=STORE_BYTES, **head)
            patch.setenv("RAY_ADDRESS", nodes.address)
            for _ in range(2):
                nodes.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
            nodes.wait_for_nodes()
            yield nodes
        finally:
            nodes.shutdown()


def test_a_cluster_gives_the_bytes_of_one_process(cluster: Any, tmp_path: Path) -> None:
    sources = write_sources(tmp_path / "sources")
    here = run_copies(sources, tmp_path / "here")
    heard: list[int] = []
    told = Execution(engine="ray", workers=2, told=lambda done, tasks, report: heard.append(done))
    there = run_copies(sources, tmp_path / "there", told)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert there == here
    assert heard == [1, 2, 3, 4, 5, 6]


@dataclass(frozen=True)
class Fragile:
    """A copy that, the first time it runs, says where it does so and waits for the end of its node."""

    copy: Copy
    first_time: Path | None = None
    node_of: Path = Path()


def copy_on_a_dying_node(task: Fragile) -> Report:
    import ray

    if task.first_time is not None and not task.first_time.exists():
        task.first_time.touch()
        task.node_of.write_text(ray.get_runtime_context().get_node_id())
        signal.pause()
    return copy_shard(task.copy)


def test_a_node_that_dies_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    sources, out, node_of = write_sources(tmp_path / "sources"), tmp_path / "there", tmp_path / "node"
    os.mkfifo(node_of)
    here = run_copies(sources, tmp_path / "here")
    tasks = {name: Fragile(copy) for name, copy in copies(sources, out).items()}
    tasks["source-001"] = Fragile(tasks["source-001"].copy, tmp_path / "first time", node_of)

    def kill() -> None:
        dying = node_of.read_text()
        (node,) = (node for node in cluster.worker_nodes if node.node_id == dying)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    job = {"sources": str(sources)}
    there = run_tasks(copy_on_a_dying_node, tasks, out, job=job, execution=Execution(engine="ray", workers=2))
    killer.join()
    assert len(cluster.worker_nodes) == 1
    assert contents(out) == contents(tmp_path / "here")
    assert there == here
