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
 * `whisperxdna2enc/segment`, every change of language as
 * `whisperxdna2enc/language`.
 *
 * Nothing is dropped when processing cannot keep up: the element blocks its
 * upstream, and posts a WARNING that says how late the text is.
 *
 * ## Example launch lines
 * |[
 * gst-launch-1.0 filesrc location=talk.mp4 ! decodebin ! audioconvert ! audioresample ! whisperxdna2enc ! webvttenc ! filesink location=talk.vtt
 * ]| Captions of a recording, faster than real time.
 * |[
 * gst-launch-1.0 pulsesrc ! audioconvert ! audioresample ! queue max-size-time=0 max-size-bytes=0 ! whisperxdna2enc ! fakesink dump=true
 * ]| What the microphone hears.
 *
 * Since: 0.1
 */

/* Threads
 *
 *   streaming thread (chain, serialized events)
 *       converts to f32, pushes samples to the engine, queues jobs: events and
 *       drains, each tied to the number of samples pushed before it
 *   source pad task
 *       takes jobs in order, and between them results from the engine, so that
 *       an event leaves after the text of the audio it followed
 *   loader
 *       makes the engine, which may take seconds
 *
 * Locks, outermost first: the pads' stream locks, priv->lock, the object lock.
 * priv->lock guards what the threads share (see Private); the object lock
 * guards the settings. Neither is held while pushing, posting a message,
 * notifying or waiting for the engine. Engine::set_flushing() never waits and
 * may be called with priv->lock held.
 */

#include "gst/gstwhisperxdna2enc.h"

#include <gst/audio/audio.h>
#if GST_CHECK_VERSION (1, 26, 0)
#include <gst/analytics/analytics.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "whisper/engine.h"
#include "whisper/error.h"

GST_DEBUG_CATEGORY_STATIC (whisper_xdna2_enc_debug);
#define GST_CAT_DEFAULT whisper_xdna2_enc_debug

using whisperxdna2::Backend;
using whisperxdna2::Engine;
using whisperxdna2::EngineOptions;
using whisperxdna2::Error;
using whisperxdna2::ErrorCode;
using whisperxdna2::LiveOptions;
using whisperxdna2::Output;
using whisperxdna2::Precision;
using whisperxdna2::Result;
using whisperxdna2::Segment;
using whisperxdna2::Word;

/* The one input rate: Whisper's. */
static constexpr gint RATE = 16000;
/* Encoder positions a second: one of 20 ms per 320 samples. */
static constexpr gint POSITIONS_PER_SECOND = 50;
/* Windows that can be in the engine before it blocks, besides the one that is
 * being filled. */
static constexpr guint WINDOWS_IN_FLIGHT = 2;
/* As audiobuffersplit: timestamps may deviate by this much, and by more for
 * this long, before the stream is taken for discontinuous. */
static constexpr GstClockTime ALIGNMENT_THRESHOLD = 40 * GST_MSECOND;
static constexpr GstClockTime DISCONT_WAIT = 1 * GST_SECOND;
/* Shortest text buffer, one encoder position; word times have no finer grid. */
static constexpr gint64 MIN_TEXT_SAMPLES = RATE / POSITIONS_PER_SECOND;
/* A silence of this length ends an utterance. */
static constexpr GstClockTime UTTERANCE_PAUSE = 1 * GST_SECOND;

#define ITEM_META "GstWhisperItemMeta"

enum OutputUnit
{
  OUTPUT_UNIT_SEGMENT,
  OUTPUT_UNIT_WORD,
};

static constexpr guint DEFAULT_LATENCY_MS = 1000;
#define DEFAULT_LANGUAGE "auto"

enum
{
  PROP_0,
  PROP_MODEL_PATH,
  PROP_BACKEND,
  PROP_ACTIVE_BACKEND,
  PROP_PRECISION,
  PROP_LANGUAGE_CODE,
  PROP_TRANSLATE,
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

/* What the source task has to do once the text of the first `at` samples has
 * left. */
struct Job
{
  enum class Kind
  {
    EVENT,                      /* push `event` */
    DRAIN,                      /* the engine was told to drain */
    STREAM,                     /* sample `at` is at `pts` */
  };

  Kind kind;
  guint64 at;
  GstEvent *event;
  GstClockTime pts;
};

struct Settings
{
  EngineOptions engine;         /* `output` and `live` follow from the pipeline */
  gint output_unit = OUTPUT_UNIT_SEGMENT;
  guint latency_ms = DEFAULT_LATENCY_MS;
  guint lateness_ms = 0;
};

struct Private
{
  /* --- Guarded by the object lock --- */
  Settings settings;

  /* --- Guarded by `lock`; `wake` is signaled at every change --- */
  std::mutex lock;
  std::condition_variable wake;
  /* What chain returns. FLUSHING while flushing or inactive; anything but OK
   * puts the task to sleep. */
  GstFlowReturn flow = GST_FLOW_FLUSHING;
  /* Counts flushes, so that the task can tell results of before. */
  guint generation = 0;
  gboolean task_stopping = FALSE;
  GThread *task_busy = nullptr; /* the task, while it works on a job */
  std::deque<Job> jobs;
  guint64 pushed = 0;           /* samples given to the engine */
  guint64 settled = 0;          /* of these, have left as text or gap */
  gboolean drained = FALSE;     /* the engine has answered the next DRAIN */

  enum
  { NO_ENGINE, LOADING, READY, FAILED } load_state = NO_ENGINE;
  std::shared_ptr<Engine> engine;       /* set iff READY */
  std::shared_ptr<std::atomic<bool>> cancel_load;       /* set iff LOADING */
  EngineOptions options;        /* of the engine, or of the one loading */
  GstClockTime upstream_latency = GST_CLOCK_TIME_NONE;  /* known if live */
  GstClockTime max_observed_delay = 0;
  guint64 late_buffers = 0;
  guint64 discontinuities = 0;

  /* --- Used by who starts a load: a state change, or the streaming thread */
  std::thread loader;           /* the last one started; it joins the ones before */

  /* --- Guarded by the sink pad's stream lock --- */
  GstAudioInfo info;
  GstSegment in_segment;
  GstAudioStreamAlign *align;
  GstCaps *src_caps = nullptr;
  std::vector<float> scratch;
  gboolean in_stream = FALSE;   /* the engine holds samples since stream_pts */
  GstClockTime stream_pts = GST_CLOCK_TIME_NONE;
  guint64 stream_at = 0;

  /* --- Used by the source task, and while it does not run --- */
  GstSegment out_segment;
  guint32 seqnum = GST_SEQNUM_INVALID;
  GstClockTime base_pts = 0;    /* of sample `base_at` */
  guint64 base_at = 0;
  GstClockTime position = GST_CLOCK_TIME_NONE;  /* where output has got to */
  gboolean discont = TRUE;
  gboolean utterance_open = FALSE;      /* its last text ended at text_end */
  GstClockTime text_end = 0;
  std::string language;         /* last announced */
  GstTagList *stream_tags = nullptr;

  Private ()
  {
    settings.engine.language = DEFAULT_LANGUAGE;
    gst_audio_info_init (&info);
    gst_segment_init (&in_segment, GST_FORMAT_TIME);
    gst_segment_init (&out_segment, GST_FORMAT_UNDEFINED);
    align = gst_audio_stream_align_new (RATE, ALIGNMENT_THRESHOLD, DISCONT_WAIT);
  }

  ~Private ()
  {
    for (Job & job : jobs)
      gst_clear_event (&job.event);
    gst_clear_caps (&src_caps);
    gst_clear_tag_list (&stream_tags);
    gst_audio_stream_align_free (align);
  }
};

using Lock = std::unique_lock<std::mutex> ;

struct _GstWhisperXdna2Enc
{
  GstElement parent;

  GstPad *sinkpad;
  GstPad *srcpad;
  Private *priv;
};

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

/* --- Small helpers ------------------------------------------------------- */

static GstClockTime
samples_to_time (guint64 samples)
{
  return gst_util_uint64_scale_int (samples, GST_SECOND, RATE);
}

static guint64
time_to_samples (GstClockTime time)
{
  return gst_util_uint64_scale_int_round (time, RATE, GST_SECOND);
}

static gint64
seconds_to_samples (double seconds)
{
  return std::max<gint64> (0, std::llround (seconds * RATE));
}

static Settings
gst_whisper_xdna2_enc_settings (GstWhisperXdna2Enc * self)
{
  GST_OBJECT_LOCK (self);
  Settings settings = self->priv->settings;
  GST_OBJECT_UNLOCK (self);
  return settings;
}

static std::shared_ptr<Engine> gst_whisper_xdna2_enc_engine (GstWhisperXdna2Enc * self)
{
  Lock lock (self->priv->lock);
  return self->priv->engine;
}

static void
gst_whisper_xdna2_enc_post_error (GstWhisperXdna2Enc * self,
    const std::exception & exception)
{
  GQuark domain = GST_LIBRARY_ERROR;
  gint code = GST_LIBRARY_ERROR_FAILED;
  const gchar *kind = "unexpected exception";

  if (auto *error = dynamic_cast<const Error *> (&exception)) {
    switch (error->code ()) {
      case ErrorCode::kNotFound:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_NOT_FOUND;
        kind = "not found";
        break;
      case ErrorCode::kInvalidFile:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_READ;
        kind = "invalid file";
        break;
      case ErrorCode::kUnsupported:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_SETTINGS;
        kind = "unsupported";
        break;
      case ErrorCode::kNoResource:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_NO_SPACE_LEFT;
        kind = "no resource";
        break;
      case ErrorCode::kDevice:
        domain = GST_RESOURCE_ERROR;
        code = GST_RESOURCE_ERROR_FAILED;
        kind = "device failure";
        break;
      case ErrorCode::kInvalidUse:
        code = GST_LIBRARY_ERROR_SETTINGS;
        kind = "invalid use";
        break;
      case ErrorCode::kInterrupted:
        kind = "interrupted";
        break;
    }
  } else if (dynamic_cast<const std::bad_alloc *> (&exception)) {
    domain = GST_RESOURCE_ERROR;
    code = GST_RESOURCE_ERROR_NO_SPACE_LEFT;
    kind = "out of memory";
  }

  Settings settings = gst_whisper_xdna2_enc_settings (self);
  gst_element_message_full (GST_ELEMENT (self), GST_MESSAGE_ERROR, domain,
      code, g_strdup (exception.what ()),
      g_strdup_printf ("%s; model-path=%s", kind,
          settings.engine.model_path.empty () ? "(default)" :
          settings.engine.model_path.c_str ()), __FILE__, GST_FUNCTION, __LINE__);
}

/* What the element itself adds: the time from a buffer's first sample to its
 * departure, and how much audio it takes in before it blocks. */
static void
gst_whisper_xdna2_enc_own_latency (GstWhisperXdna2Enc * self, gboolean live,
    GstClockTime * min, GstClockTime * max)
{
  Private *priv = self->priv;
  Settings settings = gst_whisper_xdna2_enc_settings (self);
  Output output;
  {
    Lock lock (priv->lock);
    output = priv->options.output;
  }

  GstClockTime window = gst_util_uint64_scale_int (settings.engine.audio_context,
      GST_SECOND, POSITIONS_PER_SECOND);
  /* Time from one result to the next, and how long text is held back then. */
  GstClockTime hop = window, hold = 0;
  if (live && output != Output::kFeatures) {
    const LiveOptions options;
    hop = options.hop * GST_SECOND;
    hold = (options.deadline - options.hop) * GST_SECOND;
  } else if (output == Output::kCaptions) {
    hold = whisperxdna2::kLongestCaption * GST_SECOND;
  }
  GstClockTime needed = hop + hold + settings.latency_ms * GST_MSECOND;
  GstClockTime lateness = settings.lateness_ms * GST_MSECOND;
  *min = needed > lateness ? needed - lateness : 0;
  *max = std::max (*min, window + WINDOWS_IN_FLIGHT * hop);
}

/* --- Loading ------------------------------------------------------------- */

static void
gst_whisper_xdna2_enc_post_progress (GstWhisperXdna2Enc * self,
    GstProgressType type, const gchar * text)
{
  gst_element_post_message (GST_ELEMENT (self),
      gst_message_new_progress (GST_OBJECT (self), type, "load", text));
}

/* An engine that does not know the language goes on with the one it has. */
static void
gst_whisper_xdna2_enc_apply_language (GstWhisperXdna2Enc * self,
    Engine * engine)
{
  try {
    engine->set_language (gst_whisper_xdna2_enc_settings (self).engine.language);
  } catch (const std::exception & e) {
    GST_ELEMENT_WARNING (self, LIBRARY, SETTINGS, ("%s", e.what ()),
        (nullptr));
  }
}

/* In a thread of its own. A canceled load ends when the engine lets it, which
 * nobody waits for; what it made is not used. */
static void
gst_whisper_xdna2_enc_load (GstWhisperXdna2Enc * self,
    const EngineOptions & options, std::shared_ptr<Engine> previous,
    std::shared_ptr<std::atomic<bool>> cancel)
{
  Private *priv = self->priv;
  std::shared_ptr<Engine> engine;
  std::exception_ptr failure;

  gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_START,
      "Loading the model");
  try {
    engine = std::make_shared<Engine> (options,
        [self] (const std::string & what, double fraction) {
          gchar *text = g_strdup_printf ("%s: %d %%", what.c_str (),
              static_cast<gint> (fraction * 100));
          gst_whisper_xdna2_enc_post_progress (self,
              GST_PROGRESS_TYPE_CONTINUE, text);
          g_free (text);
        }, cancel.get ());
  } catch (...) {
    failure = std::current_exception ();
  }
  previous.reset ();

  gboolean current;
  {
    Lock lock (priv->lock);
    current = priv->cancel_load == cancel;
    if (current) {
      priv->cancel_load.reset ();
      priv->load_state = engine ? Private::READY : Private::FAILED;
      priv->engine = engine;
      if (engine)
        engine->set_flushing (priv->flow == GST_FLOW_FLUSHING);
      priv->wake.notify_all ();
    }
  }

  if (!current) {
    gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_CANCELED,
        "Loading was canceled");
    return;
  }
  if (failure) {
    gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_ERROR,
        "Loading failed");
    try {
      std::rethrow_exception (failure);
    } catch (const std::exception & e) {
      gst_whisper_xdna2_enc_post_error (self, e);
    }
    return;
  }
  for (const std::string & notice : engine->notices ())
    GST_ELEMENT_INFO (self, RESOURCE, SETTINGS, ("%s", notice.c_str ()),
        ("%s", notice.c_str ()));       /* gst-launch-1.0 shows this one */
  /* It may have been changed meanwhile. */
  gst_whisper_xdna2_enc_apply_language (self, engine.get ());
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_ACTIVE_BACKEND]);
  gst_whisper_xdna2_enc_post_progress (self, GST_PROGRESS_TYPE_COMPLETE,
      "The model is ready");
}

static void
gst_whisper_xdna2_enc_cancel_load (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  Lock lock (priv->lock);
  if (!priv->cancel_load)
    return;
  *priv->cancel_load = true;
  priv->cancel_load.reset ();
  priv->load_state = Private::NO_ENGINE;
}

/* But for the language, which an engine can change. */
static gboolean
is_same_engine (const EngineOptions & a, const EngineOptions & b)
{
  return a.model_path == b.model_path && a.backend == b.backend &&
      a.precision == b.precision && a.threads == b.threads &&
      a.output == b.output && a.translate == b.translate &&
      a.audio_context == b.audio_context;
}

/* Sees to it that an engine for `output` and the present settings is there or
 * being made. Not while anyone uses the present one. */
static void
gst_whisper_xdna2_enc_start_load (GstWhisperXdna2Enc * self, Output output)
{
  Private *priv = self->priv;
  EngineOptions options = gst_whisper_xdna2_enc_settings (self).engine;
  options.output = output;

  {
    Lock lock (priv->lock);
    if ((priv->load_state == Private::READY ||
            priv->load_state == Private::LOADING) &&
        is_same_engine (priv->options, options))
      return;
  }

  gst_whisper_xdna2_enc_cancel_load (self);
  auto cancel = std::make_shared<std::atomic<bool>> (false);
  std::shared_ptr<Engine> previous;
  {
    Lock lock (priv->lock);
    /* Kept until the new one is there: they may share the weights. */
    previous.swap (priv->engine);
    priv->options = options;
    priv->load_state = Private::LOADING;
    priv->cancel_load = cancel;
  }
  gst_object_ref (self);
  priv->loader = std::thread ([self, options, previous = std::move (previous),
          cancel, before = std::move (priv->loader)] () mutable {
        if (before.joinable ())
          before.join ();
        gst_whisper_xdna2_enc_load (self, options, std::move (previous),
            std::move (cancel));
        gst_object_unref (self);
      });
}

/* Waits for the loader. No engine: *flow says why. */
static std::shared_ptr<Engine> gst_whisper_xdna2_enc_wait_engine (GstWhisperXdna2Enc * self,
    GstFlowReturn * flow)
{
  Private *priv = self->priv;
  Lock lock (priv->lock);
  priv->wake.wait (lock, [priv] {
        return priv->flow != GST_FLOW_OK ||
            priv->load_state == Private::READY ||
            priv->load_state == Private::FAILED;
      });
  *flow = priv->flow;
  if (*flow == GST_FLOW_OK && priv->load_state == Private::FAILED)
    *flow = GST_FLOW_ERROR;
  return *flow == GST_FLOW_OK ? priv->engine : nullptr;
}

/* --- Jobs, from the streaming thread ------------------------------------- */

/* With priv->lock held: nothing is pending any more. The jobs are for
 * drop_jobs(), without the lock. */
static std::deque<Job> gst_whisper_xdna2_enc_take_jobs (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  std::deque<Job> jobs;
  jobs.swap (priv->jobs);
  priv->settled = priv->pushed;
  priv->drained = FALSE;
  ++priv->generation;
  return jobs;
}

/* What describes the stream is kept; a flush also ends its segment. */
static void
gst_whisper_xdna2_enc_drop_jobs (GstWhisperXdna2Enc * self,
    std::deque<Job> jobs, gboolean flushed)
{
  for (Job & job : jobs) {
    if (!job.event)
      continue;
    if (GST_EVENT_TYPE (job.event) == GST_EVENT_SEGMENT && !flushed) {
      gst_event_copy_segment (job.event, &self->priv->out_segment);
      self->priv->seqnum = gst_event_get_seqnum (job.event);
    }
    if (GST_EVENT_IS_STICKY (job.event) &&
        GST_EVENT_TYPE (job.event) != GST_EVENT_EOS &&
        !(GST_EVENT_TYPE (job.event) == GST_EVENT_SEGMENT && flushed))
      gst_pad_store_sticky_event (self->srcpad, job.event);
    gst_clear_event (&job.event);
  }
}

/* Lets chain, events and the task return. Any thread. */
static void
gst_whisper_xdna2_enc_set_flushing (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  Lock lock (priv->lock);
  priv->flow = GST_FLOW_FLUSHING;
  if (priv->engine)
    priv->engine->set_flushing (true);
  priv->wake.notify_all ();
}

/* Forgets all audio and jobs and goes on. With the sink pad's stream lock
 * held, after set_flushing(). */
static void
gst_whisper_xdna2_enc_reset (GstWhisperXdna2Enc * self, GstFlowReturn flow)
{
  Private *priv = self->priv;
  std::deque<Job> jobs;
  {
    Lock lock (priv->lock);
    /* A flushing seek may come from the task itself, out of a pad probe. */
    priv->wake.wait (lock, [priv] {
          return !priv->task_busy || priv->task_busy == g_thread_self ();
        });
    jobs = gst_whisper_xdna2_enc_take_jobs (self);
    if (priv->engine) {
      priv->engine->flush ();
      priv->engine->set_flushing (flow == GST_FLOW_FLUSHING);
    }
    priv->flow = flow;
    priv->discont = TRUE;
    priv->utterance_open = FALSE;
    priv->position = GST_CLOCK_TIME_NONE;
    priv->wake.notify_all ();
  }
  gst_whisper_xdna2_enc_drop_jobs (self, std::move (jobs), TRUE);
  priv->in_stream = FALSE;
}

/* Starts anew where the flow has ended for a reason that is no more. */
static void
gst_whisper_xdna2_enc_revive (GstWhisperXdna2Enc * self, GstFlowReturn ended)
{
  {
    Lock lock (self->priv->lock);
    if (self->priv->flow != ended)
      return;
  }
  gst_whisper_xdna2_enc_set_flushing (self);
  gst_whisper_xdna2_enc_reset (self, GST_FLOW_OK);
}

/* Ends the stretch of audio at hand: all its text is made. */
static void
gst_whisper_xdna2_enc_drain (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  if (!priv->in_stream)
    return;
  priv->in_stream = FALSE;

  std::shared_ptr<Engine> engine;
  {
    Lock lock (priv->lock);
    if (priv->flow != GST_FLOW_OK)
      return;
    engine = priv->engine;
    priv->jobs.push_back ({Job::Kind::DRAIN, priv->pushed, nullptr, 0});
    priv->wake.notify_all ();
  }
  engine->drain ();
}

/* Waits until all jobs are done; FALSE when the flow ended. */
static gboolean
gst_whisper_xdna2_enc_wait_idle (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  Lock lock (priv->lock);
  priv->wake.wait (lock, [priv] {
        return priv->flow != GST_FLOW_OK ||
            (priv->jobs.empty () && !priv->task_busy);
      });
  return priv->flow == GST_FLOW_OK;
}

/* Takes the event. */
static gboolean
gst_whisper_xdna2_enc_enqueue_event (GstWhisperXdna2Enc * self,
    GstEvent * event)
{
  Private *priv = self->priv;
  Lock lock (priv->lock);

  if (priv->flow == GST_FLOW_OK) {
    priv->jobs.push_back ({Job::Kind::EVENT, priv->pushed, event, 0});
    priv->wake.notify_all ();
    return TRUE;
  }
  /* The task sleeps and has nothing left to say: the end passes it by. */
  if (GST_EVENT_TYPE (event) == GST_EVENT_EOS &&
      priv->flow != GST_FLOW_FLUSHING) {
    lock.unlock ();
    return gst_pad_push_event (self->srcpad, event);
  }
  lock.unlock ();
  GST_DEBUG_OBJECT (self, "refusing event %" GST_PTR_FORMAT, event);
  gst_event_unref (event);
  return FALSE;
}

/* --- Negotiation, in the streaming thread -------------------------------- */

/* What downstream wants most, of what the element can make. */
static GstCaps *
gst_whisper_xdna2_enc_allowed_caps (GstWhisperXdna2Enc * self)
{
  GstCaps *caps = gst_pad_get_allowed_caps (self->srcpad);
  return caps ? caps : gst_pad_get_pad_template_caps (self->srcpad);
}

static Output
gst_whisper_xdna2_enc_output_for (GstWhisperXdna2Enc * self, GstCaps * caps)
{
  if (!gst_caps_is_empty (caps) &&
      !gst_structure_has_name (gst_caps_get_structure (caps, 0), "text/x-raw"))
    return Output::kFeatures;
  return gst_whisper_xdna2_enc_settings (self).output_unit ==
      OUTPUT_UNIT_WORD ? Output::kWords : Output::kCaptions;
}

/* All caps that describe these features exactly. NNStreamer compares
 * `dimensions` as a string and prints trailing ones or not, by version. */
static GstCaps *
gst_whisper_xdna2_enc_feature_caps (Engine * engine, gint positions)
{
  gint d_model = engine->model ().dims.d_model;
  gchar *long_dims = g_strdup_printf ("%d:%d:1:1", d_model, positions);
  gchar *short_dims = g_strdup_printf ("%d:%d", d_model, positions);
  GstCaps *caps = gst_caps_new_empty ();

  for (const gchar * dims : { long_dims, short_dims })
    gst_caps_append (caps, gst_caps_new_simple ("other/tensors",
            "format", G_TYPE_STRING, "static", "num_tensors", G_TYPE_INT, 1,
            "types", G_TYPE_STRING, "float32", "dimensions", G_TYPE_STRING,
            dims, "framerate", GST_TYPE_FRACTION, POSITIONS_PER_SECOND,
            positions, nullptr));
  gst_caps_append (caps, gst_caps_new_simple ("application/x-whisper-features",
          "version", G_TYPE_INT, 1, "format", G_TYPE_STRING,
          GST_AUDIO_NE (F32), "dims-order", G_TYPE_STRING, "row-major",
          "n-ctx", G_TYPE_INT, positions, "n-state", G_TYPE_INT, d_model,
          "rate", GST_TYPE_FRACTION, POSITIONS_PER_SECOND, 1, nullptr));
  g_free (long_dims);
  g_free (short_dims);
  return caps;
}

/* Chooses the output and announces it. Needs the model only for features. */
static GstFlowReturn
gst_whisper_xdna2_enc_negotiate (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  GstCaps *allowed = gst_whisper_xdna2_enc_allowed_caps (self);
  GST_DEBUG_OBJECT (self, "downstream takes %" GST_PTR_FORMAT, allowed);
  if (gst_caps_is_empty (allowed)) {
    gst_caps_unref (allowed);
    gst_pad_mark_reconfigure (self->srcpad);
    return GST_FLOW_NOT_NEGOTIATED;
  }

  Output output = gst_whisper_xdna2_enc_output_for (self, allowed);
  gboolean change;
  {
    Lock lock (priv->lock);
    change = priv->options.output != output;
  }
  if (change) {
    gst_whisper_xdna2_enc_drain (self);
    if (gst_whisper_xdna2_enc_wait_idle (self)) {
      gst_whisper_xdna2_enc_start_load (self, output);
      gst_element_post_message (GST_ELEMENT (self),
          gst_message_new_latency (GST_OBJECT (self)));
    }
  }

  GstCaps *caps;
  if (output != Output::kFeatures) {
    caps = gst_caps_truncate (allowed);
  } else {
    GstFlowReturn flow;
    auto engine = gst_whisper_xdna2_enc_wait_engine (self, &flow);
    if (!engine) {
      gst_caps_unref (allowed);
      return flow;
    }
    GstCaps *ours = gst_whisper_xdna2_enc_feature_caps (engine.get (),
        priv->options.audio_context);
    caps = gst_caps_intersect_full (allowed, ours, GST_CAPS_INTERSECT_FIRST);
    gst_caps_unref (ours);
    gst_caps_unref (allowed);
    if (gst_caps_is_empty (caps)) {
      gst_caps_unref (caps);
      gst_pad_mark_reconfigure (self->srcpad);
      return GST_FLOW_NOT_NEGOTIATED;
    }
  }
  caps = gst_caps_fixate (caps);

  if (priv->src_caps && gst_caps_is_equal (caps, priv->src_caps)) {
    gst_caps_unref (caps);
    return GST_FLOW_OK;
  }
  GST_DEBUG_OBJECT (self, "output is %" GST_PTR_FORMAT, caps);
  gst_caps_replace (&priv->src_caps, caps);
  GstEvent *event = gst_event_new_caps (caps);
  gst_caps_unref (caps);
  return gst_whisper_xdna2_enc_enqueue_event (self, event) ?
      GST_FLOW_OK : GST_FLOW_FLUSHING;
}

static GstFlowReturn
gst_whisper_xdna2_enc_ensure_negotiated (GstWhisperXdna2Enc * self)
{
  if (!gst_pad_check_reconfigure (self->srcpad) && self->priv->src_caps)
    return GST_FLOW_OK;
  return gst_whisper_xdna2_enc_negotiate (self);
}

/* Asks upstream how it is, at the start of a stream. */
static std::optional<LiveOptions>
gst_whisper_xdna2_enc_live_options (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  GstQuery *query = gst_query_new_latency ();
  gboolean live = FALSE;
  GstClockTime min = 0;

  if (gst_pad_peer_query (self->sinkpad, query))
    gst_query_parse_latency (query, &live, &min, nullptr);
  gst_query_unref (query);

  Lock lock (priv->lock);
  priv->upstream_latency = live ? min : GST_CLOCK_TIME_NONE;
  if (!live)
    return std::nullopt;
  LiveOptions options;
  options.positions = priv->options.audio_context;
  return options;
}

/* --- Input --------------------------------------------------------------- */

/* `count` samples at `pts`; no samples = silence. */
static GstFlowReturn
gst_whisper_xdna2_enc_push_samples (GstWhisperXdna2Enc * self,
    const float *samples, guint64 count, GstClockTime pts, gboolean discont)
{
  Private *priv = self->priv;

  GstFlowReturn flow = gst_whisper_xdna2_enc_ensure_negotiated (self);
  if (flow != GST_FLOW_OK)
    return flow;

  if (priv->in_stream) {
    guint64 held;
    {
      Lock lock (priv->lock);
      held = priv->pushed - priv->stream_at;
    }
    GstClockTime expected = priv->stream_pts + samples_to_time (held);
    if (!GST_CLOCK_TIME_IS_VALID (pts))
      pts = expected;
    /* A flag alone is not believed: sources set it when they reconnect. */
    GstClockTimeDiff off = std::abs (GST_CLOCK_DIFF (expected, pts));
    discont = (discont && off > (GstClockTimeDiff) ALIGNMENT_THRESHOLD) ||
        off > (GstClockTimeDiff) DISCONT_WAIT;
    if (gst_audio_stream_align_process (priv->align, discont, pts, count,
            nullptr, nullptr, nullptr)) {
      GST_INFO_OBJECT (self, "discontinuity: %" GST_TIME_FORMAT " after %"
          GST_TIME_FORMAT, GST_TIME_ARGS (pts), GST_TIME_ARGS (expected));
      gst_whisper_xdna2_enc_drain (self);
      Lock lock (priv->lock);
      ++priv->discontinuities;
    }
  }
  if (!priv->in_stream) {
    if (!GST_CLOCK_TIME_IS_VALID (pts)) {
      GST_ELEMENT_ERROR (self, STREAM, FORMAT,
          ("The audio has no timestamps."),
          ("the first buffer of a stream needs one"));
      return GST_FLOW_ERROR;
    }
    gst_audio_stream_align_process (priv->align, TRUE, pts, count, nullptr,
        nullptr, nullptr);
  }

  auto engine = gst_whisper_xdna2_enc_wait_engine (self, &flow);
  if (!engine)
    return flow;

  if (!priv->in_stream)
    engine->set_live (gst_whisper_xdna2_enc_live_options (self));
  {
    Lock lock (priv->lock);
    if (priv->flow != GST_FLOW_OK)
      return priv->flow;
    if (!priv->in_stream) {
      priv->in_stream = TRUE;
      priv->stream_pts = pts;
      priv->stream_at = priv->pushed;
      priv->jobs.push_back ({Job::Kind::STREAM, priv->pushed, nullptr, pts});
    }
    priv->pushed += count;
    priv->wake.notify_all ();
  }

  try {
    if (samples)
      engine->push (samples, count);
    else
      engine->push_silence (count);
  } catch (const std::exception & e) {
    gst_whisper_xdna2_enc_post_error (self, e);
    return GST_FLOW_ERROR;
  }

  Lock lock (priv->lock);
  return priv->flow;
}

static GstFlowReturn
gst_whisper_xdna2_enc_chain (GstPad *, GstObject * parent,
    GstBuffer * buffer)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (parent);
  Private *priv = self->priv;

  if (gst_pad_is_linked (self->srcpad))
    gst_whisper_xdna2_enc_revive (self, GST_FLOW_NOT_LINKED);

  if (!GST_AUDIO_INFO_IS_VALID (&priv->info)) {
    GST_ELEMENT_ERROR (self, CORE, NEGOTIATION, (nullptr),
        ("audio came before its caps"));
    gst_buffer_unref (buffer);
    return GST_FLOW_NOT_NEGOTIATED;
  }

  /* Speech is not understood backwards: while scrubbing there is no text. */
  if (priv->in_segment.rate < 0) {
    GstEvent *gap = GST_BUFFER_PTS_IS_VALID (buffer) ?
        gst_event_new_gap (GST_BUFFER_PTS (buffer),
        GST_BUFFER_DURATION (buffer)) : nullptr;
    gst_buffer_unref (buffer);
    GstFlowReturn flow = gst_whisper_xdna2_enc_ensure_negotiated (self);
    if (flow == GST_FLOW_OK && gap)
      gst_whisper_xdna2_enc_enqueue_event (self, gst_event_ref (gap));
    gst_clear_event (&gap);
    Lock lock (priv->lock);
    return flow == GST_FLOW_OK ? priv->flow : flow;
  }

  gint bpf = GST_AUDIO_INFO_BPF (&priv->info);
  if (gst_buffer_get_size (buffer) % bpf != 0) {
    GST_ELEMENT_ERROR (self, STREAM, FORMAT,
        ("An audio buffer ends inside a sample."),
        ("%" G_GSIZE_FORMAT " bytes, %d a sample",
            gst_buffer_get_size (buffer), bpf));
    gst_buffer_unref (buffer);
    return GST_FLOW_ERROR;
  }
  buffer = gst_audio_buffer_clip (buffer, &priv->in_segment, RATE, bpf);
  if (!buffer)
    return GST_FLOW_OK;

  GstClockTime pts = GST_BUFFER_PTS (buffer);
  gboolean discont = GST_BUFFER_IS_DISCONT (buffer);
  gsize count = gst_buffer_get_size (buffer) / bpf;

  if (GST_BUFFER_FLAG_IS_SET (buffer, GST_BUFFER_FLAG_GAP)) {
    gst_buffer_unref (buffer);
    return gst_whisper_xdna2_enc_push_samples (self, nullptr, count, pts,
        discont);
  }

  GstMapInfo map;
  if (!gst_buffer_map (buffer, &map, GST_MAP_READ)) {
    GST_ELEMENT_ERROR (self, RESOURCE, READ, (nullptr),
        ("cannot map an audio buffer"));
    gst_buffer_unref (buffer);
    return GST_FLOW_ERROR;
  }
  priv->scratch.resize (count);
  if (GST_AUDIO_INFO_FORMAT (&priv->info) == GST_AUDIO_FORMAT_S16) {
    auto *in = reinterpret_cast<const gint16 *> (map.data);
    std::transform (in, in + count, priv->scratch.begin (),
        [](gint16 sample) { return sample / 32768.0f; });
  } else {
    auto *in = reinterpret_cast<const gfloat *> (map.data);
    std::copy (in, in + count, priv->scratch.begin ());
  }
  gst_buffer_unmap (buffer, &map);
  gst_buffer_unref (buffer);

  return gst_whisper_xdna2_enc_push_samples (self, priv->scratch.data (),
      count, pts, discont);
}

static gboolean
gst_whisper_xdna2_enc_handle_gap (GstWhisperXdna2Enc * self, GstEvent * event)
{
  Private *priv = self->priv;
  GstClockTime start, duration;
  guint64 from, to;

  gst_event_parse_gap (event, &start, &duration);
  if (!GST_CLOCK_TIME_IS_VALID (duration) || priv->in_segment.rate < 0) {
    if (gst_whisper_xdna2_enc_ensure_negotiated (self) != GST_FLOW_OK) {
      gst_event_unref (event);
      return FALSE;
    }
    return gst_whisper_xdna2_enc_enqueue_event (self, event);
  }
  gst_event_unref (event);
  if (!gst_segment_clip (&priv->in_segment, GST_FORMAT_TIME, start,
          start + duration, &from, &to))
    return TRUE;
  guint64 count = time_to_samples (to - from);
  return count == 0 || gst_whisper_xdna2_enc_push_samples (self, nullptr,
      count, from, FALSE) == GST_FLOW_OK;
}

static gboolean
gst_whisper_xdna2_enc_handle_segment (GstWhisperXdna2Enc * self,
    GstEvent * event)
{
  Private *priv = self->priv;
  GstSegment segment;

  gst_event_copy_segment (event, &segment);
  if (segment.format != GST_FORMAT_TIME) {
    GST_ELEMENT_ERROR (self, STREAM, FORMAT,
        ("The audio is not segmented in time but in %s.",
            gst_format_get_name (segment.format)), (nullptr));
    gst_event_unref (event);
    return FALSE;
  }

  GstSegment previous = priv->in_segment;
  previous.position = segment.position;
  if (!gst_segment_is_equal (&previous, &segment))
    gst_whisper_xdna2_enc_drain (self);
  priv->in_segment = segment;

  if (gst_whisper_xdna2_enc_ensure_negotiated (self) != GST_FLOW_OK) {
    gst_event_unref (event);
    return FALSE;
  }

  segment.base += gst_whisper_xdna2_enc_settings (self).lateness_ms *
      GST_MSECOND;
  GstEvent *out = gst_event_new_segment (&segment);
  gst_event_set_seqnum (out, gst_event_get_seqnum (event));
  gst_event_unref (event);
  return gst_whisper_xdna2_enc_enqueue_event (self, out);
}

static gboolean
gst_whisper_xdna2_enc_handle_stream_start (GstWhisperXdna2Enc * self,
    GstEvent * event)
{
  const gchar *upstream_id;
  GstStreamFlags flags;
  guint group_id;

  gst_whisper_xdna2_enc_drain (self);

  gst_event_parse_stream_start (event, &upstream_id);
  gst_event_parse_stream_flags (event, &flags);
  gchar *id = g_strconcat (upstream_id, "/whisper", nullptr);
  GstEvent *out = gst_event_new_stream_start (id);
  g_free (id);
  gst_event_set_stream_flags (out, flags);
  if (gst_event_parse_group_id (event, &group_id))
    gst_event_set_group_id (out, group_id);
  gst_event_set_seqnum (out, gst_event_get_seqnum (event));
  gst_event_unref (event);
  return gst_whisper_xdna2_enc_enqueue_event (self, out);
}

/* Tags of the audio stream describe the text too, but for its coding. */
static GstEvent *
gst_whisper_xdna2_enc_strip_tags (GstEvent * event)
{
  GstTagList *tags;
  gst_event_parse_tag (event, &tags);
  if (gst_tag_list_get_scope (tags) != GST_TAG_SCOPE_STREAM)
    return event;

  GstTagList *kept = gst_tag_list_copy (tags);
  for (const gchar * tag : { GST_TAG_AUDIO_CODEC, GST_TAG_CODEC,
          GST_TAG_BITRATE, GST_TAG_NOMINAL_BITRATE, GST_TAG_MINIMUM_BITRATE,
          GST_TAG_MAXIMUM_BITRATE, GST_TAG_ENCODER })
    gst_tag_list_remove_tag (kept, tag);
  GstEvent *out = gst_event_new_tag (kept);
  gst_event_set_seqnum (out, gst_event_get_seqnum (event));
  gst_event_unref (event);
  return out;
}

static gboolean
gst_whisper_xdna2_enc_sink_event (GstPad * pad, GstObject * parent,
    GstEvent * event)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (parent);
  Private *priv = self->priv;

  GST_LOG_OBJECT (self, "sink event %" GST_PTR_FORMAT, event);

  switch (GST_EVENT_TYPE (event)) {
    case GST_EVENT_FLUSH_START:{
      /* Downstream first: it frees a push that is blocked there. */
      gboolean ret = gst_pad_push_event (self->srcpad, event);
      gst_whisper_xdna2_enc_set_flushing (self);
      return ret;
    }
    case GST_EVENT_FLUSH_STOP:{
      gboolean flushing;
      {
        Lock lock (priv->lock);
        flushing = priv->flow == GST_FLOW_FLUSHING;
      }
      if (!flushing)
        return gst_pad_push_event (self->srcpad, event);
      /* Nothing may leave between the flush and the restart. */
      gst_whisper_xdna2_enc_reset (self, GST_FLOW_FLUSHING);
      gst_segment_init (&priv->in_segment, GST_FORMAT_TIME);
      gboolean ret = gst_pad_push_event (self->srcpad, event);
      gst_whisper_xdna2_enc_reset (self, GST_FLOW_OK);
      return ret;
    }
    case GST_EVENT_STREAM_START:
      gst_whisper_xdna2_enc_revive (self, GST_FLOW_EOS);
      return gst_whisper_xdna2_enc_handle_stream_start (self, event);
    case GST_EVENT_CAPS:{
      GstCaps *caps;
      gst_event_parse_caps (event, &caps);
      /* S16 or F32: the stream goes on, whichever it was before. */
      gboolean ret = gst_audio_info_from_caps (&priv->info, caps);
      gst_event_unref (event);
      return ret &&
          gst_whisper_xdna2_enc_ensure_negotiated (self) == GST_FLOW_OK;
    }
    case GST_EVENT_SEGMENT:
      gst_whisper_xdna2_enc_revive (self, GST_FLOW_EOS);
      return gst_whisper_xdna2_enc_handle_segment (self, event);
    case GST_EVENT_GAP:
      return gst_whisper_xdna2_enc_handle_gap (self, event);
    case GST_EVENT_TAG:
      return gst_whisper_xdna2_enc_enqueue_event (self,
          gst_whisper_xdna2_enc_strip_tags (event));
    case GST_EVENT_EOS:
    case GST_EVENT_SEGMENT_DONE:
      gst_whisper_xdna2_enc_drain (self);
      return gst_whisper_xdna2_enc_enqueue_event (self, event);
    default:
      if (GST_EVENT_IS_SERIALIZED (event))
        return gst_whisper_xdna2_enc_enqueue_event (self, event);
      return gst_pad_event_default (pad, parent, event);
  }
}

static gboolean
gst_whisper_xdna2_enc_sink_query (GstPad * pad, GstObject * parent,
    GstQuery * query)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (parent);

  switch (GST_QUERY_TYPE (query)) {
    case GST_QUERY_DRAIN:
      /* Not behind a blocked pad: nobody says when it will open. */
      if (gst_pad_is_blocked (self->srcpad))
        return FALSE;
      gst_whisper_xdna2_enc_drain (self);
      return gst_whisper_xdna2_enc_wait_idle (self) &&
          gst_pad_peer_query (self->srcpad, query);
    default:
      return gst_pad_query_default (pad, parent, query);
  }
}

/* --- Output, in the source task ------------------------------------------ */

/* Numbers for people: how late text is, and a warning when it is later than
 * the latency that was reported for it. */
static void
gst_whisper_xdna2_enc_observe_delay (GstWhisperXdna2Enc * self,
    GstBuffer * buffer)
{
  Private *priv = self->priv;
  GstClockTime own_min, own_max;
  GstClockTime now = gst_element_get_current_running_time (GST_ELEMENT (self));
  GstClockTime due = gst_segment_to_running_time (&priv->out_segment,
      GST_FORMAT_TIME, GST_BUFFER_PTS (buffer));
  GstClockTime announced;
  {
    Lock lock (priv->lock);
    announced = priv->upstream_latency;
  }
  if (!GST_CLOCK_TIME_IS_VALID (announced))
    return;
  if (!GST_CLOCK_TIME_IS_VALID (now) || !GST_CLOCK_TIME_IS_VALID (due) ||
      now <= due)
    return;

  gst_whisper_xdna2_enc_own_latency (self, TRUE, &own_min, &own_max);
  announced += own_min;
  GstClockTime delay = now - due;
  gboolean more = FALSE, late = delay > announced;
  {
    Lock lock (priv->lock);
    if (delay > priv->max_observed_delay) {
      more = TRUE;
      priv->max_observed_delay = delay;
    }
    if (late)
      ++priv->late_buffers;
  }
  if (more)
    g_object_notify_by_pspec (G_OBJECT (self),
        properties[PROP_MAX_OBSERVED_DELAY]);
  if (!late)
    return;

  GstMessage *qos = gst_message_new_qos (GST_OBJECT (self), TRUE, due,
      gst_segment_to_stream_time (&priv->out_segment, GST_FORMAT_TIME,
          GST_BUFFER_PTS (buffer)), GST_BUFFER_PTS (buffer),
      GST_BUFFER_DURATION (buffer));
  gst_message_set_qos_values (qos, static_cast<gint64> (delay - announced),
      1.0, 1000000);
  gst_element_post_message (GST_ELEMENT (self), qos);
  if (more)
    GST_ELEMENT_WARNING_WITH_DETAILS (self, CORE, CLOCK,
        ("Recognition is falling behind: text comes %" G_GUINT64_FORMAT
            " ms after it was said, but %" G_GUINT64_FORMAT
            " ms were announced. Raise the latency property.",
            GST_TIME_AS_MSECONDS (delay), GST_TIME_AS_MSECONDS (announced)),
        (nullptr), ("delay", G_TYPE_UINT64, delay,
            "latency", G_TYPE_UINT64, announced, nullptr));
}

/* Takes the event, one of our own. */
static void
gst_whisper_xdna2_enc_push_event (GstWhisperXdna2Enc * self, GstEvent * event)
{
  if (self->priv->seqnum != GST_SEQNUM_INVALID)
    gst_event_set_seqnum (event, self->priv->seqnum);
  gst_pad_push_event (self->srcpad, event);
}

/* Tells sentence accumulators and caption encoders to finish their line. */
static void
gst_whisper_xdna2_enc_end_utterance (GstWhisperXdna2Enc * self)
{
  if (!self->priv->utterance_open)
    return;
  self->priv->utterance_open = FALSE;
  gst_whisper_xdna2_enc_push_event (self,
      gst_event_new_custom (GST_EVENT_CUSTOM_DOWNSTREAM,
          gst_structure_new_empty ("rstranscribe/final-transcript")));
}

static void
gst_whisper_xdna2_enc_push_gap (GstWhisperXdna2Enc * self, GstClockTime to)
{
  Private *priv = self->priv;
  if (!GST_CLOCK_TIME_IS_VALID (priv->position) || to <= priv->position)
    return;
  if (to - priv->text_end >= UTTERANCE_PAUSE)
    gst_whisper_xdna2_enc_end_utterance (self);
  GstEvent *gap = gst_event_new_gap (priv->position, to - priv->position);
  priv->position = to;
  gst_whisper_xdna2_enc_push_event (self, gap);
}

/* Upstream's tags with our language. */
static void
gst_whisper_xdna2_enc_push_tags (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  GstTagList *tags = priv->stream_tags ? gst_tag_list_copy (priv->stream_tags) :
      gst_tag_list_new_empty ();
  gst_tag_list_set_scope (tags, GST_TAG_SCOPE_STREAM);
  if (!priv->language.empty ())
    gst_tag_list_add (tags, GST_TAG_MERGE_REPLACE, GST_TAG_LANGUAGE_CODE,
        priv->language.c_str (), nullptr);
  gst_whisper_xdna2_enc_push_event (self, gst_event_new_tag (tags));
}

static void
gst_whisper_xdna2_enc_announce_language (GstWhisperXdna2Enc * self,
    const std::string & language)
{
  Private *priv = self->priv;
  if (language.empty () || language == priv->language)
    return;
  priv->language = language;
  gst_whisper_xdna2_enc_push_tags (self);
  gst_element_post_message (GST_ELEMENT (self),
      gst_message_new_element (GST_OBJECT (self),
          gst_structure_new ("whisperxdna2enc/language", "language-code",
              G_TYPE_STRING, language.c_str (), nullptr)));
}

/* Takes `fields` and adds the times, as the level element has them. */
static void
gst_whisper_xdna2_enc_post_text (GstWhisperXdna2Enc * self,
    GstStructure * fields, GstClockTime pts, GstClockTime end)
{
  const GstSegment *segment = &self->priv->out_segment;
  gst_structure_set (fields, "timestamp", G_TYPE_UINT64, pts,
      "stream-time", G_TYPE_UINT64,
      gst_segment_to_stream_time (segment, GST_FORMAT_TIME, pts),
      "running-time", G_TYPE_UINT64,
      gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts),
      "duration", G_TYPE_UINT64, end - pts, nullptr);
  gst_element_post_message (GST_ELEMENT (self),
      gst_message_new_element (GST_OBJECT (self), fields));
}

/* Takes the buffer. */
static GstFlowReturn
gst_whisper_xdna2_enc_push_buffer (GstWhisperXdna2Enc * self,
    GstBuffer * buffer, GstClockTime pts, GstClockTime end)
{
  Private *priv = self->priv;
  GST_BUFFER_PTS (buffer) = pts;
  GST_BUFFER_DURATION (buffer) = end - pts;
  if (priv->discont)
    GST_BUFFER_FLAG_SET (buffer, GST_BUFFER_FLAG_DISCONT);
  priv->discont = FALSE;
  gst_whisper_xdna2_enc_push_gap (self, pts);
  priv->position = end;
  gst_whisper_xdna2_enc_observe_delay (self, buffer);
  return gst_pad_push (self->srcpad, buffer);
}

static gboolean
ends_sentence (const std::string & text)
{
  static const gchar *const marks[] =
      { ".", "?", "!", "…", "。", "？", "！", "।", "؟", "۔" };
  return std::any_of (std::begin (marks), std::end (marks),
      [&text] (const gchar * mark) {
        return g_str_has_suffix (text.c_str (), mark);
      });
}

/* Time of a sample of the stream at hand. */
static GstClockTime
gst_whisper_xdna2_enc_time_of (GstWhisperXdna2Enc * self, guint64 sample)
{
  return self->priv->base_pts + samples_to_time (sample);
}

/* Start and end of a text: after all that has left, and not empty. */
static std::pair<GstClockTime, GstClockTime>
gst_whisper_xdna2_enc_text_span (GstWhisperXdna2Enc * self, double start,
    double end)
{
  GstClockTime position = self->priv->position;
  GstClockTime from = gst_whisper_xdna2_enc_time_of (self,
      seconds_to_samples (start));
  GstClockTime to = gst_whisper_xdna2_enc_time_of (self,
      seconds_to_samples (end));
  if (GST_CLOCK_TIME_IS_VALID (position))
    from = std::max (from, position);
  return { from, std::max (to, from + samples_to_time (MIN_TEXT_SAMPLES)) };
}

static GstFlowReturn
gst_whisper_xdna2_enc_push_segment (GstWhisperXdna2Enc * self,
    const Segment & segment)
{
  Private *priv = self->priv;

  gst_whisper_xdna2_enc_announce_language (self, segment.language);

  auto [pts, end] = gst_whisper_xdna2_enc_text_span (self, segment.start,
      segment.end);
  gst_whisper_xdna2_enc_post_text (self,
      gst_structure_new ("whisperxdna2enc/segment",
          "text", G_TYPE_STRING, segment.text.c_str (),
          "language-code", G_TYPE_STRING, segment.language.c_str (),
          "confidence", G_TYPE_DOUBLE, (gdouble) segment.confidence,
          "window", G_TYPE_INT64, (gint64) segment.window, nullptr), pts, end);

  GstBuffer *buffer = gst_buffer_new_memdup (segment.text.data (),
      segment.text.size ());
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, ITEM_META);
  gst_structure_set (gst_custom_meta_get_structure (meta),
      "language-code", G_TYPE_STRING, segment.language.c_str (),
      "confidence", G_TYPE_DOUBLE, (gdouble) segment.confidence,
      "window", G_TYPE_INT64, (gint64) segment.window, nullptr);

  gst_whisper_xdna2_enc_push_gap (self, pts);
  priv->utterance_open = TRUE;
  priv->text_end = end;
  GstFlowReturn flow =
      gst_whisper_xdna2_enc_push_buffer (self, buffer, pts, end);
  if (flow == GST_FLOW_OK && ends_sentence (segment.text))
    gst_whisper_xdna2_enc_end_utterance (self);
  return flow;
}

/* Tells the application what is being said but may still change. */
static void
gst_whisper_xdna2_enc_post_partial (GstWhisperXdna2Enc * self,
    const std::vector<Word> & words)
{
  if (words.empty ())
    return;
  std::string text;
  for (const Word & word : words) {
    if (!text.empty () && word.space_before)
      text += ' ';
    text += word.text;
  }
  auto [pts, end] = gst_whisper_xdna2_enc_text_span (self,
      words.front ().start, words.back ().end);
  gst_whisper_xdna2_enc_post_text (self,
      gst_structure_new ("whisperxdna2enc/partial", "text", G_TYPE_STRING,
          text.c_str (), nullptr), pts, end);
}

#if GST_CHECK_VERSION (1, 26, 0)
static void
gst_whisper_xdna2_enc_add_tensor_meta (GstBuffer * buffer, gsize positions,
    gsize d_model)
{
  gsize dims[] = { 1, positions, d_model };
  GstBuffer *data = gst_buffer_new ();
  gst_buffer_append_memory (data, gst_buffer_get_memory (buffer, 0));
  GstTensor **tensors = g_new (GstTensor *, 1);
  tensors[0] =
      gst_tensor_new_simple (g_quark_from_static_string
      ("whisper-encoder-v1-out"), GST_TENSOR_DATA_TYPE_FLOAT32, data,
      GST_TENSOR_DIM_ORDER_ROW_MAJOR, G_N_ELEMENTS (dims), dims);
  gst_tensor_meta_set (gst_buffer_add_tensor_meta (buffer), 1, tensors);
}
#endif

static GstFlowReturn
gst_whisper_xdna2_enc_push_features (GstWhisperXdna2Enc * self,
    Result && result)
{
  auto *features = new std::vector<float> (std::move (result.features));
  gsize size = features->size () * sizeof (float);
  GstBuffer *buffer = gst_buffer_new ();
  gst_buffer_append_memory (buffer,
      gst_memory_new_wrapped (static_cast<GstMemoryFlags> (0),
          features->data (), size, 0, size, features, [](gpointer data) {
            delete static_cast<std::vector<float> *> (data);
          }));
  GstCustomMeta *meta = gst_buffer_add_custom_meta (buffer, ITEM_META);
  gst_structure_set (gst_custom_meta_get_structure (meta),
      "valid-frames", G_TYPE_INT, result.valid_positions,
      "window", G_TYPE_INT64, (gint64) result.window, nullptr);
#if GST_CHECK_VERSION (1, 26, 0)
  gst_whisper_xdna2_enc_add_tensor_meta (buffer, result.positions,
      result.d_model);
#endif
  return gst_whisper_xdna2_enc_push_buffer (self, buffer,
      gst_whisper_xdna2_enc_time_of (self, result.first_sample),
      gst_whisper_xdna2_enc_time_of (self,
          result.first_sample + result.samples));
}

/* Takes the job's event. */
static void
gst_whisper_xdna2_enc_run_job (GstWhisperXdna2Enc * self, const Job & job)
{
  Private *priv = self->priv;

  switch (job.kind) {
    case Job::Kind::STREAM:
      priv->base_pts = job.pts;
      priv->base_at = job.at;
      if (GST_CLOCK_TIME_IS_VALID (priv->position) &&
          priv->position != job.pts) {
        priv->discont = TRUE;
        gst_whisper_xdna2_enc_push_gap (self, job.pts);
      }
      priv->position = job.pts;
      return;
    case Job::Kind::DRAIN:
      gst_whisper_xdna2_enc_push_gap (self,
          gst_whisper_xdna2_enc_time_of (self, job.at - priv->base_at));
      gst_whisper_xdna2_enc_end_utterance (self);
      return;
    case Job::Kind::EVENT:
      break;
  }

  switch (GST_EVENT_TYPE (job.event)) {
    case GST_EVENT_STREAM_START:
      gst_clear_tag_list (&priv->stream_tags);
      priv->language.clear ();
      break;
    case GST_EVENT_SEGMENT:{
      GstSegment previous = priv->out_segment;
      gst_event_copy_segment (job.event, &priv->out_segment);
      priv->seqnum = gst_event_get_seqnum (job.event);
      gst_pad_push_event (self->srcpad, job.event);
      if (previous.format == GST_FORMAT_UNDEFINED && priv->stream_tags)
        gst_whisper_xdna2_enc_push_tags (self);
      previous.position = priv->out_segment.position;
      /* Audio that goes on in an equal segment keeps its place. */
      if (!gst_segment_is_equal (&previous, &priv->out_segment) ||
          !GST_CLOCK_TIME_IS_VALID (priv->position)) {
        priv->discont = TRUE;
        priv->position = priv->out_segment.rate > 0 ?
            priv->out_segment.start : GST_CLOCK_TIME_NONE;
      }
      return;
    }
    case GST_EVENT_TAG:{
      GstTagList *tags;
      gst_event_parse_tag (job.event, &tags);
      if (gst_tag_list_get_scope (tags) != GST_TAG_SCOPE_STREAM)
        break;
      gst_clear_tag_list (&priv->stream_tags);
      priv->stream_tags = gst_tag_list_ref (tags);
      gst_event_unref (job.event);
      /* Before the first segment they wait for it. */
      if (priv->seqnum != GST_SEQNUM_INVALID)
        gst_whisper_xdna2_enc_push_tags (self);
      return;
    }
    default:
      break;
  }
  gst_pad_push_event (self->srcpad, job.event);
}

static GstFlowReturn
gst_whisper_xdna2_enc_run_result (GstWhisperXdna2Enc * self, Result && result,
    guint generation)
{
  Private *priv = self->priv;
  GstFlowReturn flow = GST_FLOW_OK;

  if (result.kind == Result::Kind::kFeatures) {
    flow = gst_whisper_xdna2_enc_push_features (self, std::move (result));
  } else {
    for (const Segment & segment : result.segments) {
      flow = gst_whisper_xdna2_enc_push_segment (self, segment);
      if (flow != GST_FLOW_OK)
        break;
      /* A flush out of this very push made the rest void. */
      Lock lock (priv->lock);
      if (priv->generation != generation)
        return GST_FLOW_OK;
    }
  }
  if (flow == GST_FLOW_OK && result.kind != Result::Kind::kDrained) {
    gst_whisper_xdna2_enc_push_gap (self,
        gst_whisper_xdna2_enc_time_of (self, result.settled));
    gst_whisper_xdna2_enc_post_partial (self, result.partial);
  }
  return flow;
}

/* Stops the flow. If upstream has already said EOS it will not report the
 * reason; then the task does, and ends the stream. */
static void
gst_whisper_xdna2_enc_stop_flow (GstWhisperXdna2Enc * self, GstFlowReturn flow,
    guint generation)
{
  Private *priv = self->priv;
  GstEvent *eos = nullptr;
  std::deque<Job> jobs;
  {
    Lock lock (priv->lock);
    if (priv->generation != generation || priv->flow != GST_FLOW_OK)
      return;
    GST_DEBUG_OBJECT (self, "stopping: %s", gst_flow_get_name (flow));
    priv->flow = flow;
    for (const Job & job : priv->jobs) {
      if (flow != GST_FLOW_FLUSHING && job.event &&
          GST_EVENT_TYPE (job.event) == GST_EVENT_EOS)
        eos = gst_event_ref (job.event);
    }
    /* Lets a chain function that waits for room return. */
    if (priv->engine)
      priv->engine->set_flushing (true);
    jobs = gst_whisper_xdna2_enc_take_jobs (self);
    priv->wake.notify_all ();
  }
  gst_whisper_xdna2_enc_drop_jobs (self, std::move (jobs),
      flow == GST_FLOW_FLUSHING);
  if (!eos)
    return;
  if (flow == GST_FLOW_NOT_LINKED || flow < GST_FLOW_EOS)
    GST_ELEMENT_FLOW_ERROR (self, flow);
  gst_pad_push_event (self->srcpad, eos);
}

/* With priv->lock held: whether the first job's audio has left. */
static gboolean
gst_whisper_xdna2_enc_job_due (Private * priv)
{
  if (priv->jobs.empty ())
    return FALSE;
  const Job & job = priv->jobs.front ();
  return job.kind == Job::Kind::DRAIN ? priv->drained :
      job.at <= priv->settled;
}

static void
gst_whisper_xdna2_enc_loop (gpointer user_data)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (user_data);
  Private *priv = self->priv;
  std::shared_ptr<Engine> engine;
  GstFlowReturn flow = GST_FLOW_OK;
  guint generation;

  Lock lock (priv->lock);
  priv->wake.wait (lock, [priv] {
        return priv->task_stopping || (priv->flow == GST_FLOW_OK &&
            (!priv->jobs.empty () || priv->pushed > priv->settled));
      });
  if (priv->task_stopping) {
    lock.unlock ();
    gst_pad_pause_task (self->srcpad);
    return;
  }
  generation = priv->generation;
  priv->task_busy = g_thread_self ();

  if (gst_whisper_xdna2_enc_job_due (priv)) {
    Job job = priv->jobs.front ();
    priv->jobs.pop_front ();
    if (job.kind == Job::Kind::DRAIN)
      priv->drained = FALSE;
    lock.unlock ();
    gst_whisper_xdna2_enc_run_job (self, job);
  } else {
    engine = priv->engine;
    lock.unlock ();
    try {
      Result result = engine->next ();
      Result::Kind kind = result.kind;
      guint64 settled = priv->base_at + result.settled;
      if (kind != Result::Kind::kInterrupted)
        flow = gst_whisper_xdna2_enc_run_result (self, std::move (result),
            generation);
      lock.lock ();
      if (priv->generation == generation && flow == GST_FLOW_OK) {
        if (kind == Result::Kind::kDrained) {
          auto drain = std::find_if (priv->jobs.begin (), priv->jobs.end (),
              [](const Job & job) { return job.kind == Job::Kind::DRAIN; });
          priv->drained = TRUE;
          priv->settled = drain->at;
        } else if (kind != Result::Kind::kInterrupted) {
          priv->settled = std::max (priv->settled, settled);
        }
      }
      lock.unlock ();
    } catch (const std::exception & e) {
      gst_whisper_xdna2_enc_post_error (self, e);
      flow = GST_FLOW_ERROR;
    }
  }

  if (flow != GST_FLOW_OK)
    gst_whisper_xdna2_enc_stop_flow (self, flow, generation);
  lock.lock ();
  priv->task_busy = nullptr;
  priv->wake.notify_all ();
}

/* --- Pads, states -------------------------------------------------------- */

static gboolean
gst_whisper_xdna2_enc_src_query (GstPad * pad, GstObject * parent,
    GstQuery * query)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (parent);
  Private *priv = self->priv;

  if (GST_QUERY_TYPE (query) != GST_QUERY_LATENCY)
    return gst_pad_query_default (pad, parent, query);

  if (!gst_pad_peer_query (self->sinkpad, query))
    return FALSE;

  gboolean live;
  GstClockTime min, max, own_min, own_max;
  gst_query_parse_latency (query, &live, &min, &max);
  gst_whisper_xdna2_enc_own_latency (self, live, &own_min, &own_max);
  {
    Lock lock (priv->lock);
    priv->upstream_latency = live ? min : GST_CLOCK_TIME_NONE;
  }
  min += own_min;
  if (GST_CLOCK_TIME_IS_VALID (max))
    max += own_max;
  GST_DEBUG_OBJECT (self, "latency: live %d, min %" GST_TIME_FORMAT ", max %"
      GST_TIME_FORMAT, live, GST_TIME_ARGS (min), GST_TIME_ARGS (max));
  gst_query_set_latency (query, live, min, max);
  return TRUE;
}

/* In both directions: what the queue holds is forgotten, what waits returns. */
static gboolean
gst_whisper_xdna2_enc_sink_activate_mode (GstPad * pad, GstObject * parent,
    GstPadMode mode, gboolean active)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (parent);

  if (mode != GST_PAD_MODE_PUSH)
    return FALSE;
  if (!active) {
    /* step 1, let chain return */
    gst_whisper_xdna2_enc_set_flushing (self);
    /* step 2, wait for it */
    GST_PAD_STREAM_LOCK (pad);
    /* step 3, forget */
    gst_whisper_xdna2_enc_reset (self, GST_FLOW_FLUSHING);
    gst_caps_replace (&self->priv->src_caps, nullptr);
    gst_audio_info_init (&self->priv->info);
    gst_segment_init (&self->priv->in_segment, GST_FORMAT_TIME);
    GST_PAD_STREAM_UNLOCK (pad);
  }
  return TRUE;
}

static gboolean
gst_whisper_xdna2_enc_src_activate_mode (GstPad * pad, GstObject * parent,
    GstPadMode mode, gboolean active)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (parent);
  Private *priv = self->priv;

  if (mode != GST_PAD_MODE_PUSH)
    return FALSE;
  if (active) {
    {
      Lock lock (priv->lock);
      priv->task_stopping = FALSE;
      priv->flow = GST_FLOW_OK;
      if (priv->engine)
        priv->engine->set_flushing (false);
    }
    return gst_pad_start_task (pad, gst_whisper_xdna2_enc_loop, self, nullptr);
  }
  /* step 1, let the task return */
  gst_whisper_xdna2_enc_set_flushing (self);
  {
    Lock lock (priv->lock);
    priv->task_stopping = TRUE;
    priv->wake.notify_all ();
  }
  /* step 2, wait for it */
  return gst_pad_stop_task (pad);
}

/* A new life of the element: nothing of the stream before is left. */
static void
gst_whisper_xdna2_enc_start (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  {
    Lock lock (priv->lock);
    priv->max_observed_delay = 0;
    priv->late_buffers = priv->discontinuities = 0;
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
        "discontinuities", G_TYPE_UINT64, priv->discontinuities, nullptr);
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
      "windows", G_TYPE_UINT64, s.windows,
      "encodes", G_TYPE_UINT64, s.encodes,
      "skipped-windows", G_TYPE_UINT64, s.skipped_windows,
      "retries", G_TYPE_UINT64, s.retries,
      "encode-ms", G_TYPE_DOUBLE, 1000 * s.encode_seconds,
      "decode-ms", G_TYPE_DOUBLE, 1000 * s.decode_seconds,
      "audio-ms", G_TYPE_DOUBLE, 1000 * s.audio_seconds,
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
  std::thread & loader = GST_WHISPER_XDNA2_ENC (object)->priv->loader;
  if (loader.get_id () == std::this_thread::get_id ())
    loader.detach ();
  else if (loader.joinable ())
    loader.join ();
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
   * a ggml file. Default: the base model in the user's cache, where the
   * project's fetch-model tool puts it.
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
   * Arithmetic of the encoder.
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
   * Since: 0.1
   */
  properties[PROP_TRANSLATE] = g_param_spec_boolean ("translate", "Translate",
      "Write English, whatever is spoken", FALSE, ready);

  /**
   * GstWhisperXdna2Enc:audio-context:
   *
   * Length of the windows in which audio is read, in encoder positions of
   * 20 ms. 1500 is Whisper's own 30 s algorithm: slower and later, slightly
   * more accurate.
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
   * Counters since the model was loaded: `windows`, `encodes`,
   * `skipped-windows` (silent), `retries` (decoded twice), `encode-ms`,
   * `decode-ms`, `audio-ms`, `real-time-factor`; `late` (buffers),
   * `max-observed-delay` (ns) and `discontinuities` since PAUSED; `backend`,
   * `device`, `firmware`, `precision`.
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
