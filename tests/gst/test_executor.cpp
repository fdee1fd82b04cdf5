// What executes the encoder, as the application sees it: the context that keeps it, and what happens when it fails.
// Driven by the scripted engine.
#include "gst/gstwhisperxdna2enc.h"
#include "tests/gst/bench.h"
#include "tests/gst/fake_engine.h"

static const char kType[] = "gst.whisperxdna2.device";

static guint64 count(GstElement* element, const char* name) {
  GstStructure* stats;
  guint64 value = 0;
  g_object_get(element, "stats", &stats, nullptr);
  fail_unless(gst_structure_get_uint64(stats, name, &value), "no %s", name);
  gst_structure_free(stats);
  return value;
}

static std::string backend(GstElement* element) {
  gchar* name;
  g_object_get(element, "active-backend", &name, nullptr);
  const std::string backend = name ? name : "";
  g_free(name);
  return backend;
}

// --- Context ---------------------------------------------------------------------------------------------------------

static GstContext* announced(Bench& bench) {
  GstMessage* message = bench.message(GST_MESSAGE_HAVE_CONTEXT);
  fail_unless(message != nullptr);
  GstContext* context;
  gst_message_parse_have_context(message, &context);
  gst_message_unref(message);
  return context;
}

GST_START_TEST(test_element_asks_for_a_context_and_announces_its_own) {
  fake.info = {"npu", "a device", "1.0", "int8"};
  Bench bench("model-path=/m");
  GstMessage* message = bench.message(GST_MESSAGE_NEED_CONTEXT);
  fail_unless(message != nullptr);
  const gchar* type;
  ck_assert(gst_message_parse_context_type(message, &type));
  assert_string(type, kType);
  gst_message_unref(message);
  GstContext* context = announced(bench);
  const GstStructure* s = gst_context_get_structure(context);
  assert_string(gst_context_get_context_type(context), kType);
  assert_string(gst_structure_get_string(s, "model-path"), "/m");
  assert_string(gst_structure_get_string(s, "backend"), "npu");
  assert_string(gst_structure_get_string(s, "device"), "a device");
  assert_string(gst_structure_get_string(s, "firmware"), "1.0");
  gst_context_unref(context);
}
GST_END_TEST;

GST_START_TEST(test_stats_tell_what_the_device_did) {
  fake.info = {"npu", "a device", "1.0", "int8", "", 24};
  Bench bench;
  gst_context_unref(announced(bench));
  ck_assert_uint_eq(count(bench.element(), "dispatches"), 24);
}
GST_END_TEST;

GST_START_TEST(test_context_outlives_its_element) {
  GstContext* context;
  {
    Bench bench;
    context = announced(bench);
  }
  ck_assert_int_eq(fake.alive, 1);
  gst_context_unref(context);
  ck_assert_int_eq(fake.alive, 0);
}
GST_END_TEST;

// In a bin the second element is given the first one's, and makes none of its own.
GST_START_TEST(test_bin_hands_the_context_on) {
  GstElement* pipeline = gst_pipeline_new(nullptr);
  GstBus* bus = gst_element_get_bus(pipeline);
  gst_element_set_state(pipeline, GST_STATE_PAUSED);
  for (int i = 0; i < 2; ++i) {
    GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
    gst_bin_add(GST_BIN(pipeline), element);
    gst_element_set_state(element, GST_STATE_PAUSED);
    eventually([&] { return !backend(element).empty() && fake.made == i + 1; });
    GstContext* context = gst_element_get_context(element, kType);
    fail_unless(context != nullptr);
    gst_context_unref(context);
  }
  int messages = 0;
  while (GstMessage* message = gst_bus_pop_filtered(bus, GST_MESSAGE_HAVE_CONTEXT)) {
    ++messages;
    gst_message_unref(message);
  }
  ck_assert_int_eq(messages, 1);
  gst_element_set_state(pipeline, GST_STATE_NULL);
  eventually([] { return fake.alive == 0; });
  gst_object_unref(bus);
  gst_object_unref(pipeline);
}
GST_END_TEST;

// Answers to the application's NEED_CONTEXT are taken; one for another model leads to an announcement of what is used.
static const char* const kModels[] = {"/a", "/b"};
GST_START_TEST(test_context_of_the_application) {
  GstContext* kept;
  {
    Bench bench("model-path=/a");
    kept = announced(bench);
  }
  GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
  g_object_set(element, "model-path", kModels[__i__], nullptr);
  gst_element_set_context(element, kept);
  GstBus* bus = gst_bus_new();
  gst_element_set_bus(element, bus);
  gst_element_set_state(element, GST_STATE_PAUSED);
  eventually([&] { return !backend(element).empty(); });
  std::string seen;
  while (GstMessage* message = gst_bus_timed_pop(bus, 200 * GST_MSECOND)) {
    if (GST_MESSAGE_TYPE(message) & (GST_MESSAGE_HAVE_CONTEXT | GST_MESSAGE_NEED_CONTEXT))
      seen += GST_MESSAGE_TYPE_NAME(message);
    gst_message_unref(message);
  }
  assert_string(seen, __i__ == 0 ? "" : "have-context");
  gst_element_set_state(element, GST_STATE_NULL);
  gst_element_set_bus(element, nullptr);
  gst_object_unref(bus);
  gst_object_unref(element);
  gst_context_unref(kept);
  eventually([] { return fake.alive == 0; });
}
GST_END_TEST;

// Neighbors ask before the application does.
static const char* const kPads[] = {"src", "sink"};
GST_START_TEST(test_neighbors_are_told) {
  Bench bench;
  GstPad* pad = gst_element_get_static_pad(bench.element(), kPads[__i__]);
  GstQuery* query = gst_query_new_context("gst.other");
  fail_unless(!gst_pad_query(pad, query));
  gst_query_unref(query);
  gst_context_unref(announced(bench));
  query = gst_query_new_context(kType);
  fail_unless(gst_pad_query(pad, query));
  GstContext* context;
  gst_query_parse_context(query, &context);
  assert_string(gst_context_get_context_type(context), kType);
  gst_query_unref(query);
  gst_object_unref(pad);
}
GST_END_TEST;

GST_START_TEST(test_failed_load_announces_nothing) {
  fake.load_fails = true;
  Bench bench;
  bench.error(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_NOT_FOUND);
  fail_unless(gst_element_get_context(bench.element(), kType) == nullptr);
}
GST_END_TEST;

// --- A device that fails ---------------------------------------------------------------------------------------------

static void set_info(const char* backend, const char* fault) {
  std::lock_guard<std::mutex> lock(fake.mutex);
  fake.info = {backend, "a device", "1.0", "int8", fault};
}

static std::string parsed(GstMessage* message, GQuark domain, gint code) {
  fail_unless(message != nullptr);
  GError* error;
  if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_WARNING) gst_message_parse_warning(message, &error, nullptr);
  else gst_message_parse_info(message, &error, nullptr);
  fail_unless(g_error_matches(error, domain, code));
  const std::string text = error->message;
  g_error_free(error);
  gst_message_unref(message);
  return text;
}

// One WARNING when the CPU takes over, however many windows it does then, and word when the device is back.
GST_START_TEST(test_fallback_is_a_warning_and_is_counted) {
  set_info("npu", "");
  Bench bench("audio-context=64");
  bench.start();
  bench.say("w1:1.5");
  eventually([&] { return count(bench.element(), "windows") == 1; });
  assert_string(backend(bench.element()), "npu");
  ck_assert_uint_eq(count(bench.element(), "fallbacks"), 0);

  set_info("cpu", "the NPU did not answer within 5 s: reload its driver");
  bench.say("w1:5.0");
  assert_string(parsed(bench.message(GST_MESSAGE_WARNING), GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_FAILED),
                "The CPU has taken over: the NPU did not answer within 5 s: reload its driver");
  eventually([&] { return count(bench.element(), "windows") == 5; });
  assert_string(backend(bench.element()), "cpu");
  ck_assert_uint_eq(count(bench.element(), "fallbacks"), 1);

  set_info("npu", "");
  bench.say("w1:1.5");
  assert_string(parsed(bench.message(GST_MESSAGE_INFO), GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_SETTINGS),
                "The NPU is back in use.");
  set_info("cpu", "the NPU failed");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_string(parsed(bench.message(GST_MESSAGE_WARNING), GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_FAILED),
                "The CPU has taken over: the NPU failed");
  ck_assert_uint_eq(count(bench.element(), "fallbacks"), 2);
  // The text does not suffer.
  assert_string(bench.text(), "!w1[0.000+8.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_change_of_backend_is_notified) {
  set_info("npu", "");
  Bench bench("audio-context=64");
  std::atomic<int> notified{0};
  bench.start();
  bench.say("w1:1.5");
  eventually([&] { return count(bench.element(), "windows") == 1; });
  g_signal_connect(bench.element(), "notify::active-backend",
                   G_CALLBACK(+[](GObject*, GParamSpec*, gpointer n) { ++*static_cast<std::atomic<int>*>(n); }),
                   &notified);
  set_info("cpu", "the NPU failed");
  bench.say("w1:5.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  ck_assert_int_eq(notified, 1);
}
GST_END_TEST;

static void setup() { fake.reset(); }

static Suite* executor_suite(void) {
  Suite* suite = suite_create("executor");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, nullptr);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);

  tcase_add_test(tc, test_element_asks_for_a_context_and_announces_its_own);
  tcase_add_test(tc, test_stats_tell_what_the_device_did);
  tcase_add_test(tc, test_context_outlives_its_element);
  tcase_add_test(tc, test_bin_hands_the_context_on);
  tcase_add_loop_test(tc, test_context_of_the_application, 0, G_N_ELEMENTS(kModels));
  tcase_add_loop_test(tc, test_neighbors_are_told, 0, G_N_ELEMENTS(kPads));
  tcase_add_test(tc, test_failed_load_announces_nothing);
  tcase_add_test(tc, test_fallback_is_a_warning_and_is_counted);
  tcase_add_test(tc, test_change_of_backend_is_notified);
  return suite;
}

GST_CHECK_MAIN(executor);
