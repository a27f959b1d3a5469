# SPDX-License-Identifier: MIT
"""The one system test that runs on every supported Python: a little of everything, over TLS, by the real command."""

import pytest

from tests.support.run import Setup


@pytest.mark.every_python
def test_both_ways_and_then_nothing(each: Setup) -> None:
    each.put_remotes(["down", "read", "expunged"])
    each.sync()
    each.put_local("up", "F")
    each.flag_remote("read", "+S")
    each.flag_local("down", "+R")
    each.expunge_remote("expunged")
    each.sync()
    each.assert_state(remote="down:R read:S up:F", local="down:R expunged:T read:S up:F")
    each.sync_again_changes_nothing()
