// What other people's elements make of our text. Driven by the scripted engine.
#include "gst/gstwhisperxdna2enc.h"
#include "tests/gst/files.h"
#include "tests/gst/bench.h"
#include "tests/gst/fake_engine.h"

static std::string directory;

static std::string file(const char* name) { return directory + "/" + name; }

// Runs a pipeline to its end. "SPEECH" stands for the test signal, recognized.
static void run(const std::string& description) {
  std::string launch = description;
  const std::string speech = "filesrc location=" + file("speech.wav") +
                             " ! wavparse ! audioconvert ! audioresample ! " + "whisperxdna2enc audio-context=128";
  launch.replace(launch.find("SPEECH"), 6, speech);
  GError* error = nullptr;
  GstElement* pipeline = gst_parse_launch(launch.c_str(), &error);
  fail_unless(!error, "%s", error ? error->message : "");
  GstBus* bus = gst_element_get_bus(pipeline);
  gst_element_set_state(pipeline, GST_STATE_PLAYING);
  GstMessage* message = gst_bus_timed_pop_filtered(bus, 15 * slowness() * GST_SECOND,
                                                   static_cast<GstMessageType>(GST_MESSAGE_EOS | GST_MESSAGE_ERROR));
  fail_unless(message && GST_MESSAGE_TYPE(message) == GST_MESSAGE_EOS);
  gst_message_unref(message);
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(bus);
  gst_object_unref(pipeline);
}

GST_START_TEST(test_webvtt) {
  run("SPEECH ! webvttenc ! filesink location=" + file("out.vtt"));
  assert_string(contents(file("out.vtt")),
                "WEBVTT\n\n"
                "00:00:01.000 --> 00:00:01.750\nw1 w2\n\n"
                "00:00:03.750 --> 00:00:04.250\nw3\n\n");
}
GST_END_TEST;

GST_START_TEST(test_srt) {
  run("SPEECH ! srtenc ! filesink location=" + file("out.srt"));
  assert_string(contents(file("out.srt")),
                "1\n00:00:01,000 --> 00:00:01,750\nw1 w2\n\n"
                "2\n00:00:03,750 --> 00:00:04,250\nw3\n\n");
}
GST_END_TEST;

GST_START_TEST(test_srt_one_cue_per_word) {
  run("SPEECH output-unit=word ! srtenc ! filesink location=" + file("out.srt"));
  assert_string(contents(file("out.srt")),
                "1\n00:00:01,000 --> 00:00:01,500\nw1\n\n"
                "2\n00:00:01,500 --> 00:00:01,750\nw2\n\n"
                "3\n00:00:03,750 --> 00:00:04,250\nw3\n\n");
}
GST_END_TEST;

// Without GAPs textoverlay lets 5 of 50 frames through.
GST_START_TEST(test_textoverlay_shows_every_frame) {
  run("videotestsrc num-buffers=150 ! video/x-raw,framerate=30/1,width=64,height=48 ! textoverlay name=overlay ! "
      "pngenc ! multifilesink location=" + file("frame%03d.png") + " SPEECH ! overlay.text_sink");
  int frames = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) frames += entry.path().extension() == ".png";
  ck_assert_int_eq(frames, 150);
}
GST_END_TEST;

// Text back out of a container, as "text[start]" in file order.
static std::string demuxed(const char* demuxer, const std::string& path) {
  GstElement* pipeline = gst_parse_launch(("filesrc location=" + path + " ! " + demuxer +
                                           " ! text/x-raw ! fakesink name=sink signal-handoffs=true sync=false")
                                              .c_str(),
                                          nullptr);
  std::string all;
  GstElement* sink = gst_bin_get_by_name(GST_BIN(pipeline), "sink");
  g_signal_connect(sink, "handoff", G_CALLBACK(+[](GstElement*, GstBuffer* buffer, GstPad* pad, gpointer all) {
                     GstMapInfo map;
                     gst_buffer_map(buffer, &map, GST_MAP_READ);
                     const std::string text(reinterpret_cast<char*>(map.data), map.size);
                     gst_buffer_unmap(buffer, &map);
                     if (text.find('w') == std::string::npos) return;  // qtdemux hands out empty samples as well
                     GstEvent* event = gst_pad_get_sticky_event(pad, GST_EVENT_SEGMENT, 0);
                     const GstSegment* segment;
                     gst_event_parse_segment(event, &segment);
                     const guint64 time = gst_segment_to_stream_time(segment, GST_FORMAT_TIME, GST_BUFFER_PTS(buffer));
                     gst_event_unref(event);
                     *static_cast<std::string*>(all) +=
                         text.c_str() + ("[" + std::to_string(time / GST_MSECOND)) + "+" +
                         std::to_string(GST_BUFFER_DURATION(buffer) / GST_MSECOND) + "] ";
                   }),
                   &all);
  GstBus* bus = gst_element_get_bus(pipeline);
  gst_element_set_state(pipeline, GST_STATE_PLAYING);
  GstMessage* message = gst_bus_timed_pop_filtered(bus, 10 * slowness() * GST_SECOND,
                                                   static_cast<GstMessageType>(GST_MESSAGE_EOS | GST_MESSAGE_ERROR));
  fail_unless(message && GST_MESSAGE_TYPE(message) == GST_MESSAGE_EOS);
  gst_message_unref(message);
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(sink);
  gst_object_unref(bus);
  gst_object_unref(pipeline);
  return all;
}

// Containers count time from the start of their first track.
static const char kAudioTrack[] =
    " audiotestsrc num-buffers=50 samplesperbuffer=1600 ! audio/x-raw,rate=16000,channels=1 ! mux.";

GST_START_TEST(test_matroska) {
  run("matroskamux name=mux ! filesink location=" + file("out.mkv") + kAudioTrack + " SPEECH ! mux.");
  assert_string(demuxed("matroskademux", file("out.mkv")), "w1 w2[1000+750] w3[3750+500] ");
}
GST_END_TEST;

GST_START_TEST(test_quicktime) {
  run("qtmux name=mux ! filesink location=" + file("out.mov") + kAudioTrack + " SPEECH ! mux.");
  assert_string(demuxed("qtdemux", file("out.mov")), "w1 w2[1000+750] w3[3750+500] ");
}
GST_END_TEST;

static void setup() {
  fake.reset();
  directory = make_directory();
  write_wav(file("speech.wav"), signal("1.0 w1:0.5 w2:0.25 2.0 w3:0.5 0.5"));
}

static void teardown() {
  std::filesystem::remove_all(directory);
}

static Suite* consumers_suite(void) {
  Suite* suite = suite_create("consumers");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, teardown);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);

  tcase_add_test(tc, test_webvtt);
  tcase_add_test(tc, test_srt);
  tcase_add_test(tc, test_srt_one_cue_per_word);
  tcase_add_test(tc, test_textoverlay_shows_every_frame);
  tcase_add_test(tc, test_matroska);
  tcase_add_test(tc, test_quicktime);
  return suite;
}

GST_CHECK_MAIN(consumers);
