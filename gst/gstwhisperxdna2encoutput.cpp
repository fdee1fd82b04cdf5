/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "gst/gstwhisperxdna2encprivate.h"

#if GST_CHECK_VERSION (1, 26, 0)
#include <gst/analytics/analytics.h>
#endif

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

/* Windows that can be in the engine before it blocks, besides the one that is
 * being filled. */
static constexpr guint WINDOWS_IN_FLIGHT = 2;
/* Shortest text buffer, one encoder position; word times have no finer grid. */
static constexpr gint64 MIN_TEXT_SAMPLES = RATE / POSITIONS_PER_SECOND;
/* A silence of this length ends an utterance. */
static constexpr GstClockTime UTTERANCE_PAUSE = 1 * GST_SECOND;

static gint64
seconds_to_samples (double seconds)
{
  return std::max<gint64> (0, std::llround (seconds * RATE));
}

/* --- Latency ------------------------------------------------------------- */

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
    hop = settings.live.hop * GST_SECOND;
    hold = (settings.live.deadline - settings.live.hop) * GST_SECOND;
  } else if (output == Output::kCaptions) {
    hold = whisperxdna2::kLongestCaption * GST_SECOND;
  }
  GstClockTime needed = hop + hold + settings.latency_ms * GST_MSECOND;
  GstClockTime lateness = settings.lateness_ms * GST_MSECOND;
  *min = needed > lateness ? needed - lateness : 0;
  *max = std::max (*min, window + WINDOWS_IN_FLIGHT * hop);
}

gboolean
gst_whisper_xdna2_enc_src_query (GstPad * pad, GstObject * parent,
    GstQuery * query)
{
  GstWhisperXdna2Enc *self = GST_WHISPER_XDNA2_ENC (parent);
  Private *priv = self->priv;

  if (GST_QUERY_TYPE (query) == GST_QUERY_CONTEXT &&
      gst_whisper_xdna2_enc_answer_context (self, query))
    return TRUE;
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
    g_object_notify (G_OBJECT (self), "max-observed-delay");
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

/* Says when the CPU has taken over from a device that failed, and when the
 * device is back. */
static void
gst_whisper_xdna2_enc_observe_encoder (GstWhisperXdna2Enc * self,
    Engine * engine)
{
  Private *priv = self->priv;
  std::string fault = engine->encoder_info ().fault;
  gboolean began;
  {
    Lock lock (priv->lock);
    if (fault.empty () == priv->fault.empty ())
      return;
    began = priv->fault.empty ();
    priv->fault = fault;
    if (began)
      ++priv->fallbacks;
  }
  g_object_notify (G_OBJECT (self), "active-backend");
  if (began)
    GST_ELEMENT_WARNING (self, RESOURCE, FAILED,
        ("The CPU has taken over: %s", fault.c_str ()), (nullptr));
  else
    GST_ELEMENT_INFO (self, RESOURCE, SETTINGS,
        ("The NPU is back in use."), (nullptr));
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

/* Adds the times, as the level element has them. */
static void
gst_whisper_xdna2_enc_add_times (GstWhisperXdna2Enc * self,
    GstStructure * fields, GstClockTime pts, GstClockTime end)
{
  const GstSegment *segment = &self->priv->out_segment;
  gst_structure_set (fields, "timestamp", G_TYPE_UINT64, pts,
      "stream-time", G_TYPE_UINT64,
      gst_segment_to_stream_time (segment, GST_FORMAT_TIME, pts),
      "running-time", G_TYPE_UINT64,
      gst_segment_to_running_time (segment, GST_FORMAT_TIME, pts),
      "duration", G_TYPE_UINT64, end - pts, nullptr);
}

/* Takes `fields`. */
static void
gst_whisper_xdna2_enc_post_text (GstWhisperXdna2Enc * self,
    GstStructure * fields, GstClockTime pts, GstClockTime end)
{
  gst_whisper_xdna2_enc_add_times (self, fields, pts, end);
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

/* Adds the words of a text that spans [pts, end): an array of structures. */
static void
gst_whisper_xdna2_enc_add_words (GstWhisperXdna2Enc * self,
    GstStructure * fields, const std::vector<Word> & words, GstClockTime pts,
    GstClockTime end)
{
  GValue array = G_VALUE_INIT;
  g_value_init (&array, GST_TYPE_ARRAY);
  for (const Word & word : words) {
    auto time_of = [&] (double seconds) {
      return std::clamp (gst_whisper_xdna2_enc_time_of (self,
              seconds_to_samples (seconds)), pts, end);
    };
    GstStructure *structure = gst_structure_new ("word",
        "text", G_TYPE_STRING, word.text.c_str (),
        "confidence", G_TYPE_DOUBLE, (gdouble) word.probability,
        "space-before", G_TYPE_BOOLEAN, (gboolean) word.space_before, nullptr);
    gst_whisper_xdna2_enc_add_times (self, structure, time_of (word.start),
        time_of (word.end));
    GValue value = G_VALUE_INIT;
    g_value_init (&value, GST_TYPE_STRUCTURE);
    g_value_take_boxed (&value, structure);
    gst_value_array_append_and_take_value (&array, &value);
  }
  gst_structure_take_value (fields, "words", &array);
}

/* Tells upstream elements, as the transcribers of gst-plugins-rs do. One
 * speaker is as good as another here. */
static void
gst_whisper_xdna2_enc_send_item (GstWhisperXdna2Enc * self,
    const Segment & segment, GstClockTime pts, GstClockTime end)
{
  gst_pad_push_event (self->sinkpad,
      gst_event_new_custom (GST_EVENT_CUSTOM_UPSTREAM,
          gst_structure_new ("rstranscribe/new-item",
              "speaker", G_TYPE_STRING, nullptr,
              "content", G_TYPE_STRING, segment.text.c_str (),
              "running-time", G_TYPE_UINT64,
              gst_segment_to_running_time (&self->priv->out_segment,
                  GST_FORMAT_TIME, pts),
              "duration", G_TYPE_UINT64, end - pts, nullptr)));
}

static GstFlowReturn
gst_whisper_xdna2_enc_push_segment (GstWhisperXdna2Enc * self,
    const Segment & segment)
{
  Private *priv = self->priv;

  auto [pts, end] = gst_whisper_xdna2_enc_text_span (self, segment.start,
      segment.end);
  GstStructure *fields = gst_structure_new ("whisperxdna2enc/segment",
      "text", G_TYPE_STRING, segment.text.c_str (),
      "language-code", G_TYPE_STRING, segment.language.c_str (),
      "confidence", G_TYPE_DOUBLE, (gdouble) segment.confidence,
      "window", G_TYPE_INT64, (gint64) segment.window, nullptr);
  gst_whisper_xdna2_enc_add_words (self, fields, segment.words, pts, end);
  gst_whisper_xdna2_enc_post_text (self, fields, pts, end);
  gst_whisper_xdna2_enc_send_item (self, segment, pts, end);

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

/* Tells the application what is being said but may still change; an empty text
 * takes the one before back. */
static void
gst_whisper_xdna2_enc_post_partial (GstWhisperXdna2Enc * self,
    const std::vector<Word> & words)
{
  Private *priv = self->priv;
  /* Nothing, where nothing has been shown, is no news. */
  if (words.empty () && !priv->partial_posted)
    return;
  priv->partial_posted = !words.empty ();
  std::string text;
  for (const Word & word : words) {
    if (!text.empty () && word.space_before)
      text += ' ';
    text += word.text;
  }
  GstClockTime pts = priv->position, end = priv->position;
  if (!words.empty ())
    std::tie (pts, end) = gst_whisper_xdna2_enc_text_span (self,
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
    case Job::Kind::RETIME:
      priv->base_pts = job.pts - samples_to_time (job.at - priv->base_at);
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
    /* Before a gap already: a muxer may write its header at the first event. */
    gst_whisper_xdna2_enc_announce_language (self, result.language);
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
    if (result.skipped_seconds > 0)
      GST_ELEMENT_WARNING_WITH_DETAILS (self, CORE, CLOCK,
          ("This machine is too slow: %.1f s of audio, which had waited for"
              " %.1f s, are left out.", result.skipped_seconds,
              result.lag_seconds), (nullptr),
          ("skipped", G_TYPE_DOUBLE, result.skipped_seconds,
              "lag", G_TYPE_DOUBLE, result.lag_seconds, nullptr));
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
      gst_whisper_xdna2_enc_observe_encoder (self, engine.get ());
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

/* --- Activation ---------------------------------------------------------- */

gboolean
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
