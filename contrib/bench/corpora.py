# SPDX-License-Identifier: MIT
"""Mail as it is: sizes log-normal, most of it MIME, some of it in 8 bit, dates over years. The same for each seed."""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

FLAGS = ("", "", "S", "S", "S", "RS", "FS")
FIRST_DATE, SPAN = 1_500_000_000, 250_000_000  # seconds: from 2017 on, for eight years at most
# fmt: off
_WORDS = [
    "meeting", "invoice", "the", "of", "report", "and", "tomorrow", "please", "attached", "regards", "draft",
    "server", "mail", "budget", "grüße", "naïve", "review", "patch", "release", "ticket", "answer", "question",
    "about", "between", "later", "today", "würde", "façade", "order", "number",
]
# fmt: on


@dataclass(frozen=True)
class Letter:
    """One message with LF line ends, its Maildir letters, and its date in seconds since the epoch."""

    body: bytes
    letters: str
    date: int


def letters(count: int, mean: int, *, seed: int = 1) -> Iterator[Letter]:
    """`count` messages of `mean` bytes on average (half of them are far smaller)."""
    draw = random.Random(seed)
    sigma = 1.1
    mu = math.log(mean) - sigma * sigma / 2
    filling = _filling(draw)
    step = min(900, SPAN // max(1, count))
    for number in range(count):
        size = max(400, int(draw.lognormvariate(mu, sigma)))
        date = FIRST_DATE + number * step
        yield Letter(_letter(draw, f"{seed}.{number}", size, date, filling), draw.choice(FLAGS), date)


def large(count: int, size: int) -> list[Letter]:
    """As many messages of that size, each with one attachment."""
    draw = random.Random(size)
    filling = _filling(draw)
    dates = [FIRST_DATE + number for number in range(count)]
    return [Letter(_letter(draw, f"{size}.{date}", size, date, filling), "S", date) for date in dates]


def _filling(draw: random.Random) -> tuple[bytes, bytes]:
    """Some 200 kB of text in 8 bit and as much of an attachment: slices of them fill the messages."""
    lines = [" ".join(draw.choices(_WORDS, k=draw.randrange(5, 11))) for _ in range(3000)]
    return "\n".join(lines).encode(), base64.encodebytes(draw.randbytes(150_000))


def _letter(draw: random.Random, name: str, size: int, date: int, filling: tuple[bytes, bytes]) -> bytes:
    text, attachment = filling
    when = format_datetime(datetime.fromtimestamp(date, UTC))
    head = (
        f"Return-Path: <list-{draw.randrange(50)}@example.org>\n"
        f"Received: from relay.example.org (relay.example.org [192.0.2.{draw.randrange(255)}])\n"
        f"\tby mail.example.net (Postfix) with ESMTPS id {draw.randbytes(6).hex()}\n\tfor <me@example.net>; {when}\n"
        f"From: Sender {draw.randrange(400)} <s{draw.randrange(400)}@example.org>\nTo: me@example.net\n"
        f"Subject: {' '.join(draw.choices(_WORDS[:10], k=4))} {name}\nDate: {when}\n"
        f"Message-ID: <{name}.{draw.randbytes(8).hex()}@example.org>\nMIME-Version: 1.0\n"
    ).encode()
    if size < 6000:
        head += b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
        return head + _cut(draw, text, size - len(head)) + b"\n"
    mark = draw.randbytes(12).hex().encode()
    parts = (
        b'Content-Type: multipart/mixed; boundary="%b"\n\n--%b\nContent-Type: text/plain; charset=utf-8\n'
        b"Content-Transfer-Encoding: 8bit\n\n%b\n--%b\nContent-Type: application/octet-stream\n"
        b"Content-Transfer-Encoding: base64\n\n"
    ) % (mark, mark, _cut(draw, text, 1500), mark)
    rest = size - len(head) - len(parts)
    return head + parts + _cut(draw, attachment, rest) + b"\n--%b--\n" % mark


def _cut(draw: random.Random, source: bytes, size: int) -> bytes:
    """Some `size` bytes of whole lines out of `source`, again and again if it is too short."""
    size = max(size, 60)
    start = source.index(b"\n", draw.randrange(len(source) // 2)) + 1
    taken = source[start:]
    if len(taken) < size:
        taken += source * (1 + (size - len(taken)) // len(source))
    return taken[: taken.index(b"\n", size) if b"\n" in taken[size:] else size]
