// The plugin as people and tools see it who have no model and no NPU: its description, its documentation, its states.
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>

#include "tests/gst/files.h"

// After the standard headers: Check's macro `fail` must not meet them.
#include <gst/check/gstcheck.h>

static std::string source_file(const char* name) {
  return contents(std::string(g_getenv("WHISPERXDNA2_SOURCE")) + "/" + name);
}

static GstElement* make_element() {
  GstElement* element = gst_element_factory_make("whisperxdna2enc", nullptr);
  fail_unless(element != nullptr);
  return element;
}

// --- Description -----------------------------------------------------------------------------------------------------

static std::string default_of(GParamSpec* spec) {
  GValue value = G_VALUE_INIT;
  g_value_init(&value, spec->value_type);
  g_param_value_set_default(spec, &value);
  gchar* text =
      G_VALUE_HOLDS_FLOAT(&value) ? g_strdup_printf("%g", g_value_get_float(&value)) : gst_value_serialize(&value);
  const std::string found = text ? text : "NULL";
  g_free(text);
  g_value_unset(&value);
  return found;
}

static std::string described(GParamSpec* spec) {
  std::ostringstream out;
  out << spec->name << ": " << g_param_spec_get_blurb(spec) << "\n    " << g_type_name(spec->value_type);
  if (spec->flags & G_PARAM_WRITABLE) {
    out << ", default " << default_of(spec) << ", changeable in "
        << (spec->flags & GST_PARAM_MUTABLE_PLAYING ? "PLAYING" : "READY") << "\n";
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
  GstElement* element = make_element();
  GstElementClass* klass = GST_ELEMENT_GET_CLASS(element);
  GstPlugin* plugin = gst_plugin_feature_get_plugin(GST_PLUGIN_FEATURE(gst_element_get_factory(element)));
  out << "plugin: " << gst_plugin_get_name(plugin) << ", " << gst_plugin_get_description(plugin)
      << "\nlicense: " << gst_plugin_get_license(plugin) << "\norigin: " << gst_plugin_get_origin(plugin) << "\n";
  gst_object_unref(plugin);
  for (const char* key : {GST_ELEMENT_METADATA_LONGNAME, GST_ELEMENT_METADATA_KLASS, GST_ELEMENT_METADATA_DESCRIPTION,
                          GST_ELEMENT_METADATA_AUTHOR})
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

// A change here is to be read like any other text for people. WHISPERXDNA2_UPDATE=1 writes the file anew.
GST_START_TEST(test_description) {
  const std::string path = std::string(g_getenv("WHISPERXDNA2_TEST_DATA")) + "/gst/whisperxdna2enc.txt";
  if (g_getenv("WHISPERXDNA2_UPDATE")) write_file(path, description());
  fail_unless(description() == contents(path), "it is now:\n%s", description().c_str());
}
GST_END_TEST;

GST_START_TEST(test_rank_keeps_autopluggers_away) {
  GstElementFactory* factory = gst_element_factory_find("whisperxdna2enc");
  ck_assert_int_eq(gst_plugin_feature_get_rank(GST_PLUGIN_FEATURE(factory)), GST_RANK_NONE);
  gst_object_unref(factory);
}
GST_END_TEST;

// --- Documentation ---------------------------------------------------------------------------------------------------

// Of numbers that are no mere counts.
static const std::map<std::string, std::string> kUnits = {
    {"audio-context", " positions"}, {"latency", " ms"}, {"lateness", " ms"},
    {"vad-min-speech", " ms"}, {"vad-min-silence", " ms"}, {"vad-padding", " ms"},
    {"live-hop", " ms"}, {"live-pause", " ms"}, {"max-lag", " ms"}};

// Each property's comment in the source has its meaning, its default (as the class has it, with the unit of a number)
// and the version that brought it.
GST_START_TEST(test_every_property_is_documented) {
  const std::string source = source_file("gst/gstwhisperxdna2enc.cpp");
  std::map<std::string, std::string> comments;
  const std::regex comment("/\\*\\*\\n   \\* GstWhisperXdna2Enc:([a-z-]+):\\n((?:   \\*.*\\n)*?)   \\*/\\n");
  for (std::sregex_iterator it(source.begin(), source.end(), comment), end; it != end; ++it) {
    comments[(*it)[1]] = (*it)[2];
  }
  GstElement* element = make_element();
  guint n;
  GParamSpec** specs = g_object_class_list_properties(G_OBJECT_GET_CLASS(element), &n);
  size_t own = 0;
  for (guint i = 0; i < n; ++i) {
    if (specs[i]->owner_type != G_OBJECT_TYPE(element)) continue;
    ++own;
    const std::string& text = comments[specs[i]->name];
    fail_unless(text.find("* Since: ") != std::string::npos, "%s", specs[i]->name);
    if (!(specs[i]->flags & G_PARAM_WRITABLE)) continue;
    std::string expected = "* Default: " + default_of(specs[i]);
    if (kUnits.count(specs[i]->name)) expected += kUnits.at(specs[i]->name);
    fail_unless(text.find(expected) != std::string::npos, "%s: there is no \"%s\"", specs[i]->name, expected.c_str());
  }
  ck_assert_uint_eq(comments.size(), own);
  g_free(specs);
  gst_object_unref(element);
}
GST_END_TEST;

// A file's and a live one, and neither is misspelled.
GST_START_TEST(test_launch_lines) {
  // As a shell reads them: a line ends behind no backslash.
  const std::string source =
      std::regex_replace(source_file("gst/gstwhisperxdna2enc.cpp"), std::regex(" \\\\\n \\* +"), " ");
  const std::regex line(" \\* gst-launch-1.0 (.*)\\n");
  int files = 0, live = 0;
  for (std::sregex_iterator it(source.begin(), source.end(), line), end; it != end; ++it) {
    const std::string launch = (*it)[1];
    files += launch.find("filesrc") == 0;
    live += launch.find("pulsesrc") == 0;
    GError* error = nullptr;
    GstElement* pipeline = gst_parse_launch(launch.c_str(), &error);
    // Others' plugins may be missing.
    if (error)
      fail_unless(g_error_matches(error, GST_PARSE_ERROR, GST_PARSE_ERROR_NO_SUCH_ELEMENT) &&
                      !strstr(error->message, "whisper"), "%s", error->message);
    g_clear_error(&error);
    gst_clear_object(&pipeline);
  }
  ck_assert_int_ge(files, 1);
  ck_assert_int_ge(live, 1);
}
GST_END_TEST;

// The README's table of tests names none that is gone.
GST_START_TEST(test_every_test_named_in_the_readme_exists) {
  std::string sources;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(g_getenv("WHISPERXDNA2_SOURCE")) + "/tests/gst")) {
    if (entry.path().extension() == ".cpp") sources += contents(entry.path());
  }
  const std::string readme = source_file("tests/gst/README.md");
  const std::regex name("test_[a-z0-9_]+");
  int names = 0;
  for (std::sregex_iterator it(readme.begin(), readme.end(), name), end; it != end; ++it, ++names)
    fail_unless(sources.find("GST_START_TEST(" + it->str() + ")") != std::string::npos, "%s", it->str().c_str());
  ck_assert_int_ge(names, 40);
}
GST_END_TEST;

// --- States ----------------------------------------------------------------------------------------------------------

// As GStreamer's tests/check/generic/states.c.
static const std::vector<GstState> kWalks[] = {
    {GST_STATE_READY, GST_STATE_PAUSED, GST_STATE_PLAYING, GST_STATE_PAUSED, GST_STATE_READY, GST_STATE_NULL,
     GST_STATE_PAUSED, GST_STATE_READY, GST_STATE_PLAYING, GST_STATE_PAUSED, GST_STATE_NULL},
    {GST_STATE_READY, GST_STATE_NULL, GST_STATE_PAUSED, GST_STATE_NULL, GST_STATE_PLAYING, GST_STATE_NULL},
    {GST_STATE_PLAYING, GST_STATE_PAUSED, GST_STATE_PLAYING, GST_STATE_READY, GST_STATE_PLAYING, GST_STATE_NULL,
     GST_STATE_PAUSED, GST_STATE_READY, GST_STATE_PAUSED, GST_STATE_NULL, GST_STATE_READY, GST_STATE_NULL},
};
GST_START_TEST(test_states_of_every_element) {
  GList* features = gst_registry_get_feature_list_by_plugin(gst_registry_get(), "whisperxdna2");
  fail_unless(features != nullptr);
  for (GList* l = features; l; l = l->next) {
    if (!GST_IS_ELEMENT_FACTORY(l->data)) continue;
    GstElement* element = gst_element_factory_create(GST_ELEMENT_FACTORY(l->data), nullptr);
    for (GstState state : kWalks[__i__]) {
      gst_element_set_state(element, state);
      ck_assert_int_eq(gst_element_get_state(element, nullptr, nullptr, GST_CLOCK_TIME_NONE),
                       GST_STATE_CHANGE_SUCCESS);
    }
    gst_object_unref(element);
  }
  gst_plugin_feature_list_free(features);
}
GST_END_TEST;

static Suite* inspect_suite(void) {
  Suite* suite = suite_create("inspect");
  TCase* tc = tcase_create("general");
  suite_add_tcase(suite, tc);
  tcase_add_test(tc, test_description);
  tcase_add_test(tc, test_rank_keeps_autopluggers_away);
  tcase_add_test(tc, test_every_property_is_documented);
  tcase_add_test(tc, test_launch_lines);
  tcase_add_test(tc, test_every_test_named_in_the_readme_exists);
  tcase_add_loop_test(tc, test_states_of_every_element, 0, G_N_ELEMENTS(kWalks));
  return suite;
}

int main(int argc, char** argv) {
  const std::string empty = make_directory();
  g_setenv("XDG_CACHE_HOME", empty.c_str(), TRUE);
  gst_check_init(&argc, &argv);
  const int failed = gst_check_run_suite(inspect_suite(), "inspect", __FILE__);
  std::filesystem::remove_all(empty);
  return failed;
}
