// Events and queries that pass the element or are answered by it, downstream and upstream. Driven by the scripted
// engine.
#include <gst/audio/audio.h>

#include "gst/gstwhisperxdna2enc.h"
#include "tests/gst/bench.h"
#include "tests/gst/fake_engine.h"

static const char kShort[] = "audio-context=128";

#define assert_text(bench, expected) assert_string((bench).text(), expected)

// What leaves by the sink pad, of this type.
static std::vector<GstEvent*> upstream_events(Bench& bench, GstEventType type) {
  std::vector<GstEvent*> events;
  while (GstEvent* event = gst_harness_try_pull_upstream_event(bench.harness())) {
    if (GST_EVENT_TYPE(event) == type) events.push_back(event);
    else gst_event_unref(event);
  }
  return events;
}

static const GstEventType kUpstream[] = {GST_EVENT_QOS, GST_EVENT_SEEK, GST_EVENT_NAVIGATION};
GST_START_TEST(test_upstream_event_passes_unchanged) {
  Bench bench(kShort);
  bench.start();
  GstEvent* event = nullptr;
  switch (kUpstream[__i__]) {
    case GST_EVENT_QOS: event = gst_event_new_qos(GST_QOS_TYPE_UNDERFLOW, 0.7, -GST_SECOND, 5 * GST_SECOND); break;
    case GST_EVENT_SEEK:
      event = gst_event_new_seek(2.0, GST_FORMAT_TIME, GST_SEEK_FLAG_ACCURATE, GST_SEEK_TYPE_SET, GST_SECOND,
                                 GST_SEEK_TYPE_SET, 3 * GST_SECOND);
      break;
    default: event = gst_event_new_navigation(gst_structure_new_empty("application/test")); break;
  }
  const guint32 seqnum = gst_event_get_seqnum(event);
  const GstStructure* sent = gst_event_get_structure(event);
  GstStructure* structure = sent ? gst_structure_copy(sent) : nullptr;
  gst_harness_push_upstream_event(bench.harness(), event);
  const std::vector<GstEvent*> events = upstream_events(bench, kUpstream[__i__]);
  ck_assert_uint_eq(events.size(), 1);
  ck_assert_uint_eq(gst_event_get_seqnum(events[0]), seqnum);
  if (structure) fail_unless(gst_structure_is_equal(gst_event_get_structure(events[0]), structure));
  gst_clear_structure(&structure);
  gst_event_unref(events[0]);
}
GST_END_TEST;

// As the transcribers of gst-plugins-rs: whoever collects text upstream of them reads these.
GST_START_TEST(test_each_text_is_a_new_item_for_upstream) {
  Bench bench("audio-context=128 output-unit=word");
  bench.start();
  GstSegment segment = Bench::time_segment(GST_SECOND);
  segment.base = 100 * GST_SECOND;
  bench.segment(segment);
  bench.set_time(GST_SECOND);
  bench.say("w1:0.5 0.5 w2:0.25");
  bench.eos();
  ck_assert(bench.wait("eos"));
  std::string items;
  for (GstEvent* event : upstream_events(bench, GST_EVENT_CUSTOM_UPSTREAM)) {
    const GstStructure* s = gst_event_get_structure(event);
    if (gst_structure_has_name(s, "rstranscribe/new-item")) {
      guint64 running_time, duration;
      ck_assert(gst_structure_has_field_typed(s, "speaker", G_TYPE_STRING));
      ck_assert(gst_structure_get(s, "running-time", G_TYPE_UINT64, &running_time, "duration", G_TYPE_UINT64, &duration,
                                  nullptr));
      items += std::string(gst_structure_get_string(s, "content")) + " " + std::to_string(running_time / GST_MSECOND) +
               "+" + std::to_string(duration / GST_MSECOND) + " ";
    }
    gst_event_unref(event);
  }
  assert_string(items, "w1 100000+500 w2 101000+250 ");
}
GST_END_TEST;

// A pause of a second ends an utterance, a shorter one does not, a sentence's mark does.
GST_START_TEST(test_final_transcript_after_a_pause) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:0.5 0.9 w2:0.5 1.1 w3:0.5");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench,
              "!w1[0.000+0.500] gap[0.500+0.900] w2[1.400+0.500] gap[1.900+0.660] final-transcript gap[2.560+0.440] "
              "w3[3.000+0.500] final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_equal_caps_again_change_nothing) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  bench.start();
  bench.say("w1:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_string(bench.log(), "stream-start caps segment tag !w1[0.000+2.000] segment final-transcript eos");
}
GST_END_TEST;

GST_START_TEST(test_stream_start_again_ends_the_text_before) {
  Bench bench(kShort);
  bench.start();
  bench.say("w1:1.0");
  bench.event(gst_event_new_stream_start("another"));
  bench.start("S16");
  bench.segment(Bench::time_segment());
  bench.set_time(0);
  bench.say("w2:1.0");
  bench.eos();
  ck_assert(bench.wait("eos"));
  assert_text(bench, "!w1[0.000+1.000] final-transcript !w2[0.000+1.000] final-transcript eos");
}
GST_END_TEST;

// Metas that upstream could attach would be lost: nobody is asked for them, and downstream's allocator is for text.
GST_START_TEST(test_allocation_is_not_passed_on) {
  Bench bench(kShort);
  gst_harness_add_propose_allocation_meta(bench.harness(), GST_AUDIO_CLIPPING_META_API_TYPE, nullptr);
  bench.start();
  GstPad* pad = gst_element_get_static_pad(bench.element(), "sink");
  GstCaps* caps = gst_pad_get_current_caps(pad);
  GstQuery* query = gst_query_new_allocation(caps, TRUE);
  gst_pad_peer_query(bench.harness()->srcpad, query);
  ck_assert_uint_eq(gst_query_get_n_allocation_metas(query), 0);
  gst_query_unref(query);
  gst_caps_unref(caps);
  gst_object_unref(pad);
}
GST_END_TEST;

GST_START_TEST(test_position_and_duration_are_asked_upstream) {
  Bench bench(kShort);
  gst_pad_set_query_function(bench.harness()->srcpad, [](GstPad* pad, GstObject* parent, GstQuery* query) -> gboolean {
    if (GST_QUERY_TYPE(query) != GST_QUERY_DURATION) return gst_pad_query_default(pad, parent, query);
    gst_query_set_duration(query, GST_FORMAT_TIME, 7 * GST_SECOND);
    return TRUE;
  });
  gint64 duration;
  ck_assert(gst_pad_query_duration(bench.srcpad(), GST_FORMAT_TIME, &duration));
  ck_assert_int_eq(duration, 7 * GST_SECOND);
}
GST_END_TEST;

// --- Seeks in a pipeline ---------------------------------------------------------------------------------------------

struct Seek {
  double rate;
  GstSeekFlags flags;
  GstMessageType ends_with;
};
static const Seek kSeeks[] = {
    {1.0, GST_SEEK_FLAG_FLUSH, GST_MESSAGE_EOS},
    {2.0, GST_SEEK_FLAG_FLUSH, GST_MESSAGE_EOS},
    {0.5, static_cast<GstSeekFlags>(GST_SEEK_FLAG_FLUSH | GST_SEEK_FLAG_SEGMENT), GST_MESSAGE_SEGMENT_DONE},
    {1.0, static_cast<GstSeekFlags>(GST_SEEK_FLAG_FLUSH | GST_SEEK_FLAG_SEGMENT), GST_MESSAGE_SEGMENT_DONE},
    {-1.0, GST_SEEK_FLAG_FLUSH, GST_MESSAGE_EOS},
};
GST_START_TEST(test_seek_plays_its_range_to_the_end) {
  const Seek& seek = kSeeks[__i__];
  GstElement* pipeline = gst_parse_launch(
      "audiotestsrc samplesperbuffer=1600 wave=silence ! "
      "audio/x-raw,format=F32LE,rate=16000,channels=1 ! whisperxdna2enc name=enc audio-context=64 ! fakesink "
      "sync=false",
      nullptr);
  GstElement* enc = gst_bin_get_by_name(GST_BIN(pipeline), "enc");
  GstPad* src = gst_element_get_static_pad(enc, "src");
  GstStreamConsistency* checker = gst_consistency_checker_new(src);
  GstBus* bus = gst_element_get_bus(pipeline);
  gst_element_set_state(pipeline, GST_STATE_PAUSED);
  ck_assert_int_eq(gst_element_get_state(pipeline, nullptr, nullptr, 5 * slowness() * GST_SECOND),
                   GST_STATE_CHANGE_SUCCESS);
  ck_assert(gst_element_seek(pipeline, seek.rate, GST_FORMAT_TIME, seek.flags, GST_SEEK_TYPE_SET, 2 * GST_SECOND,
                             GST_SEEK_TYPE_SET, 6 * GST_SECOND));
  gst_element_set_state(pipeline, GST_STATE_PLAYING);
  GstMessage* message = gst_bus_timed_pop_filtered(
      bus, 10 * slowness() * GST_SECOND,
      static_cast<GstMessageType>(GST_MESSAGE_EOS | GST_MESSAGE_SEGMENT_DONE | GST_MESSAGE_ERROR));
  fail_unless(message != nullptr);
  ck_assert_int_eq(GST_MESSAGE_TYPE(message), seek.ends_with);
  gst_message_unref(message);
  GstEvent* event = gst_pad_get_sticky_event(src, GST_EVENT_SEGMENT, 0);
  const GstSegment* segment;
  gst_event_parse_segment(event, &segment);
  fail_unless(segment->rate == seek.rate);
  ck_assert_uint_eq(segment->start, 2 * GST_SECOND);
  ck_assert_uint_eq(segment->stop, 6 * GST_SECOND);
  gst_event_unref(event);
  GstStructure* stats;
  guint64 dropped;
  g_object_get(enc, "stats", &stats, nullptr);
  ck_assert(gst_structure_get_uint64(stats, "dropped", &dropped));
  // Speech is not understood backwards, and the element says so.
  fail_unless((dropped > 0) == (seek.rate < 0));
  gst_structure_free(stats);
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_consistency_checker_free(checker);
  gst_object_unref(bus);
  gst_object_unref(src);
  gst_object_unref(enc);
  gst_object_unref(pipeline);
}
GST_END_TEST;

static void setup() { fake.reset(); }

static Suite* events_suite(void) {
  Suite* suite = suite_create("events");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, nullptr);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);

  tcase_add_loop_test(tc, test_upstream_event_passes_unchanged, 0, G_N_ELEMENTS(kUpstream));
  tcase_add_test(tc, test_each_text_is_a_new_item_for_upstream);
  tcase_add_test(tc, test_final_transcript_after_a_pause);
  tcase_add_test(tc, test_equal_caps_again_change_nothing);
  tcase_add_test(tc, test_stream_start_again_ends_the_text_before);
  tcase_add_test(tc, test_allocation_is_not_passed_on);
  tcase_add_test(tc, test_position_and_duration_are_asked_upstream);
  tcase_add_loop_test(tc, test_seek_plays_its_range_to_the_end, 0, G_N_ELEMENTS(kSeeks));
  return suite;
}

GST_CHECK_MAIN(events);
