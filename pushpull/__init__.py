# SPDX-License-Identifier: MIT
"""Two-way synchronisation of an IMAP account with Maildir folders."""

__version__ = "0.1.0"
