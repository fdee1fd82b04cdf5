/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "gst/gstwhisperxdna2enc.h"

static gboolean
plugin_init (GstPlugin * plugin)
{
  return GST_ELEMENT_REGISTER (whisperxdna2enc, plugin);
}

/* FFTW, which the library links, makes the whole a GPL work. */
GST_PLUGIN_DEFINE (GST_VERSION_MAJOR, GST_VERSION_MINOR, whisperxdna2,
    "Speech recognition with Whisper on AMD XDNA2 NPUs and on the CPU",
    plugin_init, PACKAGE_VERSION, "GPL", "whisperxdna2", PACKAGE_ORIGIN)
