// For tests of the file formats: the models that make_models.py wrote at build time, copies of them
// to be damaged, and loading within the memory that files may take.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "whisper/checkpoint.h"
#include "whisper/engine.h"
#include "whisper/error.h"
#include "whisper/model.h"
#include "whisper/tokenizer.h"

#include <check.h>  // last: it defines macros with names such as fail

namespace whisperxdna2 {

namespace fs = std::filesystem;

// Where the generated models are.
inline fs::path models() {
  const char* path = std::getenv("WHISPERXDNA2_TEST_MODELS");
  ck_assert_msg(path != nullptr,
                "WHISPERXDNA2_TEST_MODELS is not set; run the suites with meson test");
  return path;
}

inline std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  ck_assert_msg(file.good(), "%s cannot be read", path.c_str());
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_file(const fs::path& path, const std::string& data) {
  std::ofstream(path, std::ios::binary) << data;
}

// A directory that is removed with what it holds.
class Scratch {
 public:
  Scratch() {
    char pattern[] = "/tmp/whisperxdna2-test-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(pattern));
    root_ = pattern;
  }
  ~Scratch() { fs::remove_all(root_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const fs::path& path() const { return root_; }

 private:
  fs::path root_;
};

// A copy of a generated model that the test may damage.
class Copy {
 public:
  explicit Copy(const std::string& name) {
    fs::copy(models() / name, path(), fs::copy_options::recursive);
  }

  fs::path path() const { return scratch_.path() / "m"; }
  // The file that holds the weights.
  fs::path weights() const {
    for (const char* name : {"model.bin", "model.safetensors"})
      if (fs::exists(path() / name)) return path() / name;
    return path();
  }

  void edit(const std::function<void(std::string&)>& change) const {
    std::string data = read_file(weights());
    change(data);
    write_file(weights(), data);
  }

 private:
  Scratch scratch_;
};

inline size_t find(const std::string& data, const std::string& text, size_t from = 0) {
  const size_t at = data.find(text, from);
  ck_assert_msg(at != std::string::npos, "the test's file has no %s", text.c_str());
  return at;
}

inline void put32(std::string& data, size_t at, uint32_t value) {
  std::memcpy(&data[at], &value, sizeof value);
}

// Where the fields behind the name of a CTranslate2 tensor are: rank u8, dimensions u32, type u8,
// bytes u32, data.
inline size_t after_ct2_name(const std::string& data, const std::string& name) {
  return find(data, name + '\0') + name.size() + 1;
}

// Bytes of a file, or of the files in a directory.
inline uint64_t size_of_files(const fs::path& path) {
  std::error_code error;  // a path that leads nowhere has none
  if (!fs::is_directory(path, error))
    return fs::is_regular_file(path, error) ? fs::file_size(path) : 0;
  uint64_t total = 0;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.is_regular_file(error)) total += entry.file_size();
  return total;
}

// While in scope the process gets no more than `factor` times the size of the files at `path` and
// 64 MiB of further memory. Sanitizers keep books of their own and are left alone.
class MemoryLimit {
 public:
  explicit MemoryLimit(const fs::path& path, uint64_t factor = 2) {
    ck_assert_int_eq(getrlimit(RLIMIT_DATA, &before_), 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    std::ifstream status("/proc/self/status");
    std::string word;
    while (status >> word && word != "VmData:") {
    }
    uint64_t kilobytes = 0;
    ck_assert(status >> kilobytes);
    struct rlimit limit = before_;
    limit.rlim_cur = (kilobytes << 10) + factor * size_of_files(path) + (64 << 20);
    ck_assert_int_eq(setrlimit(RLIMIT_DATA, &limit), 0);
#else
    (void)path, (void)factor;
#endif
  }
  ~MemoryLimit() { setrlimit(RLIMIT_DATA, &before_); }

 private:
  struct rlimit before_;
};

// `action` throws an Error with this code and a message of printable text that contains `part`.
inline void expect_error(const std::function<void()>& action, ErrorCode code,
                         const std::string& part) {
  try {
    action();
    ck_abort_msg("no error; expected: %s", part.c_str());
  } catch (const Error& error) {
    const std::string message = error.what();
    ck_assert_msg(message.find(part) != std::string::npos, "%s; expected: %s", error.what(),
                  part.c_str());
    ck_assert_msg(error.code() == code, "code %d: %s", static_cast<int>(error.code()),
                  error.what());
    for (const char c : message) ck_assert_msg(c >= ' ' && c <= '~', "%s", error.what());
  }
}

// Loading fails so, within the memory that files may take.
inline void expect_refused(const fs::path& path, ErrorCode code, const std::string& part) {
  const MemoryLimit limit(path);
  expect_error([&] { load_model(path); }, code, part);
}

// Loading a copy of `model` with `change` made to its weights fails with a message that contains
// `part`.
inline void expect_damage(const std::string& model, const std::string& part,
                          const std::function<void(std::string&)>& change,
                          ErrorCode code = ErrorCode::kInvalidFile) {
  const Copy copy(model);
  copy.edit(change);
  expect_refused(copy.path(), code, part);
}

}  // namespace whisperxdna2
