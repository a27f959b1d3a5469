# SPDX-License-Identifier: MIT
"""Runs the fuzzer: so many executions from a seed, the same each time.

    python -m tests.fuzz.campaign [--executions N] [--seed S] [--share PERCENT]

An input whose outcome is a new one joins the pool that later inputs are made of, so the fuzzer walks on from what it
found. Of an input that breaks a rule the whole is printed, ready to become a test.
"""

from __future__ import annotations

import argparse
import gc
import logging
import resource
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz import targets
from tests.fuzz.mutate import mutated

CORPUS = Path(__file__).parent / "corpus"
LIMIT_SECONDS = 10.0
"""Of processor time, for one input: hundreds of times what the longest takes."""
_POOL = 4000
_SHORT, _STREAM = 300, 3000  # octets of an answer, of a conversation
_LONG = 200_000  # octets of an input that repeats a piece of another
_EVERY = 20_000  # executions between two such inputs


def recorded() -> list[tuple[str, str, bytes]]:
    """(conversation, server, what it said) of each file of the corpus."""
    found = []
    for path in sorted(CORPUS.iterdir()):
        name, _, server = path.stem.partition("-")
        text = path.read_bytes().partition(b"\n")[2]  # behind the licence
        found.append((name, server, text.replace(b"\n", b"\r\n")))
    return found


class Finding(AssertionError):
    """An input that broke a rule."""


@dataclass
class Campaign:
    """`share`: of a hundred executions, how many are conversations; the others are answers, which cost less."""

    seed: int
    share: int = 4
    executions: int = 0
    conversations: int = 0
    pools: dict[str, list[bytes]] = field(default_factory=dict)
    outcomes: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)
        self._names = list(targets.CONVERSATIONS)
        for name, _, stream in recorded():
            self.pools.setdefault(name, []).append(stream)
            self.pools.setdefault("answer", []).extend(_answers(stream))

    def run(self, executions: int) -> None:
        for _ in range(executions):
            self.executions += 1
            if self.executions % _EVERY == 0:
                self._long()
            elif self._rng.randrange(100) < self.share:
                self.conversations += 1
                self._one(self._rng.choice(self._names))
            else:
                self._one("answer")

    def _one(self, name: str) -> None:
        pool = self.pools[name]
        others = pool if self._rng.random() < 0.9 else self.pools[self._rng.choice(self._names)]
        data = mutated(self._rng.choice(pool), self._rng, others, _SHORT if name == "answer" else _STREAM)
        seen = zlib.crc32(self.execute(name, data).encode("utf-8", "backslashreplace"))
        if seen not in self.outcomes:
            self.outcomes.add(seen)
            if len(pool) < _POOL:
                pool.append(data)
            else:
                pool[self._rng.randrange(len(pool))] = data

    def _long(self) -> None:
        """A piece of an input again and again: what costs the square of its length shows."""
        data = self._rng.choice(self.pools["answer"])
        at = self._rng.randrange(len(data) + 1)
        piece = data[at : at + self._rng.choice((1, 2, 3, 6, 12, 40))].replace(b"\0", b"") or b"("
        self.execute("answer", (data[:at] + piece * (_LONG // len(piece)) + data[at:])[:_LONG])

    def execute(self, name: str, data: bytes) -> str:
        """One input to one target; Finding when a rule was broken."""
        began = time.thread_time()
        try:
            told = targets.answer(data, self._rng) if name == "answer" else targets.converse(name, data, self._rng)
        except Exception as error:
            raise Finding(f"{name} {data!r}: {type(error).__name__}: {error}") from error
        taken = time.thread_time() - began
        if taken > LIMIT_SECONDS:
            raise Finding(f"{name} {data!r}: {taken:.1f} s")
        return told


def _answers(stream: bytes) -> list[bytes]:
    """The untagged answers of a stream, each with NUL octets around its literals (see `targets.answer`)."""
    found, lines, at = [], stream, 0
    while at < len(lines):
        parts = []
        while True:
            end = lines.find(b"\r\n", at)
            end = len(lines) if end < 0 else end
            line, at = lines[at:end], end + 2
            size = None
            if line.endswith(b"}") and b"{" in line:
                text, _, digits = line[:-1].rpartition(b"{")
                size = int(digits)
                parts += [text, lines[at : at + size].replace(b"\0", b" ")]
                at += size
            else:
                parts.append(line)
                break
        found.append(b"\0".join(parts))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz the reading of a server's answers.")
    parser.add_argument("--executions", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--share", type=int, default=4, metavar="PERCENT", help="executions that are conversations")
    options = parser.parse_args()
    logging.disable()
    campaign = Campaign(options.seed, options.share)
    began, step = time.process_time(), max(1, options.executions // 100)
    try:
        while campaign.executions < options.executions:
            campaign.run(min(step, options.executions - campaign.executions))
            _report(campaign, began)
    except Finding as finding:
        print(finding)
        return 1
    return 0


def _report(campaign: Campaign, began: float) -> None:
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    gc.collect()
    print(
        f"{campaign.executions:,} executions, {campaign.conversations:,} of them conversations, seed {campaign.seed};"
        f" {campaign.executions / seconds:,.0f}/s of processor time; {len(campaign.outcomes):,} different outcomes;"
        f" pool of {sum(map(len, campaign.pools.values())):,} inputs; peak {peak} MB",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
