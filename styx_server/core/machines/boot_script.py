"""The words of the boot script: the same on every machine, in POSIX shell and in Python as old as 3.11.

Nothing is filled in here: what differs from machine to machine is in `machine.conf`, which `user_data.py` writes. Every
path hangs on `STYX_BOOT_ROOT`, empty on a real machine, so that tests can boot into a folder. `docs/machines/boot.md`
tells what the script does, and how to see it.
"""

from __future__ import annotations

from typing import Final

HEAD: Final = """\
#!/bin/sh
# Makes this machine an agent of Styx, and ends it when nobody needs it.
set -eu
umask 077
root=${STYX_BOOT_ROOT:-}
mkdir -p "$root/etc/styx" "$root/opt/styx/bin" "$root/run/styx" "$root/var/lib/styx-agent"
"""

DEAD_MAN: Final = r"""
cat >"$root/opt/styx/bin/dead-man" <<'STYX_END'
#!/bin/sh
# One look: does anybody need this machine? Needs no agent, no Python and no right time, only the machine's uptime.
set -u
how=${1:-}
root=${STYX_BOOT_ROOT:-}
state=$root/run/styx/dead-man
data=$root/var/lib/styx-agent
. "$root/etc/styx/machine.conf"
boot=$(cat /proc/sys/kernel/random/boot_id)
now=$(cut -d. -f1 /proc/uptime)
was_boot= was_now=0 lived=0 quiet=0 seen= calls=0
[ ! -r "$state" ] || . "$state"
passed=0
if [ "$was_boot" = "$boot" ]; then
  [ "$now" -lt "$was_now" ] || passed=$((now - was_now))
else
  lived=$(cat "$data/lived" 2>/dev/null) || lived=0
  quiet=0 calls=0
fi
lived=$((${lived:-0} + passed))
quiet=$((quiet + passed))
# The agent writes `lease.json` whenever a server has heard it, and `busy` while something runs.
signs=$(stat -c %Y "$data/lease.json" "$data/busy" 2>/dev/null | tr '\n' ' ')
[ "$signs" = "$seen" ] || quiet=0
reason=
if [ "$life_seconds" -gt 0 ] && [ "$lived" -ge "$life_seconds" ]; then
  reason="its time of $life_seconds s is over"
elif [ ! -e "$data/lease.json" ]; then
  [ "$lived" -lt "$join_seconds" ] || reason="no server has taken it within $join_seconds s"
else
  rm -f "$root/etc/styx/join.token"
  [ "$quiet" -lt "$silent_seconds" ] || reason="it runs nothing and has heard of no server for $silent_seconds s"
fi
[ -z "$reason" ] || calls=$((calls + 1))
echo "was_boot=$boot was_now=$now lived=$lived quiet=$quiet seen='$signs' calls=$calls" >"$state.new" &&
  mv "$state.new" "$state"
echo "$lived" 2>/dev/null >"$data/lived"
[ -n "$reason" ] || exit 0
echo "styx dead-man: this machine ends: $reason"
[ "$how" = poweroff ] || exit 1
# Politely, then less and less so.
case $calls in
  1) poweroff || shutdown -P now ;;
  2) poweroff -f ;;
  *) poweroff -f -f ;;
esac
STYX_END
chmod 755 "$root/opt/styx/bin/dead-man"
# The first look only starts the clocks: however long the machine is up, its time begins now.
"$root/opt/styx/bin/dead-man" || true
if [ -d "$root/run/systemd/system" ]; then
  units=$root/etc/systemd/system
  mkdir -p "$units"
  cat >"$units/styx-dead-man.service" <<'STYX_END'
[Unit]
Description=Ends this machine when Styx does not need it
[Service]
Type=oneshot
ExecStart=/opt/styx/bin/dead-man poweroff
StandardOutput=journal+console
# A journal that tells of each look would hold little else.
SyslogLevel=warning
LogLevelMax=warning
STYX_END
  cat >"$units/styx-dead-man.timer" <<'STYX_END'
[Unit]
Description=Looks whether Styx needs this machine
[Timer]
OnActiveSec=15
OnUnitActiveSec=15
AccuracySec=1s
[Install]
WantedBy=timers.target
STYX_END
  chmod 644 "$units"/styx-dead-man.*
  systemctl daemon-reload
  systemctl enable styx-dead-man.timer
  systemctl start --no-block styx-dead-man.timer
fi
"""

AGENT: Final = r"""
. "$root/etc/styx/machine.conf"
child= ends= code=0
# Runs a program so that a signal to this script reaches it at once.
hold() {
  "$@" &
  child=$!
  [ -z "$ends" ] || kill "$child"
  while :; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  child=
}
if [ ! -d "$root/run/systemd/system" ]; then
  # A container: this script is its dead-man and its watchdog, and the container ends with it.
  main=$$
  trap 'ends=yes; [ -z "$child" ] || kill "$child" 2>/dev/null' TERM INT
  (
    trap - TERM INT
    while sleep 5; do
      verdict=0
      "$root/opt/styx/bin/dead-man" || verdict=$?
      [ "$verdict" != 1 ] || { kill "$main"; exit; }
    done
  ) &
  watch=$!
  trap 'kill "$watch" 2>/dev/null || true' EXIT
fi

cat >"$root/opt/styx/bin/fetch-agent" <<'STYX_END'
import hashlib, http.client, json, os, platform, sys, tarfile, time, urllib.request
urls, digest, folder = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
def fetch(digest):
    pause = 1
    while True:
        for url in urls:
            where = url.rstrip("/") + "/bundles/" + digest
            try:
                with urllib.request.urlopen(where, timeout=60) as answer:
                    data = answer.read()
                if hashlib.sha256(data).hexdigest() == digest:
                    return data
                print("styx:", where, "gave something else", flush=True)
            except (OSError, http.client.HTTPException, ValueError) as error:
                print("styx:", where, error, flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 15)
mine = "%d.%d-%s" % (*sys.version_info[:2], platform.machine())
bundles = json.loads(fetch(digest))["bundles"]
if mine not in bundles:
    sys.exit("styx: no agent for Python %s here; the server has those for %s; see `styx-server bundle`"
             % (mine, ", ".join(sorted(bundles))))
path = folder + ".tar.gz"
with open(path, "wb") as file:
    file.write(fetch(bundles[mine]["sha256"]))
with tarfile.open(path) as archive:
    if hasattr(tarfile, "data_filter"):
        archive.extraction_filter = staticmethod(tarfile.data_filter)
    archive.extractall(folder + ".new")
os.remove(path)
os.rename(folder + ".new", folder)
STYX_END
cat >"$root/opt/styx/bin/styx-agent" <<'STYX_END'
#!/bin/sh
# Becomes the agent, with the flags of this machine and those given here.
root=${STYX_BOOT_ROOT:-}
. "$root/etc/styx/machine.conf"
data=$root/var/lib/styx-agent
[ -e "$data/lease.json" ] || STYX_JOIN_TOKEN=$(cat "$root/etc/styx/join.token") && export STYX_JOIN_TOKEN
if [ -n "$bundle" ]; then
  # -S: nothing of what the image has installed for itself.
  export PYTHONPATH="$root/opt/styx/$bundle"
  styx_agent python3 -S -P -m styx_agent --data-dir="$data" "$@"
fi
styx_agent styx-agent --data-dir="$data" "$@"
STYX_END
chmod 755 "$root/opt/styx/bin/styx-agent"

if [ -n "$bundle" ] && [ ! -d "$root/opt/styx/$bundle" ]; then
  if ! command -v python3; then
    echo "styx: this image has no python3; an agent needs 3.11 or newer"
    exit 1
  fi
  rm -rf "$root/opt/styx/$bundle.new"
  hold python3 "$root/opt/styx/bin/fetch-agent" "$server_urls" "$bundle" "$root/opt/styx/$bundle"
  [ "$code" = 0 ] || exit "$code"
fi

if [ -d "$root/run/systemd/system" ]; then
  unit=$root/etc/systemd/system/styx-agent.service
  cat >"$unit" <<'STYX_END'
[Unit]
Description=Styx agent
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0
[Service]
Environment=STYX_LOG_FORMAT=json
ExecStart=/opt/styx/bin/styx-agent --on-exit=keep
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=2
# Refused, or removed by an operator: it would only be refused again.
RestartPreventExitStatus=2 3
# Tasks, and the supervisor that is their parent, stay when the agent is restarted.
KillMode=process
TimeoutStopSec=30
# Limits of tasks are control groups below this unit's own.
Delegate=yes
TasksMax=infinity
OOMPolicy=continue
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
STYX_END
  chmod 644 "$unit"
  systemctl daemon-reload
  systemctl enable styx-agent.service
  systemctl start --no-block styx-agent.service
  exit 0
fi
while [ -z "$ends" ]; do
  hold "$root/opt/styx/bin/styx-agent" --on-exit=stop
  case $code in 2 | 3) break ;; esac
  [ -n "$ends" ] || hold sleep 2
done
exit "$code"
"""
