#include <check.h>

#include <cstdlib>
#include <string>

#include "tests/assert_text.h"
#include "whisper/backend.h"
#include "whisper/error.h"

using namespace whisperxdna2;

namespace {

BackendChoice choose(Backend backend) {
  return make_encoder(load_model(default_model_path()), backend, Precision::kF32, 1);
}

// The Error of backend=npu.
Error refusal() {
  try {
    choose(Backend::kNpu);
  } catch (const Error& e) {
    return e;
  }
  ck_abort_msg("no error");
}

void use_module(const char* path) { setenv("WHISPERXDNA2_NPU_MODULE", path, 1); }

START_TEST(cpu_is_taken_where_it_was_asked_for) {
  use_module(FAKE_NPU_MODULE);
  const BackendChoice choice = choose(Backend::kCpu);
  assert_text(choice.encoder->describe().backend, "cpu");
  ck_assert_str_eq(choice.fallback_reason.c_str(), "");
}
END_TEST

START_TEST(npu_is_taken_where_there_is_one) {
  use_module(FAKE_NPU_MODULE);
  for (Backend backend : {Backend::kNpu, Backend::kAuto}) {
    const BackendChoice choice = choose(backend);
    assert_text(choice.encoder->describe().device, "fake");
    ck_assert_str_eq(choice.fallback_reason.c_str(), "");
  }
}
END_TEST

START_TEST(auto_says_why_it_took_the_cpu) {
  use_module("/nonexistent/libwhisperxdna2-npu.so");
  const BackendChoice choice = choose(Backend::kAuto);
  assert_text(choice.encoder->describe().backend, "cpu");
  ck_assert_str_eq(
      choice.fallback_reason.c_str(),
      "the NPU module is not installed (/nonexistent/libwhisperxdna2-npu.so): build with the XRT headers, or use "
      "backend=cpu or backend=auto");
}
END_TEST

START_TEST(auto_takes_the_cpu_where_the_module_finds_no_npu) {
  use_module(FAKE_NPU_MODULE);
  setenv("FAKE_NPU", "absent", 1);
  const BackendChoice choice = choose(Backend::kAuto);
  assert_text(choice.encoder->describe().backend, "cpu");
  ck_assert_str_eq(choice.fallback_reason.c_str(), "no NPU on this machine");
}
END_TEST

START_TEST(npu_never_becomes_the_cpu) {
  use_module("/nonexistent/libwhisperxdna2-npu.so");
  ck_assert(refusal().code() == ErrorCode::kNotFound);
  use_module(FAKE_NPU_MODULE);
  setenv("FAKE_NPU", "absent", 1);
  const Error absent = refusal();
  ck_assert_str_eq(absent.what(), "no NPU on this machine");
}
END_TEST

START_TEST(module_that_cannot_be_loaded_is_named) {
  use_module("/dev/null");
  const Error error = refusal();
  ck_assert(error.code() == ErrorCode::kNotFound);
  ck_assert_msg(std::string(error.what()).find("/dev/null") != std::string::npos, "%s", error.what());
}
END_TEST

START_TEST(missing_or_old_xrt_is_named) {
  use_module(NPU_MODULE_WITHOUT_XRT);
  const Error error = refusal();
  ck_assert(error.code() == ErrorCode::kNotFound);
  for (const char* part : {"xrt_of_a_later_version", "install XRT 2.25 or later"}) {
    ck_assert_msg(std::string(error.what()).find(part) != std::string::npos, "%s", error.what());
  }
}
END_TEST

START_TEST(module_of_another_version_is_refused) {
  use_module(OTHER_NPU_MODULE);
  ck_assert(refusal().code() == ErrorCode::kUnsupported);
}
END_TEST

}  // namespace

int main() {
  Suite* suite = suite_create("backend");
  TCase* tests = tcase_create("choice");
  tcase_add_test(tests, cpu_is_taken_where_it_was_asked_for);
  tcase_add_test(tests, npu_is_taken_where_there_is_one);
  tcase_add_test(tests, auto_says_why_it_took_the_cpu);
  tcase_add_test(tests, auto_takes_the_cpu_where_the_module_finds_no_npu);
  tcase_add_test(tests, npu_never_becomes_the_cpu);
  tcase_add_test(tests, module_that_cannot_be_loaded_is_named);
  tcase_add_test(tests, missing_or_old_xrt_is_named);
  tcase_add_test(tests, module_of_another_version_is_refused);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed != 0;
}
