"""Moving weights to large pages changes where they lie and nothing else."""

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
