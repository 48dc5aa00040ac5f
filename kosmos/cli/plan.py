"""`kosmos plan`: what training a model takes, before anything is bought: parameters, FLOPs, memory, days."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kosmos.config import KosmosConfig
    from kosmos.training.planning.activations import Load
    from kosmos.training.planning.plan import Plan

__all__ = ["add_arguments", "run"]

GPU_NAMES = ("a100", "h100", "h200", "b200", "mi300x")
SHARDING_NAMES = ("ddp", "fsdp", "hsdp", "tp2", "tp4", "tp8")
CHECKPOINTING_NAMES = ("none", "selective", "full")
MOST = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare arguments; nothing heavy is imported."""
    parser.add_argument("preset", help="tiny, base, kosmos1, kosmos2, or a checkpoint folder")
    parser.add_argument("--gpus", type=_count, default=1, metavar="N", help="devices (1)")
    parser.add_argument("--gpu", choices=GPU_NAMES, default="h100", help="kind of device (h100)")
    parser.add_argument("--sharding", choices=SHARDING_NAMES, help="must fit so, else exit 1 (only show all)")
    parser.add_argument("--checkpointing", choices=CHECKPOINTING_NAMES, default="none", help="of activations (none)")
    parser.add_argument("--micro-batch", type=_count, default=1, help="sequences a device computes at once (1)")
    parser.add_argument(
        "--sequence-length", type=_count, metavar="ROWS", help="words and latents (the model's longest)"
    )
    parser.add_argument("--pictures", type=_count_or_zero, help="of a sequence (as many as in the paper's batches)")
    parser.add_argument(
        "--precision", choices=("bfloat16", "float32"), default="bfloat16", help="of products (bfloat16)"
    )
    parser.add_argument("--whole-logits", action="store_true", help="logits of a micro-batch at once, not in chunks")
    parser.add_argument("--average", action="store_true", help="a moving average of the weights is kept")
    parser.add_argument("--eye", choices=("last-layer", "frozen", "all"), help="what trains of the tower (last-layer)")
    parser.add_argument("--experts", type=_count, metavar="N", help="every second feed-forward is N experts, top 1")
    parser.add_argument("--tokens", type=_positive, help="to train on (360e9, the paper's)")
    parser.add_argument("--mfu", type=_share, help="share of the peak rate that is expected (0.4, assumed)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Work it out and print; 1 where the sharding that was asked for, or every one, does not fit."""
    from kosmos.training.planning.activations import FORMATS
    from kosmos.training.planning.gpus import GPUS
    from kosmos.training.planning.inventory import take_inventory
    from kosmos.training.planning.memory import Layout
    from kosmos.training.planning.plan import EXPECTED_MFU, PAPER_TOKENS, check_fits, make_plan

    config = _config(arguments)
    inventory = take_inventory(config, arguments.eye)
    load = _load(arguments, config)
    layout = Layout(
        numbers=FORMATS[arguments.precision],
        gpus=arguments.gpus,
        sharding=arguments.sharding or "ddp",
        checkpointing=arguments.checkpointing,
        whole_logits=arguments.whole_logits,
        average=arguments.average,
    )
    plan = make_plan(
        inventory,
        load,
        layout,
        GPUS[arguments.gpu],
        mfu=arguments.mfu or EXPECTED_MFU,
        tokens=arguments.tokens or PAPER_TOKENS,
    )
    print(json.dumps(_record(plan, arguments)) if arguments.json else "\n".join(_page(plan, arguments)))
    if arguments.sharding or not any(option.largest for option in plan.options):
        check_fits(inventory, load, layout, arguments.gpu)
    return 0


def _config(arguments: argparse.Namespace) -> KosmosConfig:
    from kosmos.presets import PRESETS, preset
    from kosmos.transformer.config import ExpertsConfig

    folder = Path(arguments.preset)
    if arguments.preset not in PRESETS and (folder / "config.json").exists():
        from kosmos.checkpoint import read_config

        config = read_config(folder)
    else:
        config = preset(arguments.preset)
    if arguments.experts is None:
        return config
    return replace(config, decoder=replace(config.decoder, experts=ExpertsConfig(num_experts=arguments.experts)))


def _load(arguments: argparse.Namespace, config: KosmosConfig) -> Load:
    from kosmos.training.planning.plan import default_load

    if arguments.sequence_length:
        config = replace(config, decoder=replace(config.decoder, max_length=arguments.sequence_length))
    load = default_load(config, micro_batch=arguments.micro_batch)
    return load if arguments.pictures is None else replace(load, pictures=arguments.pictures)


def _record(plan: Plan, arguments: argparse.Namespace) -> dict[str, object]:
    from kosmos.training.planning.inventory import PARTS

    count = plan.inventory.count
    parts = {part: {"trained": count(part, trained=True), "frozen": count(part, trained=False)} for part in PARTS}
    return {
        "preset": plan.inventory.config.name,
        "gpu": {
            "name": arguments.gpu,
            "count": arguments.gpus,
            **asdict(plan.gpu),
            "usable_bytes": plan.gpu.usable_bytes,
        },
        "load": asdict(plan.load),
        "parameters": {**parts, "total": count(), "trained": count(trained=True), "active": count(active=True)},
        "flops_per_token": {**asdict(plan.flops), "total": plan.flops.total},
        "mfu": plan.mfu,
        "tokens": plan.tokens,
        "days": plan.days,
        "layouts": [
            {
                "sharding": option.layout.sharding,
                "checkpointing": option.layout.checkpointing,
                "fault": option.fault,
                "bytes": None if option.memory is None else {**asdict(option.memory), "total": option.memory.total},
                "fits": option.memory is not None and option.memory.total <= plan.gpu.usable_bytes,
                "largest_micro_batch": option.largest,
            }
            for option in plan.options
        ],
    }


def _page(plan: Plan, arguments: argparse.Namespace) -> list[str]:
    load, gpu = plan.load, plan.gpu
    return [
        f"{plan.inventory.config.name} on {arguments.gpus} x {arguments.gpu}: {gpu.memory_bytes / 1e9:.0f} GB, of which"
        f" {gpu.usable_bytes / 1e9:.0f} are planned with, {gpu.flops / 1e12:.0f} TFLOP/s dense bfloat16 each",
        f"{load.micro_batch} x {load.rows} rows with {load.pictures} pictures each at once, {arguments.precision}",
        "",
        *_parameters(plan),
        "",
        *_flops(plan),
        "",
        *_memory(plan, arguments),
        "",
        *_micro_batches(plan),
        "",
        _days(plan, arguments),
    ]


def _days(plan: Plan, arguments: argparse.Namespace) -> str:
    if plan.days is None:
        return "days are not known: the GPUs' rates are for bfloat16"
    assumed = "" if arguments.mfu else " (assumed, not measured)"
    return f"{plan.tokens / 1e9:g} B tokens take {plan.days:,.1f} days at an MFU of {plan.mfu:g}{assumed}"


def _parameters(plan: Plan) -> list[str]:
    from kosmos.training.planning.inventory import PARTS

    count = plan.inventory.count
    lines = [f"{'parameters':<12}{'trained':>16}{'frozen':>16}"]
    for part in (*PARTS, None):
        lines.append(f"{part or 'all':<12}{count(part, trained=True):>16,}{count(part, trained=False):>16,}")
    if count(active=True) < count():
        lines.append(f"a row meets {count(active=True):,} of {count():,}")
    return lines


def _flops(plan: Plan) -> list[str]:
    flops = plan.flops
    lines = [f"{'MFLOP a token':<24}{'forward':>10}{'backward':>10}{'both':>10}"]
    rows = (
        ("without the squares", flops.forward, flops.backward),
        ("with attention's squares", flops.forward + flops.attention, flops.backward + 2 * flops.attention),
    )
    for name, forward, backward in rows:
        lines.append(f"{name:<24}{forward / 1e6:>10,.0f}{backward / 1e6:>10,.0f}{(forward + backward) / 1e6:>10,.0f}")
    return [
        *lines,
        f"full checkpointing computes {(flops.blocks + flops.attention) / 1e6:,.0f} more, not counted in MFU",
    ]


def _memory(plan: Plan, arguments: argparse.Namespace) -> list[str]:
    logits = "whole logits" if arguments.whole_logits else "logits in chunks"
    names = ("weights", "working", "gradients", "optimiser", "average", "activations", "recomputed", "logits")
    lines = [
        f"GB a device, checkpointing {arguments.checkpointing}, {logits}",
        f"{'':<6}" + "".join(f"{name:>12}" for name in (*names, "peak")),
    ]
    for option in plan.options:
        if option.layout.checkpointing == arguments.checkpointing and option.memory is not None:
            values = [*(getattr(option.memory, name) for name in names), option.memory.total]
            fits = "" if option.memory.total <= plan.gpu.usable_bytes else "  does not fit"
            lines.append(f"{option.layout.sharding:<6}" + "".join(f"{value / 1e9:>12.2f}" for value in values) + fits)
    return lines


def _micro_batches(plan: Plan) -> list[str]:
    lines = [f"{'largest micro-batch':<20}" + "".join(f"{name:>12}" for name in CHECKPOINTING_NAMES)]
    for sharding in SHARDING_NAMES:
        options = [option for option in plan.options if option.layout.sharding == sharding]
        why = options[0].fault
        lines.append(
            f"{sharding:<20}" + (f"  {why}" if why else "".join(f"{option.largest:>12}" for option in options))
        )
    return lines


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {MOST}")
    return int(text)


def _count_or_zero(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e18:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0 and below 1e18")
    return value


def _share(text: str) -> float:
    if (value := _positive(text)) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of the peak rate; give a number above 0, at most 1")
    return value
