/* The plugin in an application that is written in C and knows nothing but
 * GStreamer. With the real weights of tiny.en. */
#include <gst/check/gstcheck.h>

static gchar *
model_path (void)
{
  const gchar *cache = g_getenv ("XDG_CACHE_HOME");
  gchar *path = cache ? g_build_filename (cache, "whisperxdna2", "models",
      "tiny.en", NULL) : g_build_filename (g_get_home_dir (), ".cache",
      "whisperxdna2", "models", "tiny.en", NULL);
  fail_unless (g_file_test (path, G_FILE_TEST_IS_DIR),
      "there is no model in %s: run tools/fetch-model tiny.en", path);
  return path;
}

static void
append (G_GNUC_UNUSED GstElement * sink, GstBuffer * buffer,
    G_GNUC_UNUSED GstPad * pad, GString * text)
{
  GstMapInfo map;
  gst_buffer_map (buffer, &map, GST_MAP_READ);
  g_string_append_len (text, (const gchar *) map.data, map.size);
  g_string_append_c (text, ' ');
  gst_buffer_unmap (buffer, &map);
}

GST_START_TEST (test_element_between_elements)
{
  gchar *wav = g_build_filename (g_getenv ("WHISPERXDNA2_TEST_DATA"), "audio",
      "jfk.wav", NULL);
  gchar *model = model_path ();
  GstElement *pipeline = gst_pipeline_new (NULL);
  GstElement *src = gst_element_factory_make ("filesrc", NULL);
  GstElement *parse = gst_element_factory_make ("wavparse", NULL);
  GstElement *convert = gst_element_factory_make ("audioconvert", NULL);
  GstElement *enc = gst_element_factory_make ("whisperxdna2enc", NULL);
  GstElement *sink = gst_element_factory_make ("fakesink", NULL);
  GString *text = g_string_new (NULL);

  g_object_set (src, "location", wav, NULL);
  g_object_set (enc, "model-path", model, "language-code", "en", NULL);
  gst_util_set_object_arg (G_OBJECT (enc), "output-unit", "word");
  g_object_set (sink, "signal-handoffs", TRUE, "sync", FALSE, NULL);
  g_signal_connect (sink, "handoff", G_CALLBACK (append), text);
  gst_bin_add_many (GST_BIN (pipeline), src, parse, convert, enc, sink, NULL);
  fail_unless (gst_element_link_many (src, parse, convert, enc, sink, NULL));

  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  GstBus *bus = gst_element_get_bus (pipeline);
  GstMessage *message = gst_bus_timed_pop_filtered (bus, 100 * GST_SECOND,
      GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  fail_unless (message != NULL);
  fail_unless_equals_int (GST_MESSAGE_TYPE (message), GST_MESSAGE_EOS);
  gst_message_unref (message);
  fail_unless (g_str_has_prefix (text->str, "And so my fellow Americans"),
      "%s", text->str);

  gchar *backend;
  GstStructure *stats;
  guint64 windows;
  g_object_get (enc, "active-backend", &backend, "stats", &stats, NULL);
  fail_unless (backend != NULL);
  fail_unless (gst_structure_get_uint64 (stats, "windows", &windows));
  fail_unless_equals_int (windows, 2);
  gst_structure_free (stats);
  g_free (backend);

  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (bus);
  gst_object_unref (pipeline);
  g_string_free (text, TRUE);
  g_free (model);
  g_free (wav);
}

GST_END_TEST;

/* What a settings dialog does. */
GST_START_TEST (test_properties_by_introspection)
{
  GstElement *enc = gst_element_factory_make ("whisperxdna2enc", NULL);
  GObjectClass *klass = G_OBJECT_GET_CLASS (enc);
  guint n;
  GParamSpec **specs = g_object_class_list_properties (klass, &n);
  for (guint i = 0; i < n; i++) {
    if (specs[i]->owner_type != G_OBJECT_TYPE (enc))
      continue;
    GValue value = G_VALUE_INIT;
    g_value_init (&value, specs[i]->value_type);
    g_object_get_property (G_OBJECT (enc), specs[i]->name, &value);
    if (specs[i]->flags & G_PARAM_WRITABLE) {
      fail_unless (g_param_value_defaults (specs[i], &value), "%s",
          specs[i]->name);
      g_object_set_property (G_OBJECT (enc), specs[i]->name, &value);
    }
    g_value_unset (&value);
  }
  g_free (specs);
  gst_object_unref (enc);
}

GST_END_TEST;

static Suite *
embedding_suite (void)
{
  Suite *suite = suite_create ("embedding");
  TCase *tc = tcase_create ("general");
  suite_add_tcase (suite, tc);
  tcase_add_test (tc, test_element_between_elements);
  tcase_add_test (tc, test_properties_by_introspection);
  return suite;
}

GST_CHECK_MAIN (embedding);
