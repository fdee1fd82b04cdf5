// Starting, stopping, flushing, failing: at every moment, without a hang and without a rest. Driven by the scripted
// engine.
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "gst/gstwhisperxdna2enc.h"
#include "tests/gst/bench.h"
#include "tests/gst/fake_engine.h"
#include "tests/gst/files.h"

#define assert_text(bench, expected) assert_string((bench).text(), expected)

static const char kShort[] = "audio-context=128";

static double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// A state change must not take longer, whatever the engine does. (The engine returns at once when interrupted.)
static double patience() { return 0.5 * slowness(); }

static void set_state(GstElement* element, GstState state) {
  const double took = seconds_of([&] { gst_element_set_state(element, state); });
  fail_unless(took < patience(), "change to %s took %.2f s", gst_element_state_get_name(state), took);
}

// --- States ----------------------------------------------------------------------------------------------------------

static const std::vector<GstState> kWalks[] = {
    {GST_STATE_READY, GST_STATE_PAUSED, GST_STATE_PLAYING, GST_STATE_PAUSED, GST_STATE_READY, GST_STATE_NULL},
    {GST_STATE_PAUSED, GST_STATE_READY, GST_STATE_PAUSED, GST_STATE_PLAYING, GST_STATE_NULL},
    {GST_STATE_PLAYING, GST_STATE_READY, GST_STATE_PLAYING, GST_STATE_NULL, GST_STATE_PLAYING},
    {GST_STATE_READY, GST_STATE_NULL, GST_STATE_PLAYING, GST_STATE_PAUSED, GST_STATE_NULL},
};
GST_START_TEST(test_states_in_any_order) {
  GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
  for (GstState state : kWalks[__i__]) {
    set_state(element, state);
    GstState now;
    ck_assert_int_eq(gst_element_get_state(element, &now, nullptr, 0), GST_STATE_CHANGE_SUCCESS);
    ck_assert_int_eq(now, state);
  }
  set_state(element, GST_STATE_NULL);
  gst_object_unref(element);
  eventually([] { return fake.alive == 0; });
}
GST_END_TEST;

GST_START_TEST(test_states_without_a_model) {
  fake.load_fails = true;
  GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
  for (const auto& walk : kWalks) {
    for (GstState state : walk) set_state(element, state);
  }
  set_state(element, GST_STATE_NULL);
  gst_object_unref(element);
}
GST_END_TEST;

GST_START_TEST(test_pausing_does_not_wait_for_the_model) {
  fake.load_ms = 3000;
  Bench bench(kShort);
  set_state(bench.element(), GST_STATE_PAUSED);
  set_state(bench.element(), GST_STATE_PLAYING);
}
GST_END_TEST;

GST_START_TEST(test_stopping_while_loading_cancels) {
  fake.load_ms = 10000;
  Bench bench(kShort);
  eventually([] { return fake.made == 1; });
  set_state(bench.element(), GST_STATE_NULL);
  GstMessage* message;
  GstProgressType type;
  do {
    message = bench.message(GST_MESSAGE_PROGRESS);
    fail_unless(message != nullptr);
    gst_message_parse_progress(message, &type, nullptr, nullptr);
    gst_message_unref(message);
  } while (type != GST_PROGRESS_TYPE_CANCELED);
}
GST_END_TEST;

// A load that does not heed its cancellation does not hold up READY, and what it makes is not used. NULL waits for it:
// the process may end afterwards, and its destructors must not run beside a load.
GST_START_TEST(test_no_load_outlives_null) {
  fake.load_ms = 100;
  fake.load_ignores_cancel = true;
  GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
  const gint64 start = g_get_monotonic_time();
  for (int i = 0; i < 3; ++i) {
    set_state(element, GST_STATE_PAUSED);
    set_state(element, GST_STATE_READY);
  }
  fail_unless(g_get_monotonic_time() - start < 100 * 1000 * slowness());
  set_state(element, GST_STATE_NULL);
  ck_assert_int_eq(fake.made, 3);
  ck_assert_int_eq(fake.alive, 0);
  gst_object_unref(element);
}
GST_END_TEST;

GST_START_TEST(test_loading_reports_progress) {
  Bench bench(kShort);
  for (GstProgressType expected :
       {GST_PROGRESS_TYPE_START, GST_PROGRESS_TYPE_CONTINUE, GST_PROGRESS_TYPE_COMPLETE}) {
    GstMessage* message = bench.message(GST_MESSAGE_PROGRESS);
    fail_unless(message != nullptr);
    GstProgressType type;
    gst_message_parse_progress(message, &type, nullptr, nullptr);
    gst_message_unref(message);
    ck_assert_int_eq(type, expected);
  }
}
GST_END_TEST;

GST_START_TEST(test_notices_become_info_messages) {
  fake.notices = {"no NPU module is installed: the CPU is used"};
  Bench bench(kShort);
  GstMessage* message = bench.message(GST_MESSAGE_INFO);
  fail_unless(message != nullptr);
  GError* error;
  gst_message_parse_info(message, &error, nullptr);
  assert_string(error->message, "no NPU module is installed: the CPU is used");
  g_error_free(error);
  gst_message_unref(message);
}
GST_END_TEST;

// Upstream's element was silent after such a cycle.
GST_START_TEST(test_text_after_ready_cycle) {
  Bench bench(kShort);
  for (int i = 0; i < 3; ++i) {
    bench.start();
    bench.set_time(0);
    bench.say("w1:1.0");
    bench.eos();
    ck_assert(bench.wait("eos"));
    assert_text(bench, "!w1[0.000+1.000] final-transcript eos");
    set_state(bench.element(), GST_STATE_READY);
    bench.clear_log();
    set_state(bench.element(), GST_STATE_PLAYING);
    // The harness' own pads keep their state: a new stream needs its events again.
    bench.event(gst_event_new_flush_start());
    bench.event(gst_event_new_flush_stop(TRUE));
    bench.event(gst_event_new_stream_start("again"));
    bench.start();
    bench.segment(Bench::time_segment());
    bench.clear_log();
  }
}
GST_END_TEST;

GST_START_TEST(test_engine_is_kept_in_ready_and_freed_in_null) {
  Bench bench(kShort);
  eventually([] { return fake.alive == 1; });
  set_state(bench.element(), GST_STATE_READY);
  set_state(bench.element(), GST_STATE_PLAYING);
  ck_assert_int_eq(fake.made, 1);
  set_state(bench.element(), GST_STATE_NULL);
  bench.forget_messages();
  ck_assert_int_eq(fake.alive, 0);
}
GST_END_TEST;

// Upstream's element kept the old model, and both in memory.
GST_START_TEST(test_new_model_path_takes_effect_in_ready) {
  Bench bench("audio-context=128 model-path=/models/a");
  eventually([] { return fake.alive == 1; });
  set_state(bench.element(), GST_STATE_READY);
  g_object_set(bench.element(), "model-path", "/models/b", nullptr);
  set_state(bench.element(), GST_STATE_PLAYING);
  eventually([&] {
    bench.forget_messages();
    return fake.made == 2 && fake.alive == 1;
  });
  std::lock_guard<std::mutex> lock(fake.mutex);
  assert_string(fake.options.model_path, "/models/b");
}
GST_END_TEST;

GST_START_TEST(test_settings_reach_the_engine) {
  Bench bench("model-path=/m backend=cpu precision=int8 language-code=fr translate=true audio-context=750 n-threads=3");
  eventually([] { return fake.alive == 1; });
  std::lock_guard<std::mutex> lock(fake.mutex);
  assert_string(fake.options.model_path, "/m");
  assert_string(fake.options.language, "fr");
  ck_assert(fake.options.backend == whisperxdna2::Backend::kCpu);
  ck_assert(fake.options.precision == whisperxdna2::Precision::kInt8);
  ck_assert(fake.options.translate);
  ck_assert_int_eq(fake.options.audio_context, 750);
  ck_assert_int_eq(fake.options.threads, 3);
}
GST_END_TEST;

// In any order.
GST_START_TEST(test_rules_of_speech_reach_the_engine) {
  Bench bench(__i__ == 0
                  ? "vad-threshold=0.75 vad-hysteresis=0.25 vad-min-speech=100 vad-min-silence=200 vad-padding=400"
                  : "vad-padding=400 vad-min-silence=200 vad-min-speech=100 vad-hysteresis=0.25 vad-threshold=0.75");
  eventually([] { return fake.alive == 1; });
  std::lock_guard<std::mutex> lock(fake.mutex);
  const whisperxdna2::SpeechRules& rules = fake.options.voice;
  ck_assert(rules.threshold == 0.75f && rules.negative_threshold == 0.5f);
  ck_assert_int_eq(rules.min_speech, 1600);
  ck_assert_int_eq(rules.min_silence, 3200);
  ck_assert_int_eq(rules.padding, 6400);
}
GST_END_TEST;

GST_START_TEST(test_precisions_reach_the_engine) {
  using whisperxdna2::Precision;
  const std::pair<const char*, Precision> precisions[] = {
      {"auto", Precision::kAuto}, {"int8", Precision::kInt8}, {"bf16", Precision::kBF16}, {"f32", Precision::kF32}};
  const auto& [name, precision] = precisions[__i__];
  Bench bench(std::string("precision=") + name);
  eventually([] { return fake.alive == 1; });
  std::lock_guard<std::mutex> lock(fake.mutex);
  ck_assert(fake.options.precision == precision);
}
GST_END_TEST;

GST_START_TEST(test_unknown_language_is_a_warning) {
  Bench bench("audio-context=128 language-code=en");
  eventually([] { return fake.alive == 1; });
  bench.start();
  bench.say("w1:1.0");
  g_object_set(bench.element(), "language-code", "xx", nullptr);
  GstMessage* message = bench.message(GST_MESSAGE_WARNING);
  fail_unless(message != nullptr);
  GError* error;
  gst_message_parse_warning(message, &error, nullptr);
  ck_assert(g_error_matches(error, GST_LIBRARY_ERROR, GST_LIBRARY_ERROR_SETTINGS));
  assert_string(error->message, "the model knows no language \"xx\"");
  g_error_free(error);
  gst_message_unref(message);
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_active_backend_is_known_once_loaded) {
  fake.load_ms = 200;
  Bench bench(kShort);
  gchar* backend;
  g_object_get(bench.element(), "active-backend", &backend, nullptr);
  fail_unless(backend == nullptr);
  eventually([&] {
    g_free(backend);
    g_object_get(bench.element(), "active-backend", &backend, nullptr);
    return backend != nullptr;
  });
  assert_string(backend, "cpu");
  g_free(backend);
}
GST_END_TEST;

GST_START_TEST(test_stats) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:3.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  GstStructure* stats;
  g_object_get(bench.element(), "stats", &stats, nullptr);
  guint64 windows, discontinuities, dispatches;
  ck_assert(gst_structure_get(stats, "windows", G_TYPE_UINT64, &windows, "discontinuities", G_TYPE_UINT64,
                              &discontinuities, "dispatches", G_TYPE_UINT64, &dispatches, nullptr));
  ck_assert_uint_eq(windows, 2);
  ck_assert_uint_eq(discontinuities, 0);
  ck_assert_uint_eq(dispatches, 0);
  assert_string(gst_structure_get_string(stats, "device"), "imagination");
  assert_string(gst_structure_get_string(stats, "precision"), "f32");
  gst_structure_free(stats);
}
GST_END_TEST;

GST_START_TEST(test_every_field_of_stats_is_documented) {
  const std::string source = contents(std::string(g_getenv("WHISPERXDNA2_SOURCE")) + "/gst/gstwhisperxdna2enc.cpp");
  const size_t start = source.find("* GstWhisperXdna2Enc:stats:");
  const std::string comment = source.substr(start, source.find("*/", start) - start);
  Bench bench;
  bench.start();
  bench.eos();
  ck_assert(bench.wait("eos"));
  GstStructure* stats;
  g_object_get(bench.element(), "stats", &stats, nullptr);
  for (gint i = 0; i < gst_structure_n_fields(stats); ++i) {
    const std::string name = gst_structure_nth_field_name(stats, i);
    fail_unless(comment.find("`" + name + "`") != std::string::npos, "%s", name.c_str());
  }
  gst_structure_free(stats);
}
GST_END_TEST;

GST_START_TEST(test_presets_apply) {
  GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
  ck_assert(gst_preset_load_preset(GST_PRESET(element), "file-accuracy"));
  guint context;
  g_object_get(element, "audio-context", &context, nullptr);
  ck_assert_uint_eq(context, 1500);
  ck_assert(gst_preset_load_preset(GST_PRESET(element), "live-captions"));
  g_object_get(element, "audio-context", &context, nullptr);
  ck_assert_uint_eq(context, 512);
  gst_object_unref(element);
}
GST_END_TEST;

// 200 changes between all four states at random moments while audio flows, with seeks between.
GST_START_TEST(test_random_state_changes) {
  fake.window_ms = 5;
  std::mt19937 random(42);
  GstElement* pipeline = gst_parse_launch(
      "audiotestsrc samplesperbuffer=1600 num-buffers=2000 ! audio/x-raw,format=S16LE,rate=16000,channels=1 ! "
      "whisperxdna2enc audio-context=64 ! fakesink sync=false async=false",
      nullptr);
  for (int i = 0; i < 200; ++i) {
    set_state(pipeline, static_cast<GstState>(GST_STATE_NULL + random() % 4));
    g_usleep(random() % 10000);
    if (random() % 4 == 0) {
      gst_element_seek_simple(pipeline, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, (random() % 100) * GST_SECOND);
    }
  }
  set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(pipeline);
  eventually([] { return fake.alive == 0; });
}
GST_END_TEST;

GST_START_TEST(test_files_and_threads_are_constant_over_100_cycles) {
  int files = 0, threads = 0;
  for (int i = 0; i < 100; ++i) {
    {
      Bench bench(kShort);
      bench.start();
      bench.say("w1:1.0");
      if (i % 2) bench.eos();
    }
    if (i == 10) {
      files = Bench::open_files();
      threads = Bench::threads();
    }
  }
  ck_assert_int_le(Bench::open_files(), files);
  // GLib's thread pool keeps two idle ones, or fewer; and a thread that has been joined by its task may not have ended.
  eventually([&] { return Bench::threads() <= threads + 2; });
}
GST_END_TEST;

// --- Flushes ---------------------------------------------------------------------------------------------------------

// After whatever happened: flush, and the element works as new.
static void assert_flushes(Bench& bench) {
  const double took = seconds_of([&] { bench.flush(); });
  fail_unless(took < patience(), "flush took %.2f s", took);
  fake.window_ms = 0;
  fake.never_answers = false;
  bench.clear_log();
  bench.segment(Bench::time_segment());
  bench.set_time(0);
  ck_assert_int_eq(bench.say("w7:1.0"), GST_FLOW_OK);
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w7[0.000+1.000] final-transcript eos");
}

GST_START_TEST(test_flush_when_idle) {
  Bench bench(kShort);
  bench.start();
  assert_flushes(bench);
}
GST_END_TEST;

GST_START_TEST(test_flush_with_a_part_of_a_window) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  assert_flushes(bench);
}
GST_END_TEST;

GST_START_TEST(test_flush_while_recognizing) {
  fake.window_ms = 20000;
  Bench bench(kShort);
  bench.start();
  bench.say("w1:6.0");
  assert_flushes(bench);
}
GST_END_TEST;

GST_START_TEST(test_flush_while_the_encoder_never_answers) {
  fake.never_answers = true;
  Bench bench(kShort);
  bench.start();
  bench.say("w1:6.0");
  bench.eos();
  assert_flushes(bench);
}
GST_END_TEST;

GST_START_TEST(test_flush_while_loading) {
  fake.load_ms = 300;
  Bench bench(kShort);
  bench.start();
  std::thread pusher([&] { ck_assert_int_eq(bench.say("w1:1.0"), GST_FLOW_FLUSHING); });
  g_usleep(50000);
  bench.event(gst_event_new_flush_start());
  pusher.join();
  assert_flushes(bench);
}
GST_END_TEST;

GST_START_TEST(test_flush_while_chain_waits_for_room) {
  fake.never_answers = true;
  Bench bench(kShort);
  bench.start();
  std::thread pusher([&] { ck_assert_int_eq(bench.say("w1:60"), GST_FLOW_FLUSHING); });
  g_usleep(100000);
  bench.event(gst_event_new_flush_start());
  pusher.join();
  assert_flushes(bench);
}
GST_END_TEST;

GST_START_TEST(test_flush_while_blocked_downstream) {
  Bench bench(kShort);
  GstPad* sink = gst_pad_get_peer(bench.srcpad());
  const gulong probe = gst_pad_add_probe(
      sink, static_cast<GstPadProbeType>(GST_PAD_PROBE_TYPE_BLOCK | GST_PAD_PROBE_TYPE_BUFFER),
      [](GstPad*, GstPadProbeInfo*, gpointer) { return GST_PAD_PROBE_OK; }, nullptr, nullptr);
  bench.start();
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("!w1"));
  bench.event(gst_event_new_flush_start());
  gst_pad_remove_probe(sink, probe);
  gst_object_unref(sink);
  assert_flushes(bench);
}
GST_END_TEST;

// Upstream's element gave no text, no EOS and no error after this.
GST_START_TEST(test_flush_after_eos) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_flushes(bench);
}
GST_END_TEST;

GST_START_TEST(test_flush_before_the_stream_keeps_its_events) {
  fake.never_answers = true;
  Bench bench(kShort);
  bench.start();
  assert_flushes(bench);
  GstCaps* caps = gst_pad_get_current_caps(bench.srcpad());
  fail_unless(caps != nullptr);
  gst_caps_unref(caps);
}
GST_END_TEST;

GST_START_TEST(test_flush_out_of_the_source_task) {
  Bench bench(kShort);
  bench.start();
  const gulong probe = gst_pad_add_probe(
      bench.srcpad(), GST_PAD_PROBE_TYPE_BUFFER,
      [](GstPad*, GstPadProbeInfo*, gpointer bench) {
        static_cast<Bench*>(bench)->flush();
        return GST_PAD_PROBE_DROP;
      },
      &bench, nullptr);
  bench.say("w1:0.5 0.5 w2:0.5 0.5 w3:0.56");
  ck_assert(bench.wait("flush-stop"));
  gst_pad_remove_probe(bench.srcpad(), probe);
  assert_flushes(bench);
}
GST_END_TEST;

// Upstream's element deadlocked here.
GST_START_TEST(test_flushing_seeks_while_recognizing) {
  fake.window_ms = 20;
  GstElement* pipeline = gst_parse_launch(
      "audiotestsrc samplesperbuffer=1600 num-buffers=10000 ! audio/x-raw,format=S16LE,rate=16000,channels=1 ! "
      "whisperxdna2enc audio-context=64 ! fakesink sync=false",
      nullptr);
  set_state(pipeline, GST_STATE_PLAYING);
  for (int i = 0; i < 50; ++i) {
    const double took = seconds_of([&] {
      ck_assert(gst_element_seek_simple(pipeline, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, i * GST_SECOND));
    });
    fail_unless(took < patience(), "seek took %.2f s", took);
    g_usleep(5000);
  }
  set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(pipeline);
}
GST_END_TEST;

GST_START_TEST(test_seeks_without_flush_while_playing) {
  GstElement* pipeline = gst_parse_launch(
      "audiotestsrc samplesperbuffer=1600 num-buffers=100000 ! audio/x-raw,format=S16LE,rate=16000,channels=1 ! "
      "whisperxdna2enc audio-context=64 ! fakesink sync=false",
      nullptr);
  set_state(pipeline, GST_STATE_PLAYING);
  ck_assert_int_eq(gst_element_get_state(pipeline, nullptr, nullptr, 5 * slowness() * GST_SECOND),
                   GST_STATE_CHANGE_SUCCESS);
  for (int i = 0; i < 20; ++i)
    ck_assert(gst_element_seek_simple(pipeline, GST_FORMAT_TIME, GST_SEEK_FLAG_NONE, i * GST_SECOND));
  set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(pipeline);
}
GST_END_TEST;

GST_START_TEST(test_lone_flush_stop_passes) {
  Bench bench(kShort);
  bench.start();
  bench.event(gst_event_new_flush_stop(TRUE));
  ck_assert(bench.wait("flush-stop"));
}
GST_END_TEST;

GST_START_TEST(test_drain_query_waits_for_the_text) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  GstQuery* query = gst_query_new_drain();
  gst_pad_peer_query(bench.harness()->srcpad, query);
  gst_query_unref(query);
  assert_text(bench, "!w1[0.000+1.000] final-transcript");
}
GST_END_TEST;

// --- Failures --------------------------------------------------------------------------------------------------------

struct Failure {
  whisperxdna2::ErrorCode error;
  GQuark (*domain)(void);
  gint code;
};
static const Failure kFailures[] = {
    {whisperxdna2::ErrorCode::kNotFound, gst_resource_error_quark, GST_RESOURCE_ERROR_NOT_FOUND},
    {whisperxdna2::ErrorCode::kInvalidFile, gst_resource_error_quark, GST_RESOURCE_ERROR_READ},
    {whisperxdna2::ErrorCode::kUnsupported, gst_resource_error_quark, GST_RESOURCE_ERROR_SETTINGS},
    {whisperxdna2::ErrorCode::kNoResource, gst_resource_error_quark, GST_RESOURCE_ERROR_NO_SPACE_LEFT},
    {whisperxdna2::ErrorCode::kDevice, gst_resource_error_quark, GST_RESOURCE_ERROR_FAILED},
    {whisperxdna2::ErrorCode::kInvalidUse, gst_library_error_quark, GST_LIBRARY_ERROR_SETTINGS},
};

// Upstream's element hung on any bad model, without an ERROR.
GST_START_TEST(test_failed_load_is_an_error) {
  const Failure& failure = kFailures[__i__];
  fake.load_fails = true;
  fake.load_error = static_cast<int>(failure.error);
  Bench bench(kShort);
  assert_string(bench.error(failure.domain(), failure.code), "no model at /nowhere: fetch one");
  bench.start();
  ck_assert_int_eq(bench.say("w1:1.0"), GST_FLOW_ERROR);
  // The source ends the stream after an error, and the end goes through.
  bench.eos();
  ck_assert(bench.wait("eos"));
}
GST_END_TEST;

// Who reads one message, as gst-launch-1.0 does, learns why.
GST_START_TEST(test_failed_load_is_the_first_error) {
  fake.load_fails = true;
  for (int i = 0; i < 50; ++i) {
    GstElement* pipeline =
        gst_parse_launch("audiotestsrc ! audio/x-raw,rate=16000 ! whisperxdna2enc ! fakesink", nullptr);
    GstBus* bus = gst_element_get_bus(pipeline);
    gst_element_set_state(pipeline, GST_STATE_PLAYING);
    GstMessage* message = gst_bus_timed_pop_filtered(bus, 10 * slowness() * GST_SECOND, GST_MESSAGE_ERROR);
    fail_unless(message != nullptr);
    ck_assert(g_str_has_prefix(GST_OBJECT_NAME(GST_MESSAGE_SRC(message)), "whisperxdna2enc"));
    gst_message_unref(message);
    gst_element_set_state(pipeline, GST_STATE_NULL);
    gst_object_unref(bus);
    gst_object_unref(pipeline);
  }
}
GST_END_TEST;

GST_START_TEST(test_failed_load_can_be_retried) {
  fake.load_fails = true;
  Bench bench(kShort);
  ck_assert(!bench.error(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_NOT_FOUND).empty());
  set_state(bench.element(), GST_STATE_READY);
  fake.load_fails = false;
  set_state(bench.element(), GST_STATE_PLAYING);
  bench.start();
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_failed_encoder_is_an_error) {
  fake.fail_at_window = 1;
  Bench bench(kShort);
  bench.start();
  bench.say("w1:2.0 0.5");
  GstFlowReturn flow = GST_FLOW_OK;
  for (int i = 0; i < 100 && flow == GST_FLOW_OK; ++i) flow = bench.say("1.0");
  ck_assert_int_eq(flow, GST_FLOW_ERROR);
  assert_string(bench.error(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_FAILED),
                "the NPU did not answer within 60 s: reload its driver");
  bench.eos();
  ck_assert(bench.wait("eos"));
}
GST_END_TEST;

GST_START_TEST(test_encoder_that_fails_after_eos_still_ends_the_stream) {
  fake.fail_at_window = 0;
  fake.window_ms = 50;
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  ck_assert(!bench.error(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_FAILED).empty());
}
GST_END_TEST;

GST_START_TEST(test_works_again_after_a_failed_encoder) {
  fake.fail_at_window = 0;
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  fake.fail_at_window = -1;
  assert_flushes(bench);
}
GST_END_TEST;

GST_START_TEST(test_stopping_while_the_encoder_never_answers) {
  fake.never_answers = true;
  Bench bench(kShort);
  bench.start();
  bench.say("w1:6.0");
  bench.eos();
  set_state(bench.element(), GST_STATE_NULL);
}
GST_END_TEST;

static GstFlowReturn refuse(GstPad* pad, GstObject*, GstBuffer* buffer) {
  gst_buffer_unref(buffer);
  return static_cast<GstFlowReturn>(GPOINTER_TO_INT(g_object_get_data(G_OBJECT(pad), "flow")));
}

static void refuse_with(Bench& bench, GstFlowReturn flow) {
  GstPad* sink = gst_pad_get_peer(bench.srcpad());
  g_object_set_data(G_OBJECT(sink), "flow", GINT_TO_POINTER(flow));
  gst_pad_set_chain_function(sink, refuse);
  gst_object_unref(sink);
}

static const GstFlowReturn kFlows[] = {GST_FLOW_ERROR, GST_FLOW_EOS, GST_FLOW_NOT_NEGOTIATED,
                                       GST_FLOW_CUSTOM_ERROR};
GST_START_TEST(test_downstream_flow_reaches_upstream) {
  Bench bench(kShort);
  refuse_with(bench, kFlows[__i__]);
  bench.start();
  GstFlowReturn flow = GST_FLOW_OK;
  for (int i = 0; i < 100 && flow == GST_FLOW_OK; ++i) flow = bench.say("w1:1.0 0.5");
  ck_assert_int_eq(flow, kFlows[__i__]);
  bench.eos();
  ck_assert(bench.wait("eos"));
}
GST_END_TEST;

GST_START_TEST(test_downstream_error_after_eos_is_reported) {
  Bench bench(kShort);
  refuse_with(bench, GST_FLOW_ERROR);
  bench.start();
  fake.window_ms = 50;
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  ck_assert(!bench.error(GST_STREAM_ERROR, GST_STREAM_ERROR_FAILED).empty());
}
GST_END_TEST;

GST_START_TEST(test_new_segment_after_downstream_eos_starts_anew) {
  Bench bench(kShort);
  refuse_with(bench, GST_FLOW_EOS);
  bench.start();
  GstFlowReturn flow = GST_FLOW_OK;
  for (int i = 0; i < 100 && flow == GST_FLOW_OK; ++i) flow = bench.say("w1:1.0 0.5");
  ck_assert_int_eq(flow, GST_FLOW_EOS);
  refuse_with(bench, GST_FLOW_OK);
  bench.clear_log();
  bench.segment(Bench::time_segment(100 * GST_SECOND));
  bench.set_time(100 * GST_SECOND);
  ck_assert_int_eq(bench.say("w2:1.0"), GST_FLOW_OK);
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w2[100.000+1.000] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_relinked_source_pad_flows_again) {
  Bench bench(kShort);
  bench.start();
  GstPad* sink = gst_pad_get_peer(bench.srcpad());
  gst_pad_unlink(bench.srcpad(), sink);
  GstFlowReturn flow = GST_FLOW_OK;
  for (int i = 0; i < 100 && flow == GST_FLOW_OK; ++i) flow = bench.say("w1:1.0 0.5");
  ck_assert_int_eq(flow, GST_FLOW_NOT_LINKED);
  gst_pad_link(bench.srcpad(), sink);
  gst_object_unref(sink);
  ck_assert_int_eq(bench.say("w2:1.0"), GST_FLOW_OK);
  bench.eos();
  ck_assert(bench.wait("eos"));
  ck_assert(bench.text().find("w2[") != std::string::npos);
}
GST_END_TEST;

static void setup() { fake.reset(); }

static Suite* states_suite(void) {
  Suite* suite = suite_create("states");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, nullptr);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);

  tcase_add_loop_test(tc, test_states_in_any_order, 0, G_N_ELEMENTS(kWalks));
  tcase_add_test(tc, test_states_without_a_model);
  tcase_add_test(tc, test_pausing_does_not_wait_for_the_model);
  tcase_add_test(tc, test_stopping_while_loading_cancels);
  tcase_add_test(tc, test_no_load_outlives_null);
  tcase_add_test(tc, test_loading_reports_progress);
  tcase_add_test(tc, test_notices_become_info_messages);
  tcase_add_test(tc, test_text_after_ready_cycle);
  tcase_add_test(tc, test_engine_is_kept_in_ready_and_freed_in_null);
  tcase_add_test(tc, test_new_model_path_takes_effect_in_ready);
  tcase_add_test(tc, test_settings_reach_the_engine);
  tcase_add_loop_test(tc, test_rules_of_speech_reach_the_engine, 0, 2);
  tcase_add_loop_test(tc, test_precisions_reach_the_engine, 0, 4);
  tcase_add_test(tc, test_unknown_language_is_a_warning);
  tcase_add_test(tc, test_active_backend_is_known_once_loaded);
  tcase_add_test(tc, test_stats);
  tcase_add_test(tc, test_every_field_of_stats_is_documented);
  tcase_add_test(tc, test_presets_apply);
  tcase_add_test(tc, test_random_state_changes);
  tcase_add_test(tc, test_files_and_threads_are_constant_over_100_cycles);

  tcase_add_test(tc, test_flush_when_idle);
  tcase_add_test(tc, test_flush_with_a_part_of_a_window);
  tcase_add_test(tc, test_flush_while_recognizing);
  tcase_add_test(tc, test_flush_while_the_encoder_never_answers);
  tcase_add_test(tc, test_flush_while_loading);
  tcase_add_test(tc, test_flush_while_chain_waits_for_room);
  tcase_add_test(tc, test_flush_while_blocked_downstream);
  tcase_add_test(tc, test_flush_after_eos);
  tcase_add_test(tc, test_flush_before_the_stream_keeps_its_events);
  tcase_add_test(tc, test_flush_out_of_the_source_task);
  tcase_add_test(tc, test_flushing_seeks_while_recognizing);
  tcase_add_test(tc, test_seeks_without_flush_while_playing);
  tcase_add_test(tc, test_lone_flush_stop_passes);
  tcase_add_test(tc, test_drain_query_waits_for_the_text);

  tcase_add_loop_test(tc, test_failed_load_is_an_error, 0, G_N_ELEMENTS(kFailures));
  tcase_add_test(tc, test_failed_load_is_the_first_error);
  tcase_add_test(tc, test_failed_load_can_be_retried);
  tcase_add_test(tc, test_failed_encoder_is_an_error);
  tcase_add_test(tc, test_encoder_that_fails_after_eos_still_ends_the_stream);
  tcase_add_test(tc, test_works_again_after_a_failed_encoder);
  tcase_add_test(tc, test_stopping_while_the_encoder_never_answers);
  tcase_add_loop_test(tc, test_downstream_flow_reaches_upstream, 0, G_N_ELEMENTS(kFlows));
  tcase_add_test(tc, test_downstream_error_after_eos_is_reported);
  tcase_add_test(tc, test_new_segment_after_downstream_eos_starts_anew);
  tcase_add_test(tc, test_relinked_source_pad_flows_again);
  return suite;
}

GST_CHECK_MAIN(states);
