#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of a bundle (README.md in tests/cuda of the checkout it was made from) on this machine:
#
#   ./run.sh [STEP ...]       version tests conversions benches sanitizer; all of them if none is named
#   RUN=quick ./run.sh        a minute: does everything work here?
#
# Writes RESULTS (by default the folder results beside this script): summary.txt, log.txt, and the benchmarks' JSON.
# Status 0: nothing failed; what could not run here is counted as skipped, with the reason.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
quick="" patience_s=1800
if [ "${RUN:-}" = quick ]; then quick=yes patience_s=60; fi
steps=("$@")
[ $# -gt 0 ] || steps=(version tests conversions benches sanitizer)
for step in "${steps[@]}"; do
  [[ $step =~ ^(version|tests|conversions|benches|sanitizer)$ ]] || { sed -n '3,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
done

needed=$(cat "$here/glibc-version") found=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
if [ "$(printf '%s\n' "$needed" "$found" | sort -V | head -n 1)" != "$needed" ]; then
  echo "glibc $found is too old for this bundle, which needs $needed; make it on a system as old as this one" >&2
  exit 2
fi

results=${RESULTS:-$here/results}
mkdir -p "$results"
results=$(cd "$results" && pwd)
log=$results/log.txt
: >"$log"
work=$(mktemp -d -t reshard-run.XXXXXX)
trap 'rm -rf "$work"' EXIT
: >"$work/records"

# Where the tests find their data and the program.
export RESHARD_SOURCE_DIR=$here/checkout RESHARD_PROGRAM=$here/bin/reshard
data=$here/checkout/tests
export PATH=$here/bin:$here/mpi/bin:$PATH

# The bundle's Open MPI, whatever else is installed or set here: on this machine alone, as root too, with more ranks than cores,
# unbound (a rank has several threads). Reading another process's memory is often forbidden in containers.
while read -r name; do unset "$name"; done < <(compgen -e | grep -E '^(OMPI|OPAL|ORTE|PMIX|PRTE|HWLOC)_')
export OPAL_PREFIX=$here/mpi OPAL_SYSCONFDIR=$here/mpi/etc PMIX_LIBDIR=$here/mpi/pmix/lib PMIX_DATADIR=$here/mpi/pmix/share
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_plm=isolated OMPI_MCA_btl=self,vader OMPI_MCA_btl_vader_single_copy_mechanism=none

# NCCL: where the loader looks by itself, then where it is often installed.
find_nccl() {
  local path named
  IFS=: read -ra named <<<"${LD_LIBRARY_PATH:-}"
  path=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | awk '$1 == "libnccl.so.2" {print $NF; exit}' || true)
  for path in "${named[@]/%//libnccl.so.2}" "$path" \
    /usr/local/cuda*/lib64/libnccl.so.2 /usr/local/cuda*/lib/libnccl.so.2 /usr/lib{/x86_64-linux-gnu,64,}/libnccl.so.2 \
    "$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0] + "/lib/libnccl.so.2")' 2>/dev/null)" \
    {/usr/lib,/usr/local/lib,/opt/*/lib,/opt/*/.venv/lib,"${HOME:-/root}"/.local/lib}/python3*/{site,dist}-packages/nvidia/nccl/lib/libnccl.so.2; do
    if [ -e "$path" ]; then
      echo "$path"
      break
    fi
  done
}
nccl=$(find_nccl)

# The bundle's libraries are for the bundle's programs: the machine's own need its own.
libraries=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}${nccl:+:$(dirname "$nccl")}
unset LD_LIBRARY_PATH
ours() { # LIMIT_S COMMAND ...; mpirun would read our input
  timeout --kill-after=20 "$1" env LD_LIBRARY_PATH="$libraries" "${@:2}" </dev/null
}

num_gpus=$(find /dev -maxdepth 1 -name 'nvidia[0-9]*' 2>/dev/null | wc -l)
no_gpu="no NVIDIA GPU on this machine (no /dev/nvidia*)"

record() { # GROUP passed|failed|skipped NAME [REASON]
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:-}" >>"$work/records"
  if [ "$2" = failed ]; then echo "FAILED: $1: $3: ${4:-}"; fi
}
say() { printf '\n== %s\n' "$*" | tee -a "$log"; }
last_line() { # what a command said at its end
  grep -v '^\s*$' "$work/output" | grep -E 'error' | tail -n 1 || grep -v '^\s*$' "$work/output" | tail -n 1 || true
}
logged() { # COMMAND ...: its output goes to the log and to $work/output; its status is returned
  local status=0
  { echo "\$ ${*/#"$here"\//}" && "$@"; } >"$work/output" 2>&1 || status=$?
  cat "$work/output" >>"$log"
  return $status
}

gtest() { # GROUP PROGRAM [ARGUMENT ...]: counts its tests
  local group=$1 status=0 program=$here/bin/$2
  [ -x "$program" ] || { record "$group" skipped "$2" "not built"; return 0; }
  say "$group"
  logged ours "$patience_s" "$program" "${@:3}" || status=$?
  awk -v group="$group" -v status=$status -F'\t' '
    function record(result, reason) { printf "%s\t%s\t%s\t%s\n", group, result, name, reason; ++counts[result]; name = "" }
    /^\[ RUN      \] / { name = substr($0, 14); reason = said = ""; wants_reason = says_more = 0 }
    wants_reason && NF { reason = $0; wants_reason = 0 }
    /: Skipped$/ { wants_reason = 1 }
    says_more && NF { said = said " " $0; says_more = 0 }
    /: Failure$/ && said == "" { said = $0; says_more = 1 }
    /^\[       OK \] .* ms\)$/ { record("passed") }
    /^\[  SKIPPED \] .* ms\)$/ { record("skipped", reason) }
    /^\[  FAILED  \] .* ms\)$/ { record("failed", said) }
    END {
      if (name != "") record("failed", "the program ended with status " status " in it")
      else if (status != 0 && !counts["failed"]) { name = "the program"; record("failed", "ended with status " status) }
      else if (!length(counts)) { name = "the program"; record("failed", "ran no test") }
      printf "%d passed, %d failed, %d skipped\n", counts["passed"], counts["failed"], counts["skipped"] >"/dev/stderr"
    }' "$work/output" >"$work/new" 2>"$work/counts"
  tee -a "$log" <"$work/counts"
  awk -F'\t' '$2 == "failed" {print "FAILED: " $1 ": " $3 ": " $4}' "$work/new"
  cat "$work/new" >>"$work/records"
}

run_version() {
  say "this machine"
  {
    echo "$(uname -srm), glibc $found, $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo)"
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null || echo "nvidia-smi: not there"
    [ "$num_gpus" -gt 0 ] || echo "$no_gpu"
    echo "NCCL: ${nccl:-no libnccl.so.2 found}"
  } | tee -a "$log"
  say "reshard --version"
  if logged ours 120 "$here/bin/reshard" --version; then
    record version passed "reshard --version"
  else
    record version failed "reshard --version" "$(last_line)"
  fi
  sed 1d "$work/output"
}

run_tests() {
  gtest cuda_host cuda_host_tests
  gtest cuda cuda_tests
  gtest nccl nccl_tests
  gtest mpi mpi_tests
  if [ -z "$quick" ]; then
    gtest unit unit_tests
    # The whole program, on its default device.
    gtest cli cli_tests
    gtest property property_tests
  fi
}

# SRC below tests/, then options.
conversion_cases() {
  cat <<'CASES'
data/llama-tiny --to nanotron --tp 2 --pp 2
interop/hf/gpt2 --to llms_from_scratch
CASES
  [ -z "$quick" ] || return 0
  cat <<'CASES'
data/llama-tiny --to nanotron --tp 4 --dtype fp32 --vocab-multiple 7
data/llama-tiny --to hf --dtype fp16 --max-shard-size 100KB
data/llama-tiny --to fairseq2 --tp 1 --dp 3
interop/hf/gpt2 --to hf --dtype fp16
interop/hf/llama-gqa-sharded --to hf_bin --max-shard-size 100KB
interop/hf/llama-mha-v256 --to meta --tp 4
interop/hf/llama-tied-bin-sharded --to hf
interop/hf/mistral --to hf --max-shard-size 100KB
interop/hf/mixtral --to hf --dtype fp32
interop/hf/qwen2 --to nanotron --tp 2
interop/hf/qwen3 --to llms_from_scratch
interop/hf/qwen3-moe --to hf_bin --dtype fp16
interop/hf-fused/mixtral-fused --to hf
interop/hf-fused/qwen2-moe-fused --to nanotron --tp 2
interop/meta/llama-tied-mp1 --to hf
interop/meta/llama-mha-v256-mp2-flat --to hf --dtype fp32
interop/nanotron/llama-gqa-tp2-interleaved --to hf --vocab-size 259
interop/nanotron/llama-gqa-tp2-pp2 --to nanotron --tp 4 --vocab-size 259 --dtype fp16
interop/nanotron/llama-tied-tp2-pp2 --to hdf5 --vocab-size 259
interop/fairseq2/llama-mha-v256-tp2-colembed/checkpoints --to hf --dtype bf16
interop/llms_from_scratch/gpt2.pth --to hf
synthetic:model --to nanotron --tp 4 --dtype fp16
CASES
}

# The reference is one rank that repacks on the CPU. Each way of doing it must write the same bytes; a way is a launcher ("-" for
# none) and options.
run_conversions() {
  say "conversions, bytes compared with those of one rank on the CPU"
  # Larger than the slots: several rounds, about 200 MB.
  cat >"$work/config.json" <<'CONFIG'
{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "hidden_size": 1024, "intermediate_size": 2816,
 "num_hidden_layers": 6, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 32003, "tie_word_embeddings": false}
CONFIG
  local far=(--route exchange) ranks2="mpirun -n 2" count=0 src options nccl_gone=""
  # Ranks that share a device each say that they are a host of their own, as NCCL refuses two on one.
  local apart="mpirun -n 2 sh -c 'NCCL_HOSTID=h\$OMPI_COMM_WORLD_RANK NCCL_SOCKET_IFNAME=lo exec \"\$0\" \"\$@\"'"
  while read -r src options; do
    count=$((count + 1))
    local name="$src $options" reference=$work/reference
    case $src in
      synthetic:*) src=synthetic:$work/config.json ;;
      *) src=$data/$src ;;
    esac
    if ! convert - --device cpu; then
      record "convert cpu" failed "$name" "$(last_line)"
      continue
    fi
    rm -rf "$reference"
    mv "$work/out" "$reference"
    record "convert cpu" passed "$name"
    compare "convert cpu, 4 threads" - --device cpu --exchange loopback --ranks 4 "${far[@]}"
    compare "convert cpu, 2 ranks" "$ranks2" --device cpu --exchange mpi "${far[@]}"
    if [ "$num_gpus" = 0 ]; then
      for way in "cuda" "cuda, 4 threads" "cuda, 2 ranks by mpi" "cuda, 2 ranks by nccl"; do
        record "convert $way" skipped "$name" "$no_gpu"
      done
      continue
    fi
    compare "convert cuda" - --device cuda
    compare "convert cuda, 4 threads" - --device cuda --exchange loopback --ranks 4 "${far[@]}"
    compare "convert cuda, 2 ranks by mpi" "$ranks2" --device cuda --exchange mpi "${far[@]}"
    local group="convert cuda, 2 ranks by nccl"
    if [ -z "$nccl" ]; then
      record "$group" skipped "$name" "no libnccl.so.2 found"
    elif [ "$num_gpus" -ge 2 ]; then
      compare "$group" "$ranks2" --device cuda --exchange nccl "${far[@]}"
    elif [ -n "$nccl_gone" ]; then
      record "$group" skipped "$name" "$nccl_gone"
    elif convert "$apart" --device cuda --exchange nccl "${far[@]}"; then
      same "$group" "$name"
    elif ! grep -q "cannot start NCCL" "$work/output"; then
      record "$group" failed "$name" "$(last_line)"
    else
      nccl_gone="tried with one GPU for both ranks: $(last_line)"
      record "$group" skipped "$name" "$nccl_gone"
    fi
  done < <(conversion_cases)
  echo "$count cases" | tee -a "$log"
}
convert() { # LAUNCHER OPTION ...: always to the same path, which side files may name
  rm -rf "$work"/out*
  local launcher=()
  [ "$1" = - ] || eval "launcher=($1)"
  # shellcheck disable=SC2086 # options are words
  logged ours 180 "${launcher[@]}" "$here/bin/reshard" convert "$src" "$work/out" $options "${@:2}"
}
same() { # GROUP NAME
  if diff -rq "$reference" "$work/out" >"$work/output" 2>&1; then
    record "$1" passed "$2"
  else
    record "$1" failed "$2" "$(head -n 1 "$work/output")"
  fi
}
compare() { # GROUP LAUNCHER OPTION ...
  if convert "${@:2}"; then
    same "$1" "$name"
  else
    record "$1" failed "$name" "$(last_line)"
  fi
}

run_benches() {
  [ -z "$quick" ] || return 0
  bench cuda_repack_bench
  bench exchange_bench mpirun -n 2
}
bench() { # NAME [LAUNCHER ...]
  local status=0
  if [ ! -x "$here/bin/$1" ]; then
    record benches skipped "$1" "not built"
  else
    say "$1"
    logged ours 900 "${@:2}" "$here/bin/$1" --json "$results/$1.json" || status=$?
    sed 1d "$work/output"
    case $status in
      0) record benches passed "$1" ;;
      1) record benches failed "$1" "a bar was missed, or values were wrong" ;;
      77) record benches skipped "$1" "$(last_line)" ;;
      *) record benches failed "$1" "status $status: $(last_line)" ;;
    esac
  fi
}

run_sanitizer() {
  [ -z "$quick" ] || return 0
  local sanitizer tool status options
  sanitizer=$(PATH=$PATH:$(printf '%s:' /usr/local/cuda*/bin /opt/cuda*/bin /opt/nvidia/*/bin) command -v compute-sanitizer || true)
  for tool in memcheck racecheck initcheck; do
    if [ ! -x "$here/bin/cuda_tests" ]; then
      record sanitizer skipped $tool "cuda_tests: not built"
    elif [ "$num_gpus" = 0 ]; then
      record sanitizer skipped $tool "$no_gpu"
    elif [ -z "$sanitizer" ]; then
      record sanitizer skipped $tool "no compute-sanitizer on this machine"
    else
      say "compute-sanitizer --tool $tool"
      status=0
      options=(--tool $tool --error-exitcode 86 --target-processes all)
      # One test asks for more memory than there is, and sees to the error.
      [ $tool != memcheck ] || options+=(--report-api-errors no)
      options+=(env LD_LIBRARY_PATH="$libraries" "$here/bin/cuda_tests")
      # Slots are fetched with bytes between messages that nobody wrote: only the kernel's own tests are for initcheck.
      [ $tool != initcheck ] || options+=('--gtest_filter=CudaRepack*')
      logged timeout --kill-after=20 1800 "$sanitizer" "${options[@]}" || status=$?
      grep '=========' "$work/output" | tail -n 20 || true
      if [ $status = 0 ]; then
        record sanitizer passed $tool
      elif grep -qE 'Device not supported|Unable to|not supported' "$work/output" && ! grep -q 'ERROR SUMMARY: [1-9]' "$work/output"; then
        record sanitizer skipped $tool "$(grep -E 'Device not supported|Unable to|not supported' "$work/output" | head -n 1)"
      else
        record sanitizer failed $tool "status $status: $(grep 'ERROR SUMMARY' "$work/output" | tail -n 1)"
      fi
    fi
  done
}

for step in "${steps[@]}"; do
  "run_$step"
done

say "summary"
awk -F'\t' '
  !($1 in seen) { seen[$1] = 1; groups[++n] = $1 }
  { ++count[$1, $2]; ++total[$2] }
  $2 == "failed" { failures[++num_failures] = $1 ": " $3 ": " $4 }
  $2 == "skipped" { key = $1 ": " $4; if (!(key in times)) reasons[++num_reasons] = key; ++times[key] }
  function row(name, passed, failed, skipped) { printf "%-32s %8d %8d %8d\n", name, passed, failed, skipped }
  END {
    printf "%-32s %8s %8s %8s\n", "", "passed", "failed", "skipped"
    for (i = 1; i <= n; ++i) row(groups[i], count[groups[i], "passed"], count[groups[i], "failed"], count[groups[i], "skipped"])
    row("total", total["passed"], total["failed"], total["skipped"])
    for (i = 1; i <= num_reasons; ++i) print (i == 1 ? "\nskipped:\n" : "") "  " times[reasons[i]] " of " reasons[i]
    for (i = 1; i <= num_failures; ++i) print (i == 1 ? "\nfailed:\n" : "") "  " failures[i]
  }' "$work/records" | tee -a "$log" "$results/summary.txt.new"
mv "$results/summary.txt.new" "$results/summary.txt"
echo "all output: $log"
! awk -F'\t' '$2 == "failed" {found = 1} END {exit !found}' "$work/records"
