// The C library functions by which XRT reaches a device, each with the emulated one in front. Loaded by LD_PRELOAD, or
// linked into a program ahead of the C library. XRT and libstdc++ call them through the PLT, so that nothing of XRT is
// replaced or changed.
//
// These functions run before this library's constructors and after its destructors: until the last object of this file
// is constructed they pass everything on, and what they use is never destroyed.
#include <dirent.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "tests/device/control.h"
#include "tests/device/driver.h"
#include "tests/device/next_function.h"
#include "tests/device/settings.h"
#include "tests/device/sysfs.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace emulated_npu {
namespace {

std::atomic<SysfsTree*> tree{nullptr};
std::atomic<int> open_files{0};  // so that other programs' calls cost one load

std::mutex& files_mutex() {
  static std::mutex* instance = new std::mutex;
  return *instance;
}
std::map<int, std::shared_ptr<DeviceFile>>& files() {
  static auto* instance = new std::map<int, std::shared_ptr<DeviceFile>>;
  return *instance;
}

std::shared_ptr<DeviceFile> find_file(int fd) {
  if (fd < 0 || open_files == 0) return nullptr;
  std::lock_guard<std::mutex> lock(files_mutex());
  const auto found = files().find(fd);
  return found == files().end() ? nullptr : found->second;
}

// A path, moved into the tree where it is one of the device's.
class Path {
 public:
  explicit Path(const char* path) : path_(path) {
    const SysfsTree* const present = tree;
    if (!present || !path || !present->covers(path)) return;
    moved_ = present->inside(path);
    path_ = moved_.c_str();
  }
  operator const char*() const { return path_; }
  bool is_moved() const { return !moved_.empty(); }

 private:
  const char* path_;
  std::string moved_;
};

int fail(int error) {
  errno = error;
  return -1;
}

int open_device() {
  if (!settings().present()) return fail(ENODEV);
  if (settings().denied) return fail(EACCES);
  const int memory = memfd_create("emulated-npu", MFD_CLOEXEC);
  if (memory < 0) return -1;
  auto file = std::make_shared<MemoryFile>(memory);
  constexpr off_t kSparseSize = off_t{1} << 41;
  if (ftruncate(memory, kSparseSize) < 0) return -1;
  const int fd = fcntl(memory, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return -1;
  std::lock_guard<std::mutex> lock(files_mutex());
  files()[fd] = std::make_shared<DeviceFile>(std::move(file));
  ++open_files;
  return fd;
}

bool is_device(const char* path, int flags) {
  return path && tree && strcmp(path, kDeviceNode) == 0 && (flags & O_ACCMODE) == O_RDWR;
}

void* map(void* at, size_t size, int protection, int flags, int fd, off_t offset,
          void* (*next)(void*, size_t, int, int, int, off_t)) {
  const auto file = find_file(fd);
  if (!file) return next(at, size, protection, flags, fd, offset);
  if (settings().lock_limited && (flags & MAP_LOCKED)) {
    errno = EAGAIN;
    return MAP_FAILED;
  }
  // Locking would need RLIMIT_MEMLOCK raised, and would populate the whole heap.
  void* const result = next(at, size, protection, flags & ~MAP_LOCKED, fd, offset);
  if (result != MAP_FAILED) file->mapped(static_cast<uint64_t>(offset), result, size);
  return result;
}

// Constructed last in this file, after all it needs.
struct Startup {
  Startup() {
    owner = getpid();
    made = new SysfsTree(settings().left_out);
    tree = made;
    atexit([] {
      tree = nullptr;
      if (getpid() == owner) made->remove();  // not in a forked child
    });
  }
  static pid_t owner;
  static SysfsTree* made;
};
pid_t Startup::owner;
SysfsTree* Startup::made;
const Startup startup;

}  // namespace
}  // namespace emulated_npu

using emulated_npu::Path;

#define MODE_OF(flags)                       \
  mode_t mode = 0;                           \
  if ((flags) & (O_CREAT | O_TMPFILE)) {     \
    va_list arguments;                       \
    va_start(arguments, flags);              \
    mode = va_arg(arguments, mode_t);        \
    va_end(arguments);                       \
  }

EXPORT int open(const char* path, int flags, ...) {
  MODE_OF(flags)
  NEXT(open);
  return emulated_npu::is_device(path, flags) ? emulated_npu::open_device() : next(Path(path), flags, mode);
}
EXPORT int open64(const char* path, int flags, ...) {
  MODE_OF(flags)
  NEXT(open64);
  return emulated_npu::is_device(path, flags) ? emulated_npu::open_device() : next(Path(path), flags, mode);
}
EXPORT int __open_2(const char* path, int flags) { return open(path, flags); }
EXPORT int openat(int directory, const char* path, int flags, ...) {
  MODE_OF(flags)
  NEXT(openat);
  return next(directory, Path(path), flags, mode);
}
EXPORT FILE* fopen(const char* path, const char* mode) {
  NEXT(fopen);
  return next(Path(path), mode);
}
EXPORT FILE* fopen64(const char* path, const char* mode) {
  NEXT(fopen64);
  return next(Path(path), mode);
}
EXPORT DIR* opendir(const char* path) {
  NEXT(opendir);
  return next(Path(path));
}
EXPORT int stat(const char* path, struct stat* out) noexcept {
  using Function = int (*)(const char*, struct stat*);
  NEXT_AS(Function, stat);
  return next(Path(path), out);
}
EXPORT int lstat(const char* path, struct stat* out) noexcept {
  using Function = int (*)(const char*, struct stat*);
  NEXT_AS(Function, lstat);
  return next(Path(path), out);
}
EXPORT int access(const char* path, int mode) noexcept {
  NEXT(access);
  if (emulated_npu::tree && strcmp(path, emulated_npu::kDeviceNode) == 0) {
    if (!emulated_npu::settings().present()) return emulated_npu::fail(ENOENT);
    if (emulated_npu::settings().denied && (mode & (R_OK | W_OK))) return emulated_npu::fail(EACCES);
  }
  return next(Path(path), mode);
}
EXPORT ssize_t readlink(const char* path, char* out, size_t size) noexcept {
  NEXT(readlink);
  return next(Path(path), out, size);
}
EXPORT char* realpath(const char* path, char* out) noexcept {
  NEXT(realpath);
  const Path moved(path);
  char* const result = next(moved, out);
  if (result && moved.is_moved()) emulated_npu::tree.load()->strip(result);
  return result;
}
EXPORT int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  constexpr unsigned kDrm = 'd';
  if (_IOC_TYPE(request) == kDrm) {
    if (const auto file = emulated_npu::find_file(fd)) {
      const int error = file->ioctl(request, argument);
      return error ? emulated_npu::fail(error) : 0;
    }
  }
  NEXT(ioctl);
  return next(fd, request, argument);
}
EXPORT void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  using Function = void* (*)(void*, size_t, int, int, int, off_t);
  NEXT_AS(Function, mmap);
  return emulated_npu::map(at, size, protection, flags, fd, offset, next);
}
EXPORT int close(int fd) {
  NEXT(close);
  std::shared_ptr<emulated_npu::DeviceFile> file;
  if (emulated_npu::open_files > 0) {
    std::lock_guard<std::mutex> lock(emulated_npu::files_mutex());
    const auto found = emulated_npu::files().find(fd);
    if (found != emulated_npu::files().end()) {
      file = std::move(found->second);
      emulated_npu::files().erase(found);
      --emulated_npu::open_files;
    }
  }
  return next(fd);
}

EXPORT long emulated_npu_control(const char* words) { return emulated_npu::settings().control(words); }
EXPORT const char* emulated_npu_last_message() {
  static thread_local std::string message;
  message = emulated_npu::settings().last_message();
  return message.c_str();
}
