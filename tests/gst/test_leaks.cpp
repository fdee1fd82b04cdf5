// GStreamer's leaks tracer finds nothing that outlives the element. Driven by the scripted engine.
#include "gst/gstwhisperxdna2enc.h"
#include "tests/gst/bench.h"
#include "tests/gst/fake_engine.h"

// Objects of the kinds that the element makes and that are alive now, as the tracer names them.
static std::string alive() {
  std::string names;
  GList* tracers = gst_tracing_get_active_tracers();
  for (GList* l = tracers; l; l = l->next) {
    if (std::string(G_OBJECT_TYPE_NAME(l->data)) != "GstLeaksTracer") continue;
    GstStructure* info;
    g_signal_emit_by_name(l->data, "get-live-objects", &info);
    const GValue* list = gst_structure_get_value(info, "live-objects-list");
    for (guint i = 0; list && i < gst_value_list_get_size(list); ++i) {
      const GstStructure* object = gst_value_get_structure(gst_value_list_get_value(list, i));
      names += std::string(g_type_name(gst_structure_get_field_type(object, "object"))) + " ";
    }
    gst_structure_free(info);
  }
  g_list_free_full(tracers, gst_object_unref);
  return names;
}

// The pad is left alone after the look: GStreamer 1.22's tracer drops a reference that it does not hold.
GST_START_TEST(test_tracer_sees_leaks) {
  gst_pad_new("leak", GST_PAD_SRC);
  assert_string(alive(), "GstPad ");
}
GST_END_TEST;

static void (*const kLives[])(void) = {
    [] {  // a stream from start to end
      Bench bench("audio-context=128");
      bench.start();
      bench.event(gst_event_new_tag(gst_tag_list_new(GST_TAG_TITLE, "title", nullptr)));
      bench.say("w1:0.5 3.0 w2:0.5");
      bench.eos();
      ck_assert(bench.wait("eos"));
    },
    [] {  // features
      Bench bench("audio-context=128", "other/tensors");
      bench.start();
      bench.say("3.0");
      bench.eos();
      ck_assert(bench.wait("eos"));
    },
    [] {  // stopped with jobs in the queue
      fake.never_answers = true;
      Bench bench("audio-context=128");
      bench.start();
      bench.say("w1:3.0");
      bench.event(gst_event_new_tag(gst_tag_list_new(GST_TAG_TITLE, "title", nullptr)));
      bench.event(gst_event_new_custom(GST_EVENT_CUSTOM_DOWNSTREAM, gst_structure_new_empty("test/mark")));
      bench.eos();
    },
    [] {  // flushed with jobs in the queue
      fake.never_answers = true;
      Bench bench("audio-context=128");
      bench.start();
      bench.say("w1:3.0");
      bench.event(gst_event_new_custom(GST_EVENT_CUSTOM_DOWNSTREAM, gst_structure_new_empty("test/mark")));
      bench.eos();
      bench.flush();
    },
    [] {  // a failed encoder
      fake.fail_at_window = 0;
      Bench bench("audio-context=128");
      bench.start();
      bench.say("w1:3.0");
      bench.eos();
      ck_assert(bench.wait("eos"));
    },
    [] {  // a failed load
      fake.load_fails = true;
      Bench bench("audio-context=128");
      bench.start();
      bench.say("w1:3.0");
    },
    [] {  // refused input
      Bench bench("audio-context=128");
      bench.start();
      GstSegment segment;
      gst_segment_init(&segment, GST_FORMAT_BYTES);
      bench.send(gst_event_new_segment(&segment));
      bench.set_time(GST_CLOCK_TIME_NONE);
      bench.say("w1:1.0");
    },
};
GST_START_TEST(test_nothing_outlives_the_element) {
  kLives[__i__]();
  assert_string(alive(), "");
  ck_assert_int_eq(fake.alive, 0);
}
GST_END_TEST;

static void setup() { fake.reset(); }

static Suite* leaks_suite(void) {
  Suite* suite = suite_create("leaks");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_checked_fixture(tc, setup, nullptr);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);
  tcase_add_test(tc, test_tracer_sees_leaks);
  tcase_add_loop_test(tc, test_nothing_outlives_the_element, 0, G_N_ELEMENTS(kLives));
  return suite;
}

int main(int argc, char** argv) {
  g_setenv("GST_TRACERS", "leaks(filters=\"GstBuffer,GstEvent,GstMessage,GstQuery,GstContext,GstPad,GstElement\")",
           TRUE);
  gst_check_init(&argc, &argv);
  return gst_check_run_suite(leaks_suite(), "leaks", __FILE__);
}
