# SPDX-License-Identifier: MIT
"""Before a cycle: is the folder the one that the state describes, and does the user agree to what follows?"""

from __future__ import annotations

from pushpull import levels
from pushpull.config import Config, PairingConfig
from pushpull.errors import NotConfirmed, Refused
from pushpull.maildir import Maildir
from pushpull.model import Marker, Pair, PairKey
from pushpull.options import Asker, Options
from pushpull.ports import Report
from pushpull.store import Store
from pushpull.trust import Trust, judge
from pushpull.values import struct, value
from pushpull.wording import printable


@struct
class Prepared:
    """A pairing that may be synchronised: its folder was judged, its questions were answered."""

    pairing: PairingConfig
    pair: Pair
    local: Maildir
    trust: Trust


@value
class _Judged:
    """A folder beside what the state says of it."""

    pair: Pair
    local: Maildir
    exists: bool
    marker: Marker | None
    trust: Trust


class Preparer:
    """Judges folders, asks, tells or refuses, and makes what is missing at a first synchronisation."""

    def __init__(self, config: Config, options: Options, asker: Asker, report: Report) -> None:
        self._config, self._options, self._asker, self._report = config, options, asker, report
        self._settled: set[str] = set()  # pairings of which nothing is left to ask before their first cycle

    def pair(self, store: Store, pairing: PairingConfig) -> Pair:
        """What the state knows of the pairing; made known to it if it is new."""
        key = PairKey(self._config.imap.host, self._config.imap.login, pairing.local, pairing.remote)
        return store.find_pair(key) or store.add_pair(key)

    def ask(self, store: Store, pairing: PairingConfig) -> None:
        """Only the questions that `prepare` will ask. Refused as there; NotConfirmed for a question without a yes.

        Mail that comes before the first cycle does not make it a question again.
        """
        judged = self._judge(store, pairing)
        if not self._options.readopt:
            self._decide(judged, pairing)
        if judged.trust is Trust.FIRST:
            self._settled.add(pairing.name)

    def make_folder(self, pairing: PairingConfig) -> None:
        """What the first cycle would do, if nothing is left to ask. LocalDiskError."""
        if pairing.name in self._settled:
            self._maildir(pairing).create()

    def prepare(self, store: Store, pairing: PairingConfig, *, readopt: bool, probe: bool = True) -> Prepared:
        """Ready for a cycle. `readopt`: forget what was agreed, whatever the folder is. `probe`: see whether the file
        system serves, and clean tmp/.

        Refused when the folder is not the one it was, NotConfirmed for a question without a yes; LocalDiskError.
        """
        judged = self._judge(store, pairing)
        pair, trust, local, marker = judged.pair, judged.trust, judged.local, judged.marker
        if readopt or self._decide(judged, pairing):
            newest = max(pair.generation, marker.generation if marker and marker.state_id == store.state_id else 0)
            pair = store.update_pair(store.forget_pair(pair), generation=newest)
            trust = Trust.FIRST
        if not self._options.dry_run:
            if trust is Trust.FIRST:
                local.create()  # a known folder that lacks cur/ is not the one it was
            if probe:
                local.probe()
                local.clean_tmp()
        return Prepared(pairing, pair, local, trust)

    def confirmed(self, question: str) -> bool:
        """Whether the user says yes, by the command line or when asked."""
        if self._options.yes:
            return True
        if self._options.dry_run:
            self._report.line(levels.WARNING, f"would be asked: {question}")
            return True
        return bool(self._asker.confirm(question))

    def _judge(self, store: Store, pairing: PairingConfig) -> _Judged:
        pair = self.pair(store, pairing)
        local = self._maildir(pairing)
        exists = local.exists()
        marker = local.read_marker() if exists else None
        others = [other for other in store.pairs() if other.id != pair.id]
        trust = judge(marker, pair, pair.key, state_id=store.state_id, others=others, exists=exists)
        return _Judged(pair, local, exists, marker, trust)

    def _maildir(self, pairing: PairingConfig) -> Maildir:
        return Maildir(pairing.folder, buckets=self._config.local.buckets, fsync=self._config.local.fsync)

    def _decide(self, judged: _Judged, pairing: PairingConfig) -> bool:
        """Ask, tell or refuse. Returns whether what was agreed is to be forgotten and matched by content anew."""
        trust, local, exists = judged.trust, judged.local, judged.exists
        folder, take_over = printable(pairing.folder), "--readopt takes it over: both sides are matched by content anew"
        if trust is Trust.MISSING:
            raise Refused(
                f"the folder {folder} is missing; nothing was changed",
                remedy="mount or restore it; or --readopt makes it anew and downloads everything into it",
            )
        if trust is Trust.OTHER_PAIRING:
            raise Refused(f"the folder {folder} belongs to another pairing; nothing was changed", remedy=take_over)
        if trust is Trust.OTHER_STATE:
            raise Refused(
                f"the folder {folder} belongs to another state file than {self._config.local.state}; nothing was"
                " changed",
                remedy=take_over,
            )
        if trust is Trust.OTHER_ACCOUNT:
            self._ask(f"The folder {folder} was synchronised with another account before. Match it with this one?")
            return True
        if trust is Trust.FIRST and exists and not self._options.dry_run:
            local.create()  # a run that died while it made the folder left half of it
        if trust is Trust.FIRST and exists and pairing.name not in self._settled and local.scan().files:
            self._ask(
                f"First synchronisation of {folder}, which holds mail already. Match it with the mailbox"
                f" {printable(pairing.remote)} on {printable(self._config.imap.host)}, and copy what either side lacks?"
            )
        if trust is Trust.OLDER:
            self._report.line(
                levels.WARNING,
                f"{folder} is an older copy: what is missing is downloaded again, the server's flags win",
            )
        if trust is Trust.NEWER:
            self._report.line(levels.WARNING, "the state file is an older copy: both sides are matched by content anew")
        return trust is Trust.NEWER

    def _ask(self, question: str) -> None:
        if not self.confirmed(question):
            raise NotConfirmed(f"not confirmed: {question}", remedy="--yes answers the question; nothing was changed")
