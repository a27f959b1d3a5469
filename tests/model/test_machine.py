# SPDX-License-Identifier: MIT
"""Random histories over a real server and the real program: other clients and the user at work on both sides, also in
the middle of a run, with links cut, commands refused, and the program killed. After any of them undisturbed runs bring
both sides together: nothing that nobody deleted is gone, nothing is there twice, and the last run changes nothing.

A short search by default; PUSHPULL_MODEL_STEPS=20000 makes it so many steps long, elsewhere each time.
PUSHPULL_MODEL_SEED repeats one of those."""

from __future__ import annotations

import os
import random
from collections import Counter
from contextlib import ExitStack

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.model.edits import BODIES, CLIENT_EDITS, EDITS, USER_EDITS
from tests.model.place import Place
from tests.model.story import RENUMBERINGS, ROUGH, Event, Story
from tests.model.world import Ran, World
from tests.support.run import STRATEGIES

STEPS = int(os.environ.get("PUSHPULL_MODEL_STEPS") or 0)
DEFAULT_EXAMPLES = 6
SETTINGS = st.fixed_dictionaries(
    {
        "local": st.fixed_dictionaries(
            {"buckets": st.sampled_from(("no", "yes")), "fsync": st.sampled_from(("yes", "no"))}
        ),
        "imap": st.fixed_dictionaries(
            {"disable_extensions": st.sampled_from([*STRATEGIES.values(), "UIDPLUS", "CONDSTORE UIDPLUS"])}
        ),
    }
)
WHICH = st.integers(0, 7)
WHAT = st.integers(0, 9)
BODY = st.integers(0, len(BODIES) - 1)
MISHAPS = (
    "day_passes",
    "readopt",
    "lose_state",
    "copy_state",
    "restore_state",
    "copy_folder",
    "copy_folder",
    "restore_folder",
)
_IN_A_RUN = st.sampled_from(("cut", "cut", "cut", *EDITS, *ROUGH))
EVENT = st.one_of(
    st.builds(Event, st.just("down"), st.integers(0, 40), _IN_A_RUN, WHICH, WHAT, st.booleans()),
    st.builds(Event, st.just("up"), st.integers(0, 16), _IN_A_RUN, WHICH, WHAT, st.booleans()),
    st.builds(Event, st.just("up"), st.integers(0, 8), st.sampled_from(("refuse", "lose_answer")), WHICH),
)


class Machine(RuleBasedStateMachine):
    """`place` and `steps` are of all examples. Each rule is one step, and one line of `history`."""

    place: Place
    steps: Counter[str]
    found: list[BaseException]

    def __init__(self) -> None:
        super().__init__()
        self._opened = ExitStack()
        self._failed = False

    @initialize(lines=SETTINGS)
    def begin(self, lines):
        self.history = [f"make_story(**{lines})"]
        self.story = Story(self._opened.enter_context(World(self.place, lines)))

    def _step(self, kind: str, name: str, *arguments: object) -> None:
        self.steps[kind] += 1
        self.history.append(f"story.{name}({', '.join(map(repr, arguments))})")
        runs = self.story.world.runs
        already = len(runs)
        try:
            getattr(self.story, name)(*arguments)
        except BaseException as error:
            self._failed = True
            self._tell(runs[already:])
            error.add_note("\n".join([*self.history, self.story.world.told()]))
            self.found.append(error)
            raise
        self._tell(runs[already:])

    def _tell(self, runs: list[Ran]) -> None:
        for ran in runs:
            self.history += [
                f"#  exit code {ran.code}",
                *(f"#  {line}" for line in (*ran.sent[3:], *ran.err.splitlines())),
            ]

    @rule(which=BODY, what=WHAT)
    def client_adds(self, which, what):
        self._step("edits on the server", "edit", "client_adds", which, what)

    @rule(name=st.sampled_from(CLIENT_EDITS), which=WHICH, what=WHAT, on=st.booleans())
    def client_edits(self, name, which, what, on):
        self._step("edits on the server", "edit", name, which, what, on)

    @rule(which=BODY, what=WHAT, young=st.booleans())
    def user_adds(self, which, what, young):
        self._step("edits in the folder", "edit", "user_adds", which, what, young)

    @rule(name=st.sampled_from(USER_EDITS), which=WHICH, what=WHAT, on=st.booleans())
    def user_edits(self, name, which, what, on):
        self._step("edits in the folder", "edit", name, which, what, on)

    @rule(name=st.sampled_from(EDITS), which=WHICH, what=WHAT, on=st.booleans())
    def any_edits(self, name, which, what, on):
        self._step(
            "edits on the server" if name in CLIENT_EDITS else "edits in the folder", "edit", name, which, what, on
        )

    @rule(how=st.sampled_from(RENUMBERINGS))
    def renumber(self, how):
        self._step("mishaps", "renumber", how)

    @rule(name=st.sampled_from(MISHAPS))
    def mishap(self, name):
        self._step("mishaps", name)

    @rule()
    def sync(self):
        self._step("undisturbed syncs", "sync")

    @rule(events=st.lists(EVENT, min_size=1, max_size=3))
    def sync_with(self, events):
        self._step("disturbed syncs", "sync_with", *events)

    @rule(extensions=st.sampled_from(list(STRATEGIES.values())), events=st.lists(EVENT, min_size=1, max_size=2))
    def sync_another_way(self, extensions, events):
        self.story.disable(extensions)
        self._step("disturbed syncs", "sync_with", *events)

    @rule(effect=st.integers(1, 150))
    def sync_killed(self, effect):
        self._step("killed syncs", "sync_killed", effect)

    def teardown(self):
        with self._opened:
            if hasattr(self, "story") and not self._failed:
                self._step("undisturbed syncs", "sync")


def _search(place: Place, number: int | None, examples: int, steps: Counter[str]) -> None:
    """The failure that is raised is the program's, also where it does not come back when Hypothesis tries it again: a
    real server is never quite as it was."""
    found: list[BaseException] = []
    machine = type("Machine", (Machine,), {"place": place, "steps": steps, "found": found})
    if number is not None:
        machine = seed(number)(machine)
    try:
        _run(machine, examples, derandomize=number is None)
    except Exception:
        if found:
            raise found[0] from None
        raise


def _run(machine: type[Machine], examples: int, *, derandomize: bool) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            derandomize=derandomize,
            phases=[Phase.generate, *([Phase.shrink] if os.environ.get("PUSHPULL_MODEL_SHRINK") else [])],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


@pytest.mark.timeout(0 if STEPS else 300)
def test_any_history_ends_well(place, capsys):
    steps: Counter[str] = Counter()
    if not STEPS:
        _search(place, None, DEFAULT_EXAMPLES, steps)
    number = int(os.environ.get("PUSHPULL_MODEL_SEED") or random.randrange(1 << 30))
    while steps.total() < STEPS:
        with capsys.disabled():
            print(f"\nmodel: {steps.total()} steps done: {dict(steps)}; seed {number}", flush=True)
        _search(place, number, 20, steps)
        number += 1
    print(f"{steps.total()} steps: {dict(steps)}")
    assert steps.total() >= (STEPS or 50), steps
