#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A conversion by mpirun over two hosts that only a network joins: two network namespaces with an address each and a pair of
# virtual interfaces between them. The bytes are those that one rank writes, and they went over that network.
#
#   two_hosts_test.sh      RESHARD_PROGRAM names the program; status 77, with the reason, where there can be no namespaces
set -euo pipefail

program=${RESHARD_PROGRAM:-reshard}
model=$(realpath "$(dirname "$0")/../data/llama-tiny")
work=$(mktemp -d)
subnet=10.77.0  # of namespaces of our own: nobody else's addresses are in them
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

clean_up() {
  local host
  for host in 1 2; do ip netns delete "reshard-$$-$host" 2>/dev/null || true; done
  rm -rf "$work"
}
trap clean_up EXIT

# Host N: namespace reshard-PID-N, address SUBNET.N, and a host name of its own.
add_hosts() {
  local host
  for host in 1 2; do ip netns add "reshard-$$-$host"; done &&
    ip link add veth0 netns "reshard-$$-1" type veth peer name veth0 netns "reshard-$$-2" &&
    for host in 1 2; do
      ip -n "reshard-$$-$host" address add "$subnet.$host/24" dev veth0 &&
        ip -n "reshard-$$-$host" link set veth0 up &&
        ip -n "reshard-$$-$host" link set lo up || return 1
    done &&
    unshare --uts true
}
command -v ip >/dev/null || { echo "skipped: no ip; apt-get install iproute2"; exit 77; }
if ! refusal=$(add_hosts 2>&1); then
  echo "skipped: no network namespaces here: $(tail -n 1 <<<"$refusal")"
  exit 77
fi

# mpirun starts its daemon on another host as "AGENT HOST COMMAND".
cat >"$work/agent" <<AGENT
#!/usr/bin/env bash
host=\${1##*.}
shift
exec ip netns exec "reshard-$$-\$host" unshare --uts bash -c 'hostname "reshard-\$0" && eval "\$@"' "\$host" "\$@"
AGENT
chmod +x "$work/agent"

over_two_hosts() { # OPTION ...
  "$work/agent" "$subnet.1" mpirun --host "$subnet.1:2,$subnet.2:2" --bind-to none --mca plm rsh --mca plm_rsh_agent "$work/agent" \
    --mca oob_tcp_if_include "$subnet.0/24" --mca btl_tcp_if_include "$subnet.0/24" "$@"
}
crossed() { # bytes that either host has received
  local host
  for host in 1 2; do ip netns exec "reshard-$$-$host" grep veth0: /proc/net/dev; done | awk '{sum += $2} END {print sum}'
}

names=$(over_two_hosts hostname | sort | xargs)
[ "$names" = "reshard-1 reshard-1 reshard-2 reshard-2" ] || { echo "ranks ran on: $names"; exit 1; }

options=(--to hf --max-shard-size 200KB --route exchange)
"$program" convert "$model" "$work/alone" "${options[@]}" &>/dev/null
before=$(crossed)
over_two_hosts "$program" convert "$model" "$work/hosts" "${options[@]}" &>"$work/log" || { cat "$work/log"; exit 1; }
bytes=$(($(crossed) - before))

diff -r "$work/alone" "$work/hosts"
for host in 1 2; do
  grep -q "reshard-$host" "$work/hosts.report.json" || { echo "no host reshard-$host in the report"; exit 1; }
done
planned=$("$program" plan "$model" null: "${options[@]}" --ranks 4 --ranks-per-node 2 --json 2>/dev/null |
  python3 -c 'import json, sys; print(sum(rank["bytes_sent_off_node"] for rank in json.load(sys.stdin)["ranks"]))')
if [ "$planned" = 0 ] || [ "$bytes" -lt "$planned" ]; then
  echo "$bytes bytes crossed the network, $planned were planned"
  exit 1
fi
echo "same bytes as one rank's; $bytes bytes crossed the network, $planned of them planned"
