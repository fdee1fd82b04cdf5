// The model in memory: real weights.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <thread>

#include "whisper/error.h"
#include "whisper/model.h"
#include "whisper/tokenizer.h"

#include <check.h>  // last: it defines macros with names such as fail

using namespace whisperxdna2;

namespace {

void expect_text(const std::string& got, const std::string& wanted) {
  ck_assert_str_eq(got.c_str(), wanted.c_str());
}

double sum(const Tensor& tensor) {
  double total = 0;
  for (const float value : tensor.to_f32()) total += value;
  return total;
}

}  // namespace

// Values printed by an independent NumPy reader of the same file.
START_TEST(base_has_the_values_that_are_in_the_file) {
  const auto model = load_model(default_model_path());
  const ModelDims& dims = model->dims;
  ck_assert(dims.n_mels == 80 && dims.n_audio_ctx == 1500 && dims.d_model == 512 &&
            dims.n_heads == 8 && dims.n_encoder_layers == 6 && dims.n_decoder_layers == 6 &&
            dims.n_text_ctx == 448 && dims.n_vocab == 51865);
  const auto conv = model->conv1_weight.to_f32();
  ck_assert_int_eq(conv.size(), 512 * 80 * 3);
  ck_assert(conv[0] == 0.004261016845703125f && conv.back() == -0.0082550048828125f);
  ck_assert_double_eq_tol(sum(model->conv1_weight), 89.30438166856766, 1e-6);
  const Attention& encoder = model->encoder_layers[3].attention;
  ck_assert(encoder.query.weight.to_f32()[0] == -0.035430908203125f);
  ck_assert(encoder.query.bias.to_f32()[0] == 0.01296234130859375f);
  ck_assert(encoder.value.bias.to_f32()[0] == -0.072265625f);
  ck_assert(encoder.value.weight.to_f32().back() == 0.00220489501953125f);
  ck_assert_double_eq_tol(
      sum(encoder.query.weight) + sum(encoder.key.weight) + sum(encoder.value.weight),
      10.840855538845062, 1e-6);
  ck_assert(!encoder.key.bias);
  const Attention& cross = model->decoder_layers[5].cross_attention;
  ck_assert(cross.key.weight.to_f32()[0] == 0.01239776611328125f &&
            cross.value.bias.to_f32().back() == 0.0758056640625f);
  ck_assert_double_eq_tol(sum(cross.value.bias), 1.855654001235962, 1e-6);
  ck_assert_double_eq_tol(sum(model->token_embedding), 517946.0272909999, 1e-3);
  ck_assert_double_eq_tol(sum(model->encoder_positions), 159468.28084039688, 1e-4);
  ck_assert_double_eq_tol(sum(model->decoder_layers[2].fc2.weight), 47.72506093978882, 1e-6);
}
END_TEST

START_TEST(tensors_are_aligned_and_of_the_promised_types) {
  const auto model = load_model(default_model_path());
  for (const EncoderLayer& layer : model->encoder_layers) {
    for (const Tensor* matrix : {&layer.attention.query.weight, &layer.attention.key.weight,
                                 &layer.fc1.weight, &layer.fc2.weight}) {
      ck_assert(matrix->dtype == DType::kF16);
      ck_assert_uint_eq(reinterpret_cast<uintptr_t>(matrix->data) % 64, 0);
    }
    for (const Tensor* vector :
         {&layer.attention_norm.gain, &layer.attention.out.bias, &layer.fc1.bias}) {
      ck_assert(vector->dtype == DType::kF32);
      ck_assert_uint_eq(reinterpret_cast<uintptr_t>(vector->data) % 64, 0);
    }
  }
  ck_assert(model->encoder_positions.dtype == DType::kF32);
}
END_TEST

START_TEST(base_names_its_alignment_heads) {
  const std::vector<std::pair<int, int>> expected = {{3, 1}, {4, 2}, {4, 3}, {4, 7},
                                                     {5, 1}, {5, 2}, {5, 4}, {5, 6}};
  ck_assert(load_model(default_model_path())->alignment_heads == expected);
}
END_TEST

START_TEST(one_copy_is_shared_while_somebody_holds_it) {
  const auto first = load_model(default_model_path());
  ck_assert_ptr_eq(first.get(), load_model(default_model_path()).get());
}
END_TEST

START_TEST(threads_that_load_the_same_path_get_the_same_model) {
  std::shared_ptr<const Model> models[4];
  std::vector<std::thread> threads;
  for (auto& model : models)
    threads.emplace_back([&model] { model = load_model(default_model_path()); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& model : models) ck_assert_ptr_eq(model.get(), models[0].get());
}
END_TEST

START_TEST(progress_rises_to_one) {
  double last = 0;
  int calls = 0;
  load_model(default_model_path(), [&](double fraction) {
    ck_assert(fraction > last && fraction <= 1);
    last = fraction;
    ++calls;
  });
  ck_assert(last == 1);
  ck_assert_int_eq(calls, 245);  // one for each tensor
}
END_TEST

START_TEST(loading_stops_when_asked_to) {
  std::atomic<bool> cancel{false};
  try {
    load_model(
        default_model_path(), [&](double fraction) { cancel = fraction > 0.2; }, &cancel);
    ck_abort_msg("loaded");
  } catch (const Error& error) {
    ck_assert(error.code() == ErrorCode::kInterrupted);
  }
  ck_assert_int_eq(load_model(default_model_path())->dims.d_model,
                   512);  // the next one is not disturbed
}
END_TEST

// One thread loads and stands still; another that wants the same model can be stopped all the same.
START_TEST(waiting_for_another_threads_load_stops_when_asked_to) {
  std::atomic<bool> loading{false}, go_on{false};
  std::thread loader([&] {
    load_model(default_model_path(), [&](double) {
      loading = true;
      while (!go_on) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  });
  while (!loading) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::atomic<bool> cancel{false};
  std::thread canceler([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cancel = true;
  });
  bool stopped = false;
  try {
    load_model(default_model_path(), {}, &cancel);
  } catch (const Error& error) {
    stopped = error.code() == ErrorCode::kInterrupted;
  }
  go_on = true;
  canceler.join();
  loader.join();
  ck_assert(stopped);
}
END_TEST

START_TEST(a_missing_model_is_an_error_that_says_how_to_get_one) {
  try {
    load_model("/nonexistent/model");
    ck_abort_msg("loaded");
  } catch (const Error& error) {
    ck_assert_int_eq(static_cast<int>(error.code()), static_cast<int>(ErrorCode::kNotFound));
    const std::string message = error.what();
    ck_assert_msg(message.find("/nonexistent/model") != std::string::npos, "%s", error.what());
    for (const char* tool : {"`whisperxdna2-fetch-model base`", "`tools/fetch-model base`"})
      ck_assert_msg(message.find(tool) != std::string::npos, "%s", error.what());
  }
}
END_TEST

START_TEST(the_cache_is_where_xdg_says) {
  setenv("XDG_CACHE_HOME", "/somewhere", 1);
  expect_text(default_model_path(), "/somewhere/whisperxdna2/models/base");
  setenv("XDG_CACHE_HOME", "relative", 1);
  setenv("HOME", "/home/somebody", 1);
  expect_text(cache_directory(), "/home/somebody/.cache/whisperxdna2");
}
END_TEST

int main() {
  Suite* suite = suite_create("model");
  TCase* tests = tcase_create("model");
  tcase_add_test(tests, base_has_the_values_that_are_in_the_file);
  tcase_add_test(tests, tensors_are_aligned_and_of_the_promised_types);
  tcase_add_test(tests, base_names_its_alignment_heads);
  tcase_add_test(tests, one_copy_is_shared_while_somebody_holds_it);
  tcase_add_test(tests, threads_that_load_the_same_path_get_the_same_model);
  tcase_add_test(tests, progress_rises_to_one);
  tcase_add_test(tests, loading_stops_when_asked_to);
  tcase_add_test(tests, waiting_for_another_threads_load_stops_when_asked_to);
  tcase_add_test(tests, a_missing_model_is_an_error_that_says_how_to_get_one);
  tcase_add_test(tests, the_cache_is_where_xdg_says);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
