// What the element tells a live pipeline about time, and what it says when it is late. Driven by the scripted engine.
#include "gst/gstwhisperxdna2enc.h"
#include "tests/gst/bench.h"
#include "tests/gst/fake_engine.h"

struct Latency {
  gboolean live;
  GstClockTime min, max;
};

static Latency latency_of(GstElement* element) {
  GstPad* pad = gst_element_get_static_pad(element, "src");
  GstQuery* query = gst_query_new_latency();
  ck_assert(gst_pad_query(pad, query));
  Latency latency;
  gst_query_parse_latency(query, &latency.live, &latency.min, &latency.max);
  gst_query_unref(query);
  gst_object_unref(pad);
  return latency;
}

static GstClockTime ms(guint64 ms) { return ms * GST_MSECOND; }

static void upstream(Bench& bench, bool live, GstClockTime min, GstClockTime max) {
  static Latency answer;
  answer = {live, min, max};
  gst_pad_set_query_function(bench.harness()->srcpad, [](GstPad* pad, GstObject* parent, GstQuery* query) -> gboolean {
    if (GST_QUERY_TYPE(query) != GST_QUERY_LATENCY) return gst_pad_query_default(pad, parent, query);
    gst_query_set_latency(query, answer.live, answer.min, answer.max);
    return TRUE;
  });
}

// H + R + P - lateness. Of a recording H = W, and R = 7 s for captions that are held until they are complete. From a
// live source H = 1 s, R = 3 s, except for features.
struct Formula {
  const char *properties, *sink_caps;
  bool live;
  guint64 min, max;  // ms
};
static const Formula kFormulas[] = {
    {"", "text/x-raw", false, 10240 + 7000 + 1000, 3 * 10240},
    {"output-unit=word", "text/x-raw", false, 10240 + 1000, 3 * 10240},
    {"audio-context=1500", "text/x-raw", false, 30000 + 7000 + 1000, 3 * 30000},
    {"", "text/x-raw", true, 1000 + 3000 + 1000, 10240 + 2000},
    {"output-unit=word", "text/x-raw", true, 1000 + 3000 + 1000, 10240 + 2000},
    {"latency=2500", "text/x-raw", true, 1000 + 3000 + 2500, 10240 + 2000},
    {"lateness=1500", "text/x-raw", true, 1000 + 3000 + 1000 - 1500, 10240 + 2000},
    {"lateness=60000", "text/x-raw", true, 0, 10240 + 2000},
    {"latency=40000", "text/x-raw", true, 1000 + 3000 + 40000, 1000 + 3000 + 40000},
    {"", "other/tensors", true, 10240 + 1000, 3 * 10240},
    {"audio-context=100", "application/x-whisper-features", true, 2000 + 1000, 3 * 2000},
};
GST_START_TEST(test_latency_formula) {
  const Formula& formula = kFormulas[__i__];
  Bench bench(formula.properties, formula.sink_caps);
  upstream(bench, formula.live, ms(20), ms(200));
  const Latency latency = latency_of(bench.element());
  ck_assert_int_eq(latency.live, formula.live);
  ck_assert_uint_eq(latency.min, ms(20) + ms(formula.min));
  ck_assert_uint_eq(latency.max, ms(200) + ms(formula.max));
}
GST_END_TEST;

GST_START_TEST(test_live_source_makes_live_captions) {
  Bench bench("audio-context=128");
  upstream(bench, true, 0, GST_CLOCK_TIME_NONE);
  bench.start();
  bench.say("1.0");
  std::lock_guard<std::mutex> lock(fake.mutex);
  ck_assert(fake.live.has_value());
  ck_assert_int_eq(fake.live->positions, 128);
}
GST_END_TEST;

GST_START_TEST(test_recording_makes_no_live_captions) {
  Bench bench("audio-context=128");
  upstream(bench, false, 0, GST_CLOCK_TIME_NONE);
  bench.start();
  bench.say("1.0");
  std::lock_guard<std::mutex> lock(fake.mutex);
  ck_assert(!fake.live.has_value());
}
GST_END_TEST;

GST_START_TEST(test_partial_text_is_a_message_and_not_a_buffer) {
  Bench bench("audio-context=128");
  upstream(bench, true, 0, GST_CLOCK_TIME_NONE);
  bench.start();
  bench.say("1.0 w1:0.5 w2:0.5 w3:1.0");
  GstMessage* message = bench.message(GST_MESSAGE_ELEMENT, "whisperxdna2enc/partial");
  fail_unless(message != nullptr);
  const GstStructure* s = gst_message_get_structure(message);
  guint64 timestamp, duration;
  assert_string(gst_structure_get_string(s, "text"), "w1 w2");
  ck_assert(
      gst_structure_get(s, "timestamp", G_TYPE_UINT64, &timestamp, "duration", G_TYPE_UINT64, &duration, nullptr));
  ck_assert_uint_eq(timestamp, GST_SECOND);
  ck_assert_uint_eq(duration, GST_SECOND);
  gst_message_unref(message);
  assert_string(bench.text(), "gap[0.000+1.000]");
}
GST_END_TEST;

GST_START_TEST(test_latency_before_caps_and_model) {
  fake.load_ms = 3000;
  Bench bench("");
  upstream(bench, true, 0, GST_CLOCK_TIME_NONE);
  ck_assert_uint_eq(latency_of(bench.element()).min, ms(5000));
}
GST_END_TEST;

GST_START_TEST(test_latency_without_a_model) {
  fake.load_fails = true;
  Bench bench("");
  upstream(bench, true, 0, GST_CLOCK_TIME_NONE);
  bench.error(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_NOT_FOUND);
  ck_assert_uint_eq(latency_of(bench.element()).min, ms(5000));
}
GST_END_TEST;

GST_START_TEST(test_latency_unlimited_upstream_stays_unlimited) {
  Bench bench("");
  upstream(bench, true, 0, GST_CLOCK_TIME_NONE);
  ck_assert_uint_eq(latency_of(bench.element()).max, GST_CLOCK_TIME_NONE);
}
GST_END_TEST;

GST_START_TEST(test_latency_not_live_stays_not_live) {
  Bench bench("");
  upstream(bench, false, 0, GST_CLOCK_TIME_NONE);
  ck_assert(!latency_of(bench.element()).live);
}
GST_END_TEST;

static const char* const kLatencyProperties[] = {"latency", "lateness"};
GST_START_TEST(test_latency_message_on_change) {
  Bench bench("");
  g_object_set(bench.element(), kLatencyProperties[__i__], 1234u, nullptr);
  GstMessage* message = bench.message(GST_MESSAGE_LATENCY);
  fail_unless(message != nullptr);
  gst_message_unref(message);
  guint value;
  g_object_get(bench.element(), kLatencyProperties[__i__], &value, nullptr);
  ck_assert_uint_eq(value, 1234);
}
GST_END_TEST;

// transcriberbin sets these only where they are of type guint.
GST_START_TEST(test_times_are_guint_properties) {
  Bench bench("");
  for (const char* name : {"latency", "lateness", "max-observed-delay"})
    ck_assert(g_object_class_find_property(G_OBJECT_GET_CLASS(bench.element()), name)->value_type == G_TYPE_UINT);
}
GST_END_TEST;

GST_START_TEST(test_lateness_shifts_the_output_segment) {
  Bench bench("audio-context=128 lateness=1500");
  bench.start();
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  GstEvent* event = gst_pad_get_sticky_event(bench.srcpad(), GST_EVENT_SEGMENT, 0);
  const GstSegment* segment;
  gst_event_parse_segment(event, &segment);
  ck_assert_uint_eq(segment->base, ms(1500));
  gst_event_unref(event);
  // The timestamp stays what it is.
  assert_string(bench.text(), "!w1[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

// Live, with a clock that the test moves: text that comes `delay` ms after its start.
static void come_late(Bench& bench, guint64 delay) {
  gst_harness_use_testclock(bench.harness());
  gst_element_set_base_time(bench.element(), 0);
  upstream(bench, true, ms(20), GST_CLOCK_TIME_NONE);
  latency_of(bench.element());
  gst_harness_set_time(bench.harness(), ms(delay));
  bench.start();
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
}

// 20 + 4000 + 1000 ms are announced.
GST_START_TEST(test_observed_delay) {
  Bench bench("audio-context=100");
  come_late(bench, 5020);
  guint delay;
  g_object_get(bench.element(), "max-observed-delay", &delay, nullptr);
  ck_assert_uint_eq(delay, 5020);
  GstStructure* stats;
  guint64 late;
  g_object_get(bench.element(), "stats", &stats, nullptr);
  ck_assert(gst_structure_get_uint64(stats, "late", &late));
  ck_assert_uint_eq(late, 0);
  gst_structure_free(stats);
}
GST_END_TEST;

GST_START_TEST(test_falling_behind_is_a_warning_with_the_amount) {
  Bench bench("audio-context=100");
  come_late(bench, 7000);
  GstMessage* message = bench.message(GST_MESSAGE_WARNING);
  fail_unless(message != nullptr);
  GError* error;
  gst_message_parse_warning(message, &error, nullptr);
  ck_assert(g_error_matches(error, GST_CORE_ERROR, GST_CORE_ERROR_CLOCK));
  assert_string(error->message,
                "Recognition is falling behind: text comes 7000 ms after it was said, but 5020 ms were announced. "
                "Raise the latency property.");
  g_error_free(error);
  gst_message_unref(message);
}
GST_END_TEST;

GST_START_TEST(test_late_text_is_a_qos_message_and_still_comes) {
  Bench bench("audio-context=100");
  come_late(bench, 7000);
  GstMessage* message = bench.message(GST_MESSAGE_QOS);
  fail_unless(message != nullptr);
  guint64 timestamp;
  gint64 jitter;
  gst_message_parse_qos(message, nullptr, nullptr, nullptr, &timestamp, nullptr);
  gst_message_parse_qos_values(message, &jitter, nullptr, nullptr);
  ck_assert_uint_eq(timestamp, 0);
  ck_assert_int_eq(jitter, 1980 * GST_MSECOND);
  gst_message_unref(message);
  assert_string(bench.text(), "!w1[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_audio_left_out_is_a_warning_with_the_amount_and_a_gap) {
  fake.skips_window = 1;
  Bench bench("audio-context=100");
  bench.start();
  bench.say("w1:1.0 1.0 w2:1.0 1.0 w3:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_string(
      bench.text(),
      "!w1[0.000+1.000] final-transcript gap[1.000+1.000] gap[2.000+2.000] w3[4.000+1.000] final-transcript eos");
  GstMessage* message = bench.message(GST_MESSAGE_WARNING);
  fail_unless(message != nullptr);
  GError* error;
  gst_message_parse_warning(message, &error, nullptr);
  ck_assert(g_error_matches(error, GST_CORE_ERROR, GST_CORE_ERROR_CLOCK));
  assert_string(error->message,
                "This machine is too slow: 2.0 s of audio, which had waited for 11.0 s, are left out.");
  g_error_free(error);
  const GstStructure* details;
  gst_message_parse_warning_details(message, &details);
  gdouble skipped, lag;
  ck_assert(gst_structure_get(details, "skipped", G_TYPE_DOUBLE, &skipped, "lag", G_TYPE_DOUBLE, &lag, nullptr));
  fail_unless(skipped == 2.0 && lag == 11.0);
  gst_message_unref(message);
}
GST_END_TEST;

// Where captions are slower than real time, upstream waits and nothing is lost.
GST_START_TEST(test_overload_blocks_and_drops_nothing) {
  fake.window_ms = 100;
  Bench bench("audio-context=64");
  bench.start();
  std::string script, expected;
  for (int i = 1; i <= 20; ++i) script += "w" + std::to_string(i) + ":1.2 0.08 ";
  const gint64 start = g_get_monotonic_time();
  bench.say(script);
  fail_unless(g_get_monotonic_time() - start > 1000000);
  bench.eos();
  ck_assert(bench.wait("eos"));
  for (int i = 1; i <= 20; ++i) ck_assert(bench.wait((i == 1 ? "!w" : "w") + std::to_string(i) + "["));
}
GST_END_TEST;

GST_START_TEST(test_live_pipeline_configures_its_latency) {
  GstElement* pipeline = gst_parse_launch(
      "audiotestsrc is-live=true samplesperbuffer=1600 ! audio/x-raw,rate=16000,channels=1 ! audioconvert ! "
      "audioresample ! queue max-size-time=0 max-size-bytes=0 max-size-buffers=0 ! whisperxdna2enc ! "
      "fakesink sync=true",
      nullptr);
  GstBus* bus = gst_element_get_bus(pipeline);
  gst_element_set_state(pipeline, GST_STATE_PLAYING);
  // The bin says so where min exceeds max.
  GstMessage* message = gst_bus_timed_pop_filtered(
      bus, GST_SECOND, static_cast<GstMessageType>(GST_MESSAGE_WARNING | GST_MESSAGE_ERROR));
  fail_unless(message == nullptr);
  GstQuery* query = gst_query_new_latency();
  ck_assert(gst_element_query(pipeline, query));
  GstClockTime min, max;
  gst_query_parse_latency(query, nullptr, &min, &max);
  fail_unless(min >= ms(5000) && max >= min);
  gst_query_unref(query);
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(bus);
  gst_object_unref(pipeline);
}
GST_END_TEST;

static void setup() { fake.reset(); }

static Suite* latency_suite(void) {
  Suite* suite = suite_create("latency");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, nullptr);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);

  tcase_add_loop_test(tc, test_latency_formula, 0, G_N_ELEMENTS(kFormulas));
  tcase_add_test(tc, test_live_source_makes_live_captions);
  tcase_add_test(tc, test_recording_makes_no_live_captions);
  tcase_add_test(tc, test_partial_text_is_a_message_and_not_a_buffer);
  tcase_add_test(tc, test_latency_before_caps_and_model);
  tcase_add_test(tc, test_latency_without_a_model);
  tcase_add_test(tc, test_latency_unlimited_upstream_stays_unlimited);
  tcase_add_test(tc, test_latency_not_live_stays_not_live);
  tcase_add_loop_test(tc, test_latency_message_on_change, 0, G_N_ELEMENTS(kLatencyProperties));
  tcase_add_test(tc, test_times_are_guint_properties);
  tcase_add_test(tc, test_lateness_shifts_the_output_segment);
  tcase_add_test(tc, test_observed_delay);
  tcase_add_test(tc, test_falling_behind_is_a_warning_with_the_amount);
  tcase_add_test(tc, test_late_text_is_a_qos_message_and_still_comes);
  tcase_add_test(tc, test_audio_left_out_is_a_warning_with_the_amount_and_a_gap);
  tcase_add_test(tc, test_overload_blocks_and_drops_nothing);
  tcase_add_test(tc, test_live_pipeline_configures_its_latency);
  return suite;
}

GST_CHECK_MAIN(latency);
