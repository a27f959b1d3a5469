# SPDX-License-Identifier: MIT
"""In-memory twins of both sides, strict about how they are used, and a script of what goes wrong when.

`MemoryServer` and `MemoryFolder` outlive a run; other clients and the user work on them directly. `MemoryRemote` and
`MemoryLocal` are what one run of the engine holds (`ports.Remote`, `ports.Local`). Every call is a numbered step of
the `Script`, before and after its effect, so that a fault, an edit by somebody else, or a kill can happen at any step.

The contract suites in tests/contract run against these and against the real ones.
"""

from tests.twin_local import MemoryFile, MemoryFolder, MemoryLocal, local_file
from tests.twin_remote import MemoryMessage, MemoryRemote, MemoryServer
from tests.twin_script import Clock, Killed, Mute, Script

__all__ = [
    "Clock",
    "Killed",
    "MemoryFile",
    "MemoryFolder",
    "MemoryLocal",
    "MemoryMessage",
    "MemoryRemote",
    "MemoryServer",
    "Mute",
    "Script",
    "local_file",
]
