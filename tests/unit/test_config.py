# SPDX-License-Identifier: MIT
"""Configuration: what a file means, what every wrong file is answered, the sample."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull import shellwords
from pushpull.config import Config, PairingConfig, Safety, Secret, parse
from pushpull.config_keys import KEYS, SECTIONS
from pushpull.errors import EX_CONFIG, ConfigError
from pushpull.values import names

ROOT = Path(__file__).resolve().parents[2]
HOME = "/home/user"

ORIGINAL_SAMPLE = """\
# The format and keys of the original's sample: a file like this one, of a user who comes from it, must load unchanged.

[general]
    restart_after_error_seconds = 600

[log]
    file = ~/.config/pushpull/pushpull.log
    level = info

[ssl]
    certificate_file = /etc/ssl/certs/ca-certificates.crt

[local]
    state = ~/.config/pushpull/state.db
    maildir = ~/Maildir
    fsync = yes
    quiesce_seconds = 10
    buckets = no

[imap]
    host = imap.example.com
    port = 993
    login_username = user
    login_password =
    # oauth2_username = user@example.com
    # oauth2_refresh_command = get-oauth2-access-token user@example.com
    idle = no
    idle_timeout_minutes = 29
    sync_on_idle_timeout = no

[pairing INBOX]
    local = INBOX
    remote = INBOX

[pairing All Mail]
    local = All Mail
    remote = [Google Mail]/All Mail

[command]
    post_sync_local_change =
"""

LOCAL = "[local]\nstate = /s\nmaildir = /m\n"
LOGIN = "login_username = u\n"
IMAP = "[imap]\nhost = h\n" + LOGIN
PAIRING = "[pairing P]\nlocal = L\nremote = R\n"
MINIMAL = LOCAL + IMAP + PAIRING


def read(text: str) -> Config:
    return parse(text, "x.conf", HOME, "/cwd")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.exit_code == EX_CONFIG
    assert str(caught.value) == "\n".join(f"x.conf: {problem}" for problem in caught.value.problems)
    return list(caught.value.problems)


def test_the_sample_of_the_original_loads() -> None:
    config = read(ORIGINAL_SAMPLE)
    limits = Safety(50, 50, 33, 10)
    assert config.general.restart_after_error_seconds == 600
    assert (config.log.file, config.log.level) == (f"{HOME}/.config/pushpull/pushpull.log", "info")
    assert (config.ssl.certificate_file, config.ssl.certificate_sha256) == ("/etc/ssl/certs/ca-certificates.crt", ())
    assert (config.local.state, config.local.maildir) == (f"{HOME}/.config/pushpull/state.db", f"{HOME}/Maildir")
    assert (config.local.fsync, config.local.buckets, config.local.quiesce_seconds) == (True, False, 10)
    assert (config.imap.host, config.imap.port, config.imap.tls) == ("imap.example.com", 993, "implicit")
    assert (config.imap.login, config.imap.login_username, config.imap.login_password) == ("user", "user", None)
    assert (config.imap.oauth2_username, config.imap.oauth2_refresh_command) == (None, ())
    assert (config.imap.idle, config.imap.idle_timeout_seconds, config.imap.sync_on_idle_timeout) == (
        False,
        1740,
        False,
    )
    assert config.pairings == (
        PairingConfig("INBOX", "INBOX", "INBOX", f"{HOME}/Maildir/INBOX", limits),
        PairingConfig("All Mail", "All Mail", "[Google Mail]/All Mail", f"{HOME}/Maildir/All Mail", limits),
    )
    assert config.command.post_sync_local_change == ()
    assert not config.holds_password


def test_defaults() -> None:
    config = read(MINIMAL)
    assert config.general.restart_after_error_seconds == 300
    assert (config.log.file, config.log.level) == (None, "info")
    assert (config.ssl.certificate_file, config.ssl.certificate_sha256) == (None, ())
    assert (config.local.fsync, config.local.buckets, config.local.quiesce_seconds) == (True, False, 1)
    assert (config.imap.port, config.imap.tls, config.imap.timeout_seconds) == (993, "implicit", 60)
    assert config.imap.login_password_command == ()
    assert config.imap.disable_extensions == frozenset()
    assert (config.imap.idle, config.imap.idle_timeout_minutes) == (False, 29.0)
    assert config.command.timeout_seconds == 600
    assert config.safety == config.pairings[0].safety == Safety(50, 50, 33, 10)


def test_each_key_has_its_field_and_each_field_its_key() -> None:
    config = read(MINIMAL)
    for section in SECTIONS:
        part = config.pairings[0] if section == "pairing" else getattr(config, section)
        found = {*names(type(part))} - {"name", "folder", "safety"}
        assert found == {key.name for key in KEYS if key.section == section}


IMAP_VALUES = [
    ("port = 1", "port", 1),
    ("port = 65535", "port", 65535),
    ("tls = StartTLS", "tls", "starttls"),
    ("tls = starttls", "port", 143),
    ("tls = starttls\nport = 993", "port", 993),
    ("idle = TRUE", "idle", True),
    ("idle = Yes", "idle", True),
    ("idle = false", "idle", False),
    ("idle_timeout_minutes = 0.5", "idle_timeout_seconds", 30),
    ("idle_timeout_minutes = .001", "idle_timeout_seconds", 1),
    ("idle_timeout_minutes = 90", "idle_timeout_seconds", 1740),
    ("idle_timeout_minutes = 4.", "idle_timeout_seconds", 240),
    ("login_password = a = b # c", "login_password", Secret("a = b # c")),
    ("login_password = \u00a0p\u00a0", "login_password", Secret("\u00a0p\u00a0")),
    ("login_password_command = pass 'a b'", "login_password_command", ("pass", "a b")),
    ("disable_extensions = condstore, IDLE", "disable_extensions", frozenset({"CONDSTORE", "QRESYNC", "IDLE"})),
    ("disable_extensions = LITERAL+ AUTH=PLAIN", "disable_extensions", frozenset({"LITERAL+", "AUTH=PLAIN"})),
    ("disable_extensions = QRESYNC", "disable_extensions", frozenset({"QRESYNC"})),
]


@pytest.mark.parametrize(("lines", "name", "value"), IMAP_VALUES)
def test_values_of_imap(lines: str, name: str, value: object) -> None:
    assert getattr(read(MINIMAL + "[imap]\n" + lines).imap, name) == value


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", HOME),
        ("~/a b", f"{HOME}/a b"),
        ("~other/a", "/cwd/~other/a"),
        ("/a/~/b", "/a/~/b"),
        ("a/b", "/cwd/a/b"),
    ],
)
def test_paths(text: str, path: str) -> None:
    assert read(MINIMAL + f"[log]\nfile = {text}").log.file == path


def test_a_slash_at_the_end_of_home_is_not_doubled() -> None:
    assert parse(MINIMAL.replace("/m", "~/m"), "x", "/", "/").pairings[0].folder == "/m/L"


@pytest.mark.parametrize(
    ("local", "same", "folder"),
    [
        ("lists/python", "lists/python", "/m/lists/python"),
        ("lists//python/", "lists/python", "/m/lists/python"),
        ("./a/./b", "a/b", "/m/a/b"),
        (".", ".", "/m"),
        (".Sent", ".Sent", "/m/.Sent"),
        ("~user", "~user", "/m/~user"),
        ("Entwürfe", "Entwürfe", "/m/Entwürfe"),
        ("a..b", "a..b", "/m/a..b"),
    ],
)
def test_folders(local: str, same: str, folder: str) -> None:
    pairing = read(MINIMAL.replace("local = L", f"local = {local}")).pairings[0]
    assert (pairing.local, pairing.folder) == (same, folder)


@pytest.mark.parametrize(
    ("remote", "mailbox"),
    [
        ("inbox", "INBOX"),
        ("Inbox", "INBOX"),
        ("inbox/a", "inbox/a"),
        ("Entwürfe", "Entwürfe"),
        ("[Gmail]/x", "[Gmail]/x"),
    ],
)
def test_mailboxes(remote: str, mailbox: str) -> None:
    assert read(MINIMAL.replace("remote = R", f"remote = {remote}")).pairings[0].remote == mailbox


def test_names_of_pairings() -> None:
    text = LOCAL + IMAP
    for number, title in enumerate(("[a]", "x ] y", "  two   words ", "Été")):
        text += f"[pairing {title}]\nlocal = {number}\nremote = {number}\n"
    assert [pairing.name for pairing in read(text).pairings] == ["[a]", "x ] y", "two   words", "Été"]


def test_layout_does_not_matter() -> None:
    spread = (
        "\ufeff" + MINIMAL.replace("\n", "\t\r\n\v  \n  # [x\n\t") + "[ imap ]\nport=1\n[pairing P]\nwindow_minutes = 1"
    )
    config = read(spread)
    assert config.imap == read(MINIMAL + "[imap]\nport = 1").imap
    assert config.pairings[0].safety.window_minutes == 1


def test_an_empty_value_is_none_given() -> None:
    assert read(MINIMAL + "[imap]\nport =\nlogin_password_command = \n[log]\nfile=") == read(MINIMAL)


def test_limits_of_a_pairing_go_before_those_of_safety() -> None:
    more = "[pairing Q]\nlocal = M\nremote = S\nlocal_delete_limit = 7\nremote_delete_limit =\n"
    config = read(
        MINIMAL + more + "[safety]\nlocal_delete_limit = 0\nremote_delete_limit = 9\nremote_delete_percent = 100\n"
    )
    assert [pairing.safety for pairing in config.pairings] == [Safety(0, 9, 100, 10), Safety(7, 9, 100, 10)]


def test_fingerprints() -> None:
    one, other = "ab" * 32, ":".join(["CD"] * 32)
    config = read(MINIMAL + f"[ssl]\ncertificate_sha256 = {one}, {other}")
    assert config.ssl.certificate_sha256 == ("ab" * 32, "cd" * 32)


# --- wrong files ---------------------------------------------------------------------------------------------

WHOLE = "must be a whole number from"
NO_KEY = "neither a comment, nor a [section], nor key = value"
INSIDE = "must be a folder inside local.maildir, without a leading '/' or '~' and without '..'"
LINE = MINIMAL.count("\n")

# What is added to the minimal file, whose last line is number LINE, and what is said of it.
BAD = [
    ("[imap]\nport = 0", f"line {LINE + 2}: [imap] port = 0: {WHOLE} 1 to 65535"),
    ("[imap]\nport = 65536", f"line {LINE + 2}: [imap] port = 65536: {WHOLE} 1 to 65535"),
    ("[imap]\nport = +1", f"line {LINE + 2}: [imap] port = +1: {WHOLE} 1 to 65535"),
    ("[imap]\nport = 1_0", f"line {LINE + 2}: [imap] port = 1_0: {WHOLE} 1 to 65535"),
    ("[imap]\nport = ٣", f"line {LINE + 2}: [imap] port = ٣: {WHOLE} 1 to 65535"),
    ("[imap]\nport = " + "9" * 19, f"line {LINE + 2}: [imap] port = {'9' * 19}: {WHOLE} 1 to 65535"),
    ("[imap]\nport = 993 # x", f"line {LINE + 2}: [imap] port = 993 # x: {WHOLE} 1 to 65535"),
    ("[imap]\nprot = 1", f"line {LINE + 2}: [imap] prot: unknown key (did you mean 'port'?)"),
    ("[imap]\nPort = 1", f"line {LINE + 2}: [imap] Port: unknown key (did you mean 'port'?)"),
    ("[imap]\nzzz = 1", f"line {LINE + 2}: [imap] zzz: unknown key"),
    ("[imap]\nbuckets = no", f"line {LINE + 2}: [imap] buckets: unknown key (it belongs in [local])"),
    (
        "[imap]\nlogin_pasword = s3",
        f"line {LINE + 2}: [imap] login_pasword: unknown key (did you mean 'login_password'?)",
    ),
    ("[imap]\nlogin_password: s=3", f"line {LINE + 2}: [imap]: {NO_KEY}"),
    ("[imap]\nlogin_password s3", f"line {LINE + 2}: [imap]: {NO_KEY}"),
    ("[imap]\n= s3", f"line {LINE + 2}: [imap]: {NO_KEY}"),
    ("[imap]\nport = 1\nport = 2", f"line {LINE + 3}: [imap] port: given twice, first on line {LINE + 2}"),
    ("[imap]\nport =\n[log]\n[imap]\nport =", f"line {LINE + 5}: [imap] port: given twice, first on line {LINE + 2}"),
    ("[imap]\nidle = on", f"line {LINE + 2}: [imap] idle = on: must be yes or no"),
    ("[imap]\ntls = none", f"line {LINE + 2}: [imap] tls = none: must be implicit or starttls"),
    ("[log]\nlevel = loud", f"line {LINE + 2}: [log] level = loud: must be error, warning, notice, info or debug"),
    (
        "[log]\nfile = /x/..//s",
        f"line {LINE + 2}: [log] file = /x/..//s: is local.state, which it would destroy",
    ),
    (
        "[imap]\nidle_timeout_minutes = 0.0",
        f"line {LINE + 2}: [imap] idle_timeout_minutes = 0.0: must be a number of minutes above 0, such as 29 or 4.5",
    ),
    (
        "[imap]\nidle_timeout_minutes = nan",
        f"line {LINE + 2}: [imap] idle_timeout_minutes = nan: must be a number of minutes above 0, such as 29 or 4.5",
    ),
    (
        "[imap]\ndisable_extensions = IDLE;ID",
        f"line {LINE + 2}: [imap] disable_extensions = IDLE;ID: must be names of IMAP extensions with blanks or commas"
        " between them",
    ),
    (
        "[ssl]\ncertificate_sha256 = abcd",
        f"line {LINE + 2}: [ssl] certificate_sha256 = abcd: must be SHA-256 fingerprints of 64 hex digits, with blanks"
        " or commas between them",
    ),
    (
        "[command]\npost_sync_local_change = echo 'a",
        f"line {LINE + 2}: [command] post_sync_local_change = echo 'a: must be words as a shell reads them, but has a '"
        " without its end",
    ),
    (
        "[command]\npost_sync_local_change = '' a",
        f"line {LINE + 2}: [command] post_sync_local_change = '' a: must start with the name of a program",
    ),
    (
        '[imap]\nlogin_password_command = echo "s3',
        f'line {LINE + 2}: [imap] login_password_command = ***: must be words as a shell reads them, but has a "'
        " without its end",
    ),
    (
        "[imap]\nlogin_password = s3\nlogin_password_command = c",
        f"line {LINE + 3}: [imap] login_password_command: not together with login_password",
    ),
    (
        "[imap]\noauth2_username = u\noauth2_refresh_command = c",
        f"line {LINE + 2}: [imap] oauth2_username: not together with login_username",
    ),
    ("[command]\ntimeout_seconds = 0", f"line {LINE + 2}: [command] timeout_seconds = 0: {WHOLE} 1 to 1000000"),
    (
        "[safety]\nremote_delete_percent = 101",
        f"line {LINE + 2}: [safety] remote_delete_percent = 101: {WHOLE} 0 to 100",
    ),
    ("window_minutes = x", f"line {LINE + 1}: [pairing P] window_minutes = x: {WHOLE} 0 to 1000000"),
    ("[demon]", f"line {LINE + 1}: [demon]: unknown section (did you mean 'daemon'?)"),
    ("[sssl]\nfile = x", f"line {LINE + 1}: [sssl]: unknown section (did you mean 'ssl'?)"),
    ("[imap x]\nport = 0", f"line {LINE + 1}: [imap x]: unknown section (did you mean 'imap'?)"),
    ("[paring X]", f"line {LINE + 1}: [paring X]: unknown section (did you mean 'pairing'?)"),
    ("[]", f"line {LINE + 1}: []: unknown section"),
    ("[pairing ]", f"line {LINE + 1}: [pairing] needs a name: [pairing NAME]"),
    ("[imap\nport = 0", f"line {LINE + 1}: a [section] without its ']'"),
    ("[imap] # x", f"line {LINE + 1}: text after the ']' of a [section]"),
    ("[log]\nfile = a\x1b[2Jb", f"line {LINE + 2}: holds a control character"),
    ("[log]\nfile = a\x00b", f"line {LINE + 2}: holds a control character"),
    ("[log]\nfile = a\udcffb", f"line {LINE + 2}: is not UTF-8"),
    (
        "[log]\nlevel = \u202ex",
        f"line {LINE + 2}: [log] level = \\u202ex: must be error, warning, notice, info or debug",
    ),
    ("[pairing Q]\nlocal = /x\nremote = S", f"line {LINE + 2}: [pairing Q] local = /x: {INSIDE}"),
    ("[pairing Q]\nlocal = ~/x\nremote = S", f"line {LINE + 2}: [pairing Q] local = ~/x: {INSIDE}"),
    ("[pairing Q]\nlocal = a/../../x\nremote = S", f"line {LINE + 2}: [pairing Q] local = a/../../x: {INSIDE}"),
    ("[pairing Q]\nlocal =\nremote = S", f"line {LINE + 2}: [pairing Q] local: missing"),
    ("[pairing Q]\nlocal = M", f"line {LINE + 1}: [pairing Q] remote: missing"),
    ("[pairing Q]\nlocal = ./L/\nremote = S", f"line {LINE + 2}: [pairing Q] local = L: [pairing P] has it already"),
    ("[pairing Q]\nlocal = M\nremote = R", f"line {LINE + 3}: [pairing Q] remote = R: [pairing P] has it already"),
    (
        "[pairing Q]\nlocal = L/cur\nremote = S",
        f"line {LINE + 2}: [pairing Q] local = L/cur: is where [pairing P] keeps its messages",
    ),
    (
        "[pairing Q]\nlocal = L/a0/x\nremote = S",
        f"line {LINE + 2}: [pairing Q] local = L/a0/x: is where [pairing P] keeps its messages",
    ),
    (
        "[pairing Q]\nlocal = .\nremote = S\n[pairing A]\nlocal = ab\nremote = T",
        f"line {LINE + 5}: [pairing A] local = ab: is where [pairing Q] keeps its messages",
    ),
]


@pytest.mark.parametrize(("added", "problem"), BAD)
def test_one_fault(added: str, problem: str) -> None:
    assert problems(MINIMAL + added) == [problem]


@pytest.mark.parametrize("host", ["h t", "h/t", "u@h"])
def test_hosts_that_are_none(host: str) -> None:
    assert problems(MINIMAL.replace("host = h", f"host = {host}")) == [
        f"line 5: [imap] host = {host}: must be the name or address of a server, without blanks, '/' or '@'"
    ]


def test_one_mailbox_under_two_names() -> None:
    text = MINIMAL.replace("remote = R", "remote = inbox") + "[pairing Q]\nlocal = M\nremote = Inbox"
    assert problems(text) == ["line 12: [pairing Q] remote = INBOX: [pairing P] has it already"]


def test_folders_that_only_look_nested() -> None:
    text = LOCAL + IMAP
    for number, local in enumerate(("L", "L/curious", "L/abc", "L/AB", "LL/cur", "lists/L")):
        text += f"[pairing {number}]\nlocal = {local}\nremote = {number}\n"
    assert len(read(text).pairings) == 6


def test_an_empty_file_misses_all_that_is_required() -> None:
    assert problems("") == [
        "[local] state: missing",
        "[local] maildir: missing",
        "[imap] host: missing",
        "[imap] login_username or oauth2_username: missing",
        "[pairing NAME]: missing, nothing is to be synchronised",
    ]


def test_oauth2_needs_its_command() -> None:
    text = MINIMAL.replace(LOGIN, "oauth2_username = u\n")
    assert problems(text) == ["[imap] oauth2_refresh_command: missing, oauth2_username needs it"]
    config = read(text + "[imap]\noauth2_refresh_command = ~/bin/token u")
    assert (config.imap.login, config.imap.oauth2_refresh_command) == ("u", (f"{HOME}/bin/token", "u"))


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    text = "lost = 1\n[pairing X]\nlocal = ..\n[log]\nlevel = x\nfoo = 1\n[local]\nstate = s\nfsync = ja\n"
    assert problems(text) == [
        "line 1: stands before the first [section]",
        "line 2: [pairing X] remote: missing",
        f"line 3: [pairing X] local = ..: {INSIDE}",
        "line 5: [log] level = x: must be error, warning, notice, info or debug",
        "line 6: [log] foo: unknown key",
        "line 9: [local] fsync = ja: must be yes or no",
        "[local] maildir: missing",
        "[imap] host: missing",
        "[imap] login_username or oauth2_username: missing",
    ]


@given(st.text(alphabet="[]=# \n\ta\x00\udcff~'\"\\" + "pairing", max_size=80))
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.problems


# --- secrets -------------------------------------------------------------------------------------------------


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = read(MINIMAL + "[imap]\nlogin_password = s3cret").imap.login_password
    assert secret is not None
    assert secret.reveal() == "s3cret"
    assert [str(secret), repr(secret), f"{secret}"] == ["***"] * 3
    assert secret == Secret("s3cret") != Secret("other")
    assert len({secret, Secret("s3cret")}) == 1


def test_no_error_and_no_repr_shows_a_password() -> None:
    config = read(MINIMAL + "[imap]\nlogin_password = s3cret")
    assert config.holds_password
    assert "s3cret" not in repr(config)
    twice = "login_password = s3cret\nlogin_password = s3cret"
    for wrong in (twice, "login_passwort = s3cret", "password s3cret", "login_password: s3cret=", "= s3cret"):
        assert "s3cret" not in "\n".join(problems(MINIMAL + "[imap]\n" + wrong))


# --- shell words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        (" \t ", ()),
        ("a  b\tc", ("a", "b", "c")),
        ("'a b' \"c d\"", ("a b", "c d")),
        ("a'b'\"c\"d", ("abcd",)),
        (r"'a\b' a\ b", (r"a\b", "a b")),
        (r'"a\"b\\c\d"', ('a"b\\cd',)),
        ("'\"' \"'\"", ('"', "'")),
        ("'' \"\"", ("", "")),
        ("$HOME *.c; a|b >c # d", ("$HOME", "*.c;", "a|b", ">c", "#", "d")),
        ("~ ~/a ~b a~ a/~", (HOME, HOME + "/a", "~b", "a~", "a/~")),
        ("~/'a b' ~/a\\ b", (HOME + "/a b", HOME + "/a b")),
        ("'~/a' \"~\" \\~/a ~'/a'", ("~/a", "~", "~/a", "~/a")),
    ],
)
def test_shell_words(text: str, words: tuple[str, ...]) -> None:
    assert shellwords.split(text, HOME) == words


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a 'b", "a ' without its end"),
        ('a "b', 'a " without its end'),
        ('"a\\"', 'a " without its end'),
        ('"a\\', 'a " without its end'),
        ("a\\", "a backslash at the end"),
    ],
)
def test_shell_words_without_an_end(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(fault)}$"):
        shellwords.split(text, HOME)


# --- the sample ----------------------------------------------------------------------------------------------

SAMPLE = (ROOT / "pushpull.conf.sample").read_text(encoding="utf-8")


def sample_keys() -> dict[tuple[str, str], tuple[str, str, bool]]:
    """(section, key) -> (value, the comment above it, whether it is commented out)."""
    found: dict[tuple[str, str], tuple[str, str, bool]] = {}
    section = comment = ""
    for line in map(str.strip, SAMPLE.splitlines()):
        if line.startswith("["):
            section = line[1:].split("]")[0].split()[0]
        elif match := re.fullmatch(r"(# )?([a-z0-9_]+) =(?: (.+))?", line):
            assert (section, match[2]) not in found
            found[section, match[2]] = (match[3] or "", comment, match[1] is not None)
        comment = line.removeprefix("# ")
    return found


def test_the_sample_is_a_configuration() -> None:
    config = read(SAMPLE)
    assert config.imap.host == "imap.example.com"
    assert config.pairings[0].folder == f"{HOME}/Maildir/INBOX"


def test_the_sample_documents_each_key_with_its_default() -> None:
    found = sample_keys()
    assert list(found) == [(key.section, key.name) for key in KEYS]
    for key in KEYS:
        value, comment, commented = found[key.section, key.name]
        assert comment == key.help, key.name
        example = key.required or key.name == "login_username"
        assert commented != example, key.name
        assert value == key.default or example, key.name


def test_the_sample_means_the_same_with_its_defaults_written_out() -> None:
    written = re.sub(r"^( +)# ([a-z0-9_]+ =)", r"\1\2", SAMPLE, flags=re.MULTILINE)
    assert written.count("\n    # ") < SAMPLE.count("\n    # ")
    assert read(written) == read(SAMPLE)
