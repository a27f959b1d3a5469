# SPDX-License-Identifier: MIT
"""Names of message files: what is read from them, and that a rename touches only what it must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.filenames import bucket, flags_of, make, split, with_flags
from pushpull.flags import ALL, ANSWERED, DELETED, DRAFT, FLAGGED, FORWARDED, NONE, SEEN

flag_sets = st.integers(NONE, ALL)
infos = st.one_of(
    st.binary(max_size=12).map(lambda tail: b":" + tail),
    st.builds(
        lambda letters, rest: b":2," + letters + rest, st.binary(max_size=6), st.sampled_from([b"", b",x", b","])
    ),
    st.text("DFPRSTabz", max_size=8).map(lambda letters: b":2," + letters.encode()),
    st.just(b""),
)


@pytest.mark.parametrize(
    ("name", "uniquename", "info"),
    [
        (b"1700000000.M1P2Q3.host:2,FS", b"1700000000.M1P2Q3.host", b":2,FS"),
        (b"1700000000.M1P2Q3.host", b"1700000000.M1P2Q3.host", b""),
        (b"1.host,S=123,W=130:2,S", b"1.host,S=123,W=130", b":2,S"),
        (b"a:2,S:2,T", b"a", b":2,S:2,T"),
        (b"a:", b"a", b":"),
        (b":2,S", b"", b":2,S"),
        (b"\xff\xfe:2,", b"\xff\xfe", b":2,"),
        ("grüße".encode("latin-1"), "grüße".encode("latin-1"), b""),
    ],
)
def test_a_name_is_split_at_its_first_colon(name, uniquename, info):
    assert split(name) == (uniquename, info)


@given(st.binary(max_size=40))
def test_splitting_loses_nothing(name):
    uniquename, info = split(name)
    assert uniquename + info == name
    assert b":" not in uniquename


@pytest.mark.parametrize(
    ("info", "flags"),
    [
        (b"", NONE),
        (b":", NONE),
        (b":2", NONE),
        (b":2,", NONE),
        (b":2,S", SEEN),
        (b":2,DFPRST", ALL),
        (b":2,TSRPFD", ALL),
        (b":2,SSSF", SEEN | FLAGGED),
        (b":2,Sab", SEEN),
        (b":2,a\xffS", SEEN),
        (b":2,s", NONE),
        (b":2,S,T", SEEN),
        (b":2,,T", NONE),
        (b":1,S", NONE),
        (b":3,S", NONE),
        (b":2;S", NONE),
    ],
)
def test_flags_are_read_liberally(info, flags):
    assert flags_of(info) == flags


@pytest.mark.parametrize(
    ("info", "add", "remove", "result"),
    [
        (b"", SEEN, NONE, b":2,S"),
        (b":", SEEN, NONE, b":2,S"),
        (b":2", SEEN, NONE, b":2,S"),
        (b":2,", ALL, NONE, b":2,DFPRST"),
        (b":2,S", NONE, SEEN, b":2,"),
        (b":2,S", DELETED | DRAFT, NONE, b":2,DST"),
        (b":2,FS", ANSWERED, FLAGGED, b":2,RS"),
        (b":2,bSa", FLAGGED, NONE, b":2,FSab"),
        (b":2,SA", FLAGGED, NONE, b":2,AFS"),
        (b":2,SSa", FLAGGED, SEEN, b":2,Fa"),
        (b":2,S\xff", FLAGGED, NONE, b":2,FS\xff"),
        (b":2,S,rest,T", FORWARDED, NONE, b":2,PS,rest,T"),
        (b":2,S,", NONE, SEEN, b":2,,"),
        (b":1,x", SEEN, NONE, b":2,S,1,x"),
        (b":odd", SEEN, NONE, b":2,S,odd"),
    ],
)
def test_a_change_keeps_what_it_does_not_know(info, add, remove, result):
    assert with_flags(info, add, remove) == result


@pytest.mark.parametrize("info", [b"", b":", b":2", b":2,", b":2,SF", b":2,SS", b":2,zSa,rest", b":1,x", b"\xff"])
def test_an_info_whose_flags_stay_is_not_tidied(info):
    flags = flags_of(info)
    assert with_flags(info, NONE, NONE) == info
    assert with_flags(info, flags, NONE) == info
    assert with_flags(info, NONE, ALL & ~flags) == info


@given(infos, flag_sets, flag_sets)
def test_a_change_shows_what_was_asked_for_and_repeats_to_nothing(info, add, remove):
    remove &= ~add
    changed = with_flags(info, add, remove)
    assert flags_of(changed) == (flags_of(info) & ~remove) | add
    assert with_flags(changed, add, remove) == changed


@given(infos, flag_sets, flag_sets)
def test_a_change_loses_no_foreign_byte(info, add, remove):
    changed = with_flags(info, add, remove & ~add)
    known = b"DFPRST"
    kept = sorted(byte for byte in info if byte not in known)
    left = sorted(byte for byte in changed if byte not in known)
    for byte in kept:
        assert byte in left
        left.remove(byte)
    assert all(byte in b":2," for byte in left)


def test_a_new_name_holds_what_makes_it_unique():
    assert make(1700000000, 123, 42, 7, "host.example") == b"1700000000.M123P42Q7.host.example"


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("a/b:c", rb"a\057b\072c"),
        ("", b"localhost"),
        ("a b\n", rb"a\040b\012"),
        ("ü", rb"\303\274"),
        ("\udcff", rb"\377"),
    ],
)
def test_a_host_cannot_break_a_name(host, shown):
    name = make(1, 2, 3, 4, host)
    assert name == b"1.M2P3Q4." + shown
    assert split(name) == (name, b"")
    assert b"/" not in name


@pytest.mark.parametrize(
    ("message_id", "name"),
    [("", "00"), ("123456789", "f4"), ("\x01", "07"), ("\0", "00")],
)
def test_the_bucket_is_a_crc_of_the_message_id(message_id, name):
    assert bucket(message_id) == name


@given(st.text(st.characters(codec="utf-8")))
def test_every_message_id_has_a_bucket(message_id):
    crc = 0
    for byte in message_id.encode():
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x107 if crc & 0x80 else crc << 1) & 0xFF
    assert bucket(message_id) == f"{crc:02x}"
