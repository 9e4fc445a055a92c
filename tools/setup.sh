#!/usr/bin/env bash
# Makes .venv with everything in it. Quick when nothing changed: it compares a digest, not times of files.
# STYX_PYTHON names the interpreter to use. No package index is named here: pip's and uv's own settings hold.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/.ready
say() { printf 'setup: %s\n' "$*" >&2; }

# The place is part of it: a folder that was moved or copied needs its scripts written anew.
place() { pwd -P; }
inputs() { cat pyproject.toml constraints.txt tools/hatch_build.py tools/setup.sh | sha256sum | cut -d' ' -f1; }

is_ready() {
  [ -x $venv/bin/styx ] && [ "$(cat $stamp 2>/dev/null)" = "$(place; inputs)" ]
}

is_usable() {
  [ -x $venv/bin/python ] && fits $venv/bin/python && [ "$(head -n 1 $stamp 2>/dev/null)" = "$(place)" ]
}

fits() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${STYX_PYTHON:-python3} python3.1{4,3,2,1} /usr/bin/python3 /usr/bin/python3.1{4,3,2,1} \
    /usr/local/bin/python3{,.14,.13,.12,.11}; do
    if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  say 'no Python 3.11 to 3.14 with its venv module was found; install one (Debian: apt install python3-venv)'
  return 1
}

choose_caches() {
  local cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}
  if ! { mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null; then
    export UV_CACHE_DIR=$PWD/$venv/cache PIP_NO_CACHE_DIR=1
  fi
}

# uv reads no pip configuration, and some machines have no other.
follow_pip_index() {
  local index
  index=$($venv/bin/python -m pip config get global.index-url 2>/dev/null) || return 0
  export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$index}}"
}

install() {
  local pip=($venv/bin/python -m pip --disable-pip-version-check install --quiet)
  if "${pip[@]}" -c constraints.txt uv && follow_pip_index &&
    $venv/bin/uv pip install --quiet --python $venv/bin/python -c constraints.txt -e '.[dev]'; then
    return
  fi
  say 'uv could not install; trying pip'
  "${pip[@]}" -c constraints.txt -e '.[dev]'
}

main() {
  is_ready && return
  exec 9<.
  flock 9
  is_ready && return
  choose_caches
  if ! is_usable; then
    local python
    python=$(find_python)
    say "making $venv with $python, once; about a minute"
    "$python" -m venv --clear $venv
  fi
  rm -f $stamp
  install
  { place; inputs; } >$stamp
}

main
