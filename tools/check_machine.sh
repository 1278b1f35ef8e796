#!/bin/sh
# Is this machine able to run Spark? Says in one line what is missing; installs Java where that needs
# no question. Usage: check_machine.sh PYTHON
set -eu

fail() {
    echo "spark_embed: $1" >&2
    exit 1
}

python=$1
[ -n "$python" ] || fail "there is no python3; install Python 3.11 or later"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" --version 2>&1); Python 3.11 or later is needed (make PYTHON=/path/to/python3.11)"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; install its venv package (Debian: apt-get install python3-venv)"

java_major() {
    java=java
    if [ -n "${JAVA_HOME:-}" ]; then java=$JAVA_HOME/bin/java; fi
    "$java" -version 2>&1 | sed -n 's/.*version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1
}

major=$(java_major || true)
[ "${major:-0}" -ge 17 ] && exit 0

as_root=
if [ "$(id -u)" != 0 ]; then as_root="sudo -n"; fi
if command -v apt-get >/dev/null 2>&1 && { [ -z "$as_root" ] || $as_root true 2>/dev/null; }; then
    echo "spark_embed: installing Java from the system's packages"
    { $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends \
        openjdk-17-jre-headless; } >/dev/null 2>&1 ||
        { $as_root apt-get install -y -qq --no-install-recommends default-jre-headless >/dev/null 2>&1; } || true
    major=$(java_major || true)
    [ "${major:-0}" -ge 17 ] && exit 0
fi
fail "Java 17 or later is needed and was not found (found: ${major:-none}); install it, or set JAVA_HOME to it"
