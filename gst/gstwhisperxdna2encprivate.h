/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What the element's parts share.
 *
 *   gstwhisperxdna2enc.cpp        class, properties, states
 *   gstwhisperxdna2encload.cpp    the engine: loading, errors
 *   gstwhisperxdna2encinput.cpp   sink pad: events, negotiation, audio
 *   gstwhisperxdna2encoutput.cpp  source pad: text and features, latency
 *
 * Threads
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

#pragma once

#include "gst/gstwhisperxdna2enc.h"

#include <gst/audio/audio.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "whisper/engine.h"
#include "whisper/error.h"

GST_DEBUG_CATEGORY_EXTERN (whisper_xdna2_enc_debug);
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
/* As audiobuffersplit: timestamps may deviate by this much, and by more for
 * this long, before the stream is taken for discontinuous. */
static constexpr GstClockTime ALIGNMENT_THRESHOLD = 40 * GST_MSECOND;
static constexpr GstClockTime DISCONT_WAIT = 1 * GST_SECOND;

#define ITEM_META "GstWhisperItemMeta"
#define DEVICE_CONTEXT "gst.whisperxdna2.device"

enum OutputUnit
{
  OUTPUT_UNIT_SEGMENT,
  OUTPUT_UNIT_WORD,
};

static constexpr guint DEFAULT_LATENCY_MS = 1000;
/* Silero's own tools have it. */
static constexpr gfloat DEFAULT_VAD_HYSTERESIS = 0.15f;
#define DEFAULT_LANGUAGE "auto"

/* What the source task has to do once the text of the first `at` samples has
 * left. */
struct Job
{
  enum class Kind
  {
    EVENT,                      /* push `event` */
    DRAIN,                      /* the engine was told to drain */
    STREAM,                     /* sample `at` is at `pts`, and the first one */
    RETIME,                     /* sample `at` is at `pts` */
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
  gfloat vad_hysteresis = DEFAULT_VAD_HYSTERESIS;
  LiveOptions live;             /* `positions` follows from `engine` */
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
  guint64 dropped = 0;          /* buffers that were played backwards */
  std::string fault;            /* why the CPU does the device's work now */
  guint64 fallbacks = 0;        /* times that this began */

  /* --- Used by who starts a load: a state change, or the streaming thread */
  /* The last one started; it joins the ones before. READY to NULL waits for
   * it. */
  std::thread loader;

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
  gboolean partial_posted = FALSE;      /* and not taken back */
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

static inline GstClockTime
samples_to_time (guint64 samples)
{
  return gst_util_uint64_scale_int (samples, GST_SECOND, RATE);
}

/* --- gstwhisperxdna2enc.cpp --- */

/* A copy. */
Settings gst_whisper_xdna2_enc_settings (GstWhisperXdna2Enc * self);
/* Null while there is none. */
std::shared_ptr<Engine> gst_whisper_xdna2_enc_engine (GstWhisperXdna2Enc * self);

/* --- gstwhisperxdna2encload.cpp --- */

void gst_whisper_xdna2_enc_post_error (GstWhisperXdna2Enc * self,
    const std::exception & exception);
/* The language-code property, to the engine. */
void gst_whisper_xdna2_enc_apply_language (GstWhisperXdna2Enc * self,
    Engine * engine);
/* Sees to it that an engine for `output` and the present settings is there or
 * being made. Not while anyone uses the present one. */
void gst_whisper_xdna2_enc_start_load (GstWhisperXdna2Enc * self,
    Output output);
void gst_whisper_xdna2_enc_cancel_load (GstWhisperXdna2Enc * self);
/* Tells who asks what is in use, if that is known; FALSE: it is not. */
gboolean gst_whisper_xdna2_enc_answer_context (GstWhisperXdna2Enc * self,
    GstQuery * query);
/* Waits for the loader. No engine: *flow says why. */
std::shared_ptr<Engine> gst_whisper_xdna2_enc_wait_engine (GstWhisperXdna2Enc * self,
    GstFlowReturn * flow);

/* --- gstwhisperxdna2encinput.cpp --- */

GstFlowReturn gst_whisper_xdna2_enc_chain (GstPad * pad, GstObject * parent,
    GstBuffer * buffer);
gboolean gst_whisper_xdna2_enc_sink_event (GstPad * pad, GstObject * parent,
    GstEvent * event);
gboolean gst_whisper_xdna2_enc_sink_query (GstPad * pad, GstObject * parent,
    GstQuery * query);
gboolean gst_whisper_xdna2_enc_sink_activate_mode (GstPad * pad,
    GstObject * parent, GstPadMode mode, gboolean active);
/* Lets chain, events and the task return. Any thread. */
void gst_whisper_xdna2_enc_set_flushing (GstWhisperXdna2Enc * self);
/* With priv->lock held: nothing is pending any more. The jobs are for
 * drop_jobs(), without the lock. */
std::deque<Job> gst_whisper_xdna2_enc_take_jobs (GstWhisperXdna2Enc * self);
/* What describes the stream is kept; a flush also ends its segment. */
void gst_whisper_xdna2_enc_drop_jobs (GstWhisperXdna2Enc * self,
    std::deque<Job> jobs, gboolean flushed);
/* What downstream wants most, of what the element can make. */
GstCaps *gst_whisper_xdna2_enc_allowed_caps (GstWhisperXdna2Enc * self);
Output gst_whisper_xdna2_enc_output_for (GstWhisperXdna2Enc * self,
    GstCaps * caps);

/* --- gstwhisperxdna2encoutput.cpp --- */

gboolean gst_whisper_xdna2_enc_src_query (GstPad * pad, GstObject * parent,
    GstQuery * query);
gboolean gst_whisper_xdna2_enc_src_activate_mode (GstPad * pad,
    GstObject * parent, GstPadMode mode, gboolean active);
