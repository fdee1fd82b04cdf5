// Test bench for the element: a GstHarness with the consistency checker on the source pad and a log of everything that
// leaves there.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "tests/gst/slowness.h"

// After the standard headers: Check's macro `fail` must not meet them.
#include <gst/check/gstconsistencychecker.h>
#include <gst/check/gstharness.h>
#include <gst/gst.h>

// Samples as the scripted engine understands them: "1.0" is a second of silence, "w12:0.5" the word w12 for 0.5 s, with
// blanks between.
std::vector<float> signal(const std::string& script);

// Waits up to 5 s, where nothing is slow.
void eventually(const std::function<bool()>& condition);

class Bench {
 public:
  static constexpr int kRate = 16000;

  // properties: as in a launch line. sink_caps: what downstream accepts.
  explicit Bench(const std::string& properties = "", const char* sink_caps = "ANY");
  ~Bench();

  GstHarness* harness() { return harness_; }
  GstElement* element() { return harness_->element; }
  GstPad* srcpad() { return srcpad_; }

  // Caps and, the first time, STREAM_START and SEGMENT.
  void start(const char* format = "F32");

  // Pushes buffers of 100 ms from where the last push ended, until a flow other than OK.
  GstFlowReturn say(const std::string& script);
  GstFlowReturn push(const std::vector<float>& samples, guint flags = 0);
  void set_time(GstClockTime time) { time_ = time; }
  GstClockTime time() const { return time_; }
  bool event(GstEvent* event) { return gst_harness_push_event(harness_, event); }
  // The element's own answer: pushing a sticky event through the harness always succeeds.
  bool send(GstEvent* event);
  bool eos() { return event(gst_event_new_eos()); }
  void flush(bool reset_time = true);
  void segment(const GstSegment& segment);
  static GstSegment time_segment(GstClockTime start = 0);

  // What has left, in order, as words with blanks between: "stream-start", "caps", "segment", "tag",
  // "gap[0.000+1.000]", "w12 w13[1.000+0.500]" (! = DISCONT), "final-transcript", "eos", "flush-start", ...
  std::string log();
  // The same without what comes before the first gap or text, without tags.
  std::string text();
  void clear_log();
  // Waits for an entry that begins with `prefix`; false after 5 s (see slowness()).
  bool wait(const std::string& prefix, int times = 1);

  // Bus messages until one of `type` (with the given structure name, if any); nullptr after 5 s.
  GstMessage* message(GstMessageType type, const char* name = nullptr);
  // Messages can keep what the element has given up.
  void forget_messages();
  // Text of the next ERROR, "" if none came within 5 s.
  std::string error(GQuark domain, gint code);

  static int open_files();
  static int threads();

 private:
  static GstPadProbeReturn record(GstPad* pad, GstPadProbeInfo* info, gpointer self);

  GstStaticPadTemplate sink_template_;
  GstHarness* harness_;
  GstPad* srcpad_;
  GstBus* bus_;
  GstStreamConsistency* checker_;
  std::string format_ = "F32";
  GstClockTime time_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> log_;
};

// Check's ck_assert_str_eq() keeps no temporary alive.
void assert_equal(const std::string& is, const std::string& expected, const char* file, int line);
#define assert_string(is, expected) assert_equal(is, expected, __FILE__, __LINE__)
