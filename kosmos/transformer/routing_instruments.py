"""Instruments of routing: how collapsed, how restless, how repeatable and how even it is.

Source: X-MoE (arXiv 2204.09179, section 4.5, equation 10); within and between covariances as in neural collapse (arXiv
2008.08186). Pure functions of recorded routings. Legend: R rows, D width, E experts, M runs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["inter_run_consistency", "load_entropy", "representation_collapse", "routing_fluctuation"]

PINV_CUTOFF = 1e-6  # of the largest singular value; smaller ones count as 0, always alike, so that figures compare


def representation_collapse(hidden_RD: Tensor, experts_R: Tensor) -> float:
    """RC = Tr(Sigma_W Sigma_B^+); smaller is more collapsed.

    Args:
        hidden_RD: what the router was given.
        experts_R: int, the expert each row went to; experts without rows do not count.
    Raises: ValueError if fewer than two experts have rows.
    """
    hidden_RD = hidden_RD.double()
    classes, members_R = torch.unique(experts_R, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"rows went to {len(classes)} experts; between-class covariance needs 2, so record more rows")
    sizes_E = torch.bincount(members_R).double()
    sums_ED = hidden_RD.new_zeros(len(classes), hidden_RD.shape[1]).index_add_(0, members_R, hidden_RD)
    means_ED = sums_ED / sizes_E[:, None]
    inner_RD = hidden_RD - means_ED[members_R]
    outer_ED = means_ED - hidden_RD.mean(0)
    within_DD = inner_RD.T @ inner_RD / len(hidden_RD)
    between_DD = outer_ED.T @ outer_ED / len(classes)
    return float(torch.trace(within_DD @ torch.linalg.pinv(between_DD, rtol=PINV_CUTOFF, hermitian=True)))


def routing_fluctuation(before_R: Tensor, after_R: Tensor) -> float:
    """RF: share of rows whose expert differs between two checkpoints; lower is calmer.

    Raises: ValueError if the rows are not the same ones.
    """
    if before_R.shape != after_R.shape or not before_R.numel():
        raise ValueError(f"{tuple(before_R.shape)} and {tuple(after_R.shape)} rows; route the same rows twice")
    return float((before_R != after_R).double().mean())


def inter_run_consistency(loads_ME: Tensor) -> float:
    """IC = (1/m^2) sum_ij rho(l_i, l_j), Pearson's correlation of the expert loads of runs; the diagonal counts.

    Raises: ValueError if a run loads all its experts alike, for which there is no correlation.
    """
    loads_ME = loads_ME.double()
    apart_ME = loads_ME - loads_ME.mean(1, keepdim=True)
    lengths_M = apart_ME.norm(dim=1)
    if not bool((lengths_M > 0).all()):
        raise ValueError(
            f"run {int(lengths_M.argmin())} loads all experts alike; correlation is undefined, leave it out"
        )
    unit_ME = apart_ME / lengths_M[:, None]
    return float((unit_ME @ unit_ME.T).mean())


def load_entropy(loads_E: Tensor) -> float:
    """Entropy of the load over log E: 1 where experts share evenly, 0 where one takes all.

    Raises: ValueError if there are no rows or fewer than two experts.
    """
    total = float(loads_E.sum())
    if not total or len(loads_E) < 2:
        raise ValueError(f"{total:.0f} rows over {len(loads_E)} experts; give at least one row and two experts")
    shares_E = loads_E.double() / total
    return float(torch.special.entr(shares_E).sum()) / math.log(len(loads_E))
