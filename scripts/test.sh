#!/usr/bin/env bash
# Set up with the test tools and PETSc, then lint, type-check and run every test: the serial ones once, in two shares
# beside each other and the collective ones (marked mpi) on 1 rank, then these on 2 ranks, then on 3 beside those on 4.
#
#   scripts/test.sh                     everything
#   scripts/test.sh --quick             in under three minutes: one case of each test of the library, on 2 ranks;
#                                       commands, scripts and documents are left to the whole
#   scripts/test.sh -x -k halo          further arguments go to pytest (its cache is off: no --lf)
#   HPC_SLA_TEST_RANKS="2" scripts/test.sh tests/sparse     only on 2 ranks, only these files
#
# Rank 0 prints; what the other ranks say is shown where one of them failed.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ ${1:-} == --quick ]]; then
    shift
    export HPC_SLA_TEST_QUICK=1 HPC_SLA_TEST_RANKS=${HPC_SLA_TEST_RANKS-2}
    (($#)) || set -- "$ROOT"/tests/{adjoint,direct,distributed,eigen,kernels,linear,nonlinear,partition,precond,problems,sparse,sparse_tensor,storage} "$ROOT"/tests/test_*.py
fi
"$ROOT/scripts/setup.sh" --test
use_environment
# Without bytecode every rank of every phase would compile the package and rewrite the tests' asserts again.
unset PYTHONDONTWRITEBYTECODE
cd "$ROOT"
read -r -a rank_counts <<<"${HPC_SLA_TEST_RANKS-1 2 3 4}"
# Where all four are asked for, they share the cases of tests that have many (tests/conftest.py).
[[ "${rank_counts[*]}" != "1 2 3 4" ]] || export HPC_SLA_TEST_SAMPLED=1
cores=$(env -u OMP_NUM_THREADS nproc) # which that variable limits
limit=${HPC_SLA_TEST_TIMEOUT:-2400} # seconds for one phase; a single test has pytest's own, shorter limit
arguments=("$@")
no_tests=5 # pytest's exit code where nothing was collected

logs=$(mktemp -d "${TMPDIR:-/tmp}/hpc_sla-test-XXXXXX")
trap 'rm -rf "$logs"' EXIT
passed=0 failed=0 skipped=0
broken=() empty=()

# Add the counts of pytest's last line ("3 failed, 12 passed, 1 error in 2.1s") to ours.
count() {
    local counts
    read -r -a counts < <(sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        / in [0-9.]+s/ && /passed|failed|skipped|error|deselected|no tests ran/ {
            good = bad = skipped = 0
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^(passed|xfailed|xpassed)/) good += $(i - 1)
                if ($i ~ /^(failed|error)/) bad += $(i - 1)
                if ($i ~ /^skipped/) skipped += $(i - 1)
            }
        }
        END { print good + 0, bad + 0, skipped + 0 }')
    passed=$((passed + counts[0]))
    failed=$((failed + counts[1]))
    skipped=$((skipped + counts[2]))
}

# known_by FILE COMMAND...: run a command whose process number is in FILE.
known_by() { (echo "$BASHPID" >"$1" && exec "${@:2}"); }

# phase NAME: run the tests of a phase, serial-SHARE or ranks-COUNT; show and keep what they print.
phase() {
    local name=$1 ranks status=0 command
    mkdir -p "$logs/$name"
    case $name in
    serial-*)
        command=(env HPC_SLA_TEST_SHARE="${name#serial-}/$shares" "${pytest[@]}" -m "not mpi" --basetemp="$logs/$name/tmp")
        ;;
    ranks-*)
        ranks=${name#ranks-}
        # Every rank keeps to a temporary folder of its own.
        command=(mpiexec -n "$ranks" "$ROOT/scripts/rank_output.sh" "$logs/$name" "${pytest[@]}" --with-mpi -m mpi
            --basetemp="$logs/$name/tmp-{rank}")
        ;;
    esac
    # Interrupted, pytest still tears down what its fixtures started.
    run known_by "$logs/$name/pid" timeout --signal=INT --kill-after=30 "$limit" "${command[@]}" 2>&1 | tee "$logs/$name/rank-0.log" || status=${PIPESTATUS[0]}
    rm -f "$logs/$name/pid" # another process may get that number
    echo "$status" >"$logs/$name/ended"
}

# judge NAME: count the phase's tests, remember how it ended.
judge() {
    local name=$1 status
    status=$(cat "$logs/$name/ended" 2>/dev/null || echo unknown)
    count "$logs/$name/rank-0.log"
    case $status in
    0) ;;
    "$no_tests") empty+=("$name") ;;
    124 | 137) broken+=("$name (not done after $limit s)") ;;
    *) broken+=("$name (exit code $status)") ;;
    esac
    [[ $status == 0 || $status == "$no_tests" ]] || show_other_ranks "$logs/$name"
}

# Interrupted, no phase goes on: each `timeout` passes it on to what it started.
stop() {
    local file
    for file in "$logs"/*/pid; do
        [[ ! -e $file ]] || kill -INT "$(cat "$file")" 2>/dev/null || true
    done
    wait
    exit 130
}

# beside NAME...: these phases at the same time; what the first prints is shown at once, that of the others after it.
beside() {
    local name
    # Processes that share their cores must not poll; the serial tests start ranks, too.
    local given=${MPIR_CVAR_ENABLE_HEAVY_YIELD-}
    export MPIR_CVAR_ENABLE_HEAVY_YIELD=1
    trap stop INT TERM
    phase "$1" &
    for name in "${@:2}"; do phase "$name" >/dev/null & done
    wait
    trap - INT TERM
    if [[ -n $given ]]; then export MPIR_CVAR_ENABLE_HEAVY_YIELD=$given; else unset MPIR_CVAR_ENABLE_HEAVY_YIELD; fi
    for name in "${@:2}"; do cat "$logs/$name/rank-0.log"; done
    for name in "$@"; do judge "$name"; done
}

# A rank with a status other than 0 failed; one with none was ended by mpiexec: its last line says where.
show_other_ranks() {
    local log status
    for log in "$1"/rank-[1-9]*.log; do
        [[ -e $log ]] || continue
        status=$(cat "${log%.log}.status" 2>/dev/null || echo ended)
        case $status in
        0) ;;
        ended) printf '\n--- %s was ended while at:\n%s\n' "$(basename "$log" .log)" "$(tail -n 3 "$log")" ;;
        *) printf '\n--- %s, exit code %s:\n%s\n' "$(basename "$log" .log)" "$status" "$(tail -n 100 "$log")" ;;
        esac
    done
}

checked=0
run ruff check . || checked=1
run ruff format --check . || checked=1
run mypy || checked=1
((checked == 0)) || broken+=("ruff or mypy")

# Phases run beside each other: no cache, which the next would write at the same time.
pytest=(python -m pytest -p no:cacheprovider --durations=5 "${arguments[@]}")
# On one core it takes as long either way.
alone=() crowded=() serial=(serial-1)
((cores == 1)) || serial+=(serial-2)
shares=${#serial[@]}
for ranks in "${rank_counts[@]}"; do
    if ((ranks == 1)); then serial+=(ranks-1); elif ((ranks <= cores)); then alone+=("ranks-$ranks"); else crowded+=("ranks-$ranks"); fi
done
beside "${serial[@]}"
for name in "${alone[@]}"; do
    phase "$name"
    judge "$name"
done
# Ranks that sleep while they wait leave a third of the cores' time to others: two rank counts at a time.
for ((i = 0; i < ${#crowded[@]}; i += 2)); do
    beside "${crowded[@]:i:2}"
done

# Nothing collected is a mistake, unless a selection was asked for and something was found elsewhere.
if ((${#empty[@]})) && { ((${#arguments[@]} == 0)) || ((passed + failed == 0)); }; then
    for name in "${empty[@]}"; do broken+=("$name (no tests)"); done
fi
printf '\n'
if ((${#broken[@]})); then
    printf 'FAILED: %s\n' "${broken[@]}"
    # A phase that was cut short has no closing line to count.
    ((failed > 0)) || failed=${#broken[@]}
fi
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((${#broken[@]} == 0))
