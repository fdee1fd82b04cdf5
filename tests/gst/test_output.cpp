// What comes out: text, times, gaps, events, features. Driven by the scripted engine.
#include "gst/gstwhisperxdna2enc.h"
#include "tests/gst/fake_engine.h"

#include "tests/gst/bench.h"

#if GST_CHECK_VERSION(1, 26, 0)
#include <gst/analytics/analytics.h>
#endif

// Windows of 2.56 s keep the tests short.
static const char kShort[] = "audio-context=128";
static constexpr int kWindow = 128 * 320;

static std::string transcript(Bench& bench, const std::string& script) {
  bench.start();
  ck_assert_int_eq(bench.say(script), GST_FLOW_OK);
  ck_assert(bench.eos());
  ck_assert(bench.wait("eos"));
  return bench.text();
}

#define assert_text(bench, expected) assert_string((bench).text(), expected)

GST_START_TEST(test_one_buffer_per_segment_with_times) {
  Bench bench(kShort);
  assert_string(
      transcript(bench, "1.0 w1:0.5 w2:0.25 2.0 w3:0.5"),
      "gap[0.000+1.000] !w1 w2[1.000+0.750] gap[1.750+0.810] final-transcript gap[2.560+1.190] w3[3.750+0.500] "
      "final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_one_buffer_per_word) {
  Bench bench("audio-context=128 output-unit=word");
  assert_string(transcript(bench, "1.0 w1:0.5 w2:0.25"),
                   "gap[0.000+1.000] !w1[1.000+0.500] w2[1.500+0.250] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_s16_means_the_same) {
  Bench bench(kShort);
  bench.start("S16");
  bench.say("1.0 w12:0.5 0.5");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "gap[0.000+1.000] !w12[1.000+0.500] gap[1.500+0.500] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_segment_across_windows_is_whole) {
  Bench bench(kShort);
  assert_string(transcript(bench, "2.0 w1:1.0 1.0"),
                   "gap[0.000+2.000] !w1[2.000+1.000] final-transcript gap[3.000+1.000] eos");
}
GST_END_TEST;

GST_START_TEST(test_events_come_in_order) {
  Bench bench(kShort);
  transcript(bench, "w1:1.0");
  assert_string(bench.log(), "stream-start caps segment tag !w1[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_text_caps) {
  Bench bench(kShort);
  transcript(bench, "w1:1.0");
  GstCaps* caps = gst_pad_get_current_caps(bench.srcpad());
  gchar* text = gst_caps_to_string(caps);
  assert_string(text, "text/x-raw, format=(string)utf8");
  g_free(text);
  gst_caps_unref(caps);
}
GST_END_TEST;

// EOS after 0, 1, W - 1, W, W + 1 samples: everything comes out, and then the end.
static const int kEosSamples[] = {0, 1, kWindow - 1, kWindow, kWindow + 1};
GST_START_TEST(test_eos_after_any_number_of_samples) {
  Bench bench(kShort);
  bench.start();
  bench.push(std::vector<float>(kEosSamples[__i__], 0.05f));
  bench.eos();
  ck_assert(bench.wait("eos"));
  const std::string text = bench.text();
  ck_assert_int_eq(text.find("w5") != std::string::npos, kEosSamples[__i__] > 0);
  // Nothing after EOS.
  ck_assert_int_eq(text.find("eos") + 3, text.size());
}
GST_END_TEST;

GST_START_TEST(test_one_sample_has_a_duration) {
  Bench bench(kShort);
  bench.start();
  bench.push(std::vector<float>(1, 0.05f));
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w5[0.000+0.020] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_eos_keeps_its_seqnum) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  GstEvent* eos = gst_event_new_eos();
  const guint32 seqnum = gst_event_get_seqnum(eos);
  bench.event(eos);
  ck_assert(bench.wait("eos"));
  GstEvent* out = gst_pad_get_sticky_event(bench.srcpad(), GST_EVENT_EOS, 0);
  ck_assert_uint_eq(gst_event_get_seqnum(out), seqnum);
  gst_event_unref(out);
}
GST_END_TEST;

GST_START_TEST(test_segment_done_drains) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  bench.event(gst_event_new_segment_done(GST_FORMAT_TIME, GST_SECOND));
  ck_assert(bench.wait("segment-done"));
  assert_text(bench, "!w1[0.000+1.000] final-transcript segment-done");
}
GST_END_TEST;

// The upstream element ignored a jump: all later words were too early by it.
GST_START_TEST(test_discont_gives_later_words_their_new_times) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:0.5 0.5");
  bench.set_time(21 * GST_SECOND);
  bench.push(signal("0.5 w2:0.5"), GST_BUFFER_FLAG_DISCONT);
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench,
              "!w1[0.000+0.500] gap[0.500+0.500] final-transcript gap[1.000+20.000] gap[21.000+0.500] "
              "!w2[21.500+0.500] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_jump_without_flag_is_noticed_at_once) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:0.5");
  bench.set_time(10 * GST_SECOND);
  bench.say("w2:0.5");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+0.500] final-transcript gap[0.500+9.500] !w2[10.000+0.500] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_backward_jump_is_a_discontinuity) {
  Bench bench(kShort);
  bench.set_time(10 * GST_SECOND);
  bench.start();
  bench.say("w1:0.5");
  bench.set_time(2 * GST_SECOND);
  bench.say("w2:0.5");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench,
              "gap[0.000+10.000] !w1[10.000+0.500] final-transcript !w2[2.000+0.500] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_discont_flag_within_threshold_is_ignored) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:0.5");
  bench.set_time(bench.time() + 30 * GST_MSECOND);
  bench.push(signal("w1:0.5"), GST_BUFFER_FLAG_DISCONT);
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

// A GstAudioBaseSrc stamps with 0 whatever was captured before the pipeline's base time: pulsesrc may start with
// several buffers of 10 ms at 0. None of them is left out or heard twice, and no word is cut when the times have been
// behind for the second that the element waits.
static const int kRepeated[] = {2, 4, 20};
GST_START_TEST(test_source_that_begins_with_repeated_times) {
  Bench bench(kShort);
  bench.start();
  const std::vector<float> audio = signal("0.1 w1:0.5 0.2 w2:0.8 0.3 w3:0.7");
  const size_t piece = Bench::kRate / 100;
  for (size_t i = 0; i * piece < audio.size(); ++i) {
    bench.set_time(std::max<gint64>(0, i - kRepeated[__i__] + 1) * 10 * GST_MSECOND);
    bench.push({audio.begin() + i * piece, audio.begin() + (i + 1) * piece}, i == 0 ? GST_BUFFER_FLAG_DISCONT : 0);
  }
  bench.eos();
  ck_assert(bench.wait("eos"));
  std::string words;
  std::istringstream in(bench.text());
  for (std::string entry; in >> entry;)
    if (entry.find('w') < 2) words += entry.substr(entry.find('w'), 2) + " ";
  assert_string(words, "w1 w2 w3 ");
  GstStructure* stats;
  g_object_get(bench.element(), "stats", &stats, nullptr);
  gdouble received;
  ck_assert(gst_structure_get_double(stats, "received-ms", &received));
  fail_unless(std::abs(received - 2600) < 0.1, "%f ms", received);
  gst_structure_free(stats);
}
GST_END_TEST;

GST_START_TEST(test_buffers_without_times_follow_on) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:0.5");
  bench.set_time(GST_CLOCK_TIME_NONE);
  bench.say("w1:0.5");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_first_buffer_without_time_is_an_error) {
  Bench bench(kShort);
  bench.start();
  bench.set_time(GST_CLOCK_TIME_NONE);
  ck_assert_int_eq(bench.say("w1:0.5"), GST_FLOW_ERROR);
  assert_string(bench.error(GST_STREAM_ERROR, GST_STREAM_ERROR_FORMAT), "The audio has no timestamps.");
}
GST_END_TEST;

GST_START_TEST(test_gap_event_is_silence) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:0.5");
  bench.event(gst_event_new_gap(500 * GST_MSECOND, GST_SECOND));
  bench.set_time(1500 * GST_MSECOND);
  bench.say("w2:0.5");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+0.500] final-transcript gap[0.500+1.000] w2[1.500+0.500] final-transcript eos");
  ck_assert_int_eq(fake.silent_samples, 16000);
}
GST_END_TEST;

// The upstream element had 118 of 126 words inside a GAP it had already sent; the checker and this say no.
GST_START_TEST(test_gaps_never_cover_text) {
  Bench bench(kShort);
  bench.start();
  std::string script;
  for (int i = 1; i <= 40; ++i) script += "0." + std::to_string(i % 9 + 1) + " w" + std::to_string(i) + ":0.35 ";
  bench.say(script);
  bench.eos();
  ck_assert(bench.wait("eos"));
  double position = 0;
  const std::string log = bench.text();
  for (size_t open = log.find('['); open != std::string::npos; open = log.find('[', open + 1)) {
    double start, duration;
    ck_assert_int_eq(sscanf(log.c_str() + open, "[%lf+%lf]", &start, &duration), 2);
    fail_unless(std::abs(start - position) < 0.0015);  // seamless: no overlap, no hole
    fail_unless(duration > 0);
    position = start + duration;
  }
}
GST_END_TEST;

// The upstream element made 16 zero-length words of 284, and overlaps.
GST_START_TEST(test_texts_have_a_duration_and_do_not_overlap) {
  fake.no_durations = true;
  Bench bench("audio-context=128 output-unit=word");
  bench.start();
  std::vector<float> samples = signal("1.0 w1:0.001 w2:0.001 w3:0.5");
  bench.push(samples);
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(
      bench, "gap[0.000+1.000] !w1[1.000+0.020] w2[1.020+0.020] w3[1.040+0.020] gap[1.060+0.442] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_gap_before_caps_starts_the_stream) {
  Bench bench(kShort);
  GstSegment segment = Bench::time_segment();
  bench.event(gst_event_new_stream_start("s"));
  bench.segment(segment);
  bench.event(gst_event_new_gap(0, 3 * GST_SECOND));
  ck_assert(bench.wait("gap"));
  assert_string(bench.log(), "stream-start caps segment gap[0.000+2.560]");
}
GST_END_TEST;

GST_START_TEST(test_gap_flag_is_silence) {
  Bench bench(kShort);
  bench.start();
  // The content of such a buffer does not count.
  bench.push(signal("w1:0.5"), GST_BUFFER_FLAG_GAP);
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "gap[0.000+0.500] eos");
  ck_assert_int_eq(fake.silent_samples, 8000);
}
GST_END_TEST;

GST_START_TEST(test_new_segment_drains) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  GstSegment segment = Bench::time_segment(5 * GST_SECOND);
  segment.base = GST_SECOND;
  bench.segment(segment);
  bench.set_time(5 * GST_SECOND);
  bench.say("w2:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_string(bench.log(),
                   "stream-start caps segment tag !w1[0.000+1.000] final-transcript segment !w2[5.000+1.000] "
                   "final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_equal_segment_does_not_cut) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  GstSegment segment = Bench::time_segment();
  segment.position = GST_SECOND;
  bench.segment(segment);
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  ck_assert(bench.text().find("w1[0.000+2.000]") != std::string::npos);
}
GST_END_TEST;

GST_START_TEST(test_audio_outside_the_segment_is_clipped) {
  Bench bench(kShort);
  bench.start();
  GstSegment segment = Bench::time_segment(500 * GST_MSECOND);
  segment.stop = 1500 * GST_MSECOND;
  bench.segment(segment);
  bench.say("w1:2.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.500+1.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_byte_segment_is_refused) {
  Bench bench(kShort);
  bench.start();
  GstSegment segment;
  gst_segment_init(&segment, GST_FORMAT_BYTES);
  ck_assert(!bench.send(gst_event_new_segment(&segment)));
  assert_string(bench.error(GST_STREAM_ERROR, GST_STREAM_ERROR_FORMAT),
                   "The audio is not segmented in time but in bytes.");
}
GST_END_TEST;

GST_START_TEST(test_rate_is_passed_on) {
  Bench bench(kShort);
  bench.start();
  GstSegment segment = Bench::time_segment();
  segment.rate = 2.0;
  bench.segment(segment);
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  GstEvent* out = gst_pad_get_sticky_event(bench.srcpad(), GST_EVENT_SEGMENT, 0);
  const GstSegment* segment_out;
  gst_event_parse_segment(out, &segment_out);
  fail_unless(segment_out->rate == 2.0);
  gst_event_unref(out);
  ck_assert(bench.text().find("w1[0.000+1.000]") != std::string::npos);
}
GST_END_TEST;

GST_START_TEST(test_reverse_playback_has_gaps_and_no_text) {
  Bench bench(kShort);
  bench.start();
  GstSegment segment = Bench::time_segment();
  segment.rate = -1.0;
  segment.stop = segment.position = 10 * GST_SECOND;
  bench.segment(segment);
  for (int i = 9; i >= 8; --i) {
    bench.set_time(i * GST_SECOND);
    bench.push(std::vector<float>(1600, 0.05f), GST_BUFFER_FLAG_DISCONT);
  }
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "gap[9.000+0.100] gap[8.000+0.100] eos");
}
GST_END_TEST;

GST_START_TEST(test_caps_change_does_not_cut) {
  Bench bench(kShort);
  bench.start("F32");
  bench.say("w1:1.0");
  bench.start("S16");
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+2.000] final-transcript eos");
}
GST_END_TEST;

static const char* const kForeignCaps[] = {
    "audio/x-raw,format=F32LE,rate=48000,channels=1,layout=interleaved",
    "audio/x-raw,format=F32LE,rate=16000,channels=2,layout=interleaved,channel-mask=(bitmask)3",
    "audio/x-raw,format=F32BE,rate=16000,channels=1,layout=interleaved",
    "audio/x-raw,format=S16LE,rate=16000,channels=1,layout=non-interleaved",
};
GST_START_TEST(test_foreign_caps_are_refused) {
  Bench bench(kShort);
  bench.event(gst_event_new_stream_start("s"));
  GstCaps* caps = gst_caps_from_string(kForeignCaps[__i__]);
  ck_assert(!bench.send(gst_event_new_caps(caps)));
  gst_caps_unref(caps);
}
GST_END_TEST;

GST_START_TEST(test_audio_before_caps_is_an_error) {
  Bench bench(kShort);
  bench.event(gst_event_new_stream_start("s"));
  bench.segment(Bench::time_segment());
  GstBuffer* buffer = gst_buffer_new_allocate(nullptr, 3200, nullptr);
  GST_BUFFER_PTS(buffer) = 0;
  ck_assert_int_eq(gst_pad_push(bench.harness()->srcpad, buffer), GST_FLOW_NOT_NEGOTIATED);
  ck_assert(!bench.error(GST_CORE_ERROR, GST_CORE_ERROR_NEGOTIATION).empty());
}
GST_END_TEST;

GST_START_TEST(test_half_a_sample_is_an_error) {
  Bench bench(kShort);
  bench.start();
  GstBuffer* buffer = gst_buffer_new_allocate(nullptr, 3201, nullptr);
  GST_BUFFER_PTS(buffer) = 0;
  ck_assert_int_eq(gst_harness_push(bench.harness(), buffer), GST_FLOW_ERROR);
  assert_string(bench.error(GST_STREAM_ERROR, GST_STREAM_ERROR_FORMAT),
                   "An audio buffer ends inside a sample.");
}
GST_END_TEST;

GST_START_TEST(test_stream_start_has_its_own_id) {
  Bench bench(kShort);
  GstEvent* event = gst_event_new_stream_start("abc");
  gst_event_set_group_id(event, 7);
  bench.event(event);
  ck_assert(bench.wait("stream-start"));
  GstEvent* out = gst_pad_get_sticky_event(bench.srcpad(), GST_EVENT_STREAM_START, 0);
  const gchar* id;
  guint group;
  gst_event_parse_stream_start(out, &id);
  assert_string(id, "abc/whisper");
  ck_assert(gst_event_parse_group_id(out, &group));
  ck_assert_uint_eq(group, 7);
  gst_event_unref(out);
}
GST_END_TEST;

GST_START_TEST(test_serialized_event_waits_for_the_text_before_it) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  bench.event(gst_event_new_custom(GST_EVENT_CUSTOM_DOWNSTREAM, gst_structure_new_empty("test/mark")));
  bench.say("0.5");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+1.000] gap[1.000+0.500] mark final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_out_of_band_event_passes) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  bench.event(gst_event_new_custom(GST_EVENT_CUSTOM_DOWNSTREAM_OOB, gst_structure_new_empty("test/mark")));
  ck_assert(bench.wait("custom-downstream-oob"));
}
GST_END_TEST;

// --- Meta, tags, messages --------------------------------------------------------------------------------------------

static const GstStructure* item_of(GstBuffer* buffer) {
  GstCustomMeta* meta = gst_buffer_get_custom_meta(buffer, "GstWhisperItemMeta");
  fail_unless(meta != nullptr);
  return gst_custom_meta_get_structure(meta);
}

GST_START_TEST(test_buffers_carry_language_confidence_window) {
  Bench bench("audio-context=128 language-code=de");
  transcript(bench, "3.0 w1:1.0 1.0");
  GstBuffer* buffer = gst_harness_pull(bench.harness());
  gdouble confidence;
  gint64 window;
  assert_string(gst_structure_get_string(item_of(buffer), "language-code"), "de");
  ck_assert(gst_structure_get_double(item_of(buffer), "confidence", &confidence));
  fail_unless(confidence == 0.5);
  ck_assert(gst_structure_get_int64(item_of(buffer), "window", &window));
  ck_assert_int_eq(window, 1);
  gst_buffer_unref(buffer);
}
GST_END_TEST;

GST_START_TEST(test_meta_survives_a_copy) {
  Bench bench(kShort);
  transcript(bench, "w1:1.0");
  GstBuffer* buffer = gst_harness_pull(bench.harness());
  GstBuffer* copy = gst_buffer_copy(buffer);
  item_of(copy);
  gst_buffer_unref(copy);
  gst_buffer_unref(buffer);
}
GST_END_TEST;

static std::string language_tag(GstPad* pad) {
  std::string language;
  for (guint i = 0;; ++i) {
    GstEvent* event = gst_pad_get_sticky_event(pad, GST_EVENT_TAG, i);
    if (!event) return language;
    GstTagList* tags;
    gchar* code;
    gst_event_parse_tag(event, &tags);
    if (gst_tag_list_get_string(tags, GST_TAG_LANGUAGE_CODE, &code)) {
      language = code;
      g_free(code);
    }
    gst_event_unref(event);
  }
}

GST_START_TEST(test_detected_language_becomes_a_tag) {
  Bench bench(kShort);
  fake.detected_language = "es";
  transcript(bench, "w1:1.0");
  assert_string(language_tag(bench.srcpad()), "es");
}
GST_END_TEST;

GST_START_TEST(test_language_change_becomes_a_tag_and_a_message) {
  Bench bench("audio-context=128 language-code=en");
  bench.start();
  bench.say("w1:1.0 2.0");
  ck_assert(bench.wait("!w1"));
  g_object_set(bench.element(), "language-code", "fr", nullptr);
  bench.say("w2:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_string(language_tag(bench.srcpad()), "fr");
  for (const char* expected : {"en", "fr"}) {
    GstMessage* message = bench.message(GST_MESSAGE_ELEMENT, "whisperxdna2enc/language");
    fail_unless(message != nullptr);
    assert_string(gst_structure_get_string(gst_message_get_structure(message), "language-code"), expected);
    gst_message_unref(message);
  }
}
GST_END_TEST;

GST_START_TEST(test_tags_of_the_audio_lose_its_codec_and_keep_the_language) {
  Bench bench("audio-context=128 language-code=en");
  bench.start();
  bench.say("w1:1.0 2.0");
  ck_assert(bench.wait("!w1"));
  bench.event(gst_event_new_tag(gst_tag_list_new(GST_TAG_TITLE, "title", GST_TAG_AUDIO_CODEC, "opus", nullptr)));
  bench.eos();
  ck_assert(bench.wait("eos"));
  GstEvent* event = gst_pad_get_sticky_event(bench.srcpad(), GST_EVENT_TAG, 0);
  GstTagList* tags;
  gst_event_parse_tag(event, &tags);
  gchar* text = gst_tag_list_to_string(tags);
  assert_string(text, "taglist, title=(string)title, language-code=(string)en;");
  g_free(text);
  gst_event_unref(event);
}
GST_END_TEST;

GST_START_TEST(test_tags_wait_for_the_segment) {
  Bench bench(kShort);
  bench.event(gst_event_new_stream_start("s"));
  bench.event(gst_event_new_tag(gst_tag_list_new(GST_TAG_TITLE, "title", nullptr)));
  bench.start();
  ck_assert(bench.wait("tag"));
  assert_string(bench.log(), "stream-start caps segment tag");
}
GST_END_TEST;

GST_START_TEST(test_segment_message) {
  Bench bench(kShort);
  bench.start();
  GstSegment segment = Bench::time_segment(GST_SECOND);
  segment.base = 100 * GST_SECOND;
  bench.segment(segment);
  bench.set_time(2 * GST_SECOND);
  bench.say("w1:0.5 0.5");
  bench.eos();
  GstMessage* message = bench.message(GST_MESSAGE_ELEMENT, "whisperxdna2enc/segment");
  fail_unless(message != nullptr);
  const GstStructure* s = gst_message_get_structure(message);
  guint64 timestamp, stream_time, running_time, duration;
  ck_assert(gst_structure_get(s, "timestamp", G_TYPE_UINT64, &timestamp, "stream-time", G_TYPE_UINT64, &stream_time,
                              "running-time", G_TYPE_UINT64, &running_time, "duration", G_TYPE_UINT64, &duration,
                              nullptr));
  assert_string(gst_structure_get_string(s, "text"), "w1");
  ck_assert_uint_eq(timestamp, 2 * GST_SECOND);
  ck_assert_uint_eq(stream_time, 2 * GST_SECOND);
  ck_assert_uint_eq(running_time, 101 * GST_SECOND);
  ck_assert_uint_eq(duration, GST_SECOND / 2);
  gst_message_unref(message);
}
GST_END_TEST;

GST_START_TEST(test_segment_message_has_the_words) {
  Bench bench(kShort);
  bench.start();
  bench.segment(Bench::time_segment());
  bench.set_time(2 * GST_SECOND);
  bench.say("w1:0.5 w2:0.25 0.5");
  bench.eos();
  GstMessage* message = bench.message(GST_MESSAGE_ELEMENT, "whisperxdna2enc/segment");
  fail_unless(message != nullptr);
  const GValue* array = gst_structure_get_value(gst_message_get_structure(message), "words");
  ck_assert_uint_eq(gst_value_array_get_size(array), 2);
  guint64 end = 2 * GST_SECOND;
  for (guint i = 0; i < 2; ++i) {
    const GstStructure* word = gst_value_get_structure(gst_value_array_get_value(array, i));
    guint64 timestamp, stream_time, running_time, duration;
    gdouble confidence;
    gboolean space;
    ck_assert(gst_structure_get(word, "timestamp", G_TYPE_UINT64, &timestamp, "stream-time", G_TYPE_UINT64,
                                &stream_time, "running-time", G_TYPE_UINT64, &running_time, "duration", G_TYPE_UINT64,
                                &duration, "confidence", G_TYPE_DOUBLE, &confidence, "space-before", G_TYPE_BOOLEAN,
                                &space, nullptr));
    assert_string(gst_structure_get_string(word, "text"), i == 0 ? "w1" : "w2");
    ck_assert_uint_eq(timestamp, end);
    ck_assert_uint_eq(stream_time, end);
    ck_assert_uint_eq(running_time, end);
    ck_assert_uint_eq(duration, GST_SECOND / (i == 0 ? 2 : 4));
    ck_assert(confidence == 0.5);
    ck_assert(space);
    end = timestamp + duration;
  }
  gst_message_unref(message);
}
GST_END_TEST;

// --- Features --------------------------------------------------------------------------------------------------------

GST_START_TEST(test_features_for_nnstreamer) {
  Bench bench(kShort, "other/tensors");
  bench.start();
  bench.say("3.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  GstCaps* caps = gst_pad_get_current_caps(bench.srcpad());
  GstCaps* expected = gst_caps_from_string(
      "other/tensors, format=(string)static, num_tensors=(int)1, types=(string)float32, "
      "dimensions=(string)8:128:1:1, framerate=(fraction)25/64");
  ck_assert(gst_caps_is_equal(caps, expected));
  gst_caps_unref(expected);
  gst_caps_unref(caps);
  // One buffer a window; the last one is as long as its audio.
  assert_text(bench, "!features4096[0.000+2.560] features4096[2.560+0.440] eos");
}
GST_END_TEST;

GST_START_TEST(test_features_framerate_of_the_full_window) {
  Bench bench("", "other/tensors");
  bench.start();
  bench.say("1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  GstCaps* caps = gst_pad_get_current_caps(bench.srcpad());
  gint n, d;
  ck_assert(gst_structure_get_fraction(gst_caps_get_structure(caps, 0), "framerate", &n, &d));
  ck_assert_int_eq(n, 25);
  ck_assert_int_eq(d, 256);
  gst_caps_unref(caps);
}
GST_END_TEST;

GST_START_TEST(test_features_with_two_dimensions) {
  Bench bench(kShort, "other/tensors,dimensions=(string)8:128");
  bench.start();
  bench.say("1.0");
  bench.eos();
  ck_assert(bench.wait("!features4096"));
}
GST_END_TEST;

GST_START_TEST(test_features_self_describing) {
  Bench bench(kShort, "application/x-whisper-features");
  bench.start();
  bench.say("1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  GstCaps* caps = gst_pad_get_current_caps(bench.srcpad());
  const GstStructure* s = gst_caps_get_structure(caps, 0);
  gint positions, d_model;
  ck_assert(gst_structure_get(s, "n-ctx", G_TYPE_INT, &positions, "n-state", G_TYPE_INT, &d_model, nullptr));
  ck_assert_int_eq(positions, 128);
  ck_assert_int_eq(d_model, FakeEngine::kDModel);
  gst_caps_unref(caps);
}
GST_END_TEST;

GST_START_TEST(test_features_are_exact_and_say_how_much_is_audio) {
  Bench bench(kShort, "other/tensors");
  bench.start();
  bench.say("3.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  for (int window = 0; window < 2; ++window) {
    GstBuffer* buffer = gst_harness_pull(bench.harness());
    ck_assert_uint_eq(gst_buffer_n_memory(buffer), 1);
    gint valid;
    ck_assert(gst_structure_get_int(item_of(buffer), "valid-frames", &valid));
    ck_assert_int_eq(valid, window == 0 ? 128 : 22);
    GstMapInfo map;
    gst_buffer_map(buffer, &map, GST_MAP_READ);
    auto* values = reinterpret_cast<float*>(map.data);
    for (size_t i = 0; i < map.size / sizeof(float); ++i)
      fail_unless(values[i] == static_cast<float>(window * 1000000 + i));
    gst_buffer_unmap(buffer, &map);
    gst_buffer_unref(buffer);
  }
}
GST_END_TEST;

#if GST_CHECK_VERSION(1, 26, 0)
GST_START_TEST(test_features_are_a_tensor_of_gstreamer) {
  Bench bench(kShort, "application/x-whisper-features");
  bench.start();
  bench.say("3.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  for (int window = 0; window < 2; ++window) {
    GstBuffer* buffer = gst_harness_pull(bench.harness());
    GstTensorMeta* meta = gst_buffer_get_tensor_meta(buffer);
    fail_unless(meta != nullptr);
    ck_assert_uint_eq(meta->num_tensors, 1);
    const GstTensor* tensor = gst_tensor_meta_get(meta, 0);
    assert_string(g_quark_to_string(tensor->id), "whisper-encoder-v1-out");
    ck_assert_int_eq(tensor->data_type, GST_TENSOR_DATA_TYPE_FLOAT32);
    ck_assert_int_eq(tensor->dims_order, GST_TENSOR_DIM_ORDER_ROW_MAJOR);
    gsize n;
    const gsize* dims = gst_tensor_get_dims(const_cast<GstTensor*>(tensor), &n);
    ck_assert_uint_eq(n, 3);
    ck_assert_uint_eq(dims[0], 1);
    ck_assert_uint_eq(dims[1], 128);
    ck_assert_uint_eq(dims[2], FakeEngine::kDModel);
    // The buffer's own bytes, not a copy.
    GstMapInfo map, own;
    gst_buffer_map(tensor->data, &map, GST_MAP_READ);
    gst_buffer_map(buffer, &own, GST_MAP_READ);
    fail_unless(map.data == own.data && map.size == own.size);
    auto* values = reinterpret_cast<float*>(map.data);
    for (size_t i = 0; i < map.size / sizeof(float); ++i)
      fail_unless(values[i] == static_cast<float>(window * 1000000 + i));
    gst_buffer_unmap(buffer, &own);
    gst_buffer_unmap(tensor->data, &map);
    gst_buffer_unref(buffer);
  }
}
GST_END_TEST;
#endif

GST_START_TEST(test_features_need_no_decoder) {
  Bench bench(kShort, "other/tensors");
  bench.start();
  bench.say("1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  ck_assert(fake.options.output == whisperxdna2::Output::kFeatures);
  ck_assert_int_eq(fake.made, 1);
}
GST_END_TEST;

GST_START_TEST(test_foreign_downstream_is_not_negotiated) {
  Bench bench(kShort);
  gst_harness_set_sink_caps_str(bench.harness(), "video/x-raw");
  bench.start();
  ck_assert_int_eq(bench.say("1.0"), GST_FLOW_NOT_NEGOTIATED);
}
GST_END_TEST;

GST_START_TEST(test_text_is_preferred_where_anything_is_taken) {
  Bench bench(kShort, "ANY");
  assert_string(transcript(bench, "w1:1.0"), "!w1[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_renegotiation_from_text_to_features) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  ck_assert(bench.wait("segment"));
  gst_harness_set_sink_caps_str(bench.harness(), "other/tensors");
  gst_pad_send_event(bench.srcpad(), gst_event_new_reconfigure());
  bench.say("w2:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+1.000] final-transcript features4096[1.000+1.000] eos");
}
GST_END_TEST;

static void setup() { fake.reset(); }

static Suite* output_suite(void) {
  Suite* suite = suite_create("output");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, nullptr);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);

  tcase_add_test(tc, test_one_buffer_per_segment_with_times);
  tcase_add_test(tc, test_one_buffer_per_word);
  tcase_add_test(tc, test_s16_means_the_same);
  tcase_add_test(tc, test_segment_across_windows_is_whole);
  tcase_add_test(tc, test_events_come_in_order);
  tcase_add_test(tc, test_text_caps);
  tcase_add_loop_test(tc, test_eos_after_any_number_of_samples, 0, G_N_ELEMENTS(kEosSamples));
  tcase_add_test(tc, test_one_sample_has_a_duration);
  tcase_add_test(tc, test_eos_keeps_its_seqnum);
  tcase_add_test(tc, test_segment_done_drains);
  tcase_add_test(tc, test_discont_gives_later_words_their_new_times);
  tcase_add_test(tc, test_jump_without_flag_is_noticed_at_once);
  tcase_add_test(tc, test_backward_jump_is_a_discontinuity);
  tcase_add_test(tc, test_discont_flag_within_threshold_is_ignored);
  tcase_add_loop_test(tc, test_source_that_begins_with_repeated_times, 0, G_N_ELEMENTS(kRepeated));
  tcase_add_test(tc, test_buffers_without_times_follow_on);
  tcase_add_test(tc, test_first_buffer_without_time_is_an_error);
  tcase_add_test(tc, test_gap_event_is_silence);
  tcase_add_test(tc, test_gaps_never_cover_text);
  tcase_add_test(tc, test_texts_have_a_duration_and_do_not_overlap);
  tcase_add_test(tc, test_gap_before_caps_starts_the_stream);
  tcase_add_test(tc, test_gap_flag_is_silence);
  tcase_add_test(tc, test_new_segment_drains);
  tcase_add_test(tc, test_equal_segment_does_not_cut);
  tcase_add_test(tc, test_audio_outside_the_segment_is_clipped);
  tcase_add_test(tc, test_byte_segment_is_refused);
  tcase_add_test(tc, test_rate_is_passed_on);
  tcase_add_test(tc, test_reverse_playback_has_gaps_and_no_text);
  tcase_add_test(tc, test_caps_change_does_not_cut);
  tcase_add_loop_test(tc, test_foreign_caps_are_refused, 0, G_N_ELEMENTS(kForeignCaps));
  tcase_add_test(tc, test_audio_before_caps_is_an_error);
  tcase_add_test(tc, test_half_a_sample_is_an_error);
  tcase_add_test(tc, test_stream_start_has_its_own_id);
  tcase_add_test(tc, test_serialized_event_waits_for_the_text_before_it);
  tcase_add_test(tc, test_out_of_band_event_passes);
  tcase_add_test(tc, test_buffers_carry_language_confidence_window);
  tcase_add_test(tc, test_meta_survives_a_copy);
  tcase_add_test(tc, test_detected_language_becomes_a_tag);
  tcase_add_test(tc, test_language_change_becomes_a_tag_and_a_message);
  tcase_add_test(tc, test_tags_of_the_audio_lose_its_codec_and_keep_the_language);
  tcase_add_test(tc, test_tags_wait_for_the_segment);
  tcase_add_test(tc, test_segment_message);
  tcase_add_test(tc, test_segment_message_has_the_words);
  tcase_add_test(tc, test_features_for_nnstreamer);
  tcase_add_test(tc, test_features_framerate_of_the_full_window);
  tcase_add_test(tc, test_features_with_two_dimensions);
  tcase_add_test(tc, test_features_self_describing);
  tcase_add_test(tc, test_features_are_exact_and_say_how_much_is_audio);
#if GST_CHECK_VERSION(1, 26, 0)
  tcase_add_test(tc, test_features_are_a_tensor_of_gstreamer);
#endif
  tcase_add_test(tc, test_features_need_no_decoder);
  tcase_add_test(tc, test_foreign_downstream_is_not_negotiated);
  tcase_add_test(tc, test_text_is_preferred_where_anything_is_taken);
  tcase_add_test(tc, test_renegotiation_from_text_to_features);
  return suite;
}

GST_CHECK_MAIN(output);
