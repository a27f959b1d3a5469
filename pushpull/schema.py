# SPDX-License-Identifier: MIT
"""The layout of the state file. Facts and one base, never pending work.

`pair`: one mailbox and one folder of one account. `pairing`: one message, known on one or both sides. `mark`: what was
marked of late, for guards that look at a window of time; it may name rows that are gone since. `directory`: how each
directory of a folder looked when all that was in it was taken in. Flags are the bits of
`flags.py`.
"""

from __future__ import annotations

from pushpull.flags import DELETED

VERSION = 1
APPLICATION_ID = 0x70757368  # "push": tells a pushpull state from any other SQLite file

# A UID that has no file yet. Without rows that seek a UID each stands for itself, so they are taken in slices.
ARRIVAL = "(uid IS NOT NULL AND NOT expunged AND uniquename IS NULL AND NOT gone)"

# A row without a UID that one may be found for (`plan.seeks_uid`), or an expunged one that is not settled.
SEEKER = (
    "((uid IS NULL AND NOT expunged AND (NOT gone OR old_uidvalidity <> 0 OR append_outcome <> ''))"
    " OR (expunged AND NOT gone AND uniquename IS NOT NULL"
    "  AND (local_flags <> base_flags OR remote_flags <> base_flags)))"
)

# A row that lacks a side, and of which it is known what it is: what it may meet is found by its Message-ID.
LACKS_A_SIDE = "message_id IS NOT NULL AND (uid IS NULL OR expunged OR uniquename IS NULL)"

# What is to be marked deleted, unless a guard, a refusal or the lack of a view says no.
VANISHED = (
    f"((gone AND uid IS NOT NULL AND NOT expunged AND NOT remote_flags & {DELETED})"
    f" OR (expunged AND NOT gone AND uniquename IS NOT NULL AND NOT local_flags & {DELETED}))"
)

# What both sides are known of, and do not agree on.
DIFFERING = (
    "((remote_flags <> base_flags OR local_flags <> base_flags) AND (uid IS NOT NULL OR expunged)"
    " AND (uniquename IS NOT NULL OR gone))"
)

# Any other row that a plan may have to act on. Settled rows (both sides and the base alike) are the vast majority: the
# partial indexes make the cost of a cycle follow the changes, not the mailbox.
TODO = (
    "((uid IS NULL AND NOT expunged) OR (expunged AND (gone OR uniquename IS NULL))"
    " OR ((remote_flags <> base_flags OR local_flags <> base_flags) AND (uniquename IS NOT NULL OR gone)))"
)

CREATE = f"""
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE pair (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    login TEXT NOT NULL,
    local TEXT NOT NULL,
    remote TEXT NOT NULL,
    uidvalidity INTEGER NOT NULL DEFAULT 0,
    uidnext INTEGER NOT NULL DEFAULT 1,
    modseq INTEGER NOT NULL DEFAULT 0,
    choked_modseq INTEGER NOT NULL DEFAULT 0,
    scan_modseq INTEGER NOT NULL DEFAULT 0,
    scan_uid INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    marker_generation INTEGER NOT NULL DEFAULT 0,
    canary TEXT NOT NULL DEFAULT '[]',
    compared_at REAL NOT NULL DEFAULT 0,
    hook_due INTEGER NOT NULL DEFAULT 0,
    UNIQUE (host, login, local, remote)
) STRICT;

CREATE TABLE pairing (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pair INTEGER NOT NULL REFERENCES pair (id) ON DELETE CASCADE,
    uid INTEGER,
    remote_flags INTEGER NOT NULL DEFAULT 0,
    keywords TEXT NOT NULL DEFAULT '',
    expunged INTEGER NOT NULL DEFAULT 0,
    uniquename BLOB,
    directory TEXT NOT NULL DEFAULT '',
    info BLOB NOT NULL DEFAULT x'',
    local_flags INTEGER NOT NULL DEFAULT 0,
    gone INTEGER NOT NULL DEFAULT 0,
    base_flags INTEGER NOT NULL DEFAULT 0,
    refused_flags INTEGER NOT NULL DEFAULT 0,
    message_id TEXT,
    size INTEGER,
    header_digest BLOB,
    digest BLOB,
    received INTEGER NOT NULL DEFAULT 0,
    stamp_size INTEGER NOT NULL DEFAULT 0,
    stamp_mtime INTEGER NOT NULL DEFAULT 0,
    stamp_inode INTEGER NOT NULL DEFAULT 0,
    unsynced_boot TEXT NOT NULL DEFAULT '',
    old_uidvalidity INTEGER NOT NULL DEFAULT 0,
    append_attempts INTEGER NOT NULL DEFAULT 0,
    append_uidnext INTEGER,
    append_outcome TEXT NOT NULL DEFAULT '' CHECK (append_outcome IN ('', 'open', 'accepted')),
    append_at REAL NOT NULL DEFAULT 0,
    problem TEXT NOT NULL DEFAULT '',
    problem_count INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX pairing_uid ON pairing (pair, uid) WHERE uid IS NOT NULL;
CREATE UNIQUE INDEX pairing_uniquename ON pairing (pair, uniquename) WHERE uniquename IS NOT NULL;
CREATE INDEX pairing_files ON pairing (pair, directory) WHERE uniquename IS NOT NULL AND NOT gone;
CREATE INDEX pairing_digest ON pairing (pair, digest) WHERE digest IS NOT NULL;
CREATE INDEX pairing_todo ON pairing (pair) WHERE {TODO};
CREATE INDEX pairing_arrivals ON pairing (pair, uid) WHERE {ARRIVAL};
CREATE INDEX pairing_seekers ON pairing (pair) WHERE {SEEKER};
CREATE INDEX pairing_message_id ON pairing (pair, message_id) WHERE {LACKS_A_SIDE};
CREATE INDEX pairing_differing ON pairing (pair) WHERE {DIFFERING};
CREATE INDEX pairing_vanished ON pairing (pair) WHERE {VANISHED};
CREATE INDEX pairing_expunged ON pairing (pair, message_id) WHERE expunged;
CREATE INDEX pairing_drafts ON pairing (pair) WHERE local_flags & 1;
CREATE INDEX pairing_problems ON pairing (pair) WHERE problem <> '';
CREATE INDEX pairing_unsynced ON pairing (pair, unsynced_boot) WHERE unsynced_boot <> '';

CREATE TABLE directory (
    pair INTEGER NOT NULL REFERENCES pair (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    read_at REAL NOT NULL,
    PRIMARY KEY (pair, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE mark (
    pair INTEGER NOT NULL REFERENCES pair (id) ON DELETE CASCADE,
    side TEXT NOT NULL CHECK (side IN ('local', 'remote', 'twin')),
    pairing INTEGER NOT NULL,
    at REAL NOT NULL,
    counted INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (pair, side, pairing)
) STRICT, WITHOUT ROWID;
"""
