// Files derived from a model: whole or not there at all.
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "whisper/derived_file.h"

#include <check.h>

using namespace whisperxdna2;
namespace fs = std::filesystem;

namespace {

// A cache of this test's own.
struct Cache {
  Cache() {
    char name[] = "/tmp/whisperxdna2-test-XXXXXX";
    ck_assert(mkdtemp(name) != nullptr);
    root = name;
    setenv("XDG_CACHE_HOME", name, 1);
  }
  ~Cache() { fs::remove_all(root); }
  fs::path file() const { return root / "whisperxdna2" / "derived" / "key-kind-v1"; }
  fs::path root;
};

const std::string kPayload("some\0bytes", 10);

}  // namespace

START_TEST(what_was_written_is_read) {
  Cache cache;
  ck_assert(!read_derived("key", "kind", 1));
  ck_assert(write_derived("key", "kind", 1, kPayload).empty());
  ck_assert(read_derived("key", "kind", 1) == kPayload);
  ck_assert(!read_derived("key", "kind", 2));
  ck_assert(!read_derived("other", "kind", 1));
}
END_TEST

START_TEST(a_damaged_file_is_none) {
  Cache cache;
  write_derived("key", "kind", 1, kPayload);
  std::string whole;
  {
    std::ifstream in(cache.file(), std::ios::binary);
    whole.assign(std::istreambuf_iterator<char>(in), {});
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    if (i >= 20 && i < 24) continue;  // reserved bytes of the header
    std::string damaged = whole;
    damaged[i] ^= 1;
    std::ofstream(cache.file(), std::ios::binary) << damaged;
    ck_assert_msg(!read_derived("key", "kind", 1), "byte %zu", i);
    std::ofstream(cache.file(), std::ios::binary) << whole.substr(0, i);
    ck_assert_msg(!read_derived("key", "kind", 1), "truncated to %zu", i);
  }
  std::ofstream(cache.file(), std::ios::binary) << whole << "x";
  ck_assert(!read_derived("key", "kind", 1));
}
END_TEST

START_TEST(a_cache_that_cannot_be_written_is_named) {
  setenv("XDG_CACHE_HOME", "/dev/null/cache", 1);
  ck_assert(write_derived("key", "kind", 1, kPayload) ==
            "cannot create /dev/null/cache/whisperxdna2/derived: Not a directory");
  ck_assert(!read_derived("key", "kind", 1));
}
END_TEST

START_TEST(readers_see_whole_files_while_others_write) {
  Cache cache;
  const std::string a(100000, 'a'), b(300000, 'b');
  write_derived("key", "kind", 1, a);
  std::vector<std::thread> writers;
  for (const std::string* payload : {&a, &b}) {
    writers.emplace_back([payload] {
      for (int i = 0; i < 100; ++i) write_derived("key", "kind", 1, *payload);
    });
  }
  int read = 0;
  for (int i = 0; i < 200; ++i) {
    const auto payload = read_derived("key", "kind", 1);
    // A file replaced between the look at its size and its opening counts as none.
    if (payload) ck_assert(*payload == a || *payload == b);
    read += payload.has_value();
  }
  for (std::thread& t : writers) t.join();
  ck_assert_int_gt(read, 0);
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(cache.file().parent_path())) ++files;
  ck_assert_uint_eq(files, 1);  // nothing unfinished is left
}
END_TEST

// Processes share nothing but the directory.
START_TEST(two_processes_at_once_leave_one_whole_file) {
  Cache cache;
  const std::string payloads[] = {std::string(200000, 'a'), std::string(400000, 'b')};
  std::vector<pid_t> writers;
  for (const std::string& payload : payloads) {
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
      bool good = true;
      for (int i = 0; i < 100; ++i) {
        good = good && write_derived("key", "kind", 1, payload).empty();
        const auto there = read_derived("key", "kind", 1);
        good = good && (!there || *there == payloads[0] || *there == payloads[1]);
      }
      _exit(good ? 0 : 1);
    }
    writers.push_back(child);
  }
  for (const pid_t child : writers) {
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  const auto last = read_derived("key", "kind", 1);
  ck_assert(last == payloads[0] || last == payloads[1]);
  ck_assert_int_eq(std::distance(fs::directory_iterator(cache.file().parent_path()), {}), 1);
}
END_TEST

START_TEST(a_full_disk_is_named_and_leaves_what_there_was) {
  Cache cache;
  ck_assert(write_derived("key", "kind", 1, kPayload).empty());
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit limit;
  ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
  limit.rlim_cur = 50000;  // as on a disk that has this much left
  ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string problem = write_derived("key", "kind", 1, std::string(200000, 'a'));
  ck_assert_msg(problem == "cannot write " + cache.file().string() + ": File too large", "%s",
                problem.c_str());
  ck_assert(read_derived("key", "kind", 1) == kPayload);
  ck_assert_int_eq(std::distance(fs::directory_iterator(cache.file().parent_path()), {}), 1);
}
END_TEST

START_TEST(a_read_only_cache_is_read_and_named_when_written) {
  Cache cache;
  ck_assert(write_derived("key", "kind", 1, kPayload).empty());
  const fs::path folder = cache.file().parent_path();
  fs::permissions(cache.root, fs::perms(0755));
  fs::permissions(cache.file(), fs::perms(0644));
  fs::permissions(folder, fs::perms(0555));
  const uid_t user = geteuid();
  if (user == 0) ck_assert_int_eq(seteuid(65534), 0);  // permissions mean nothing to root
  const std::string problem = write_derived("key", "kind", 1, "other");
  const auto there = read_derived("key", "kind", 1);
  if (user == 0) ck_assert_int_eq(seteuid(user), 0);
  ck_assert_msg(problem == "cannot write " + cache.file().string() + ": Permission denied", "%s",
                problem.c_str());
  ck_assert(there == kPayload);
  fs::permissions(folder, fs::perms(0755));
}
END_TEST

int main() {
  Suite* suite = suite_create("derived_file");
  TCase* tc = tcase_create("derived_file");
  tcase_add_test(tc, what_was_written_is_read);
  tcase_add_test(tc, a_damaged_file_is_none);
  tcase_add_test(tc, a_cache_that_cannot_be_written_is_named);
  tcase_add_test(tc, readers_see_whole_files_while_others_write);
  tcase_add_test(tc, two_processes_at_once_leave_one_whole_file);
  tcase_add_test(tc, a_full_disk_is_named_and_leaves_what_there_was);
  tcase_add_test(tc, a_read_only_cache_is_read_and_named_when_written);
  suite_add_tcase(suite, tc);
  SRunner* runner = srunner_create(suite);
  srunner_run_all(runner, CK_ENV);
  const int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed == 0 ? 0 : 1;
}
