# SPDX-License-Identifier: MIT
"""Random stories over the twins and the real engine: after any of them an undisturbed run brings both sides together,
nothing that nobody deleted is gone, and nothing is there twice.

HYPOTHESIS_PROFILE=dev makes it search longer, elsewhere each time, and shorten what it finds."""

from __future__ import annotations

import os
from contextlib import ExitStack

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pushpull import candidates, observe_local
from pushpull.flags import ALL, SYSTEM
from tests.support.memory import memory_directory
from tests.sync.actors import BODIES, FLAGS, STRATEGIES, Story

EDITS = ("client_flags", "client_expunges", "client_adds", "user_flags", "user_unlinks", "user_renames")
WHICH = st.integers(0, 7)
BODY = st.one_of(st.integers(0, 1), st.integers(0, len(BODIES) - 1))  # copies are worth a look
FLAG = st.sampled_from(FLAGS)
FEW_FLAGS = st.sampled_from((0, 0, 0, *FLAGS, 18))
KIND = st.sampled_from(("lost", "lost", "busy", "mute", "kill"))
STEP = st.integers(0, 110)
SERVER = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(STRATEGIES),
        "uidplus": st.booleans(),
        "multiappend": st.booleans(),
        "unasked": st.sampled_from((-1, 150, 1 << 20)),
        "tells_uidnext": st.sampled_from((True, True, True, False)),
        "forgetful": st.booleans(),
    }
)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._end = ExitStack()
        self.story = Story(self._end.enter_context(memory_directory()))  # thousands of them, none for long

    @initialize(server=SERVER, mask=st.sampled_from((ALL, ALL, SYSTEM)), at_once=st.sampled_from((1, 2, 5000)))
    def begin(self, server, mask, at_once):
        self.story.serve(**server, mask=mask)
        patch = self._end.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(candidates, "AT_ONCE", at_once)
        patch.setattr(observe_local, "_HELD", at_once)

    @rule(server=SERVER)
    def server_changes(self, server):
        self.story.serve(**server, mask=self.story.world.server.mask)

    @rule(body=BODY, flags=FEW_FLAGS)
    def client_adds(self, body, flags):
        self.story.client_adds(body, flags)

    @rule(which=WHICH, flag=FLAG, on=st.booleans())
    def client_flags(self, which, flag, on):
        self.story.client_flags(which, flag, on=on)

    @rule(which=WHICH)
    def client_expunges(self, which):
        self.story.client_expunges(which)

    @rule(body=BODY, flags=FEW_FLAGS)
    def user_adds(self, body, flags):
        self.story.user_adds(body, flags)

    @rule(which=WHICH, flag=FLAG, on=st.booleans())
    def user_flags(self, which, flag, on):
        self.story.user_flags(which, flag, on=on)

    @rule(which=WHICH)
    def user_reads(self, which):
        self.story.user_reads(which)

    @rule(which=WHICH)
    def user_unlinks(self, which):
        self.story.user_unlinks(which)

    @rule(which=WHICH)
    def user_renames(self, which):
        self.story.user_renames(which)

    @rule(scans=st.integers(1, 7))
    def folder_is_busy(self, scans):
        self.story.world.folder.busy_scans = scans

    @rule()
    def sync(self):
        self.story.world.folder.busy_scans = 0
        self.story.sync()

    @rule(faults=st.dictionaries(STEP, KIND, min_size=1, max_size=3))
    def sync_with_faults(self, faults):
        self.story.sync_with({step: self.story.fault(kind) for step, kind in faults.items()})

    @rule(
        step=STEP,
        edit=st.sampled_from(
            ("client_flags", "client_expunges", "client_adds", "user_flags", "user_unlinks", "user_renames")
        ),
        which=WHICH,
        flag=FLAG,
    )
    def sync_with_an_edit(self, step, edit, which, flag):
        arguments = (which, flag) if edit in ("client_flags", "client_adds", "user_flags") else (which,)
        self.story.sync_with({step: lambda _: getattr(self.story, edit)(*arguments)})

    @rule(lose_flags=st.booleans())
    def renumber(self, lose_flags):
        self.story.renumber(lose_flags=lose_flags)

    @rule()
    def readopt(self):
        self.story.readopt()

    @rule()
    def lose_state(self):
        self.story.lose_state()

    @rule()
    def copy_state(self):
        self.story.copy_state()

    @rule()
    def restore_state(self):
        self.story.restore_state()

    @rule()
    def copy_folder(self):
        self.story.copy_folder()

    @rule()
    def restore_folder(self):
        self.story.restore_folder()

    def teardown(self):
        try:
            self.sync()
        finally:
            self._end.close()


_LARGE = os.environ.get("HYPOTHESIS_PROFILE") == "dev"
TestMachine = pytest.mark.timeout(400)(Machine.TestCase)  # half a minute of one core
TestMachine.settings = settings(
    max_examples=1000 if _LARGE else 300,
    stateful_step_count=50 if _LARGE else 30,
    derandomize=not _LARGE,
    phases=(Phase.generate, Phase.shrink) if _LARGE else (Phase.generate,),
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
