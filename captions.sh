#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Captions of a recording, as WebVTT on standard output:   ./captions.sh [FILE|URI] > FILE.vtt
# Installs, builds and fetches what is missing; without FILE it shows a bundled clip.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$root/build
input=${1:-$root/tests/data/audio/jfk.wav}
if [ $# -gt 1 ] || [[ $input == -* ]]; then
  echo "usage: captions.sh [FILE|URI]" >&2
  exit 2
fi
case $input in
  *://*) ;;
  *)
    [ -r "$input" ] || { echo "captions.sh: cannot read $input" >&2; exit 1; }
    input=$(realpath -- "$input")
    ;;
esac

# Standard output is for the captions alone.
exec 3>&1 1>&2

models=${XDG_CACHE_HOME:-$HOME/.cache}/whisperxdna2/models
groups="build run"
[ -e "$models/base" ] || groups+=" model"
"$root/tools/install-deps" $groups

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ ! -e "$build/build.ninja" ]; then
  echo "building in $build, once"
  meson setup "$build" "$root" --buildtype=release -Dtests=false >"$log" 2>&1 || { cat "$log"; exit 1; }
fi
ninja -C "$build" plugin >"$log" 2>&1 || { cat "$log"; exit 1; }
[ -e "$models/base" ] || "$root/tools/fetch-model" base

# In GStreamer's pipeline syntax a quoted string ends at a quote and has backslashes before special characters.
quoted=${input//\\/\\\\}
quoted=\"${quoted//\"/\\\"}\"
case $input in
  *://*) source=(uridecodebin "uri=$quoted" 'caps=audio/x-raw(ANY)' expose-all-streams=false) ;;
  *) source=(filesrc "location=$quoted" ! decodebin 'caps=audio/x-raw(ANY)' expose-all-streams=false) ;;
esac
export GST_PLUGIN_PATH_1_0=$build/gst${GST_PLUGIN_PATH_1_0:+:$GST_PLUGIN_PATH_1_0}
module=$build/npu/libwhisperxdna2-npu.so
[ ! -e "$module" ] || export WHISPERXDNA2_NPU_MODULE=${WHISPERXDNA2_NPU_MODULE:-$module}
quiet=
[ -t 2 ] || quiet=--quiet  # on a terminal gst-launch shows how far it is
# fdsink is filesink for a file that is open already: it neither truncates nor seeks.
status=0
gst-launch-1.0 $quiet "${source[@]}" ! audioconvert ! audioresample ! whisperxdna2enc ! webvttenc ! fdsink fd=3 \
  2>"$log" || status=$?
if [ $status = 0 ]; then
  grep '^WARNING' "$log" || true
elif grep -q -e 'missing a plug-in' -e 'reason not-linked' "$log"; then
  echo "captions.sh: GStreamer found no sound that it can decode in $input"
else
  # The message of the element that failed first, and what it knows besides.
  sed -n -e 's/^ERROR: from element [^ ]*: /captions.sh: /p; t more' -e 's/^.*erroneous pipeline: /captions.sh: /p; b' \
    -e ': more' -e 'n; n; n; s/^/  /p; q' "$log"
fi
exit $status
