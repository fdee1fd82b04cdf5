/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "gst/gstwhisperxdna2encprivate.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

static guint64
time_to_samples (GstClockTime time)
{
  return gst_util_uint64_scale_int_round (time, RATE, GST_SECOND);
}

/* --- Jobs, from the streaming thread ------------------------------------- */

std::deque<Job> gst_whisper_xdna2_enc_take_jobs (GstWhisperXdna2Enc * self)
{
  Private *priv = self->priv;
  std::deque<Job> jobs;
  jobs.swap (priv->jobs);
  priv->settled = priv->pushed;
  priv->drained = FALSE;
  ++priv->generation;
  return jobs;
}

void
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

void
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

GstCaps *
gst_whisper_xdna2_enc_allowed_caps (GstWhisperXdna2Enc * self)
{
  GstCaps *caps = gst_pad_get_allowed_caps (self->srcpad);
  return caps ? caps : gst_pad_get_pad_template_caps (self->srcpad);
}

Output
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
  LiveOptions options = gst_whisper_xdna2_enc_settings (self).live;
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
      /* Times that lag a little behind are a source's that stamped what it
       * captured before it was started with 0, over and over: its audio goes
       * on, and no word of it is cut. */
      gboolean lags = pts < expected && off <= (GstClockTimeDiff) DISCONT_WAIT;
      if (!lags)
        gst_whisper_xdna2_enc_drain (self);
      Lock lock (priv->lock);
      ++priv->discontinuities;
      if (lags) {
        priv->stream_pts = pts;
        priv->stream_at = priv->pushed;
        priv->jobs.push_back ({Job::Kind::RETIME, priv->pushed, nullptr, pts});
        priv->wake.notify_all ();
      }
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

GstFlowReturn
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
    ++priv->dropped;
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

gboolean
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

gboolean
gst_whisper_xdna2_enc_sink_query (GstPad * pad, GstObject * parent,
    GstQuery * query)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (parent);

  switch (GST_QUERY_TYPE (query)) {
    case GST_QUERY_CONTEXT:
      return gst_whisper_xdna2_enc_answer_context (self, query) ||
          gst_pad_query_default (pad, parent, query);
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

/* --- Activation ---------------------------------------------------------- */

/* In both directions: what the queue holds is forgotten, what waits returns. */
gboolean
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
