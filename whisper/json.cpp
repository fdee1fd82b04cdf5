#include "whisper/json.h"

#include <unordered_set>

#include "whisper/byte_source.h"

namespace whisperxdna2 {
namespace {

constexpr int kMaxDepth = 32;
constexpr int kMaxValues = 400000;  // keys count as values
constexpr uint64_t kMaxBytes = 16 << 20;

[[noreturn]] void fail(const std::string& path, const std::string& message) {
  throw Error(ErrorCode::kInvalidFile, path + ": " + message);
}

// Walks over a text without building anything.
class Guard : public nlohmann::json_sax<Json> {
 public:
  const char* complaint = nullptr;

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) complaint = "a name is there twice";
    return value();
  }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return enter();
  }
  bool end_object() override {
    keys_.pop_back();
    return leave();
  }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;  // the second pass reports it
  }

 private:
  bool value() {
    if (++values_ > kMaxValues) complaint = "too many values";
    return !complaint;
  }
  bool enter() {
    if (++depth_ > kMaxDepth) complaint = "nested too deeply";
    return value();
  }
  bool leave() {
    --depth_;
    return true;
  }

  int values_ = 0, depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

Json parse_json(const std::string& text, const std::string& path) {
  Guard guard;
  Json::sax_parse(text, &guard);
  if (guard.complaint) fail(path, guard.complaint);
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    fail(path, "not valid JSON (at byte " + std::to_string(error.byte) + ")");
  } catch (const Json::exception&) {  // out_of_range is the one left
    fail(path, "a number is too large");
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
