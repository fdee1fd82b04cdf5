// Everything at once from many threads, for WHISPERXDNA2_STRESS_SECONDS (3 by default). Driven by the scripted engine.
#include <atomic>
#include <cstdlib>
#include <functional>
#include <random>
#include <thread>

#include "gst/gstwhisperxdna2enc.h"
#include "tests/gst/bench.h"
#include "tests/gst/fake_engine.h"

static gulong duration() {
  const char* seconds = g_getenv("WHISPERXDNA2_STRESS_SECONDS");
  return (seconds ? std::strtoul(seconds, nullptr, 10) : 3) * G_USEC_PER_SEC;
}

static GstHarness* make_harness() {
  GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
  g_object_set(element, "audio-context", 64u, nullptr);
  GstHarness* h = gst_harness_new_with_element(element, "sink", "src");
  gst_object_unref(element);
  gst_harness_set_drop_buffers(h, TRUE);
  return h;
}

// What a source's stream lock is: no data between the end of a flush and the segment that follows it.
static std::mutex stream_lock;

static void push_segment(GstHarness* h) {
  const GstSegment segment = Bench::time_segment();
  gst_harness_push_event(h, gst_event_new_segment(&segment));
}

static void start_stream(GstHarness* h) {
  GstCaps* caps = gst_caps_from_string("audio/x-raw,format=S16LE,rate=16000,channels=1,layout=interleaved");
  std::lock_guard<std::mutex> lock(stream_lock);
  gst_harness_push_event(h, gst_event_new_stream_start("stress"));
  gst_harness_push_event(h, gst_event_new_caps(caps));
  push_segment(h);
  gst_caps_unref(caps);
}

// A stream of 4 s from start to end.
static void push_stream(GstHarness* h) {
  start_stream(h);
  for (int i = 0; i < 40; ++i) {
    GstBuffer* buffer = gst_buffer_new_allocate(nullptr, 3200, nullptr);
    gst_buffer_memset(buffer, 0, i % 10 < 7 ? 3 : 0, 3200);
    GST_BUFFER_PTS(buffer) = i * 100 * GST_MSECOND;
    GST_BUFFER_DURATION(buffer) = 100 * GST_MSECOND;
    std::lock_guard<std::mutex> lock(stream_lock);
    gst_pad_push(h->srcpad, buffer);
  }
  std::lock_guard<std::mutex> lock(stream_lock);
  gst_harness_push_event(h, gst_event_new_eos());
}

static GstHarnessThread* set_property(GstHarness* h, const char* name, const char* value) {
  GValue v = G_VALUE_INIT;
  if (value) {
    g_value_init(&v, G_TYPE_STRING);
    g_value_set_string(&v, value);
  } else {
    g_value_init(&v, G_TYPE_UINT);
    g_value_set_uint(&v, 700);
  }
  GstHarnessThread* thread = gst_harness_stress_property_start(h, name, &v);
  g_value_unset(&v);
  return thread;
}

// Runs `Work` in a loop of its own.
template <void (*Work)(GstHarness*)>
static GstHarnessThread* repeat(GstHarness* h) {
  return gst_harness_stress_custom_start(
      h, nullptr, [](gpointer, gpointer h) { Work(static_cast<GstHarness*>(h)); }, h, 1000);
}

static void query_latency(GstHarness* h) { gst_harness_query_latency(h); }

static void read_properties(GstElement* element) {
  gchar *backend, *language;
  GstStructure* stats;
  g_object_get(element, "active-backend", &backend, "language-code", &language, "stats", &stats, nullptr);
  g_free(backend);
  g_free(language);
  gst_structure_free(stats);
}

static void read_properties(GstHarness* h) { read_properties(h->element); }

static void flush(GstHarness* h) {
  gst_harness_push_event(h, gst_event_new_flush_start());
  std::lock_guard<std::mutex> lock(stream_lock);
  gst_harness_push_event(h, gst_event_new_flush_stop(TRUE));
  push_segment(h);
}

static void stop(std::initializer_list<GstHarnessThread*> threads) {
  for (GstHarnessThread* thread : threads) fail_unless(gst_harness_stress_thread_stop(thread) > 0);
}

GST_START_TEST(test_flush_storm) {
  fake.window_ms = 2;
  GstHarness* h = make_harness();
  start_stream(h);
  GstHarnessThread* push = repeat<push_stream>(h);
  GstHarnessThread* flushes = repeat<flush>(h);
  GstHarnessThread* latency = repeat<query_latency>(h);
  GstHarnessThread* reads = repeat<read_properties>(h);
  GstHarnessThread* language = set_property(h, "language-code", "fr");
  GstHarnessThread* writes = set_property(h, "latency", nullptr);
  g_usleep(duration());
  stop({push, flushes, latency, reads, language, writes});
  gst_harness_teardown(h);
}
GST_END_TEST;

GST_START_TEST(test_state_storm) {
  fake.window_ms = 2;
  fake.load_ms = 5;
  GstElement* pipeline = gst_parse_launch(
      "audiotestsrc samplesperbuffer=1600 ! audio/x-raw,format=S16LE,rate=16000,channels=1 ! "
      "whisperxdna2enc name=enc audio-context=64 ! fakesink sync=false async=false",
      nullptr);
  GstElement* enc = gst_bin_get_by_name(GST_BIN(pipeline), "enc");
  GstPad* src = gst_element_get_static_pad(enc, "src");
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  const auto repeat = [&](std::function<void()> work) {
    threads.emplace_back([&done, work] {
      while (!done) {
        work();
        g_usleep(1000);
      }
    });
  };
  std::mt19937 random(1);
  repeat([&] { gst_element_set_state(pipeline, static_cast<GstState>(GST_STATE_NULL + random() % 4)); });
  repeat([&] { gst_element_seek_simple(pipeline, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, GST_SECOND); });
  repeat([&] {
    GstQuery* query = gst_query_new_latency();
    gst_pad_query(src, query);
    gst_query_unref(query);
  });
  repeat([&] { read_properties(enc); });
  repeat([&] { g_object_set(enc, "language-code", "fr", "latency", 700u, nullptr); });
  repeat([&] { gst_pad_send_event(src, gst_event_new_reconfigure()); });
  g_usleep(duration());
  done = true;
  for (std::thread& thread : threads) thread.join();
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(src);
  gst_object_unref(enc);
  gst_object_unref(pipeline);
  eventually([] { return fake.alive == 0; });
}
GST_END_TEST;

static void setup() { fake.reset(); }

static Suite* stress_suite(void) {
  Suite* suite = suite_create("stress");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, nullptr);
  tcase_set_timeout(tc, 60 + 2 * duration() / G_USEC_PER_SEC);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);

  tcase_add_test(tc, test_flush_storm);
  tcase_add_test(tc, test_state_storm);
  return suite;
}

GST_CHECK_MAIN(stress);
