"""Moving weights to large pages changes where they lie and nothing else."""

import subprocess
import sys

import torch
from torch import nn

from kosmos.transformer.kernels.memory import PAGE_BYTES, use_large_pages


def test_large_tensors_move_with_their_values_and_ties_and_small_ones_stay() -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"embedding": nn.Embedding(1100, 512), "head": nn.Linear(512, 1100)})
    module["head"].weight = module["embedding"].weight
    table, bias = module["head"].weight.detach().clone(), module["head"].bias.data_ptr()
    use_large_pages(module)
    assert module["head"].weight is module["embedding"].weight
    assert torch.equal(module["head"].weight, table)
    assert module["head"].bias.data_ptr() == bias
    assert module["head"].weight.data_ptr() % PAGE_BYTES == 0


def test_moved_weights_still_learn() -> None:
    module = nn.Linear(1024, 1024)
    use_large_pages(module)
    module(torch.ones(1, 1024)).sum().backward()
    assert module.weight.grad is not None
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    assert torch.isfinite(module.weight).all()


def test_freed_memory_is_written_again_without_new_pages() -> None:
    """A step of three tensors of 64 MB each, after some to warm up."""
    script = (
        "import resource, sys, torch\n"
        "from kosmos.transformer.kernels.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': keep_freed_memory()\n"
        "for _ in range(5):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    kept = [torch.ones(1 << 24) for _ in range(3)]\n"
        "    del kept\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    taken = {
        way: int(subprocess.run([sys.executable, "-c", script, way], capture_output=True, check=True).stdout)
        for way in ("keep", "give back")
    }
    assert taken["keep"] < taken["give back"] / 4
