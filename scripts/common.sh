# Shared by the scripts beside it: a virtual environment with lddp installed. Sourced, not run.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="${LDDP_TEST_VENV:-$root/.venv}"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

# The first Python of 3.11 or later.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    die "no Python >= 3.11 found; on Debian 12 or Ubuntu: apt-get install python3 python3-venv"
}

# Debian splits ensurepip off; as root it can be added here, otherwise say what to install.
ensure_venv_module() {
    local python="$1" version packages
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return 0
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    packages="python$version-venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing $packages, which makes virtual environments"
        { apt-get install -y -q "$packages" || { apt-get update -q && apt-get install -y -q "$packages"; }; } >&2 ||
            die "apt-get could not install $packages; install it and run this again"
        "$python" -c 'import ensurepip, venv' 2>/dev/null && return 0
    fi
    die "Python's venv module is missing; install it as root: apt-get install $packages"
}

# Makes or refreshes the environment with the extras given ("" or "test"). Quick when nothing changed.
ensure_environment() {
    local extra="$1" python wanted stamp
    stamp="$venv/.lddp-installed${extra:+-$extra}"
    # An environment that was moved, half made, or made by a Python that is gone is made again.
    if [ "$(cat "$venv/.lddp-home" 2>/dev/null)" != "$venv" ] ||
        ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$(find_python)"
        ensure_venv_module "$python"
        say "making the environment $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" >&2 || die "cannot make $venv; set LDDP_TEST_VENV to a directory that you may write"
        printf '%s\n' "$venv" >"$venv/.lddp-home"
    fi
    wanted="$( (printf '%s\n' "$root"; "$venv/bin/python" --version; cat "$root/pyproject.toml") | sha256sum | cut -d' ' -f1)"
    # What the tests need includes all the rest.
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] && [ "$(cat "$venv/.lddp-installed-test" 2>/dev/null)" != "$wanted" ]; then
        say "installing lddp${extra:+ with what its tests need} into $venv"
        "$venv/bin/python" -m pip install --disable-pip-version-check --quiet -e "$root${extra:+[$extra]}" >&2 ||
            die "pip could not install the dependencies; see above, and check the network or the package index"
        printf '%s\n' "$wanted" >"$stamp"
    fi
}

# Programs that some tests use, installed where that is possible; without them those tests are skipped by name.
ensure_tools() {
    local pair missing=()
    for pair in strace:strace nft:nftables ip:iproute2 mkfs.ext4:e2fsprogs losetup:mount rsync:rsync; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 0
    say "installing ${missing[*]} for tests"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q "${missing[@]}" >&2 ||
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "${missing[@]}"; } >&2 ||
        say "apt-get could not install ${missing[*]}; tests that need them are skipped"
}
