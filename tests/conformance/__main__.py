"""`make conformance`: the kernel against the real XState, on new random charts and on what is recorded.

    python -m tests.conformance [--cases N] [--seed TEXT] [--write-vectors] [--write-machines]

Prints a score by group, then the first disagreements, each made as small as it can be. Ends with 1 where there is one
that is not a documented difference, with 2 where node or npm is missing.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any, TypeAlias

from tests.conformance import recorded
from tests.conformance.charts import random_case
from tests.conformance.compare import Known, Verdict, compare, kernel_answer
from tests.conformance.groups import GROUPS, groups_of
from tests.conformance.shrink import shrunk
from tests.conformance.xstate_process import XStateMissing, answers, install

Json: TypeAlias = Any
AT_ONCE = 500  # cases given to one node process
CASES_PER_GROUP = 45  # in the recorded vectors
KNOWN_CASES = 40  # of the known differences, recorded beside them
MAX_VECTOR = (
    12_000  # characters of a recorded case; a machine that goes on for long tells no more than others
)


@dataclass
class Score:
    """What has been compared."""

    cases: int = 0
    snapshots: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    agreed: Counter[str] = field(default_factory=Counter)
    known: Counter[Known] = field(default_factory=Counter)
    disagreements: list[tuple[Json, Verdict]] = field(default_factory=list)

    def add(self, case: Json, verdict: Verdict) -> None:
        self.cases += 1
        self.snapshots += verdict.compared
        if verdict.known is not None:
            self.known[verdict.known] += 1
        if not verdict.agrees:
            self.disagreements.append((case, verdict))
        for group in groups_of(case):
            self.seen[group] += 1
            self.agreed[group] += verdict.agrees and verdict.known is None
            self.seen[f"known {group}"] += verdict.known is not None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        install()
        if options.write_machines:
            write_machines()
        if options.write_vectors:
            write_vectors(options.seed)
        is_recorded_well = recorded_answers_hold()
        score = Score()
        for case, theirs in answered(new_cases(options.seed, options.cases)):
            score.add(case, compare(case, theirs, kernel_answer(case)))
    except XStateMissing as missing:
        say(f"conformance: {missing}")
        return 2
    report(score, options.seed)
    for case, verdict in score.disagreements[: options.show]:
        explain(case, verdict)
    return 0 if is_recorded_well and not score.disagreements else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=4_000, help="new random cases (4,000)")
    parser.add_argument(
        "--seed", default=secrets.token_hex(4), help="of the random cases; a new one by default"
    )
    parser.add_argument("--show", type=int, default=3, help="disagreements to make small and print (3)")
    parser.add_argument("--write-vectors", action="store_true", help="record new vectors from this seed")
    parser.add_argument(
        "--write-machines", action="store_true", help="record XState's answers to machines/ anew"
    )
    return parser.parse_args(arguments)


def new_cases(seed: str, count: int) -> Iterator[Json]:
    names = (f"{seed}/{number}" for number in range(count))
    return (random_case(Random(name), name) for name in names)


def answered(cases: Iterable[Json]) -> Iterator[tuple[Json, Json]]:
    """Each case with XState's answer."""
    rest = iter(cases)
    while some := list(islice(rest, AT_ONCE)):
        yield from zip(some, answers(some), strict=True)


# --- what is recorded


def recorded_answers_hold() -> bool:
    """Does this XState still answer as it did when the answers were recorded?"""
    cases = list(recorded.all_recorded())
    changed = [case["id"] for case, theirs in answered(cases) if theirs.get("snapshots") != case["snapshots"]]
    say(f"{len(cases):,} recorded answers, of which XState now gives {len(changed)} otherwise")
    for name in changed[:10]:
        say(f"  {name}")
    return not changed


def write_machines() -> None:
    for path in recorded.machine_files():
        machines = recorded.read_machines(path)
        for case, theirs in answered(machines):
            case["snapshots"] = theirs.get("snapshots") or [theirs["error"]]
        path.write_text(machines_text(machines))


def machines_text(machines: Sequence[Json]) -> str:
    """One machine a paragraph, one snapshot a line."""
    paragraphs = []
    for machine in machines:
        lines = [
            f'  {{"id": {json.dumps(machine["id"])}, "group": {json.dumps(machine["group"])},',
            f'   "spec": {json.dumps(machine["spec"], ensure_ascii=False)},',
            f'   "events": {json.dumps(machine["events"], ensure_ascii=False)},',
            '   "snapshots": [',
            ",\n".join(f"     {json.dumps(view, ensure_ascii=False)}" for view in machine["snapshots"]),
            "   ]}",
        ]
        paragraphs.append("\n".join(lines))
    return "[\n" + ",\n".join(paragraphs) + "\n]\n"


def write_vectors(seed: str) -> None:
    """Record cases until each group has its share; a case counts for the group that has the fewest."""
    shares: dict[str, list[Json]] = {group: [] for group in GROUPS}
    different: list[Json] = []
    for case, theirs in answered(new_cases(f"vectors {seed}", 100_000)):
        if "error" in theirs or len(json.dumps(theirs)) > MAX_VECTOR:
            continue
        verdict = compare(case, theirs, kernel_answer(case))
        line = {**case, "snapshots": theirs["snapshots"]}
        wanting = [group for group in groups_of(case) if len(shares[group]) < CASES_PER_GROUP]
        if verdict.known in (Known.GAPS, Known.ILLEGAL) and len(different) < KNOWN_CASES:
            different.append(line)
        elif verdict.agrees and verdict.known is None and wanting:
            shares[min(wanting, key=lambda group: len(shares[group]))].append(line)
        if len(different) == KNOWN_CASES and all(len(share) == CASES_PER_GROUP for share in shares.values()):
            break
    written = [recorded.write_vectors(group, share) for group, share in shares.items()]
    written.append(recorded.write_vectors("known-differences", different))
    say(
        f"{len(written)} files of {sum(path.stat().st_size for path in written) / 1e6:.2f} MB in {recorded.VECTORS}"
    )


# --- telling


def report(score: Score, seed: str) -> None:
    say(f"\n{score.cases:,} new cases of seed {seed!r}, {score.snapshots:,} snapshots compared\n")
    say(f"{'group':18} {'cases':>7} {'agree':>7} {'known':>7} {'score':>9}")
    for group in GROUPS:
        seen, agreed, known = score.seen[group], score.agreed[group], score.seen[f"known {group}"]
        share = agreed / (seen - known) if seen > known else 1
        say(f"{group:18} {seen:7,} {agreed:7,} {known:7,} {share:9.2%}")
    say("\nknown differences (docs/conformance.md): cases that were compared up to there")
    for known_difference in Known:
        say(f"  {score.known[known_difference]:6,}  {known_difference}")
    say(f"\n{len(score.disagreements)} disagreements")


def explain(case: Json, verdict: Verdict) -> None:
    say(f"\n{case['id']}: after {verdict.at} events, {verdict.what}")
    smaller = shrunk(case, disagree)
    (theirs,) = answers([smaller])
    ours = kernel_answer(smaller)
    say(f"made smaller: {json.dumps(smaller)}")
    if "error" in theirs or "error" in ours:
        say(f"  XState      {json.dumps(theirs)}\n  the kernel  {json.dumps(ours)}")
        return
    for expected, found in zip(theirs["snapshots"], ours["snapshots"], strict=True):
        say(f"  XState      {json.dumps(expected)}\n  the kernel  {json.dumps(found)}")


def disagree(cases: Sequence[Json]) -> list[bool]:
    """Which of these show the same kind of trouble? Documents that either side refuses do not."""
    return [
        "error" not in theirs
        and "error" not in (ours := kernel_answer(case))
        and not compare(case, theirs, ours).agrees
        for case, theirs in answered(cases)
    ]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
