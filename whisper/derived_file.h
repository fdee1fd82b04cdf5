// Files derived from a model and kept in the cache: cache_directory()/derived/<content key>-<kind>-v<version>.
#pragma once

#include <optional>
#include <string>

namespace whisperxdna2 {

// The payload last written for this key, kind and version; nothing where there is none or it does not check out (wrong
// size, wrong checksum). Never throws.
std::optional<std::string> read_derived(const std::string& content_key, const std::string& kind, int version);
// The same for a file at any other path.
std::optional<std::string> read_derived_at(const std::string& path);

// Writes the payload atomically: readers and other writers see the old file or the new one. Returns an empty string, or
// a sentence that says what failed; nothing is left behind then. Never throws.
std::string write_derived(const std::string& content_key, const std::string& kind, int version,
                          const std::string& payload);
std::string write_derived_at(const std::string& path, const std::string& payload);

std::string derived_path(const std::string& content_key, const std::string& kind, int version);

}  // namespace whisperxdna2
