# SPDX-License-Identifier: MIT
"""The text of `.pushpull`, the marker in a Maildir folder that tells one folder from another. Pure.

It says which state file and pairing the folder belongs to and how new it is, so that an empty folder under an old name,
a copy, or a folder restored from a backup is recognised before anything is believed to be deleted. It never holds a
':', since mail indexers take a file with a line like a header for a message.
"""

from __future__ import annotations

import re

from pushpull.model import Marker

NAME = b".pushpull"
MAX_SIZE = 4096  # more than that was not written by us

_COMMENT = "# pushpull knows this folder by this file; please leave it here and do not copy it"
_STATE_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_NUMBER = re.compile(r"[0-9]{1,18}")


def format_marker(marker: Marker) -> bytes:
    """The file's contents. ValueError when the state id would not survive being read back."""
    if not _STATE_ID.fullmatch(marker.state_id) or marker.pair < 0 or marker.generation < 0:
        raise ValueError(f"no marker can hold {marker!r}")
    lines = (_COMMENT, f"state={marker.state_id}", f"pair={marker.pair}", f"generation={marker.generation}")
    return "".join(line + "\n" for line in lines).encode("ascii")


def parse_marker(data: bytes) -> Marker | None:
    """The marker in a file's contents; None when it is damaged, which counts as no marker.

    Order, white space, comments and lines of a later version do not matter. A file that does not end in a newline
    was cut short, and its last number may be too.
    """
    if not data.endswith(b"\n") or len(data) > MAX_SIZE:
        return None
    fields: dict[str, str] = {}
    for line in data.decode("ascii", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            fields[key.strip()] = value.strip()
    state_id, pair, generation = (fields.get(key, "") for key in ("state", "pair", "generation"))
    if not (_STATE_ID.fullmatch(state_id) and _NUMBER.fullmatch(pair) and _NUMBER.fullmatch(generation)):
        return None
    return Marker(state_id, int(pair), int(generation))
