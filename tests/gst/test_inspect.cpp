// The element as gst-inspect-1.0 shows it, against tests/data/gst/whisperxdna2enc.txt: a change there is to be read like
// any other text for people. WHISPERXDNA2_UPDATE=1 writes the file anew.
#include <fstream>
#include <sstream>
#include <string>

#include "gst/gstwhisperxdna2enc.h"

// After the standard headers: Check's macro `fail` must not meet them.
#include <gst/check/gstcheck.h>

static std::string described(GParamSpec* spec) {
  std::ostringstream out;
  out << spec->name << ": " << g_param_spec_get_blurb(spec) << "\n    " << g_type_name(spec->value_type);
  if (spec->flags & G_PARAM_WRITABLE) {
    GValue value = G_VALUE_INIT;
    g_value_init(&value, spec->value_type);
    g_param_value_set_default(spec, &value);
    gchar* text = gst_value_serialize(&value);
    out << ", default " << (text ? text : "NULL") << ", changeable in "
        << (spec->flags & GST_PARAM_MUTABLE_PLAYING ? "PLAYING" : "READY") << "\n";
    g_free(text);
    g_value_unset(&value);
  } else {
    out << ", read-only\n";
  }
  if (G_IS_PARAM_SPEC_UINT(spec) && spec->flags & G_PARAM_WRITABLE) {
    const auto* range = G_PARAM_SPEC_UINT(spec);
    out << "    " << range->minimum << " to " << range->maximum << "\n";
  }
  if (G_IS_PARAM_SPEC_ENUM(spec)) {
    const GEnumClass* values = G_PARAM_SPEC_ENUM(spec)->enum_class;
    for (guint i = 0; i < values->n_values; ++i)
      out << "    " << values->values[i].value_nick << ": " << values->values[i].value_name << "\n";
  }
  return out.str();
}

static std::string description() {
  std::ostringstream out;
  GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
  GstElementClass* klass = GST_ELEMENT_GET_CLASS(element);
  for (const char* key : {GST_ELEMENT_METADATA_LONGNAME, GST_ELEMENT_METADATA_KLASS, GST_ELEMENT_METADATA_DESCRIPTION})
    out << key << ": " << gst_element_class_get_metadata(klass, key) << "\n";
  for (const char* name : {"sink", "src"}) {
    GstCaps* caps = gst_pad_template_get_caps(gst_element_class_get_pad_template(klass, name));
    out << "\n" << name << "\n";
    for (guint i = 0; i < gst_caps_get_size(caps); ++i) {
      gchar* text = gst_structure_to_string(gst_caps_get_structure(caps, i));
      out << "    " << text << "\n";
      g_free(text);
    }
    gst_caps_unref(caps);
  }
  out << "\n";
  guint n;
  GParamSpec** specs = g_object_class_list_properties(G_OBJECT_GET_CLASS(element), &n);
  for (guint i = 0; i < n; ++i) {
    if (specs[i]->owner_type == G_OBJECT_TYPE(element)) out << described(specs[i]);
  }
  g_free(specs);
  gst_object_unref(element);
  return out.str();
}

GST_START_TEST(test_description) {
  const std::string path = std::string(g_getenv("WHISPERXDNA2_TEST_DATA")) + "/gst/whisperxdna2enc.txt";
  if (g_getenv("WHISPERXDNA2_UPDATE")) std::ofstream(path) << description();
  std::stringstream expected;
  expected << std::ifstream(path).rdbuf();
  fail_unless(description() == expected.str(), "it is now:\n%s", description().c_str());
}
GST_END_TEST;

GST_START_TEST(test_rank_keeps_autopluggers_away) {
  GstElementFactory* factory = gst_element_factory_find("whisperxdna2enc");
  ck_assert_int_eq(gst_plugin_feature_get_rank(GST_PLUGIN_FEATURE(factory)), GST_RANK_NONE);
  gst_object_unref(factory);
}
GST_END_TEST;

static Suite* inspect_suite(void) {
  Suite* suite = suite_create("inspect");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  GST_ELEMENT_REGISTER(whisperxdna2enc, nullptr);
  tcase_add_test(tc, test_description);
  tcase_add_test(tc, test_rank_keeps_autopluggers_away);
  return suite;
}

GST_CHECK_MAIN(inspect);
