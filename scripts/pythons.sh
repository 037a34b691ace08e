# Sourced by scripts/check: which Pythons are installed, and the same check with several of them.

# Prints "3.12", a tab and the absolute path, for a released CPython that is new enough and can make a venv
# (Debian's may not be able to).  A free-threaded one is "3.13t".
describe='
import ensurepip, sys, venv
version = sys.version_info
if sys.implementation.name != "cpython" or version < (3, 11) or version.releaselevel != "final":
    sys.exit(1)
free_threaded = "t" * ("t" in sys.abiflags)
print(f"{version.major}.{version.minor}{free_threaded}\t{sys.executable}")
'

# A line a version, the oldest first.  What is on the PATH comes before what pyenv has beside it.
find_pythons() {
    local minor name names=()
    for minor in {11..29}; do
        names+=("python3.$minor" "python3.${minor}t")
    done
    for name in "${names[@]}" python3 python "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/python; do
        "$name" -c "$describe" 2>/dev/null || true
    done | awk -F '\t' '!seen[$1]++' | sort --key 1,1V
}

# The first and the last of find_pythons, but no free-threaded one: not every dependency has a wheel for those.
oldest_and_newest() { awk '$1 !~ /t$/' | sed -n '1p; 1!{$p;}'; }

results=() worst=0

# check_with VERSION PYTHON COMMAND...: run the command in a venv of that Python, and keep its exit code.
check_with() {
    local version=$1 base=$2 began=$SECONDS code=0
    shift 2
    echo "── Python $version ($base): ${*##*/}" >&2
    PYTHON=$base MQ_VENV=$venvs/$version "$@" </dev/null >&2 || code=$?
    results+=("Python $version  $([ "$code" = 0 ] && echo passed || echo "failed ($code)")  $((SECONDS - began)) s  $base")
    [ "$code" -le "$worst" ] || worst=$code
}

# A line for each Python that was run, behind all that the checks themselves print; then exit with the worst code.
report() {
    printf '%s\n' "${results[@]}"
    [ "${#results[@]}" -gt 1 ] || echo "no other Python (3.11 or newer) was found"
    exit "$worst"
}
