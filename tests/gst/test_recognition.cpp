// The plugin as it is installed, with the real weights of Whisper base and tiny.en: that it works, and what it says
// when something is wrong.
#include <glib/gstdio.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "tests/gst/files.h"
#include "tests/gst/slowness.h"
#include "whisper/model.h"

// After the standard headers: Check's macro `fail` must not meet them.
#include <gst/app/gstappsrc.h>
#include <gst/check/gstcheck.h>

static std::string directory;

static std::string file(const char* name) { return directory + "/" + name; }

static std::string data(const char* name) { return std::string(g_getenv("WHISPERXDNA2_TEST_DATA")) + "/audio/" + name; }

static const char kJfk[] =
    "and so my fellow americans ask not what your country can do for you ask what you can do for your country";

// Lower case, letters and blanks only.
static std::string normalized(const std::string& text) {
  std::string words;
  for (char c : text) {
    if (g_ascii_isalpha(c)) {
      words += g_ascii_tolower(c);
    } else if (!words.empty() && words.back() != ' ' && c != '\'') {
      words += ' ';
    }
  }
  while (!words.empty() && words.back() == ' ') words.pop_back();
  return words;
}

// A pipeline that ends in `text`, a sink that collects.
class Run {
 public:
  explicit Run(const std::string& description) {
    GError* error = nullptr;
    pipeline_ =
        gst_parse_launch((description + " ! fakesink name=text signal-handoffs=true sync=false").c_str(), &error);
    fail_unless(!error, "%s", error ? error->message : "");
    bus_ = gst_element_get_bus(pipeline_);
    GstElement* sink = gst_bin_get_by_name(GST_BIN(pipeline_), "text");
    g_signal_connect(sink, "handoff", G_CALLBACK(+[](GstElement*, GstBuffer* buffer, GstPad* pad, gpointer self) {
                       static_cast<Run*>(self)->take(pad, buffer);
                     }),
                     this);
    gst_object_unref(sink);
  }
  ~Run() {
    state(GST_STATE_NULL);
    gst_object_unref(bus_);
    gst_object_unref(pipeline_);
  }

  GstElement* pipeline() { return pipeline_; }
  void state(GstState state) {
    const gint64 start = g_get_monotonic_time();
    gst_element_set_state(pipeline_, state);
    const double took = static_cast<double>(g_get_monotonic_time() - start) / G_USEC_PER_SEC;
    fail_unless(took < 0.5 * slowness(), "change to %s took %.2f s", gst_element_state_get_name(state), took);
  }

  // Plays to the end. The ERROR's text if there was one.
  std::string play() {
    state(GST_STATE_PLAYING);
    GstMessage* message = gst_bus_timed_pop_filtered(
        bus_, 100 * slowness() * GST_SECOND, static_cast<GstMessageType>(GST_MESSAGE_EOS | GST_MESSAGE_ERROR));
    fail_unless(message != nullptr);
    std::string text;
    if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_ERROR) {
      gchar* debug;
      gst_message_parse_error(message, &error_, &debug);
      fail_unless(debug && *debug);
      text = error_->message;
      domain_ = error_->domain;
      code_ = error_->code;
      g_clear_error(&error_);
      g_free(debug);
    }
    gst_message_unref(message);
    return text;
  }
  void assert_plays() {
    const std::string error = play();
    fail_unless(error.empty(), "%s", error.c_str());
  }
  void assert_fails(GQuark domain, gint code, const std::string& expected) {
    const std::string error = play();
    fail_unless(error == expected, "is       %s\nexpected %s", error.c_str(), expected.c_str());
    fail_unless(domain_ == domain && code_ == code, "%s %d", g_quark_to_string(domain_), code_);
  }

  std::string text() { return normalized(text_); }
  std::string raw() { return text_; }
  // Code in the language tag of the source pad of an element; empty where there is none.
  std::string language(const char* name) {
    GstElement* element = gst_bin_get_by_name(GST_BIN(pipeline_), name);
    GstPad* src = gst_element_get_static_pad(element, "src");
    GstEvent* event = gst_pad_get_sticky_event(src, GST_EVENT_TAG, 0);
    std::string result;
    GstTagList* tags;
    gchar* code;
    if (event) {
      gst_event_parse_tag(event, &tags);
      if (gst_tag_list_get_string(tags, GST_TAG_LANGUAGE_CODE, &code)) {
        result = code;
        g_free(code);
      }
      gst_event_unref(event);
    }
    gst_object_unref(src);
    gst_object_unref(element);
    return result;
  }
  int buffers() const { return buffers_; }  // that came so far; any thread
  // Text and messages so far, an EOS of the playback that a seek ended among them.
  void forget() {
    text_.clear();
    while (GstMessage* message = gst_bus_pop(bus_)) gst_message_unref(message);
  }

 private:
  // Any text that ever comes out: valid, trimmed, not empty, one line, with a time and after the one before.
  void take(GstPad* pad, GstBuffer* buffer) {
    ++buffers_;
    GstCaps* caps = gst_pad_get_current_caps(pad);
    const bool text = gst_structure_has_name(gst_caps_get_structure(caps, 0), "text/x-raw");
    gst_caps_unref(caps);
    if (!text) return;
    GstMapInfo map;
    gst_buffer_map(buffer, &map, GST_MAP_READ);
    const std::string content(reinterpret_cast<char*>(map.data), map.size);
    gst_buffer_unmap(buffer, &map);
    fail_unless(g_utf8_validate(content.data(), static_cast<gssize>(content.size()), nullptr), "%s", content.c_str());
    fail_unless(!content.empty() && !g_ascii_isspace(content.front()) && !g_ascii_isspace(content.back()));
    fail_unless(content.find('\n') == std::string::npos && content.find('\0') == std::string::npos);
    fail_unless(GST_BUFFER_PTS_IS_VALID(buffer) && GST_BUFFER_DURATION_IS_VALID(buffer));
    fail_unless(GST_BUFFER_DURATION(buffer) > 0);
    fail_unless(buffers_ == 1 || GST_BUFFER_IS_DISCONT(buffer) || GST_BUFFER_PTS(buffer) >= end_);
    end_ = GST_BUFFER_PTS(buffer) + GST_BUFFER_DURATION(buffer);
    text_ += content + " ";
  }

  GstElement* pipeline_;
  GstBus* bus_;
  std::string text_;
  std::atomic<int> buffers_{0};
  GstClockTime end_ = 0;
  GError* error_ = nullptr;
  GQuark domain_ = 0;
  gint code_ = 0;
};

static std::string wav(const std::string& path) {
  return "filesrc location=" + path + " ! wavparse ! audioconvert ! audioresample ! ";
}

#define assert_text(run, expected) \
  fail_unless((run).text() == (expected), "is       %s\nexpected %s", (run).text().c_str(), expected)

GST_START_TEST(test_jfk_every_word_once) {
  Run run(wav(data("jfk.wav")) + "whisperxdna2enc");
  run.assert_plays();
  assert_text(run, kJfk);
}
GST_END_TEST;

GST_START_TEST(test_jfk_word_by_word) {
  Run run(wav(data("jfk.wav")) + "whisperxdna2enc output-unit=word");
  run.assert_plays();
  assert_text(run, kJfk);
  ck_assert_int_eq(run.buffers(), 22);
}
GST_END_TEST;

GST_START_TEST(test_jfk_by_windows_of_30_s) {
  Run run(wav(data("jfk.wav")) + "whisperxdna2enc audio-context=1500");
  run.assert_plays();
  assert_text(run, kJfk);
}
GST_END_TEST;

GST_START_TEST(test_eight_channels_at_96_khz) {
  Run run(wav(data("jfk.wav")) +
          "audio/x-raw,rate=96000,channels=8,channel-mask=(bitmask)0xc3f ! audioconvert ! audioresample ! "
          "whisperxdna2enc");
  run.assert_plays();
  assert_text(run, kJfk);
}
GST_END_TEST;

GST_START_TEST(test_features_of_the_base_model) {
  Run run(wav(data("jfk.wav")) +
          "whisperxdna2enc ! other/tensors,format=static,num_tensors=1,types=float32,"
          "dimensions=(string)512:512:1:1,framerate=25/256");
  run.assert_plays();
  ck_assert_int_eq(run.buffers(), 2);
}
GST_END_TEST;

// --- Languages without blanks ----------------------------------------------------------------------------------------

// Upstream's element gave nothing for Japanese and fragments for Chinese. What base hears of these clips is not all
// right; what it hears reliably must be there, in characters that are whole.
struct Spoken {
  const char *file, *language, *unit, *code;
  std::vector<std::string> heard;  // any of
  int characters;                  // at least
};
static const Spoken kSpoken[] = {
    {"common_voice_ja_24511055.flac", "auto", "segment", "ja", {"キャンプの外れの電"}, 20},
    {"common_voice_ja_24511055.flac", "ja", "word", "ja", {"キャンプの外れの電"}, 20},
    {"aishell_BAC009S0724W0121.flac", "auto", "segment", "zh", {"廣州市", "广州市"}, 10},
    {"aishell_BAC009S0724W0121.flac", "zh", "word", "zh", {"廣州市", "广州市"}, 10},
};
GST_START_TEST(test_japanese_and_chinese) {
  const Spoken& spoken = kSpoken[__i__];
  Run run("filesrc location=" + std::string(g_getenv("WHISPERXDNA2_TEST_DATA")) + "/gst/" + spoken.file +
          " ! flacparse ! flacdec ! audioconvert ! audioresample ! whisperxdna2enc name=enc language-code=" +
          spoken.language + " output-unit=" + spoken.unit);
  run.assert_plays();
  std::string text = run.raw();
  text.erase(std::remove(text.begin(), text.end(), ' '), text.end());
  const bool heard = std::any_of(spoken.heard.begin(), spoken.heard.end(),
                                 [&](const std::string& part) { return text.find(part) != std::string::npos; });
  fail_unless(heard, "%s", text.c_str());
  ck_assert_int_ge(g_utf8_strlen(text.c_str(), -1), spoken.characters);
  ck_assert_int_ge(run.buffers(), spoken.unit == std::string("word") ? spoken.characters / 2 : 1);

  const std::string code = run.language("enc");
  ck_assert_str_eq(code.c_str(), spoken.code);
}
GST_END_TEST;

// English with its blanks, and called English, whatever was spoken.
GST_START_TEST(test_translation_is_english) {
  Run run("filesrc location=" + std::string(g_getenv("WHISPERXDNA2_TEST_DATA")) +
          "/gst/common_voice_ja_24511055.flac ! flacparse ! flacdec ! audioconvert ! audioresample ! whisperxdna2enc "
          "name=enc "
          "translate=true beam-size=1 output-unit=word");  // with five, even f32 makes no sense of the camp
  run.assert_plays();
  fail_unless(run.raw().find("camp") != std::string::npos, "%s", run.raw().c_str());
  fail_unless(g_str_is_ascii(run.raw().c_str()), "%s", run.raw().c_str());
  ck_assert_int_ge(run.buffers(), 6);
  ck_assert_int_le(run.buffers(), 20);
  const std::string code = run.language("enc");
  ck_assert_str_eq(code.c_str(), "en");
}
GST_END_TEST;

// --- Bad input -------------------------------------------------------------------------------------------------------

GST_START_TEST(test_empty_file) {
  write_file(file("empty.wav"), "");
  Run run(wav(file("empty.wav")) + "whisperxdna2enc");
  run.assert_fails(GST_STREAM_ERROR, GST_STREAM_ERROR_WRONG_TYPE,
                   "The stream is of a different type than handled by this element.");
}
GST_END_TEST;

static const int kFewSamples[] = {0, 1, 800};  // 800 = 50 ms
GST_START_TEST(test_next_to_nothing_is_no_text_and_no_error) {
  std::vector<float> samples(kFewSamples[__i__]);
  for (size_t i = 0; i < samples.size(); ++i) samples[i] = 0.3f * std::sin(0.2f * static_cast<float>(i));
  write_wav(file("short.wav"), samples);
  Run run(wav(file("short.wav")) + "whisperxdna2enc");
  run.assert_plays();
  assert_text(run, "");
}
GST_END_TEST;

// 60 s of each, of which upstream's element made 15 times "[BLANK_AUDIO]" at the price of speech.
static float (*const kNoSpeech[])(int sample, std::mt19937& random) = {
    [](int, std::mt19937&) { return 0.0f; },                                                              // silence
    [](int, std::mt19937& random) { return std::normal_distribution<float>(0, 0.003f)(random); },         // a room
    [](int, std::mt19937& random) { return std::normal_distribution<float>(0, 0.1f)(random); },           // loud noise
    [](int sample, std::mt19937&) { return 0.1f * std::sin(6.2831853f * 50 / 16000 * float(sample)); },   // the mains
    [](int sample, std::mt19937&) { return 0.1f * std::sin(6.2831853f * 1000 / 16000 * float(sample)); },  // a tone
};
GST_START_TEST(test_what_is_no_speech_is_no_text_and_costs_nothing) {
  std::vector<float> samples(60 * 16000);
  std::mt19937 random(1);
  for (size_t i = 0; i < samples.size(); ++i) samples[i] = std::clamp(kNoSpeech[__i__](int(i), random), -1.0f, 0.99f);
  write_wav(file("noise.wav"), samples);
  Run run(wav(file("noise.wav")) + "whisperxdna2enc name=enc");
  run.assert_plays();
  ck_assert_int_eq(run.buffers(), 0);
  GstElement* enc = gst_bin_get_by_name(GST_BIN(run.pipeline()), "enc");
  GstStructure* stats;
  g_object_get(enc, "stats", &stats, nullptr);
  guint64 encodes;
  ck_assert(gst_structure_get_uint64(stats, "encodes", &encodes));
  ck_assert_uint_eq(encodes, 0);
  gst_structure_free(stats);
  gst_object_unref(enc);
}
GST_END_TEST;

GST_START_TEST(test_samples_that_are_no_numbers_are_silence) {
  Run run("appsrc name=source format=time caps=audio/x-raw,format=F32LE,rate=16000,channels=1,layout=interleaved ! "
          "whisperxdna2enc");
  GstElement* source = gst_bin_get_by_name(GST_BIN(run.pipeline()), "source");
  std::vector<float> samples(12 * 16000);
  for (size_t i = 0; i < samples.size(); ++i) samples[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
  GstBuffer* buffer = gst_buffer_new_memdup(samples.data(), samples.size() * sizeof(float));
  GST_BUFFER_PTS(buffer) = 0;
  GST_BUFFER_DURATION(buffer) = 12 * GST_SECOND;
  gst_app_src_push_buffer(GST_APP_SRC(source), buffer);
  gst_app_src_end_of_stream(GST_APP_SRC(source));
  gst_object_unref(source);
  run.assert_plays();
  ck_assert_int_eq(run.buffers(), 0);
}
GST_END_TEST;

// --- Bad models ------------------------------------------------------------------------------------------------------

static std::string with_model(const std::string& path) {
  return wav(data("jfk.wav")) + "whisperxdna2enc model-path=\"" + path + "\"";
}

// A copy of tiny.en whose weights are cut off.
static std::string copy_of_model(size_t bytes) {
  const std::string from = whisperxdna2::cache_directory() + "/models/tiny.en", to = file("model");
  std::filesystem::create_directory(to);
  for (const char* name : {"config.json", "vocabulary.txt", "tokenizer.json", "model.bin"})
    std::filesystem::copy_file(from + "/" + name, to + "/" + name);
  if (bytes) std::filesystem::resize_file(to + "/model.bin", bytes);
  return to;
}

static const std::string advice =
    "`whisperxdna2-fetch-model base` (in the source tree: `tools/fetch-model base`) fetches a model; model-path names "
    "another one";

GST_START_TEST(test_missing_model) {
  Run run(with_model("/nowhere/model"));
  run.assert_fails(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_NOT_FOUND,
                   "There is no model at /nowhere/model: No such file or directory. " + advice);
}
GST_END_TEST;

GST_START_TEST(test_truncated_model) {
  Run run(with_model(copy_of_model(40000000)));
  run.assert_fails(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_READ,
                   file("model/model.bin") +
                       ": the file ends inside tensor "
                       "decoder/layer_0/attention/linear_0/weight (at byte 39834262)");
}
GST_END_TEST;

GST_START_TEST(test_model_that_is_text) {
  write_file(file("model.txt"), "This is no model.\n");
  Run run(with_model(file("model.txt")));
  run.assert_fails(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_READ,
                   file("model.txt") +
                       " is no Whisper model: neither a ggml file nor a directory in the CTranslate2 or "
                       "Hugging Face format. " +
                       advice);
}
GST_END_TEST;

GST_START_TEST(test_empty_model_directory) {
  Run run(with_model(directory));
  run.assert_fails(GST_RESOURCE_ERROR, GST_RESOURCE_ERROR_NOT_FOUND,
                   "There is no model in " + directory +
                       ": neither model.bin (CTranslate2) nor model.safetensors "
                       "(Hugging Face). " +
                       advice);
}
GST_END_TEST;

GST_START_TEST(test_model_removed_while_running) {
  const std::string model = copy_of_model(0);
  Run run(with_model(model));
  GstElement* enc = nullptr;
  GstIterator* it = gst_bin_iterate_all_by_element_factory_name(GST_BIN(run.pipeline()), "whisperxdna2enc");
  GValue value = G_VALUE_INIT;
  gst_iterator_next(it, &value);
  enc = GST_ELEMENT(g_value_dup_object(&value));
  g_value_unset(&value);
  gst_iterator_free(it);
  run.state(GST_STATE_PAUSED);
  gchar* backend = nullptr;
  while (!backend) {
    g_usleep(10000);
    g_object_get(enc, "active-backend", &backend, nullptr);
  }
  g_free(backend);
  gst_object_unref(enc);
  std::filesystem::remove_all(model);
  run.assert_plays();
  assert_text(run, kJfk);
}
GST_END_TEST;

// --- Life ------------------------------------------------------------------------------------------------------------

GST_START_TEST(test_stopping_at_any_moment) {
  std::mt19937 random(7);
  Run run(wav(data("jfk.wav")) + "whisperxdna2enc");
  for (int i = 0; i < 20; ++i) {
    run.state(GST_STATE_PLAYING);
    g_usleep(random() % 700000);
    run.state(i % 2 ? GST_STATE_NULL : GST_STATE_READY);
  }
}
GST_END_TEST;

GST_START_TEST(test_flushing_seek_while_recognizing_and_after_the_end) {
  Run run(wav(data("jfk.wav")) + "whisperxdna2enc");
  run.state(GST_STATE_PLAYING);
  g_usleep(1500000);
  ck_assert(gst_element_seek_simple(run.pipeline(), GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, 0));
  run.forget();
  run.assert_plays();
  assert_text(run, kJfk);
  ck_assert(gst_element_seek_simple(run.pipeline(), GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH, 0));
  run.forget();
  run.assert_plays();
  assert_text(run, kJfk);
}
GST_END_TEST;

// From a live source text comes while it is being said, not a window later.
GST_START_TEST(test_live_text_comes_while_it_is_said) {
  std::vector<gint16> samples;
  {
    const std::string wav = contents(data("jfk.wav")).substr(44);
    samples.resize(wav.size() / 2);
    memcpy(samples.data(), wav.data(), samples.size() * 2);
  }
  Run run("appsrc name=source is-live=true format=time min-latency=0 "
          "caps=audio/x-raw,format=S16LE,rate=16000,channels=1,layout=interleaved ! whisperxdna2enc name=enc");
  GstElement* source = gst_bin_get_by_name(GST_BIN(run.pipeline()), "source");
  GstElement* enc = gst_bin_get_by_name(GST_BIN(run.pipeline()), "enc");
  run.state(GST_STATE_PLAYING);
  gchar* backend = nullptr;
  while (!backend) {
    g_usleep(10000);
    g_object_get(enc, "active-backend", &backend, nullptr);
  }
  g_free(backend);
  constexpr size_t kChunk = 1600;
  int early = 0;
  for (size_t at = 0; at < samples.size(); at += kChunk) {
    const size_t count = std::min(kChunk, samples.size() - at);
    GstBuffer* buffer = gst_buffer_new_memdup(samples.data() + at, count * 2);
    GST_BUFFER_PTS(buffer) = gst_util_uint64_scale_int(at, GST_SECOND, 16000);
    GST_BUFFER_DURATION(buffer) = gst_util_uint64_scale_int(count, GST_SECOND, 16000);
    gst_app_src_push_buffer(GST_APP_SRC(source), buffer);
    g_usleep(100000);
    if (at < 9 * 16000) early = run.buffers();
  }
  gst_app_src_end_of_stream(GST_APP_SRC(source));
  gst_object_unref(source);
  gst_object_unref(enc);
  run.assert_plays();
  assert_text(run, kJfk);
  ck_assert_int_gt(early, 0);
}
GST_END_TEST;

static double resident_mb() {
  long pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return static_cast<double>(pages) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

GST_START_TEST(test_instances_share_the_model) {
  Run one(wav(data("jfk.wav")) + "whisperxdna2enc");
  one.assert_plays();
  const double before = resident_mb();
  Run two(wav(data("jfk.wav")) + "whisperxdna2enc");
  two.assert_plays();
  fail_unless(resident_mb() - before < 60, "the second instance took %.0f MB", resident_mb() - before);
}
GST_END_TEST;

GST_START_TEST(test_instances_at_once) {
  Run one(wav(data("jfk.wav")) + "whisperxdna2enc"), two(wav(data("jfk.wav")) + "whisperxdna2enc");
  std::thread other([&] { two.assert_plays(); });
  one.assert_plays();
  other.join();
  assert_text(one, kJfk);
  assert_text(two, kJfk);
}
GST_END_TEST;

// Four threads that start and stop elements hold one model between them, whoever comes and goes.
GST_START_TEST(test_model_is_shared_under_concurrent_start_and_stop) {
  mallopt(M_ARENA_MAX, 1);  // else what one thread has given up and others cannot use counts as well, up to 150 MB
  Run held(wav(data("jfk.wav")) + "whisperxdna2enc");
  held.assert_plays();
  const double before = resident_mb();
  std::atomic<double> peak{0};
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      std::mt19937 random(t);
      for (int i = 0; i < 6; ++i) {
        Run run(wav(data("jfk.wav")) + "whisperxdna2enc");
        run.state(GST_STATE_PLAYING);
        g_usleep(random() % 500000);
        if (i % 2) run.state(GST_STATE_READY);
      }
    });
  }
  std::thread watcher([&] {
    for (; !done; g_usleep(5000)) peak = std::max<double>(peak, resident_mb());
  });
  for (std::thread& thread : threads) thread.join();
  done = true;
  watcher.join();
  // A model of its own would be 145 MB and more for each of the four.
  fail_unless(peak - before < 4 * 45, "four more instances took %.0f MB", peak - before);
  Run last(wav(data("jfk.wav")) + "whisperxdna2enc");
  last.assert_plays();
  assert_text(last, kJfk);
}
GST_END_TEST;

// What an application keeps of a pipeline that is gone lets the next one start at once.
GST_START_TEST(test_kept_context_keeps_the_model) {
  GstContext* context = nullptr;
  {
    Run run(wav(data("jfk.wav")) + "whisperxdna2enc name=enc");
    run.assert_plays();
    GstElement* enc = gst_bin_get_by_name(GST_BIN(run.pipeline()), "enc");
    context = gst_element_get_context(enc, "gst.whisperxdna2.device");
    gst_object_unref(enc);
  }
  fail_unless(context != nullptr);
  const double before = resident_mb();
  Run run(wav(data("jfk.wav")) + "whisperxdna2enc");
  gst_element_set_context(run.pipeline(), context);
  run.assert_plays();
  assert_text(run, kJfk);
  fail_unless(resident_mb() - before < 60, "the model was loaded again: %.0f MB", resident_mb() - before);
  gst_context_unref(context);
}
GST_END_TEST;

static void setup() {
  if (!std::filesystem::exists(whisperxdna2::default_model_path()))
    fail("there is no model in %s: run tools/fetch-model base", whisperxdna2::default_model_path().c_str());
  directory = make_directory();
}

static void teardown() { std::filesystem::remove_all(directory); }

static Suite* recognition_suite(void) {
  Suite* suite = suite_create("recognition");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, teardown);
  tcase_set_timeout(tc, 120 * slowness());

  tcase_add_test(tc, test_jfk_every_word_once);
  tcase_add_test(tc, test_jfk_word_by_word);
  tcase_add_test(tc, test_jfk_by_windows_of_30_s);
  tcase_add_test(tc, test_eight_channels_at_96_khz);
  tcase_add_test(tc, test_features_of_the_base_model);
  tcase_add_loop_test(tc, test_japanese_and_chinese, 0, G_N_ELEMENTS(kSpoken));
  tcase_add_test(tc, test_translation_is_english);
  tcase_add_test(tc, test_empty_file);
  tcase_add_loop_test(tc, test_next_to_nothing_is_no_text_and_no_error, 0, G_N_ELEMENTS(kFewSamples));
  tcase_add_loop_test(tc, test_what_is_no_speech_is_no_text_and_costs_nothing, 0, G_N_ELEMENTS(kNoSpeech));
  tcase_add_test(tc, test_samples_that_are_no_numbers_are_silence);
  tcase_add_test(tc, test_missing_model);
  tcase_add_test(tc, test_truncated_model);
  tcase_add_test(tc, test_model_that_is_text);
  tcase_add_test(tc, test_empty_model_directory);
  tcase_add_test(tc, test_model_removed_while_running);
  tcase_add_test(tc, test_stopping_at_any_moment);
  tcase_add_test(tc, test_flushing_seek_while_recognizing_and_after_the_end);
  tcase_add_test(tc, test_live_text_comes_while_it_is_said);
  tcase_add_test(tc, test_instances_share_the_model);
  tcase_add_test(tc, test_instances_at_once);
  tcase_add_test(tc, test_model_is_shared_under_concurrent_start_and_stop);
  tcase_add_test(tc, test_kept_context_keeps_the_model);
  return suite;
}

GST_CHECK_MAIN(recognition);
