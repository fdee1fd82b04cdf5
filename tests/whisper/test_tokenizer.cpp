#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "whisper/error.h"
#include "whisper/model.h"
#include "whisper/tokenizer.h"

#include <check.h>  // last: it defines macros with names such as fail

using namespace whisperxdna2;

namespace {

void expect_text(const std::string& got, const std::string& wanted) {
  ck_assert_str_eq(got.c_str(), wanted.c_str());
}

std::shared_ptr<const Model> multilingual() { return load_model(default_model_path()); }
std::shared_ptr<const Model> english() { return load_model(cache_directory() + "/models/tiny.en"); }

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::string join(const std::vector<int>& ids) {
  std::string text;
  for (const int id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return text;
}

// All columns of tests/data/whisper/tokenizer/vectors.tsv.
std::vector<std::vector<std::string>> vectors() {
  const char* data = std::getenv("WHISPERXDNA2_TEST_DATA");
  ck_assert_msg(data != nullptr,
                "WHISPERXDNA2_TEST_DATA is not set; run the suites with meson test");
  std::ifstream file(std::string(data) + "/whisper/tokenizer/vectors.tsv");
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> columns(3);
    std::istringstream fields(line);
    for (std::string& column : columns) std::getline(fields, column, '\t');
    rows.push_back(columns);
  }
  ck_assert_int_gt(rows.size(), 400);
  return rows;
}

// A complete vocabulary without any weights: single bytes, then pairs of them, then one empty token.
std::vector<std::string> synthetic(int count, bool empty_last) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (int i = 256; i < count; ++i)
    tokens.push_back({static_cast<char>((i - 256) >> 8), static_cast<char>(i & 255)});
  if (empty_last) tokens.back().clear();
  return tokens;
}

void expect_refused(std::vector<std::string> tokens, int n_vocab, const char* part_of_message) {
  try {
    Tokenizer tokenizer(std::move(tokens), n_vocab);
    ck_abort_msg("accepted; expected: %s", part_of_message);
  } catch (const Error& error) {
    ck_assert_int_eq(static_cast<int>(error.code()), static_cast<int>(ErrorCode::kInvalidFile));
    ck_assert_msg(std::string(error.what()).find(part_of_message) != std::string::npos, "%s",
                  error.what());
  }
}

}  // namespace

START_TEST(encodes_like_tiktoken_multilingual) {
  const auto model = multilingual();
  for (const auto& row : vectors()) {
    const std::string ids = join(model->tokenizer->encode(from_hex(row[0])));
    ck_assert_msg(ids == row[1], "%s: %s, not %s", row[0].c_str(), ids.c_str(), row[1].c_str());
  }
}
END_TEST

START_TEST(encodes_like_tiktoken_english) {
  const auto model = english();
  for (const auto& row : vectors()) {
    const std::string ids = join(model->tokenizer->encode(from_hex(row[0])));
    ck_assert_msg(ids == row[2], "%s: %s, not %s", row[0].c_str(), ids.c_str(), row[2].c_str());
  }
}
END_TEST

START_TEST(decodes_what_it_encoded) {
  const auto model = multilingual();
  for (const auto& row : vectors()) {
    const std::string text = from_hex(row[0]);
    expect_text(model->tokenizer->decode(model->tokenizer->encode(text)), text);
  }
}
END_TEST

// Prompts come from outside: bytes that are no UTF-8 must not be lost or crash.
START_TEST(encodes_invalid_utf8_byte_by_byte) {
  const Tokenizer tokenizer(synthetic(50256, false), 51864);
  const std::string text = "a\xff\xc3 \xe2\x82z\xf4\x90\x80\x80";
  std::string bytes;
  for (const int id : tokenizer.encode(text)) bytes += tokenizer.bytes(id);
  ck_assert(bytes == text);
}
END_TEST

// The counts and sets of openai/whisper; the CTranslate2 files carry them too, as suppress_ids.
START_TEST(forbids_the_ids_that_converted_models_list) {
  const std::string expected[] = {
      "1 2 7 8 9 10 14 25 26 27 28 29 31 58 59 60 61 62 63 90 91 92 93 359 503 522 542 873 893 902 "
      "918 922 931 1350 1853 "
      "1982 2460 2627 3246 3253 3268 3536 3846 3961 4183 4667 6585 6647 7273 9061 9383 10428 10929 "
      "11938 12033 12331 12562 "
      "13793 14157 14635 15265 15618 16553 16604 18362 18956 20075 21675 22520 26130 26161 26435 "
      "28279 29464 31650 32302 "
      "32470 36865 42863 47425 49870 50254",
      "1 2 7 8 9 10 14 25 26 27 28 29 31 58 59 60 61 62 63 90 91 92 93 357 366 438 532 685 705 796 "
      "930 1058 1220 1267 1279 "
      "1303 1343 1377 1391 1635 1782 1875 2162 2361 2488 3467 4008 4211 4600 4808 5299 5855 6329 "
      "7203 9609 9959 10563 10786 "
      "11420 11709 11907 13163 13697 13700 14808 15306 16410 16791 17992 19203 19510 20724 22305 "
      "22935 27007 30109 30420 "
      "33409 34949 40283 40493 40549 47282 49146"};
  expect_text(join(multilingual()->tokenizer->non_speech()), expected[0]);
  expect_text(join(english()->tokenizer->non_speech()), expected[1]);
}
END_TEST

START_TEST(control_tokens_follow_from_the_vocabulary_size) {
  const Tokenizer en(synthetic(50256, false), 51864), many(synthetic(50257, true), 51865),
      v3(synthetic(50257, true), 51866);
  const SpecialTokens& a = en.special();
  const SpecialTokens& b = many.special();
  const SpecialTokens& c = v3.special();
  ck_assert(!a.multilingual && a.n_languages == 0 && a.eot == 50256 && a.sot == 50257 &&
            a.translate == 50357 && a.transcribe == 50358 && a.sot_lm == 50359 &&
            a.sot_prev == 50360 && a.no_speech == 50361 && a.no_timestamps == 50362 &&
            a.timestamp_begin == 50363);
  ck_assert(b.multilingual && b.n_languages == 99 && b.eot == 50257 && b.sot == 50258 &&
            b.language_begin == 50259 && b.translate == 50358 && b.transcribe == 50359 &&
            b.sot_lm == 50360 && b.sot_prev == 50361 && b.no_speech == 50362 &&
            b.no_timestamps == 50363 && b.timestamp_begin == 50364);
  ck_assert(c.n_languages == 100 && c.translate == 50359 && c.transcribe == 50360 &&
            c.no_timestamps == 50364 && c.timestamp_begin == 50365);
}
END_TEST

START_TEST(language_codes_and_ids_are_inverse) {
  const Tokenizer v3(synthetic(50257, true), 51866), v2(synthetic(50257, true), 51865),
      en(synthetic(50256, false), 51864);
  ck_assert_int_eq(v3.language_id("en"), 50259);
  ck_assert_int_eq(v3.language_id("yue"), 50358);
  ck_assert_int_eq(v2.language_id("yue"), -1);
  ck_assert_int_eq(v2.language_id("su"), 50357);
  ck_assert_int_eq(en.language_id("en"), -1);
  ck_assert_int_eq(v3.language_id("xx"), -1);
  for (int id = 50259; id < 50359; ++id) ck_assert_int_eq(v3.language_id(v3.language_code(id)), id);
  expect_text(v2.language_code(50358), "");
  expect_text(v2.language_code(0), "");
}
END_TEST

START_TEST(decode_replaces_ill_formed_sequences_as_python_does) {
  const Tokenizer tokenizer(synthetic(50256, false), 51864);
  const auto decode = [&](const std::string& bytes) {
    std::vector<int> ids;
    for (const char byte : bytes) ids.push_back(static_cast<unsigned char>(byte));
    return tokenizer.decode(ids);
  };
  // Python: bytes.decode("utf-8", errors="replace")
  expect_text(decode("a\xe2\x82"), "a\ufffd");
  expect_text(decode("\xf0\x9f\x98z"), "\ufffdz");
  expect_text(decode("\xe0\x80\x80"), "\ufffd\ufffd\ufffd");
  expect_text(decode("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");
  expect_text(decode("\xc0\xaf"), "\ufffd\ufffd");
  expect_text(decode("\xf4\x8f\xbf\xbf"), "\U0010ffff");
  expect_text(decode("\x80"), "\ufffd");
}
END_TEST

START_TEST(decode_leaves_control_tokens_out) {
  const auto model = multilingual();
  expect_text(model->tokenizer->decode({50258, 50259, 50364, 2425, 11, 1002, 0, 50414, 50257}),
              " Hello, world!");
  expect_text(model->tokenizer->bytes(50364), "");
  expect_text(model->tokenizer->bytes(-1), "");
}
END_TEST

// openai/whisper tests/test_tokenizer.py: a token that is half a character. Its own word in French (the text before and
// after it is one word), one group a code point in a language without spaces.
START_TEST(splits_no_character_between_words) {
  const auto model = multilingual();
  const std::vector<int> ids = {8404, 871, 287, 6, 246, 526, 3210, 20378};
  const auto groups = model->tokenizer->split_words(ids, "zh");
  const char* texts[] = {" elle", " est", " l", "'", "\ufffd", "é", "rit", "oire"};
  ck_assert_int_eq(groups.size(), 8);
  for (size_t i = 0; i < 8; ++i) expect_text(groups[i].text, texts[i]);

  const auto words = model->tokenizer->split_words(ids, "fr");
  ck_assert_int_eq(words.size(), 4);
  expect_text(words[2].text, " l");
  expect_text(words[3].text, "'\ufffdéritoire");
}
END_TEST

START_TEST(splits_spaceless_text_at_code_points) {
  const auto model = multilingual();
  const std::string text = "生活的真谛是";
  const auto words = model->tokenizer->split_words(model->tokenizer->encode(text), "zh");
  ck_assert_int_eq(words.size(), 5);  // 49958 is two characters; 8897 249 one
  ck_assert_int_eq(words[3].tokens.size(), 2);
  std::string all;
  for (const auto& word : words) all += word.text;
  expect_text(all, text);
}
END_TEST

// Whatever the tokens are: here random ones of a byte or two, which end anywhere in a code point.
START_TEST(splits_no_mark_from_its_letter) {
  const Tokenizer tokenizer(synthetic(50257, true), 51865);
  const struct {
    const char* language;
    std::vector<std::string> characters;
  } texts[] = {
      {"zh", {"生", "活", "的", "真", "谛", "。", "A", "I"}},
      {"yue", {"佢", "哋", "唔", "係", "𠮷", "，"}},
      {"ja", {"か\u3099", "っ", "こ", "う", "は\u309a", "葛\U000e0100", "、"}},
      {"th", {"ที่", "นี่", "น้ำ", "กำ", "ลั", "ง", "เ", "ดื", "อ", "ด", " ", "ค", "รั", "บ"}},
      {"lo", {"ນ້ຳ", "ດື່", "ມ", "ຢູ່", "ທີ່", "ນີ້"}},
      {"my", {"မြ", "န်", "မာ", "စ", "ကား", "သ", "တ္တ", "ဝါ", "နို", "င်", "ငံ"}},
  };
  std::mt19937 random(3);
  for (const auto& text : texts) {
    std::string all;
    for (const std::string& character : text.characters) all += character;
    for (int run = 0; run < 300; ++run) {
      std::vector<int> ids;
      for (size_t at = 0; at < all.size(); ++at) {
        const auto byte = static_cast<unsigned char>(all[at]);
        const bool pair = run > 0 && at + 1 < all.size() && byte < 0xc3 && random() % 2 == 0;
        ids.push_back(pair ? 256 + 256 * byte + static_cast<unsigned char>(all[++at]) : byte);
      }
      std::string joined;
      std::vector<int> again;
      auto character = text.characters.begin();
      for (const auto& word : tokenizer.split_words(ids, text.language)) {
        joined += word.text;
        again.insert(again.end(), word.tokens.begin(), word.tokens.end());
        // A word is whole characters: one where tokens are bytes.
        std::string whole;
        do {
          ck_assert(character != text.characters.end());
          whole += *character++;
        } while (whole.size() < word.text.size() && run > 0);
        expect_text(word.text, whole);
      }
      expect_text(joined, all);
      ck_assert(again == ids);
    }
  }
}
END_TEST

START_TEST(splits_words_and_keeps_every_token) {
  const auto model = multilingual();
  for (const auto& row : vectors()) {
    const std::vector<int> ids = model->tokenizer->encode(from_hex(row[0]));
    for (const char* language : {"en", "ja"}) {
      std::vector<int> again;
      for (const auto& word : model->tokenizer->split_words(ids, language))
        again.insert(again.end(), word.tokens.begin(), word.tokens.end());
      ck_assert(again == ids);
    }
  }
}
END_TEST

START_TEST(long_text_is_encoded_in_good_time) {
  const auto model = multilingual();
  const std::string text(1 << 20, 'a');  // one piece: quadratic merging would take hours
  std::string again;
  for (const int id : model->tokenizer->encode(text)) again += model->tokenizer->bytes(id);
  ck_assert(again == text);
}
END_TEST

START_TEST(refuses_vocabularies_that_do_not_fit) {
  expect_refused(synthetic(50257, true), 51863, "51863");
  expect_refused(synthetic(50257, true), 51867, "51867");
  expect_refused(synthetic(50257, true), 51864, "50257 text tokens");
  expect_refused(synthetic(50256, false), 51865, "50256 text tokens");
  expect_refused({}, 51865, "0 text tokens");
  auto twice = synthetic(50256, false);
  twice[1000] = twice[999];
  expect_refused(twice, 51864, "token 1000 is empty or there twice");
  auto empty = synthetic(50257, true);
  empty[300].clear();
  expect_refused(empty, 51865, "token 300 is empty");
  auto no_byte = synthetic(50256, false);
  no_byte[65] = "AAA";
  expect_refused(no_byte, 51864, "no token for byte 65");
}
END_TEST

int main() {
  Suite* suite = suite_create("tokenizer");
  TCase* tests = tcase_create("tokenizer");
  tcase_add_test(tests, encodes_like_tiktoken_multilingual);
  tcase_add_test(tests, encodes_like_tiktoken_english);
  tcase_add_test(tests, decodes_what_it_encoded);
  tcase_add_test(tests, encodes_invalid_utf8_byte_by_byte);
  tcase_add_test(tests, forbids_the_ids_that_converted_models_list);
  tcase_add_test(tests, control_tokens_follow_from_the_vocabulary_size);
  tcase_add_test(tests, language_codes_and_ids_are_inverse);
  tcase_add_test(tests, decode_replaces_ill_formed_sequences_as_python_does);
  tcase_add_test(tests, decode_leaves_control_tokens_out);
  tcase_add_test(tests, splits_no_character_between_words);
  tcase_add_test(tests, splits_spaceless_text_at_code_points);
  tcase_add_test(tests, splits_no_mark_from_its_letter);
  tcase_add_test(tests, splits_words_and_keeps_every_token);
  tcase_add_test(tests, long_text_is_encoded_in_good_time);
  tcase_add_test(tests, refuses_vocabularies_that_do_not_fit);
  suite_add_tcase(suite, tests);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
