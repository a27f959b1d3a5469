# SPDX-License-Identifier: MIT
"""How much a line matters. The numbers of the standard library's `logging`, of which nothing else is of use here."""

DEBUG = 10
INFO = 20
NOTICE = 25
"""What was done to one message."""
SUMMARY = 27
"""What was done to a pairing: shown unless asked to be quiet."""
WARNING = 30
ERROR = 40
