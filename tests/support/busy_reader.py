# SPDX-License-Identifier: MIT
"""A mail program with no patience: until SIGTERM it does to a Maildir what mutt does, as fast as it can.

    python busy_reader.py FOLDER SEED REMOVALS

Mail goes from new/ to cur/, flags come and go by renames, and now and then a file is unlinked, so many in all. The
subjects of what it unlinked are its output. Nothing of the project is used, and nobody is asked.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from types import FrameType

LETTERS = "FRS"
EACH = 60  # operations between two removals


class Reader:
    def __init__(self, folder: str, seed: int, removals: int) -> None:
        self._folder, self._chance, self._removals = folder, random.Random(seed), removals
        self._stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopped = True

    def run(self) -> None:
        done = 0
        while not self._stopped:
            directory = self._chance.choice(("new", "cur", "cur", "cur"))
            names = os.listdir(f"{self._folder}/{directory}")
            for name in self._chance.sample(names, min(20, len(names))):
                done += 1
                self._touch(directory, name, remove=done % EACH == 0)

    def _touch(self, directory: str, name: str, *, remove: bool) -> None:
        path = f"{self._folder}/{directory}/{name}"
        unique, _, info = name.partition(":2,")
        try:
            if remove and self._removals:
                with open(path, "rb") as file:
                    subject = next(line for line in file if line.startswith(b"Subject: "))[9:].strip()
                os.unlink(path)
                self._removals -= 1
                print(subject.decode(), flush=True)
                return
            letters = "".join(sorted(set(info) ^ {self._chance.choice(LETTERS)}))
            os.rename(path, f"{self._folder}/cur/{unique}:2,{letters}")
        except FileNotFoundError:  # somebody else was faster
            return


if __name__ == "__main__":
    Reader(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).run()
