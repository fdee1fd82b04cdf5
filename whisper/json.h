// JSON files beside the weights, parsed by nlohmann::json under limits that bound memory and nesting.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace whisperxdna2 {

using Json = nlohmann::json;

// Parses `text` (from the file `path`, for messages). Throws Error(kInvalidFile): syntax, a name twice in an object (of
// which nlohmann::json would keep the last), a number too large, depth above 32, or more than 400 000 values (the
// largest real file, a tokenizer.json with its merges as pairs, has 250 000).
Json parse_json(const std::string& text, const std::string& path);

// Reads and parses a file of at most 16 MiB.
Json read_json_file(const std::string& path);

// Member `key` of `object` as an integer in [low, high]. Throws Error(kInvalidFile).
int json_int(const Json& object, const char* key, int low, int high, const std::string& path);

// Pairs of integers (alignment heads) in member `key`; empty where absent or null. Throws Error(kInvalidFile).
std::vector<std::pair<int, int>> json_pairs(const Json& object, const char* key,
                                            const std::string& path);

}  // namespace whisperxdna2
