#include <dirent.h>

#include <chrono>
#include <cmath>

#include "tests/gst/bench.h"

using Lock = std::unique_lock<std::mutex>;

std::vector<float> signal(const std::string& script) {
  std::vector<float> samples;
  std::istringstream in(script);
  for (std::string part; in >> part;) {
    const size_t colon = part.find(':');
    const float value = colon == std::string::npos ? 0 : std::stoi(part.substr(1)) / 100.0f;
    const double seconds = std::stod(colon == std::string::npos ? part : part.substr(colon + 1));
    samples.insert(samples.end(), std::lround(seconds * Bench::kRate), value);
  }
  return samples;
}

void eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 500 * slowness() && !condition(); ++i) g_usleep(10000);
  fail_unless(condition());
}

static std::string seconds(GstClockTime time) {
  if (!GST_CLOCK_TIME_IS_VALID(time)) return "none";
  char text[32];
  g_snprintf(text, sizeof text, "%.3f", static_cast<double>(time) / GST_SECOND);
  return text;
}

static GstStaticPadTemplate any_src = GST_STATIC_PAD_TEMPLATE("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS_ANY);

Bench::Bench(const std::string& properties, const char* sink_caps)
    : sink_template_{"sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS(sink_caps)} {
  harness_ = gst_harness_new_empty();
  GstElement* element = gst_parse_launch(("whisperxdna2enc " + properties).c_str(), nullptr);
  bus_ = gst_bus_new();
  gst_element_set_bus(element, bus_);
  srcpad_ = gst_element_get_static_pad(element, "src");
  checker_ = gst_consistency_checker_new(srcpad_);
  gst_pad_add_probe(srcpad_,
                    static_cast<GstPadProbeType>(GST_PAD_PROBE_TYPE_BUFFER | GST_PAD_PROBE_TYPE_EVENT_DOWNSTREAM |
                                                 GST_PAD_PROBE_TYPE_EVENT_FLUSH),
                    record, this, nullptr);
  gst_harness_add_element_full(harness_, element, &any_src, "sink", &sink_template_, "src");
  gst_object_unref(element);
}

Bench::~Bench() {
  // Before the pad behind it goes: an EOS that is refused there is pushed twice, which the checker does not like.
  gst_element_set_state(element(), GST_STATE_NULL);
  gst_element_set_bus(element(), nullptr);
  GWeakRef alive;
  g_weak_ref_init(&alive, element());
  gst_harness_teardown(harness_);
  gst_consistency_checker_free(checker_);
  gst_object_unref(srcpad_);
  gst_object_unref(bus_);  // with the messages in it, which refer to the element
  // A canceled load may keep the element a little longer.
  for (gpointer object; (object = g_weak_ref_get(&alive)); g_usleep(1000)) gst_object_unref(object);
  g_weak_ref_clear(&alive);
  gst_static_caps_cleanup(&sink_template_.static_caps);
}

void Bench::start(const char* format) {
  format_ = format;
  const std::string caps = "audio/x-raw,format=" + format_ + (G_BYTE_ORDER == G_LITTLE_ENDIAN ? "LE" : "BE") +
                           ",rate=16000,channels=1,layout=interleaved";
  gst_harness_set_src_caps_str(harness_, caps.c_str());
}

GstFlowReturn Bench::say(const std::string& script) { return push(signal(script)); }

GstFlowReturn Bench::push(const std::vector<float>& samples, guint flags) {
  constexpr size_t kChunk = kRate / 10;
  for (size_t at = 0; at < samples.size(); at += kChunk) {
    const size_t count = std::min(kChunk, samples.size() - at);
    GstBuffer* buffer;
    if (format_ == "S16") {
      std::vector<gint16> s16(count);
      for (size_t i = 0; i < count; ++i) s16[i] = static_cast<gint16>(std::lround(samples[at + i] * 32768));
      buffer = gst_buffer_new_memdup(s16.data(), count * sizeof(gint16));
    } else {
      buffer = gst_buffer_new_memdup(samples.data() + at, count * sizeof(float));
    }
    GST_BUFFER_FLAG_SET(buffer, flags);
    flags &= ~GST_BUFFER_FLAG_DISCONT;
    const GstClockTime duration = gst_util_uint64_scale_int(count, GST_SECOND, kRate);
    GST_BUFFER_PTS(buffer) = time_;
    GST_BUFFER_DURATION(buffer) = duration;
    if (GST_CLOCK_TIME_IS_VALID(time_)) time_ += duration;
    const GstFlowReturn flow = gst_harness_push(harness_, buffer);
    if (flow != GST_FLOW_OK) return flow;
  }
  return GST_FLOW_OK;
}

void Bench::flush(bool reset_time) {
  event(gst_event_new_flush_start());
  event(gst_event_new_flush_stop(reset_time));
}

GstSegment Bench::time_segment(GstClockTime start) {
  GstSegment segment;
  gst_segment_init(&segment, GST_FORMAT_TIME);
  segment.start = segment.time = segment.position = start;
  return segment;
}

void Bench::segment(const GstSegment& segment) { fail_unless(event(gst_event_new_segment(&segment))); }

GstPadProbeReturn Bench::record(GstPad*, GstPadProbeInfo* info, gpointer data) {
  auto* self = static_cast<Bench*>(data);
  std::string entry;
  if (info->type & GST_PAD_PROBE_TYPE_BUFFER) {
    GstBuffer* buffer = GST_PAD_PROBE_INFO_BUFFER(info);
    GstMapInfo map;
    gst_buffer_map(buffer, &map, GST_MAP_READ);
    GstCaps* caps = gst_pad_get_current_caps(self->srcpad_);
    const bool text = gst_structure_has_name(gst_caps_get_structure(caps, 0), "text/x-raw");
    gst_caps_unref(caps);
    if (GST_BUFFER_IS_DISCONT(buffer)) entry = "!";
    entry += text ? std::string(reinterpret_cast<char*>(map.data), map.size)
                  : "features" + std::to_string(map.size);
    gst_buffer_unmap(buffer, &map);
    entry += "[" + seconds(GST_BUFFER_PTS(buffer)) + "+" + seconds(GST_BUFFER_DURATION(buffer)) + "]";
  } else {
    GstEvent* event = GST_PAD_PROBE_INFO_EVENT(info);
    entry = GST_EVENT_TYPE_NAME(event);
    if (GST_EVENT_TYPE(event) == GST_EVENT_GAP) {
      GstClockTime start, duration;
      gst_event_parse_gap(event, &start, &duration);
      entry += "[" + seconds(start) + "+" + seconds(duration) + "]";
    } else if (GST_EVENT_TYPE(event) == GST_EVENT_CUSTOM_DOWNSTREAM) {
      entry = gst_structure_get_name(gst_event_get_structure(event));
      entry = entry.substr(entry.find('/') + 1);
    }
  }
  Lock lock(self->mutex_);
  self->log_.push_back(entry);
  self->changed_.notify_all();
  return GST_PAD_PROBE_OK;
}

std::string Bench::log() {
  Lock lock(mutex_);
  std::string all;
  for (const std::string& entry : log_) all += (all.empty() ? "" : " ") + entry;
  return all;
}

std::string Bench::text() {
  Lock lock(mutex_);
  std::string all;
  for (const std::string& entry : log_) {
    if (entry == "stream-start" || entry == "caps" || entry == "segment" || entry == "tag") continue;
    all += (all.empty() ? "" : " ") + entry;
  }
  return all;
}

void Bench::clear_log() {
  Lock lock(mutex_);
  log_.clear();
}

bool Bench::send(GstEvent* event) {
  GstPad* pad = gst_element_get_static_pad(element(), "sink");
  const bool taken = gst_pad_send_event(pad, event);
  gst_object_unref(pad);
  return taken;
}

bool Bench::wait(const std::string& prefix, int times) {
  Lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(5 * slowness()), [&] {
    int found = 0;
    for (const std::string& entry : log_) found += entry.compare(0, prefix.size(), prefix) == 0;
    return found >= times;
  });
}

GstMessage* Bench::message(GstMessageType type, const char* name) {
  const gint64 end = g_get_monotonic_time() + 5 * slowness() * G_TIME_SPAN_SECOND;
  for (gint64 left; (left = end - g_get_monotonic_time()) > 0;) {
    GstMessage* message = gst_bus_timed_pop_filtered(bus_, left * 1000, type);
    if (!message) break;
    if (!name || gst_structure_has_name(gst_message_get_structure(message), name)) return message;
    gst_message_unref(message);
  }
  return nullptr;
}

void Bench::forget_messages() {
  gst_bus_set_flushing(bus_, TRUE);
  gst_bus_set_flushing(bus_, FALSE);
}

std::string Bench::error(GQuark domain, gint code) {
  GstMessage* message = this->message(GST_MESSAGE_ERROR);
  if (!message) return "";
  GError* error;
  gchar* debug;
  gst_message_parse_error(message, &error, &debug);
  fail_unless(g_error_matches(error, domain, code), "%s %d: %s", g_quark_to_string(error->domain), error->code,
              error->message);
  fail_unless(debug && *debug);
  const std::string text = error->message;
  g_error_free(error);
  g_free(debug);
  gst_message_unref(message);
  return text;
}

static int entries(const char* path) {
  int n = 0;
  DIR* dir = opendir(path);
  while (readdir(dir)) ++n;
  closedir(dir);
  return n;
}
int Bench::open_files() { return entries("/proc/self/fd"); }
int Bench::threads() { return entries("/proc/self/task"); }

void assert_equal(const std::string& is, const std::string& expected, const char* file, int line) {
  if (is != expected) {
    _ck_assert_failed(file, line, "Assertion failed", "is       %s\nexpected %s", is.c_str(), expected.c_str());
  }
}
