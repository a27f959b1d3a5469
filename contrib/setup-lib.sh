# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by contrib/test and contrib/demo: find a Python, install what the system lacks.
# They set NAME, how the script calls itself, and define missing_packages PYTHON, which prints Debian's names.

PYTHONS="3.11 3.12 3.13"

say() { printf '%s: %s\n' "$NAME" "$*"; }
fail() {
    printf '%s: %s\n' "$NAME" "$*" >&2
    exit 1
}

# --- Python ---------------------------------------------------------------------------------------------------

# A pyenv shim lies in PATH for Pythons that are not switched on, too. tox tries one entry of PATH after the other,
# so the real ones are made known behind it.
find_pyenv_pythons() {
    local version bin
    for version in $PYTHONS; do
        for bin in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin; do
            if [ -x "$bin/python$version" ]; then PATH="$PATH:$bin"; fi
        done
    done
}

# The command of a Python that works, "" if there is none: the first of `python3.11` and `python3` that is 3.11, ...
python_command() {
    local command
    while read -r command; do
        if "$command" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            printf '%s\n' "$command"
            return
        fi
    done < <(type -ap "python$1" python3)
}

first_python() {
    local version command
    for version in $PYTHONS; do
        command=$(python_command "$version")
        if [ -n "$command" ]; then
            printf '%s\n' "$command"
            return
        fi
    done
}

# Debian's names of what Python itself lacks; "" stands for no Python at all.
missing_python_packages() {
    if [ -z "$1" ]; then echo python3 python3-venv
    elif ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then echo python3-venv; fi
}

# --- what the system has to have -----------------------------------------------------------------------------

# What it prints is of interest only when it fails.
quietly() {
    local output
    output=$("$@" 2>&1 </dev/null) || fail "$* failed:"$'\n'"$output"
}

POLICY=/usr/sbin/policy-rc.d

# Neither now nor after a restart does a Dovecot that was installed for the tests serve this machine's mail:
# invoke-rc.d asks the policy while the package is set up, and the service is switched off before that is lifted.
install_packages() {
    local policy_is_ours=no
    if [ ! -e "$POLICY" ]; then
        trap 'rm -f "$POLICY"' EXIT
        printf '#!/bin/sh\n# Temporary, of %s: no service is started.\nexit 101\n' "$NAME" >"$POLICY"
        chmod 755 "$POLICY"
        policy_is_ours=yes
    fi
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get update
    quietly apt-get install -y --no-install-recommends "$@"
    case " $* " in *" dovecot-imapd "*) quietly update-rc.d dovecot disable ;; esac
    if [ "$policy_is_ours" = yes ]; then
        rm -f "$POLICY"
        trap - EXIT
    fi
}

# Debian starts what it installs: a user who runs the command by hand has to end it.
stop_dovecot() {
    case " $1 " in *" dovecot-imapd "*) printf ' && systemctl disable --now dovecot' ;; esac
}

prepare_system() {
    local missing
    missing=$(missing_packages "$(first_python)" | xargs)
    if [ -z "$missing" ]; then return; fi
    if ! command -v apt-get >/dev/null; then
        fail "missing here, by Debian's names: $missing. Please install them."
    fi
    if [ "$(id -u)" != 0 ]; then
        fail "missing: $missing. As root, run:
    apt-get update && apt-get install --no-install-recommends $missing$(stop_dovecot "$missing")"
    fi
    say "installing $missing"
    # shellcheck disable=SC2086
    install_packages $missing
    missing=$(missing_packages "$(first_python)" | xargs)
    if [ -n "$missing" ]; then fail "still missing: $missing (Python has to be one of $PYTHONS)"; fi
}
