# SPDX-License-Identifier: MIT
"""What system tests stand on: private IMAP servers, the real program as a subprocess, a man in the middle."""

import pytest

# Before the modules are imported: their assertions are to say what they saw.
pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("client", "dovecot", "recorder", "run", "server", "table", "waiting", "work"))
)
