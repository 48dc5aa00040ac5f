"""`kosmos data filter`: rules over every document; what goes and what is left out is counted, rule by rule."""

from __future__ import annotations

import argparse
from pathlib import Path

from kosmos.cli.data.flags import (
    add_execution_arguments,
    add_shards_argument,
    execution_of,
    print_report,
    repair_advised,
)

__all__ = ["add_arguments", "run"]

SETS = ("interleaved", "captions", "text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, folder, rules."""
    add_shards_argument(parser)
    parser.add_argument("out", type=Path, help="folder for the shards that are written, of the same names")
    group = parser.add_argument_group("rules")
    group.add_argument("--set", choices=SETS, default="interleaved", help="rules to begin with (interleaved)")
    group.add_argument(
        "--rule",
        type=_rule,
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="add a rule, or change its value; may be repeated",
    )
    group.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="leave out a rule of the set; may be repeated"
    )
    group.add_argument("--list", action=_ListRules, nargs=0, help="print all rules, their values and sources, and end")
    parser.add_argument("--rejected", type=Path, metavar="FOLDER", help="keep what is dropped here, with the reason")
    add_execution_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Filter, and print what became of every document.

    Returns: 1 if no document was written.
    """
    from data_pipelines.filtering import filter_shards
    from data_pipelines.rules.table import choose_rules
    from data_pipelines.stores import expand

    try:
        rules = choose_rules(arguments.set, rules=dict(arguments.rule), without=arguments.without)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    with repair_advised():
        report = filter_shards(
            expand(arguments.shards, allow_pipe=arguments.allow_pipe),
            arguments.out,
            rules,
            rejected=arguments.rejected,
            allow_pipe=arguments.allow_pipe,
            execution=execution_of(arguments),
        )
    return print_report(report, as_json=arguments.json)


def _rule(text: str) -> tuple[str, float | None]:
    name, equals, value = text.partition("=")
    if not equals:
        return name, None
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} in {text!r} is no number; write {name}=NUMBER") from None


class _ListRules(argparse.Action):
    """Prints and ends, as `--help` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from data_pipelines.rules.table import RULES, SETS

        for name, rules in SETS.items():
            print(f"--set {name}")
            for rule, value in rules.items():
                print(f"  {_line(rule, RULES[rule].threshold if value is None else value)}")
        print("others")
        for rule in RULES:
            if not any(rule in rules for rules in SETS.values()):
                print(f"  {_line(rule, RULES[rule].threshold)}")
        parser.exit()


def _line(name: str, value: float) -> str:
    from data_pipelines.rules.table import RULES

    rule = RULES[name]
    return f"{f'{name}={value:g}':<24} drops {rule.drops.format(f'{value:g}')}  [{rule.source}]"
