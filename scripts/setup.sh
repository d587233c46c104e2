# Sourced by scripts/run and scripts/test: makes and reuses .venv, installs only what has changed.
# shellcheck shell=bash
#
#   PYTHON=python3.13   which interpreter to build .venv with (3.11 or newer)
#   VENV=DIR            where the environment lies (default: .venv in this checkout)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# The first interpreter that runs, is new enough and can make environments.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python >= 3.11 with venv and pip found (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11}).
Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: PYTHON=/path/to/python $0"
}

# setup EXTRAS: an environment with the package and the named extras at the tested versions.
setup() {
  local extras=$1 stamp=$venv/.installed versions
  versions=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum | tr ' ' -)
  # An environment made with extras also serves those who ask for none.
  if [ -x "$venv/bin/python" ] && grep -qE "^${extras:-.*}:$versions\$" "$stamp" 2>/dev/null; then
    return
  fi
  if [ ! -x "$venv/bin/python" ]; then
    local python
    python=$(find_python) || exit 2
    echo "Making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || fail "could not make $venv (disk full? is python3-venv installed?)"
  fi
  echo "Installing scaling${extras:+ [$extras]} into $venv (once; a few minutes)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/constraints.txt" --editable "$root${extras:+[$extras]}" 2>"$venv/.pip-errors" || {
    cat "$venv/.pip-errors" >&2
    fail "pip could not install the packages named in pyproject.toml; the message above says why"
  }
  echo "$extras:$versions" >>"$stamp"
}
