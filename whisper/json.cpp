#include "whisper/json.h"

#include "whisper/byte_source.h"

namespace whisperxdna2 {
namespace {

constexpr int kMaxDepth = 32;
constexpr int kMaxValues = 400000;
constexpr uint64_t kMaxBytes = 16 << 20;

[[noreturn]] void fail(const std::string& path, const std::string& message) {
  throw Error(ErrorCode::kInvalidFile, path + ": " + message);
}

}  // namespace

Json parse_json(const std::string& text, const std::string& path) {
  int values = 0;
  const auto guard = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) fail(path, "nested too deeply");
    if (++values > kMaxValues) fail(path, "too many values");
    return true;
  };
  try {
    return Json::parse(text, guard);
  } catch (const Json::exception& error) {
    fail(path, std::string("not valid JSON: ") + error.what());
  }
}

Json read_json_file(const std::string& path) {
  return parse_json(read_text_file(path, kMaxBytes), path);
}

int json_int(const Json& object, const char* key, int low, int high, const std::string& path) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end() || !found->is_number_integer())
    fail(path, std::string("\"") + key + "\" is missing or no integer");
  // An unsigned value above int64's range would turn negative; both are out of [low, high].
  const int64_t value = found->is_number_unsigned() && found->get<uint64_t>() > INT64_MAX
                            ? INT64_MAX
                            : found->get<int64_t>();
  if (value < low || value > high)
    fail(path, std::string("\"") + key + "\" is " + found->dump() + "; " + std::to_string(low) +
                   " to " + std::to_string(high) + " are possible");
  return static_cast<int>(value);
}

std::vector<std::pair<int, int>> json_pairs(const Json& object, const char* key,
                                            const std::string& path) {
  std::vector<std::pair<int, int>> pairs;
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end() || found->is_null()) return pairs;
  const auto is_small = [](const Json& value) {
    return value.is_number_unsigned() && value.get<uint64_t>() < 4096;
  };
  if (!found->is_array()) fail(path, std::string("\"") + key + "\" is no list");
  for (const Json& pair : *found) {
    if (!pair.is_array() || pair.size() != 2 || !is_small(pair[0]) || !is_small(pair[1]))
      fail(path, std::string("\"") + key + "\" is no list of pairs");
    pairs.emplace_back(pair[0].get<int>(), pair[1].get<int>());
  }
  return pairs;
}

}  // namespace whisperxdna2
