#!/usr/bin/env bash
# A few seconds of Styx on this machine: start everything, run two tasks, look around, stop, leave nothing behind.
# `make demo` makes the environment first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/.venv/bin

# Whatever Styx the caller uses otherwise is left alone.
for name in $(compgen -e | grep '^STYX_' || true); do unset "$name"; done
data=$(mktemp -d "${TMPDIR:-/tmp}/styx-demo-XXXXXX")

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || title() { printf '\n%s\n' "$*"; }
show() {
  local word line='$ styx'
  for word in "$@"; do
    [[ $word =~ ^[a-zA-Z0-9_./:=-]+$ ]] || word="'$word'"
    line+=" $word"
  done
  printf '%s\n' "$line"
  "$bin/styx" --data-dir "$data" "$@"
}
logs() { tail -n 20 "$data"/logs/*.log >&2 2>/dev/null || true; }

finish() {
  local code=$?
  trap - EXIT INT TERM
  if [ -e "$data" ]; then
    [ $code -eq 0 ] || { echo "demo: it failed with exit code $code; the ends of the logs:" >&2; logs; }
    "$bin/styx" --data-dir "$data" down >/dev/null 2>&1 || true
    # Only what carries the name of this demo's own folder.
    "$bin/python" -m tools.leftovers "$data" | while read -r pid _; do kill -KILL "$pid" 2>/dev/null || true; done
    rm -rf "$data"
  fi
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

title 'A server with its own PostgreSQL, and one agent'
show up --detach --grpc-port 0 --http-port 0

title 'One command'
show run -- echo 'Hello Styx!'

title 'A command that speaks for two seconds, followed live'
show run --name counting -- sh -c 'for i in $(seq 1 20); do echo "line $i"; sleep 0.1; done'

title 'What happened'
show status
show list

title 'Stop everything'
show down
if ! left=$("$bin/python" -m tools.leftovers "$data"); then
  printf 'demo: these processes are left:\n%s\n' "$left" >&2
  exit 1
fi
echo 'No process is left.'
