/* SPDX-License-Identifier: LGPL-2.1-or-later */

/**
 * SECTION:element-whisperxdna2enc
 * @title: whisperxdna2enc
 * @short_description: Speech to text, or to encoder features, with Whisper
 *
 * Recognizes speech with OpenAI's Whisper models. What comes out is chosen by
 * caps negotiation:
 *
 * - `text/x-raw,format=utf8`: one buffer per caption, or per word with
 *   #GstWhisperXdna2Enc:output-unit. Buffers never overlap, always have a
 *   timestamp and a duration, and stretches without text are announced by GAP
 *   events. Language, confidence and window are in a custom meta,
 *   `GstWhisperItemMeta`.
 * - `other/tensors` (NNStreamer) or `application/x-whisper-features`: one
 *   buffer of 32 bit floats, [positions][d_model], per consecutive window of
 *   audio; the meta's `valid-frames` says how many rows come from audio.
 *
 * ## Latency
 *
 * Whisper reads audio in windows (#GstWhisperXdna2Enc:audio-context, 10.24 s by
 * default). Of a recording each stretch is read once, so that a word comes out
 * up to one window after it was said, and a caption when it is complete. From a
 * live source a window is read again every second, and text comes out at the
 * latest 4 s after it was said. The element reports this, plus
 * #GstWhisperXdna2Enc:latency for the processing itself. Branches that play
 * beside the captions need a queue that holds as much.
 * #GstWhisperXdna2Enc:lateness shifts the captions instead: they are shown later
 * by that much, and the pipeline waits less.
 *
 * What is being said but not yet final is posted as element messages named
 * `whisperxdna2enc/partial`; every final caption or word as
 * `whisperxdna2enc/segment`, with an array `words` of structures that have text,
 * confidence and times of their own; every change of language as
 * `whisperxdna2enc/language`.
 *
 * Of a recording nothing is dropped when processing cannot keep up: the element
 * blocks its upstream. From a live source it does less, step by step: it decodes
 * after several hops (#GstWhisperXdna2Enc:live-hop) instead of each; from 3 s of
 * waiting audio on it posts no partial text, from 5 s on it decodes each stretch
 * of speech once; and audio that has waited longer than
 * #GstWhisperXdna2Enc:max-lag is left out: a WARNING says how much, and a GAP
 * event stands for it. So text comes at the latest that much, and the time that
 * three windows take, after it was said. A WARNING says also when text is later
 * than the reported latency. When an NPU fails, the CPU goes on with the same
 * results, and a WARNING says so.
 *
 * ## Sharing
 *
 * Elements of a process that use the same model hold it in memory once. The
 * context `gst.whisperxdna2.device` keeps the model and the device beyond the
 * life of an element: an application that holds the one it gets in a
 * HAVE_CONTEXT message can stop a pipeline and start another at once.
 *
 * ## Example launch lines
 * |[
 * gst-launch-1.0 filesrc location=talk.mp4 ! decodebin ! audioconvert ! audioresample ! whisperxdna2enc ! \
 *   webvttenc ! filesink location=talk.vtt
 * ]| Captions of a recording, faster than real time.
 * |[
 * gst-launch-1.0 pulsesrc ! audioconvert ! audioresample ! queue max-size-time=0 max-size-bytes=0 ! \
 *   whisperxdna2enc ! fakesink dump=true
 * ]| What the microphone hears.
 *
 * Since: 0.1
 */

#include "gst/gstwhisperxdna2encprivate.h"

#include <algorithm>
#include <cmath>

GST_DEBUG_CATEGORY (whisper_xdna2_enc_debug);

/* The probability below which speech may end. */
static void
apply_vad_thresholds (Settings * settings)
{
  settings->engine.voice.negative_threshold = std::max (0.01f,
      settings->engine.voice.threshold - settings->vad_hysteresis);
}

static gint64
ms_to_samples (guint ms)
{
  return (gint64) ms * RATE / 1000;
}

enum
{
  PROP_0,
  PROP_MODEL_PATH,
  PROP_BACKEND,
  PROP_ACTIVE_BACKEND,
  PROP_PRECISION,
  PROP_LANGUAGE_CODE,
  PROP_TRANSLATE,
  PROP_BEAM_SIZE,
  PROP_INITIAL_PROMPT,
  PROP_HOTWORDS,
  PROP_VAD_THRESHOLD,
  PROP_VAD_HYSTERESIS,
  PROP_VAD_MIN_SPEECH,
  PROP_VAD_MIN_SILENCE,
  PROP_VAD_PADDING,
  PROP_LIVE_HOP,
  PROP_LIVE_PAUSE,
  PROP_MAX_LAG,
  PROP_AUDIO_CONTEXT,
  PROP_N_THREADS,
  PROP_OUTPUT_UNIT,
  PROP_LATENCY,
  PROP_LATENESS,
  PROP_MAX_OBSERVED_DELAY,
  PROP_STATS,
  N_PROPS
};

static GParamSpec *properties[N_PROPS];

static GstStaticPadTemplate sink_template = GST_STATIC_PAD_TEMPLATE ("sink",
    GST_PAD_SINK, GST_PAD_ALWAYS,
    GST_STATIC_CAPS ("audio/x-raw, "
        "format = (string) { " GST_AUDIO_NE (F32) ", " GST_AUDIO_NE (S16) " }, "
        "layout = (string) interleaved, "
        "rate = (int) 16000, channels = (int) 1"));

static GstStaticPadTemplate src_template = GST_STATIC_PAD_TEMPLATE ("src",
    GST_PAD_SRC, GST_PAD_ALWAYS,
    GST_STATIC_CAPS ("text/x-raw, format = (string) utf8; "
        "other/tensors, format = (string) static, num_tensors = (int) 1, "
        "types = (string) float32, framerate = (fraction) [ 0/1, max ]; "
        "application/x-whisper-features, version = (int) 1, "
        "format = (string) " GST_AUDIO_NE (F32) ", "
        "dims-order = (string) row-major"));

#define gst_whisper_xdna2_enc_parent_class parent_class
G_DEFINE_TYPE_WITH_CODE (GstWhisperXdna2Enc, gst_whisper_xdna2_enc,
    GST_TYPE_ELEMENT, G_IMPLEMENT_INTERFACE (GST_TYPE_PRESET, nullptr);
    GST_DEBUG_CATEGORY_INIT (whisper_xdna2_enc_debug, "whisperxdna2enc", 0,
        "Whisper speech recognition"));
/* Rank NONE: recognition is never what an autoplugger is looking for. */
GST_ELEMENT_REGISTER_DEFINE (whisperxdna2enc, "whisperxdna2enc",
    GST_RANK_NONE, GST_TYPE_WHISPER_XDNA2_ENC);

/* --- Enumerations -------------------------------------------------------- */

#define GST_TYPE_WHISPER_XDNA2_BACKEND (gst_whisper_xdna2_backend_get_type ())
static GType
gst_whisper_xdna2_backend_get_type (void)
{
  static const GEnumValue values[] = {
    {static_cast<gint> (Backend::kAuto),
        "The NPU where there is one, else the CPU", "auto"},
    {static_cast<gint> (Backend::kNpu),
        "The NPU, or an error", "npu"},
    {static_cast<gint> (Backend::kCpu), "The CPU", "cpu"},
    {0, nullptr, nullptr}
  };
  static const GType type =
      g_enum_register_static ("GstWhisperXdna2Backend", values);
  return type;
}

#define GST_TYPE_WHISPER_XDNA2_PRECISION (gst_whisper_xdna2_precision_get_type ())
static GType
gst_whisper_xdna2_precision_get_type (void)
{
  static const GEnumValue values[] = {
    {static_cast<gint> (Precision::kAuto),
        "The fastest that is available", "auto"},
    {static_cast<gint> (Precision::kInt8),
        "8 bit integers", "int8"},
    {static_cast<gint> (Precision::kBF16),
        "bfloat16", "bf16"},
    {static_cast<gint> (Precision::kF32),
        "32 bit floats, the reference", "f32"},
    {0, nullptr, nullptr}
  };
  static const GType type =
      g_enum_register_static ("GstWhisperXdna2Precision", values);
  return type;
}

#define GST_TYPE_WHISPER_XDNA2_OUTPUT_UNIT \
    (gst_whisper_xdna2_output_unit_get_type ())
static GType
gst_whisper_xdna2_output_unit_get_type (void)
{
  static const GEnumValue values[] = {
    {OUTPUT_UNIT_SEGMENT, "A caption: a sentence or a part of one", "segment"},
    {OUTPUT_UNIT_WORD, "A word with its punctuation", "word"},
    {0, nullptr, nullptr}
  };
  static const GType type =
      g_enum_register_static ("GstWhisperXdna2OutputUnit", values);
  return type;
}

Settings
gst_whisper_xdna2_enc_settings (GstWhisperXdna2Enc * self)
{
  GST_OBJECT_LOCK (self);
  Settings settings = self->priv->settings;
  GST_OBJECT_UNLOCK (self);
  return settings;
}

std::shared_ptr<Engine> gst_whisper_xdna2_enc_engine (GstWhisperXdna2Enc * self)
{
  Lock lock (self->priv->lock);
  return self->priv->engine;
}

/* --- States -------------------------------------------------------------- */

/* A new life of the element: nothing of the stream before is left. */
static void
gst_whisper_xdna2_enc_start (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  {
    Lock lock (priv->lock);
    priv->max_observed_delay = 0;
    priv->late_buffers = priv->discontinuities = priv->dropped = 0;
    priv->upstream_latency = GST_CLOCK_TIME_NONE;
    if (priv->engine)
      priv->engine->flush ();
  }
  gst_segment_init (&priv->out_segment, GST_FORMAT_UNDEFINED);
  priv->seqnum = GST_SEQNUM_INVALID;
  priv->language.clear ();
  gst_clear_tag_list (&priv->stream_tags);

  GstCaps *allowed = gst_whisper_xdna2_enc_allowed_caps (self);
  gst_whisper_xdna2_enc_start_load (self,
      gst_whisper_xdna2_enc_output_for (self, allowed));
  gst_caps_unref (allowed);
}

/* Waits until no loader runs any more. A loader itself cannot: it ends by
 * itself. */
static void
gst_whisper_xdna2_enc_join_loader (GstWhisperXdna2Enc * self)
{
  std::thread & loader = self->priv->loader;
  if (loader.get_id () == std::this_thread::get_id ())
    loader.detach ();
  else if (loader.joinable ())
    loader.join ();
}

static GstStateChangeReturn
gst_whisper_xdna2_enc_change_state (GstElement * element,
    GstStateChange transition)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (element);

  switch (transition) {
    case GST_STATE_CHANGE_READY_TO_PAUSED:
      gst_whisper_xdna2_enc_start (self);
      break;
    case GST_STATE_CHANGE_PAUSED_TO_READY:
      /* Before the pads: they wait for the threads that this lets go. */
      gst_whisper_xdna2_enc_set_flushing (self);
      gst_whisper_xdna2_enc_cancel_load (self);
      break;
    default:
      break;
  }

  GstStateChangeReturn ret =
      GST_ELEMENT_CLASS (parent_class)->change_state (element, transition);

  if (transition == GST_STATE_CHANGE_READY_TO_NULL) {
    /* Canceled long ago. The process may end after NULL, which no thread of
     * ours may outlive. */
    gst_whisper_xdna2_enc_join_loader (self);
    std::shared_ptr<Engine> engine;     /* destroyed without the lock */
    Lock lock (self->priv->lock);
    engine.swap (self->priv->engine);
    self->priv->load_state = Private::NO_ENGINE;
  }
  return ret;
}

/* --- Properties ---------------------------------------------------------- */

static GstStructure *
gst_whisper_xdna2_enc_stats (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  GstStructure *stats =
      gst_structure_new_empty ("application/x-whisperxdna2-stats");
  std::shared_ptr<Engine> engine;
  {
    Lock lock (priv->lock);
    engine = priv->engine;
    gst_structure_set (stats,
        "late", G_TYPE_UINT64, priv->late_buffers,
        "max-observed-delay", G_TYPE_UINT64, priv->max_observed_delay,
        "discontinuities", G_TYPE_UINT64, priv->discontinuities,
        "dropped", G_TYPE_UINT64, priv->dropped,
        "fallbacks", G_TYPE_UINT64, priv->fallbacks, nullptr);
  }
  if (!engine)
    return stats;

  whisperxdna2::EngineStats s = engine->stats ();
  whisperxdna2::EncoderInfo info = engine->encoder_info ();
  gst_structure_set (stats,
      "backend", G_TYPE_STRING, info.backend.c_str (),
      "device", G_TYPE_STRING, info.device.c_str (),
      "firmware", G_TYPE_STRING, info.firmware.c_str (),
      "precision", G_TYPE_STRING, info.precision.c_str (),
      "fault", G_TYPE_STRING, info.fault.c_str (),
      "dispatches", G_TYPE_UINT64, info.dispatches,
      "windows", G_TYPE_UINT64, s.windows,
      "encodes", G_TYPE_UINT64, s.encodes,
      "skipped-windows", G_TYPE_UINT64, s.skipped_windows,
      "retries", G_TYPE_UINT64, s.retries,
      "forced-words", G_TYPE_UINT64, s.forced_words,
      "invented-words", G_TYPE_UINT64, s.invented_words,
      "skipped-ms", G_TYPE_DOUBLE, 1000 * s.skipped_seconds,
      "overload", G_TYPE_UINT, (guint) s.overload,
      "encode-ms", G_TYPE_DOUBLE, 1000 * s.encode_seconds,
      "decode-ms", G_TYPE_DOUBLE, 1000 * s.decode_seconds,
      "audio-ms", G_TYPE_DOUBLE, 1000 * s.audio_seconds,
      "received-ms", G_TYPE_DOUBLE, 1000 * s.received_seconds,
      "idle", G_TYPE_BOOLEAN, (gboolean) s.idle,
      "real-time-factor", G_TYPE_DOUBLE, s.audio_seconds > 0 ?
      (s.encode_seconds + s.decode_seconds) / s.audio_seconds : 0.0, nullptr);
  return stats;
}

static void
gst_whisper_xdna2_enc_set_property (GObject * object, guint id,
    const GValue * value, GParamSpec * pspec)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (object);
  Settings *settings = &self->priv->settings;
  auto string = [value] {
    const gchar *text = g_value_get_string (value);
    return std::string (text ? text : "");
  };
  gboolean latency_changed = FALSE, language_changed = FALSE;

  GST_OBJECT_LOCK (self);
  switch (id) {
    case PROP_MODEL_PATH:
      settings->engine.model_path = string ();
      break;
    case PROP_BACKEND:
      settings->engine.backend =
          static_cast<Backend> (g_value_get_enum (value));
      break;
    case PROP_PRECISION:
      settings->engine.precision =
          static_cast<Precision> (g_value_get_enum (value));
      break;
    case PROP_LANGUAGE_CODE:
      settings->engine.language = string ();
      language_changed = TRUE;
      break;
    case PROP_TRANSLATE:
      settings->engine.translate = g_value_get_boolean (value);
      break;
    case PROP_BEAM_SIZE:
      settings->engine.beam_size = g_value_get_uint (value);
      break;
    case PROP_INITIAL_PROMPT:
      settings->engine.initial_prompt = string ();
      language_changed = TRUE;
      break;
    case PROP_HOTWORDS:
      settings->engine.hotwords = string ();
      language_changed = TRUE;
      break;
    case PROP_VAD_THRESHOLD:
      settings->engine.voice.threshold = g_value_get_float (value);
      apply_vad_thresholds (settings);
      break;
    case PROP_VAD_HYSTERESIS:
      settings->vad_hysteresis = g_value_get_float (value);
      apply_vad_thresholds (settings);
      break;
    case PROP_VAD_MIN_SPEECH:
      settings->engine.voice.min_speech = ms_to_samples (g_value_get_uint (value));
      break;
    case PROP_VAD_MIN_SILENCE:
      settings->engine.voice.min_silence = ms_to_samples (g_value_get_uint (value));
      break;
    case PROP_VAD_PADDING:
      settings->engine.voice.padding = ms_to_samples (g_value_get_uint (value));
      break;
    case PROP_LIVE_HOP:
      settings->live.hop = g_value_get_uint (value) / 1000.0;
      settings->live.deadline = std::max (LiveOptions ().deadline,
          settings->live.hop + 3.0);
      latency_changed = TRUE;
      break;
    case PROP_LIVE_PAUSE:
      settings->live.pause = g_value_get_uint (value) / 1000.0;
      break;
    case PROP_MAX_LAG:
      settings->live.max_lag = g_value_get_uint (value) / 1000.0;
      break;
    case PROP_AUDIO_CONTEXT:
      settings->engine.audio_context = g_value_get_uint (value);
      latency_changed = TRUE;
      break;
    case PROP_N_THREADS:
      settings->engine.threads = g_value_get_uint (value);
      break;
    case PROP_OUTPUT_UNIT:
      settings->output_unit = g_value_get_enum (value);
      latency_changed = TRUE;
      break;
    case PROP_LATENCY:
      settings->latency_ms = g_value_get_uint (value);
      latency_changed = TRUE;
      break;
    case PROP_LATENESS:
      settings->lateness_ms = g_value_get_uint (value);
      latency_changed = TRUE;
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
      break;
  }
  GST_OBJECT_UNLOCK (self);

  if (language_changed) {
    if (auto engine = gst_whisper_xdna2_enc_engine (self))
      gst_whisper_xdna2_enc_apply_language (self, engine.get ());
  }
  if (latency_changed)
    gst_element_post_message (GST_ELEMENT (self),
        gst_message_new_latency (GST_OBJECT (self)));
}

static void
gst_whisper_xdna2_enc_get_property (GObject * object, guint id,
    GValue * value, GParamSpec * pspec)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (object);
  Private *priv = self->priv;
  Settings settings = gst_whisper_xdna2_enc_settings (self);

  switch (id) {
    case PROP_MODEL_PATH:
      g_value_set_string (value, settings.engine.model_path.empty () ?
          nullptr : settings.engine.model_path.c_str ());
      break;
    case PROP_BACKEND:
      g_value_set_enum (value, static_cast<gint> (settings.engine.backend));
      break;
    case PROP_ACTIVE_BACKEND:{
      auto engine = gst_whisper_xdna2_enc_engine (self);
      g_value_set_string (value, engine ?
          engine->encoder_info ().backend.c_str () : nullptr);
      break;
    }
    case PROP_PRECISION:
      g_value_set_enum (value,
          static_cast<gint> (settings.engine.precision));
      break;
    case PROP_LANGUAGE_CODE:
      g_value_set_string (value, settings.engine.language.c_str ());
      break;
    case PROP_TRANSLATE:
      g_value_set_boolean (value, settings.engine.translate);
      break;
    case PROP_BEAM_SIZE:
      g_value_set_uint (value, settings.engine.beam_size);
      break;
    case PROP_INITIAL_PROMPT:
      g_value_set_string (value, settings.engine.initial_prompt.c_str ());
      break;
    case PROP_HOTWORDS:
      g_value_set_string (value, settings.engine.hotwords.c_str ());
      break;
    case PROP_VAD_THRESHOLD:
      g_value_set_float (value, settings.engine.voice.threshold);
      break;
    case PROP_VAD_HYSTERESIS:
      g_value_set_float (value, settings.vad_hysteresis);
      break;
    case PROP_VAD_MIN_SPEECH:
      g_value_set_uint (value, settings.engine.voice.min_speech * 1000 / RATE);
      break;
    case PROP_VAD_MIN_SILENCE:
      g_value_set_uint (value, settings.engine.voice.min_silence * 1000 / RATE);
      break;
    case PROP_VAD_PADDING:
      g_value_set_uint (value, settings.engine.voice.padding * 1000 / RATE);
      break;
    case PROP_LIVE_HOP:
      g_value_set_uint (value, std::lround (settings.live.hop * 1000));
      break;
    case PROP_LIVE_PAUSE:
      g_value_set_uint (value, std::lround (settings.live.pause * 1000));
      break;
    case PROP_MAX_LAG:
      g_value_set_uint (value, std::lround (settings.live.max_lag * 1000));
      break;
    case PROP_AUDIO_CONTEXT:
      g_value_set_uint (value, settings.engine.audio_context);
      break;
    case PROP_N_THREADS:
      g_value_set_uint (value, settings.engine.threads);
      break;
    case PROP_OUTPUT_UNIT:
      g_value_set_enum (value, settings.output_unit);
      break;
    case PROP_LATENCY:
      g_value_set_uint (value, settings.latency_ms);
      break;
    case PROP_LATENESS:
      g_value_set_uint (value, settings.lateness_ms);
      break;
    case PROP_MAX_OBSERVED_DELAY:{
      Lock lock (priv->lock);
      g_value_set_uint (value,
          GST_TIME_AS_MSECONDS (priv->max_observed_delay));
      break;
    }
    case PROP_STATS:
      g_value_take_boxed (value, gst_whisper_xdna2_enc_stats (self));
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
      break;
  }
}

static void
gst_whisper_xdna2_enc_dispose (GObject * object)
{
  /* A loader holds a reference: it has ended, or it drops the last one here. */
  gst_whisper_xdna2_enc_join_loader (GST_WHISPER_XDNA2_ENC (object));
  G_OBJECT_CLASS (parent_class)->dispose (object);
}

static void
gst_whisper_xdna2_enc_finalize (GObject * object)
{
  delete GST_WHISPER_XDNA2_ENC (object)->priv;
  G_OBJECT_CLASS (parent_class)->finalize (object);
}

static void
gst_whisper_xdna2_enc_class_init (GstWhisperXdna2EncClass * klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);
  GstElementClass *element_class = GST_ELEMENT_CLASS (klass);
  const auto ready = static_cast<GParamFlags> (G_PARAM_READWRITE |
      G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_READY);
  const auto playing = static_cast<GParamFlags> (G_PARAM_READWRITE |
      G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_PLAYING);
  const auto read_only = static_cast<GParamFlags> (G_PARAM_READABLE |
      G_PARAM_STATIC_STRINGS);

  object_class->set_property = gst_whisper_xdna2_enc_set_property;
  object_class->get_property = gst_whisper_xdna2_enc_get_property;
  object_class->dispose = gst_whisper_xdna2_enc_dispose;
  object_class->finalize = gst_whisper_xdna2_enc_finalize;
  element_class->change_state = gst_whisper_xdna2_enc_change_state;

  /**
   * GstWhisperXdna2Enc:model-path:
   *
   * A Whisper model: a directory in the CTranslate2 or Hugging Face format, or
   * a ggml file.
   *
   * Default: NULL, the base model in the user's cache, where the project's
   * fetch-model tool puts it.
   *
   * Since: 0.1
   */
  properties[PROP_MODEL_PATH] = g_param_spec_string ("model-path",
      "Model path", "Whisper model: a CTranslate2 or Hugging Face directory, or "
      "a ggml file (NULL = ~/.cache/whisperxdna2/models/base)", nullptr, ready);

  /**
   * GstWhisperXdna2Enc:backend:
   *
   * What executes the encoder.
   *
   * Default: auto
   *
   * Since: 0.1
   */
  properties[PROP_BACKEND] = g_param_spec_enum ("backend", "Backend",
      "What executes the encoder", GST_TYPE_WHISPER_XDNA2_BACKEND,
      static_cast<gint> (Backend::kAuto), ready);

  /**
   * GstWhisperXdna2Enc:active-backend:
   *
   * What does execute the encoder: "npu" or "cpu"; NULL until the model is
   * loaded.
   *
   * Since: 0.1
   */
  properties[PROP_ACTIVE_BACKEND] = g_param_spec_string ("active-backend",
      "Active backend", "What does execute the encoder "
      "(NULL until the model is loaded)", nullptr, read_only);

  /**
   * GstWhisperXdna2Enc:precision:
   *
   * Arithmetic of the encoder. `auto` is int8, and f32 for a model that cannot
   * be quantized. bf16 is for processors that have instructions for it
   * (AVX512-BF16); on others it takes longer than f32. The NPU computes in int8
   * only.
   *
   * Default: auto
   *
   * Since: 0.1
   */
  properties[PROP_PRECISION] = g_param_spec_enum ("precision", "Precision",
      "Arithmetic of the encoder", GST_TYPE_WHISPER_XDNA2_PRECISION,
      static_cast<gint> (Precision::kAuto), ready);

  /**
   * GstWhisperXdna2Enc:language-code:
   *
   * Spoken language, as ISO 639-1 code, or "auto" to detect it. English-only
   * models ignore it. A change takes effect with the next window.
   *
   * Default: auto
   *
   * Since: 0.1
   */
  properties[PROP_LANGUAGE_CODE] = g_param_spec_string ("language-code",
      "Language code", "Spoken language (ISO 639-1), or auto to detect it",
      DEFAULT_LANGUAGE, playing);

  /**
   * GstWhisperXdna2Enc:translate:
   *
   * Write English, whatever is spoken.
   *
   * Default: false
   *
   * Since: 0.1
   */
  properties[PROP_TRANSLATE] = g_param_spec_boolean ("translate", "Translate",
      "Write English, whatever is spoken", FALSE, ready);

  /**
   * GstWhisperXdna2Enc:beam-size:
   *
   * How many texts the decoder follows at once before it takes the likeliest;
   * 1 is greedy decoding: a tenth more errors, in a fifth less time.
   *
   * Default: 5
   *
   * Since: 0.1
   */
  properties[PROP_BEAM_SIZE] = g_param_spec_uint ("beam-size", "Beam size",
      "Texts that the decoder follows at once (1 = greedy decoding)", 1,
      whisperxdna2::kMostBeams, EngineOptions ().beam_size, ready);

  /**
   * GstWhisperXdna2Enc:initial-prompt:
   *
   * Text that the decoder takes for what was said before, so that names,
   * spelling and punctuation become more like it. At most 200 tokens of it and
   * of #GstWhisperXdna2Enc:hotwords are used. A change takes effect with the
   * next window.
   *
   * Default: ""
   *
   * Since: 0.1
   */
  properties[PROP_INITIAL_PROMPT] = g_param_spec_string ("initial-prompt",
      "Initial prompt", "Text that the decoder takes for what was said before",
      "", playing);

  /**
   * GstWhisperXdna2Enc:hotwords:
   *
   * Names and rare words that are likely to be said. They only make these
   * likelier, as #GstWhisperXdna2Enc:initial-prompt does. A change takes
   * effect with the next window.
   *
   * Default: ""
   *
   * Since: 0.1
   */
  properties[PROP_HOTWORDS] = g_param_spec_string ("hotwords", "Hotwords",
      "Names and rare words that are likely to be said", "", playing);

  /**
   * GstWhisperXdna2Enc:vad-threshold:
   *
   * Probability from which on audio counts as speech. Speech ends where the
   * probability falls lower by #GstWhisperXdna2Enc:vad-hysteresis.
   *
   * Default: 0.5
   *
   * Since: 0.1
   */
  properties[PROP_VAD_THRESHOLD] = g_param_spec_float ("vad-threshold",
      "Speech threshold", "Probability from which on audio counts as speech",
      0.05f, 0.95f, EngineOptions ().voice.threshold, ready);

  /**
   * GstWhisperXdna2Enc:vad-hysteresis:
   *
   * By how much the probability must fall below
   * #GstWhisperXdna2Enc:vad-threshold for speech to end.
   *
   * Default: 0.15
   *
   * Since: 0.1
   */
  properties[PROP_VAD_HYSTERESIS] = g_param_spec_float ("vad-hysteresis",
      "Speech hysteresis", "How far the probability falls below vad-threshold "
      "where speech ends", 0.0f, 0.9f, DEFAULT_VAD_HYSTERESIS, ready);

  /**
   * GstWhisperXdna2Enc:vad-min-speech:
   *
   * Speech shorter than this, in milliseconds, is ignored where it stands
   * alone.
   *
   * Default: 250 ms
   *
   * Since: 0.1
   */
  properties[PROP_VAD_MIN_SPEECH] = g_param_spec_uint ("vad-min-speech",
      "Shortest speech", "Speech shorter than this is ignored (ms)", 0, 5000,
      EngineOptions ().voice.min_speech * 1000 / RATE, ready);

  /**
   * GstWhisperXdna2Enc:vad-min-silence:
   *
   * Silence shorter than this, in milliseconds, does not part speech.
   *
   * Default: 300 ms
   *
   * Since: 0.1
   */
  properties[PROP_VAD_MIN_SILENCE] = g_param_spec_uint ("vad-min-silence",
      "Shortest silence", "Silence shorter than this does not part speech (ms)",
      0, 5000, EngineOptions ().voice.min_silence * 1000 / RATE, ready);

  /**
   * GstWhisperXdna2Enc:vad-padding:
   *
   * Live sources: audio before speech, in milliseconds, that is recognized
   * together with it, at least. Audio after speech is recognized up to the
   * pause that #GstWhisperXdna2Enc:live-pause tells from a breath. The windows
   * in which recordings are read overlap by more.
   *
   * Default: 150 ms
   *
   * Since: 0.1
   */
  properties[PROP_VAD_PADDING] = g_param_spec_uint ("vad-padding",
      "Speech padding", "Live sources: audio before speech that is recognized "
      "with it (ms)", 0, 2000, EngineOptions ().voice.padding * 1000 / RATE,
      ready);

  /**
   * GstWhisperXdna2Enc:live-hop:
   *
   * Live sources: audio between two decodes, in milliseconds. A machine that
   * cannot keep up takes more.
   *
   * Default: 1000 ms
   *
   * Since: 0.1
   */
  properties[PROP_LIVE_HOP] = g_param_spec_uint ("live-hop", "Live hop",
      "Live sources: audio between two decodes (ms)", 200, 5000,
      LiveOptions ().hop * 1000, ready);

  /**
   * GstWhisperXdna2Enc:live-pause:
   *
   * Live sources: silence, in milliseconds, after which what was said is
   * decoded at once.
   *
   * Default: 500 ms
   *
   * Since: 0.1
   */
  properties[PROP_LIVE_PAUSE] = g_param_spec_uint ("live-pause", "Live pause",
      "Live sources: silence after which what was said is decoded at once (ms)",
      200, 5000, LiveOptions ().pause * 1000, ready);

  /**
   * GstWhisperXdna2Enc:max-lag:
   *
   * Live sources: audio that has waited longer than this, in milliseconds, is
   * left out, with a WARNING and a GAP event; 0 = never, however late the text
   * gets.
   *
   * Default: 10000 ms
   *
   * Since: 0.1
   */
  properties[PROP_MAX_LAG] = g_param_spec_uint ("max-lag", "Largest lag",
      "Live sources: audio that has waited longer is left out (ms, 0 = never)",
      0, 600000, LiveOptions ().max_lag * 1000, ready);

  /**
   * GstWhisperXdna2Enc:audio-context:
   *
   * Length of the windows in which audio is read, in encoder positions of
   * 20 ms. 1500 is Whisper's own 30 s algorithm: slower and later, slightly
   * more accurate.
   *
   * Default: 512 positions
   *
   * Since: 0.1
   */
  properties[PROP_AUDIO_CONTEXT] = g_param_spec_uint ("audio-context",
      "Audio context", "Length of the audio windows in encoder positions of "
      "20 ms (1500 = Whisper's own 30 s)", 64, 1500, EngineOptions ().audio_context,
      ready);

  /**
   * GstWhisperXdna2Enc:n-threads:
   *
   * Threads for work on the CPU; 0 = all available processors.
   *
   * Default: 0
   *
   * Since: 0.1
   */
  properties[PROP_N_THREADS] = g_param_spec_uint ("n-threads", "Threads",
      "Threads for work on the CPU (0 = all available processors)", 0, 256, 0,
      ready);

  /**
   * GstWhisperXdna2Enc:output-unit:
   *
   * What one text buffer holds.
   *
   * Default: segment
   *
   * Since: 0.1
   */
  properties[PROP_OUTPUT_UNIT] = g_param_spec_enum ("output-unit",
      "Output unit", "What one text buffer holds",
      GST_TYPE_WHISPER_XDNA2_OUTPUT_UNIT, OUTPUT_UNIT_SEGMENT, ready);

  /**
   * GstWhisperXdna2Enc:latency:
   *
   * Time to allow for the processing of a window, in milliseconds. It is added
   * to the latency that follows from the windows' length.
   *
   * Default: 1000 ms
   *
   * Since: 0.1
   */
  properties[PROP_LATENCY] = g_param_spec_uint ("latency", "Latency",
      "Time to allow for the processing of a window, besides its length (ms)",
      0, G_MAXUINT, DEFAULT_LATENCY_MS, playing);

  /**
   * GstWhisperXdna2Enc:lateness:
   *
   * Time by which text is shown later than it was said, in milliseconds. It
   * lowers the latency of the pipeline by as much.
   *
   * Default: 0 ms
   *
   * Since: 0.1
   */
  properties[PROP_LATENESS] = g_param_spec_uint ("lateness", "Lateness",
      "Time by which text is shown later than it was said; lowers the "
      "pipeline's latency by as much (ms)", 0, G_MAXUINT, 0, ready);

  /**
   * GstWhisperXdna2Enc:max-observed-delay:
   *
   * Largest time between the start of a text, as shown, and its departure, in
   * milliseconds; in live pipelines.
   *
   * Since: 0.1
   */
  properties[PROP_MAX_OBSERVED_DELAY] =
      g_param_spec_uint ("max-observed-delay", "Maximum observed delay",
      "Largest time from the start of a text to its departure, in live "
      "pipelines (ms)", 0, G_MAXUINT, 0, read_only);

  /**
   * GstWhisperXdna2Enc:stats:
   *
   * Counters since the model was loaded: `windows`, `encodes`, `dispatches`
   * (commands that the NPU carried out; 0 on the CPU), `skipped-windows`
   * (silent), `retries` (decoded twice), `forced-words` (live: final because
   * their time was up), `invented-words` (dropped because nobody said them),
   * `encode-ms`, `decode-ms`, `audio-ms` (processed), `received-ms`,
   * `skipped-ms` (live: left out, see #GstWhisperXdna2Enc:max-lag),
   * `real-time-factor` (processing time divided by audio time), `fallbacks`
   * (times that the CPU took over from the NPU).
   * Since PAUSED: `late` (texts), `max-observed-delay` (ns),
   * `discontinuities`, `dropped` (buffers that were played backwards).
   * At present: `backend`, `device`, `firmware`, `precision`, `fault` (why the
   * CPU does the NPU's work; empty otherwise), `overload` (live, steps by which
   * less is done: 0 = none, 1 = longer hops, 2 = no partial text, 3 = each
   * stretch of speech is decoded once), `idle` (all that was received is
   * processed).
   *
   * Since: 0.1
   */
  properties[PROP_STATS] = g_param_spec_boxed ("stats", "Statistics",
      "Counters and the device in use", GST_TYPE_STRUCTURE, read_only);

  g_object_class_install_properties (object_class, N_PROPS, properties);

  gst_element_class_add_static_pad_template (element_class, &sink_template);
  gst_element_class_add_static_pad_template (element_class, &src_template);
  gst_element_class_set_static_metadata (element_class,
      "Whisper speech recognition", "Audio/Text/Filter",
      "Turns speech into text, or into Whisper's encoder features, on the NPU "
      "or on the CPU", "The whisperxdna2 authors");

  gst_type_mark_as_plugin_api (GST_TYPE_WHISPER_XDNA2_BACKEND,
      static_cast<GstPluginAPIFlags> (0));
  gst_type_mark_as_plugin_api (GST_TYPE_WHISPER_XDNA2_PRECISION,
      static_cast<GstPluginAPIFlags> (0));
  gst_type_mark_as_plugin_api (GST_TYPE_WHISPER_XDNA2_OUTPUT_UNIT,
      static_cast<GstPluginAPIFlags> (0));

  /* No tags: it survives whatever is done to the text. */
  static const gchar *meta_tags[] = { nullptr };
  if (!gst_meta_get_info (ITEM_META))
    gst_meta_register_custom (ITEM_META, meta_tags, nullptr, nullptr, nullptr);
}

static void
gst_whisper_xdna2_enc_init (GstWhisperXdna2Enc * self)
{
  self->priv = new Private ();

  self->sinkpad = gst_pad_new_from_static_template (&sink_template, "sink");
  gst_pad_set_chain_function (self->sinkpad, gst_whisper_xdna2_enc_chain);
  gst_pad_set_event_function (self->sinkpad, gst_whisper_xdna2_enc_sink_event);
  gst_pad_set_query_function (self->sinkpad, gst_whisper_xdna2_enc_sink_query);
  gst_pad_set_activatemode_function (self->sinkpad,
      gst_whisper_xdna2_enc_sink_activate_mode);
  gst_element_add_pad (GST_ELEMENT (self), self->sinkpad);

  self->srcpad = gst_pad_new_from_static_template (&src_template, "src");
  gst_pad_set_query_function (self->srcpad, gst_whisper_xdna2_enc_src_query);
  gst_pad_set_activatemode_function (self->srcpad,
      gst_whisper_xdna2_enc_src_activate_mode);
  gst_element_add_pad (GST_ELEMENT (self), self->srcpad);
}
