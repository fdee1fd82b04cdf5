#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs the tests:
#   ./test.sh            every fast suite on this machine, and again in Debian 13   (under 25 minutes on 2 cores);
#                        where clang is installed, each fuzzer for 20 s
#   ./test.sh NAME...    only these: a folder of tests/, debian13, asan, tsan, debian13-asan, debian13-tsan (the NPU's
#                        tests), valgrind, fuzz, soak, or one test by name
#   ./test.sh --full     all of that, each fuzzer for 10 minutes                    (hours)
# Installs, builds and fetches what is missing. The last line is the total; the exit code is 0 only if all of it passed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

everywhere=(host debian13 asan tsan debian13-asan debian13-tsan valgrind fuzz)
places=()
names=()
fast=(--no-suite=soak)
fuzzing=()  # 20 s each
for argument; do
  case $argument in
    --full) places=("${everywhere[@]}") fast=() fuzzing=(--test-args=-max_total_time=600) ;;
    debian13|asan|tsan|debian13-asan|debian13-tsan|valgrind|fuzz) places+=("$argument") ;;
    -*) echo "usage: test.sh [--full | NAME...]" >&2; exit 2 ;;
    *)
      [[ " ${places[*]} " == *" host "* ]] || places+=(host)
      names+=("$argument")
      fast=()
      ;;
  esac
done
if [ ${#places[@]} = 0 ]; then
  places=(host debian13)
  ! command -v clang++ >/dev/null || places+=(fuzz)
fi

groups=(build run model test)
[[ " ${places[*]} " != *" host "* ]] || groups+=(examples pipelines)
[[ " ${places[*]}" != *" debian13"* ]] || groups+=(debian13)
[[ " ${places[*]} " != *" fuzz "* ]] || groups+=(fuzz)
[[ " $* " != *" --full "* && " $* " != *" soak "* && " $* " != *" packages "* ]] || groups+=(packages)
tools/install-deps "${groups[@]}"
tools/fetch-model base
tools/fetch-model tiny.en

logs=()    # LABEL=testlog.json of each place where tests ran
broken=()  # places where they did not

# Names of the tests in build directory $1 that $2 means: those of a suite (long ones only if that is "soak"), or one.
tests_named() {
  python3 - "$1/meson-info/intro-tests.json" "$2" <<'END'
import json, sys
with open(sys.argv[1]) as file:
    for test in json.load(file):
        suites = [suite.partition(':')[2] for suite in test['suite']]
        wanted = sys.argv[2]
        if wanted == test['name'] or wanted in suites and (wanted == 'soak' or 'soak' not in suites):
            print(test['name'])
END
}

# place LABEL DIRECTORY [ENTER...] -- SETUP... -- [OPTION...] [NAME...]
# Builds in DIRECTORY and runs the tests of these names, or all; ENTER starts a command there.
place() {
  local label=$1 build=$2 enter=() setup=() log=$2/meson-logs/testlog.json
  shift 2
  while [ "$1" != -- ]; do enter+=("$1"); shift; done
  shift
  while [ "$1" != -- ]; do setup+=("$1"); shift; done
  shift
  echo "== ${label:-this machine}"
  if [ -e "$build/build.ninja" ]; then
    "${enter[@]}" meson configure "$build" "${setup[@]}" >/dev/null
  else
    "${enter[@]}" meson setup "$build" "${setup[@]}" >/dev/null
  fi && "${enter[@]}" ninja -C "$build" --quiet || {
    broken+=("${label:-this machine}: it could not be built")
    return 0
  }
  local options=() tests=() all=yes
  for argument; do
    case $argument in
      -*) options+=("$argument") ;;
      *) all='' && mapfile -t -O ${#tests[@]} tests < <(tests_named "$build" "$argument") ;;
    esac
  done
  rm -f "$log"
  if [ "$all" ] || [ ${#tests[@]} -gt 0 ]; then
    "${enter[@]}" meson test -C "$build" --print-errorlogs "${options[@]}" "${tests[@]}" || true
  fi  # what failed is counted below
  if [ -s "$log" ]; then
    logs+=("$label=$log")
  else
    broken+=("${label:-this machine}: no test ran")
  fi
}

rooms=(dsp kernels whisper gst npu device)
examples=(burn_in embed file_to_subtitles installed measuring mux_subtitles)  # without browser and sound server
sanitized=(-Dtests=true -Dbuildtype=debugoptimized -Db_lundef=false)
asan=("${sanitized[@]}" -Db_sanitize=address,undefined)
tsan=("${sanitized[@]}" -Db_sanitize=thread)
for where in "${places[@]}"; do
  case $where in
    host) place '' build -- -Dtests=true -- "${fast[@]}" "${names[@]}" ;;
    debian13) place debian13: build-debian13 tools/debian13-root -- -Dtests=true -- "${rooms[@]}" "${examples[@]}" ;;
    asan) place asan: build-asan -- "${asan[@]}" -- "${rooms[@]}" stress_soak --timeout-multiplier=10 ;;
    tsan) place tsan: build-tsan -- "${tsan[@]}" -- "${rooms[@]}" stress_soak --timeout-multiplier=20 ;;
    # What is not built where XRT is missing.
    debian13-asan) place debian13-asan: build-debian13-asan tools/debian13-root -- "${asan[@]}" -- npu device \
      --timeout-multiplier=10 ;;
    debian13-tsan) place debian13-tsan: build-debian13-tsan tools/debian13-root -- "${tsan[@]}" -- npu device \
      --timeout-multiplier=20 ;;
    valgrind) place valgrind: build-valgrind -- -Dtests=true -Dbuildtype=debugoptimized -- memcheck --setup=valgrind ;;
    fuzz) place fuzz: build-fuzz env CC=clang CXX=clang++ -- -Dfuzz=true -- fuzz "${fuzzing[@]}" ;;
  esac
done

echo
for where in "${everywhere[@]:1}"; do
  [[ " ${places[*]} " == *" $where "* ]] || echo "left out: $where"
done
[ ${#fast[@]} = 0 ] || echo "left out: soak"
[ ${#names[@]} = 0 ] || echo "left out: everything else on this machine"
python3 tests/summary.py "${broken[@]/#/broken=}" "${logs[@]}"
