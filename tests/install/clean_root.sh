#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Proves the README's two commands on a fresh Debian 12: builds a minimal root with debootstrap, clones HEAD of this
# checkout into it, runs both commands inside, and prints how long each took. Needs root and debootstrap.
#
#   tests/install/clean_root.sh [FOLDER]      the root is made in the new FOLDER (by default a temporary one)
#                                             and removed at the end
#
# Packages come from the mirror that this host's apt uses; pip's index and the proxy, where the environment names them, are
# passed on.
source "$(dirname "$0")/common.sh"

mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" {print $1; exit}')
[ -n "$mirror" ] || { echo "no mirror of Debian bookworm among apt's sources" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "debootstrap and chroot need root" >&2; exit 2; }
[ ! -e "${1:-}" ] || { echo "$1 exists; name a new folder" >&2; exit 2; }
root=$(realpath -m "${1:-$(mktemp -d -t reshard-root.XXXXXX)}")
trap 'rm -rf --one-file-system "$root"' EXIT

say "a minimal Debian 12 in $root"
mkdir -p "$root"
chmod 755 "$root"
start=$SECONDS
debootstrap --variant=minbase bookworm "$root" "$mirror" >"$root.log" 2>&1 || { tail "$root.log"; exit 4; }
rm "$root.log"
echo "debootstrap: $((SECONDS - start)) s"

# Name service and certificates of the host: what its network needs.
cp /etc/resolv.conf /etc/hosts "$root/etc/"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/host-certificates.crt"
git clone -q --no-local . "$root/root/reshard"

inside() { # TITLE COMMAND; mounts and processes end with it
  say "$1: $2"
  local start=$SECONDS
  mapfile -t settings < <(env | grep -E '^(PIP_(INDEX_URL|EXTRA_INDEX_URL|TRUSTED_HOST)|https?_proxy|no_proxy)=' || true)
  unshare --mount --pid --fork bash -c \
    'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --rbind /sys "$0/sys" &&
     exec chroot "$0" "$@"' "$root" \
    env -i "${settings[@]}" PIP_CERT=/etc/host-certificates.crt HOME=/root LANG=C.UTF-8 JOBS="$JOBS" \
    PATH=/usr/sbin:/usr/bin:/sbin:/bin bash -c "cd /root/reshard && $2"
  times+=("$1: $((SECONDS - start)) s")
}
times=()
inside "first command" tests/install/demo.sh
inside "second command" tests/install/test.sh

say "both commands pass on a clean Debian 12 ($JOBS jobs)"
printf '%s\n' "${times[@]}"
