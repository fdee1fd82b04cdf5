#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Captions of a recording, as WebVTT on standard output:   ./captions.sh [FILE|URI] > FILE.vtt
# Installs, builds and fetches what is missing; without FILE it shows a bundled clip. Options are those of
# pipelines/file-to-subtitles.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -gt 0 ] || set -- "$root/tests/data/audio/jfk.wav"
exec "$root/pipelines/run" file-to-subtitles "$@"
