/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* whisperxdna2enc: speech to text, or to Whisper's encoder features. */

#pragma once

#include <gst/gst.h>

G_BEGIN_DECLS

#define GST_TYPE_WHISPER_XDNA2_ENC (gst_whisper_xdna2_enc_get_type ())
G_DECLARE_FINAL_TYPE (GstWhisperXdna2Enc, gst_whisper_xdna2_enc, GST,
    WHISPER_XDNA2_ENC, GstElement)

GST_ELEMENT_REGISTER_DECLARE (whisperxdna2enc);

G_END_DECLS
