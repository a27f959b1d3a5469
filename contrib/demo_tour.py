# SPDX-License-Identifier: MIT
"""The demo's story: one mailbox, synchronised both ways by the real pushpull, with every claim checked.

Started by contrib/demo. Exit codes: 0 all is as told, 1 something is not, 130 and the like when ended by a signal.
"""

from __future__ import annotations

import argparse
import base64
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

from demo_live import HERE, THERE, Live
from demo_server import OtherProgram, ServerTrouble, running_server
from demo_stage import Broken, Screen, Stage

REFUSED_FOR_SAFETY = 65
FIRST_DAY = datetime(2026, 2, 2, 9, 30, tzinfo=UTC)
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
# Key, flags, subject, sender, text.
SAMPLES = [
    ("welcome", "S", "Welcome aboard", "Grace <grace@example.org>", "Nice to have you here. Coffee is at ten."),
    ("cologne", "", "Grüße aus Köln ☕", "Jürgen <juergen@example.org>", "Der Dom steht noch. Liebe Grüße!"),
    ("lake", "F", "Photos from the lake", "Lin <lin@example.org>", "One of you, attached. The others are worse."),
    ("invoice", "RS", "Invoice 2026-017", "Books & Co <shop@example.org>", "Thank you. Please pay within 30 days."),
    ("newsletter", "", "Weekly newsletter #42", "news@example.org", "Everything you never asked for."),
    ("chess", "S", "Re: Chess on Thursday?", "Lin <lin@example.org>", "Gladly. You take white."),
]
DINNER = ("dinner", "", "Dinner on Friday?", "Grace <grace@example.org>", "The new place by the bridge, at eight?")
REPLY = ("reply", "S", "Re: Grüße aus Köln ☕", "Ada <ada@example.org>", "Danke! Bis bald in Köln. 🚂")

Letters = tuple[str | None, str | None]


def make(sample: tuple[str, str, str, str, str]) -> bytes:
    """The message as it goes over the wire, with CRLF."""
    key, _, subject, sender, text = sample
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = "Ada <ada@example.org>"
    message["Subject"] = subject
    message["Date"] = date_of(sample)
    message["Message-ID"] = f"<{key}@demo.example.org>"
    message.set_content(text + "\n")
    if key == "lake":
        message.add_attachment(PICTURE, maintype="image", subtype="png", filename="lake.png")
    return message.as_bytes()


def date_of(sample: tuple[str, str, str, str, str]) -> datetime:
    return FIRST_DAY + timedelta(days=[*SAMPLES, DINNER, REPLY].index(sample), hours=1)


# --- the steps ------------------------------------------------------------------------------------------------


class Tour:
    """`agreed` is what both sides should hold by now."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.screen = stage.screen
        self.agreed: dict[str, Letters] = {}

    def play(self) -> None:
        for step in (self.a_mailbox, self.dry_run, self.download, self.nothing_to_do):
            step()
        self.screen.step("From now on it stays, and watches both sides")
        self.stage.stay()
        with Live(self.stage) as live:
            self.screen.check("it waits for the server's news, by IDLE", kept=live.commands("IDLE") == 1)
            for pushed in (self.new_mail, self.flags, self.deletions, self.second_thoughts, self.silence):
                pushed(live)
        self.mishap()
        self.what_it_said()

    def synchronise(self, promise: str, **now: Letters) -> None:
        """Run it, and check that the messages in `now` became that, and all others stayed."""
        self.stage.run("-v")
        self.agree(promise, **now)

    def agree(self, promise: str, **now: Letters) -> None:
        """Show both sides, and check them."""
        self.stage.show()
        self.agreed |= now
        found = self.stage.flags()
        self.screen.check(promise, kept=found == self.agreed, instead=found)

    def uid(self, key: str) -> int:
        return self.stage.look()[key].uid

    def a_mailbox(self) -> None:
        self.screen.step("Ada has a mailbox on a server, and an empty disk")
        for sample in SAMPLES:
            self.stage.other.put(make(sample), sample[1], date_of(sample))
        self.stage.write_configuration()
        self.stage.show()
        self.agreed = {sample[0]: (sample[1], None) for sample in SAMPLES}
        self.screen.check(f"{len(SAMPLES)} messages there, none here", kept=self.stage.flags() == self.agreed)

    def dry_run(self) -> None:
        self.screen.step("What would pushpull do?")
        said = self.stage.run("--dry-run")
        self.screen.check("it plans one download for each message", kept=said.count("download") >= len(SAMPLES))
        untouched = not self.stage.folder.exists() and self.stage.flags() == self.agreed
        self.screen.check("it did nothing of it yet", kept=untouched)

    def download(self) -> None:
        self.screen.step("The first run brings everything down")
        self.synchronise("all are here, with their flags", **{key: (letters, letters) for key, letters, *_ in SAMPLES})
        self.screen.check("the messages are the same, byte for byte, attachment and all", kept=self.stage.same_bytes())
        dates = {sample[0]: date_of(sample).timestamp() for sample in SAMPLES}
        files = {key: self.stage.folder / str(message.file) for key, message in self.stage.look().items()}
        kept = {key: path.stat().st_mtime for key, path in files.items()} == dates
        self.screen.check("each file has its message's date", kept=kept)

    def nothing_to_do(self) -> None:
        self.screen.step("A second run finds nothing to do")
        before = self.stage.fingerprint()
        said = self.stage.run("-v")
        self.screen.check("it said nothing and touched nothing", kept=not said and self.stage.fingerprint() == before)

    def new_mail(self, live: Live) -> None:
        self.screen.step("New mail on both sides")
        other = self.stage.other
        live.push(THERE, DINNER[2], lambda: other.put(make(DINNER), "", date_of(DINNER)), "dinner", "")
        data = make(REPLY).replace(b"\r\n", b"\n")
        name, seconds = "1770714000.reply.ada", date_of(REPLY).timestamp()
        live.push(HERE, f"Ada writes: {REPLY[2]}", lambda: self.stage.put_file(name, data, "S", seconds), "reply", "S")
        live.tell()
        self.agree("each is on both sides now", dinner=("", ""), reply=("S", "S"))
        self.screen.check("both went across byte for byte", kept=self.stage.same_bytes())

    def flags(self, live: Live) -> None:
        self.screen.step("Flags on both sides, even of one message at once")
        stage, cologne, chess = self.stage, self.uid("cologne"), self.uid("chess")
        live.push(THERE, "the greetings are answered (+RS)", lambda: stage.other.flag(cologne, "+RS"), "cologne", "RS")
        live.push(HERE, "the photos are read (+S)", lambda: stage.flag_file("lake", "+S"), "lake", "FS")
        live.push(HERE, "and starred no more (-F)", lambda: stage.flag_file("lake", "-F"), "lake", "S")
        self.screen.done_by_hand("on both", "chess is starred there (+F) and answered here (+R)")
        began = time.perf_counter()
        stage.other.flag(chess, "+F")
        stage.flag_file("chess", "+R")
        live.arrives(HERE, "chess", "FRS", began)
        live.arrives(THERE, "chess", "FRS", began)
        live.tell()
        self.agree("all of it is on both sides now", cologne=("RS", "RS"), chess=("FRS", "FRS"), lake=("S", "S"))

    def deletions(self, live: Live) -> None:
        self.screen.step("A deletion on each side becomes a mark on the other, no more")
        newsletter = self.uid("newsletter")
        live.push(THERE, "the newsletter is expunged", lambda: self.stage.other.expunge(newsletter), "newsletter", "T")
        live.push(HERE, "the invoice's file is removed", lambda: self.stage.remove_file("invoice"), "invoice", "RST")
        live.tell()
        self.agree(
            "the newsletter is here still, marked T; the invoice there, as \\Deleted",
            newsletter=(None, "T"),
            invoice=("RST", None),
        )

    def second_thoughts(self, live: Live) -> None:
        self.screen.step("Second thoughts: take the mark off, and the message is back")
        stage, invoice = self.stage, self.uid("invoice")
        live.push(
            HERE, "the newsletter's T is taken off", lambda: stage.flag_file("newsletter", "-T"), "newsletter", ""
        )
        live.push(
            THERE, "the invoice's \\Deleted is taken off", lambda: stage.other.flag(invoice, "-T"), "invoice", "RS"
        )
        live.tell()
        self.agree("both are on both sides again", newsletter=("", ""), invoice=("RS", "RS"))
        self.screen.check("both came back byte for byte", kept=self.stage.same_bytes())

    def silence(self, live: Live) -> None:
        self.screen.step("Nothing happens, for two seconds")
        asked, used, before = live.commands(), live.processor_seconds(), self.stage.fingerprint()
        time.sleep(2)
        self.screen.check("it asked nothing of the server", kept=live.commands() == asked)
        used = live.processor_seconds() - used
        self.screen.check(f"it used {used:.2f} s of processor time", kept=used < 0.1)
        self.screen.check("it touched nothing", kept=self.stage.fingerprint() == before)
        times = sorted(live.times)
        half, slowest = times[len(times) // 2], times[-1]
        self.screen.say(
            f"   {len(times)} changes went across: half of them within {half:.2f} s, all in {slowest:.2f} s."
        )
        code, seconds = live.end()
        self.screen.done_by_hand("here", "kill, in its gentle form (SIGTERM)")
        self.screen.check(f"it ended well, {seconds:.2f} s later", kept=code == 0 and seconds < 2)

    def mishap(self) -> None:
        self.screen.step("A mishap: the whole folder is gone, as if its disk were not mounted")
        away = self.stage.directory / "elsewhere"
        self.screen.done_by_hand("here", "mv Mail/INBOX elsewhere")
        self.stage.folder.rename(away)
        before = self.stage.other.look()
        said = self.stage.run("--once", expected=REFUSED_FOR_SAFETY)
        self.screen.check("it refuses, with exit code 65, and says why", kept="missing" in said)
        self.screen.check("on the server nothing was marked deleted", kept=self.stage.other.look() == before)
        self.screen.done_by_hand("here", "mv elsewhere Mail/INBOX")
        away.rename(self.stage.folder)
        before_all = self.stage.fingerprint()
        self.stage.run("--once")
        kept = self.stage.fingerprint() == before_all and self.stage.flags() == self.agreed
        self.screen.check("all is well again, and nothing was touched", kept=kept)

    def what_it_said(self) -> None:
        self.screen.step("What pushpull asked of the server in all these runs, by the server's own log")
        counted = self.stage.server.commands_of_pushpull()
        said = ", ".join(f"{name} {count}" for name, count in counted.most_common())
        self.screen.say(textwrap.fill(said, 80, initial_indent="   ", subsequent_indent="   "))
        self.screen.check("each run encrypted first", kept=counted["STARTTLS"] == counted["LOGIN"] > 0, instead=said)
        told = counted["APPEND"] == 2 and counted["UID STORE"] > 0
        self.screen.check("two uploads, and flags", kept=told, instead=said)
        never = [name for name in counted if name.removeprefix("UID ") in ("EXPUNGE", "CLOSE", "DELETE", "MOVE")]
        self.screen.check("never EXPUNGE, CLOSE, MOVE or DELETE: what is marked stays", kept=not never, instead=never)


# --- beginning and end ----------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Show what pushpull does, with a mail server of its own.")
    beside = Path(sys.executable).with_name("pushpull")
    parser.add_argument("--pushpull", type=Path, default=beside, help="the command to show (default: %(default)s)")
    parser.add_argument("--environment", metavar="DIR", help="tell that DIR is left, for the next time")
    return parser.parse_args()


def end_by_signal(number: int, _frame: object) -> None:
    """Leave by way of every `finally`; a second signal does not disturb the cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def show(options: argparse.Namespace, screen: Screen) -> None:
    with tempfile.TemporaryDirectory(prefix="pushpull-demo-") as name:
        directory = Path(name)
        with running_server(directory) as server, OtherProgram(server) as other:
            screen.say("pushpull: an IMAP mailbox and a Maildir folder, kept the same", "bold")
            screen.say(f"The server is pymap, on 127.0.0.1:{server.port}, with a certificate made a moment ago.")
            screen.say(f"All of this is in {directory}, and gone at the end.")
            Tour(Stage(directory, server, other, options.pushpull.absolute(), screen)).play()


def play(options: argparse.Namespace, screen: Screen) -> int:
    """The exit code; whatever happened, what was started and made is gone."""
    began = time.monotonic()
    try:
        show(options, screen)
    except (Broken, ServerTrouble, subprocess.TimeoutExpired, OSError) as error:
        print(f"\ncontrib/demo: {error}", file=sys.stderr)
        return 1
    except SystemExit as end:
        print("\ncontrib/demo: ended early", file=sys.stderr)
        return int(end.code or 0)
    seconds = time.monotonic() - began
    screen.say()
    screen.say(f"{screen.steps} steps, {screen.checks} promises kept, in {seconds:.1f} seconds.", "green")
    return 0


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end_by_signal)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    screen = Screen()
    code = play(options, screen)
    try:
        screen.say("The server is stopped and its directory removed.")
        if options.environment:
            screen.say(f"Only {options.environment} is left, for the next time; remove it whenever you like.")
    except OSError:  # nobody reads it: a pipe was closed, a terminal hung up
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
