# SPDX-License-Identifier: MIT
"""`python -m pushpull`."""

import sys

from pushpull.cli import program

sys.exit(program())
