#include "tests/device/settings.h"

#include <time.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdlib>
#include <sstream>

#include "tests/device/next_function.h"

namespace emulated_npu {

int64_t monotonic_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000000000} + now.tv_nsec;
}

Settings& settings() {
  static Settings* instance = new Settings;
  return *instance;
}

Settings::Settings() {
  // The shim's own switch that makes bo.sync() a SYNC_BO instead of cache flushes in user space, which no preload
  // could see. XRT reads its configuration keys from the environment too.
  setenv("Debug.force_driver_sync", "true", 0);
  if (const char* words = getenv("EMULATED_NPU")) {
    if (*words && control(words) < 0) {
      fprintf(stderr, "emulated NPU: EMULATED_NPU=\"%s\" is not understood; tests/device/README.md lists the words\n",
              words);
      _exit(2);
    }
  }
}

long Settings::control(const std::string& words) {
  std::istringstream in(words);
  std::string each;
  long value = -1;
  while (in >> each) {
    value = word(each);
    if (value < 0) return value;
  }
  return value;
}

long Settings::word(const std::string& word) {
  const size_t equals = word.find('=');
  if (equals != std::string::npos) return set(word.substr(0, equals), word.substr(equals + 1)) ? 0 : -1;

  if (word == "unplug") return unplug(), 0;
  if (word == "replug") return plug(), 0;
  if (word == "sleep") return sleep_request_ = true, 0;
  if (word == "clear") {
    std::lock_guard<std::mutex> lock(mutex_);
    faults_.clear();
    last_message_.clear();
    sync_countdown_ = bo_countdown_ = -1;
    return 0;
  }
  const struct {
    const char* name;
    std::atomic<long>& value;
  } counters[] = {{"ioctls", ioctls},     {"syncs", syncs},       {"synced_bytes", synced_bytes},
                  {"executions", executions}, {"waits", waits},   {"commands", commands},
                  {"bos", bos},           {"live_contexts", live_contexts}, {"wakes", wakes},
                  {"failures", failures}, {"busy_us", busy_us},   {"kmac", kmac}};
  for (const auto& counter : counters) {
    if (word == counter.name) return counter.value;
  }
  return -1;
}

bool Settings::set(const std::string& key, const std::string& value) {
  char* end = nullptr;
  const double number = strtod(value.c_str(), &end);
  const bool is_number = !value.empty() && (*end == 0 || *end == ',') && number >= 0;
  const auto choose = [&](auto& target,
                          std::initializer_list<std::pair<const char*, std::decay_t<decltype(target)>>> names) {
    for (const auto& [name, meaning] : names) {
      if (value == name) {
        target = meaning;
        return true;
      }
    }
    return false;
  };

  if (key == "completion") return choose(wait_command, {{"syncobj", false}, {"wait", true}});
  if (key == "addresses") return choose(user_addresses, {{"iova", false}, {"user", true}});
  if (key == "views")
    return choose(views, {{"one", Views::kOne}, {"direction", Views::kDirection}, {"line", Views::kLine}});
  if (key == "mode") {
    Array::Mode chosen;
    if (!choose(chosen,
                {{"exact", Array::Mode::kExact}, {"fast", Array::Mode::kFast}, {"delay", Array::Mode::kDelay}})) {
      return false;
    }
    mode = chosen;
    return true;
  }
  if (key == "fault") return add_fault(value);
  if (key == "omit") return left_out = "," + value + ",", true;
  if (key == "logfile" || key == "trace") {
    // Not by fopen(), which this library interposes.
    NEXT(fopen);
    FILE* file = next(value.c_str(), "a");
    if (!file) return false;
    (key == "trace" ? trace_file_ : log_file_) = file;
    return true;
  }
  if (!is_number) return false;
  const long integer = static_cast<long>(number);
  if (key == "log") return log_level_ = static_cast<int>(integer), true;
  if (key == "slots") return slots = static_cast<int>(integer), true;
  if (key == "inline") return in_submission = integer != 0, true;
  if (key == "watchdog_ms") return watchdog_ms = static_cast<int>(integer), true;
  if (key == "contexts") return contexts = static_cast<int>(integer), true;
  if (key == "suspend_ms") return suspend_ms = integer, true;
  if (key == "wake_us") return wake_us = integer, true;
  if (key == "replug_ms") return replug_ms = integer, true;
  if (key == "deny") return denied = integer != 0, true;
  if (key == "flushless") return flushless = integer != 0, true;
  if (key == "memlock") return lock_limited = integer != 0, true;
  if (key == "drop_sync") return sync_countdown_ = integer, true;
  if (key == "fail_bo") return bo_countdown_ = integer, true;
  if (key == "cost") {  // fixed us[,us per MMAC[,fixed us of chained commands]]
    double parts[3] = {number, 0, number};
    for (int i = 1; i < 3 && *end == ','; ++i) parts[i] = strtod(end + 1, &end);
    if (*end) return false;
    cost_fixed_us = parts[0];
    cost_us_per_mmac = parts[1];
    cost_chained_us = parts[2];
    return true;
  }
  return false;
}

// KIND@N: the N-th command from now, 0 being the next. KIND%N: every N-th command.
bool Settings::add_fault(const std::string& value) {
  const size_t at = value.find_first_of("@%");
  if (at == std::string::npos || at + 1 >= value.size()) return false;
  const std::string name = value.substr(0, at);
  const struct {
    const char* name;
    Fault kind;
  } kinds[] = {{"error", Fault::kError}, {"abort", Fault::kAbort},   {"timeout", Fault::kTimeout},
               {"hang", Fault::kHang},   {"unplug", Fault::kUnplug}, {"skip", Fault::kSkip}};
  for (const auto& kind : kinds) {
    if (name != kind.name) continue;
    const long n = atol(value.c_str() + at + 1);
    const bool repeats = value[at] == '%';
    if (n < 0 || (repeats && n == 0)) return false;
    std::lock_guard<std::mutex> lock(mutex_);
    faults_.push_back({kind.kind, commands + (repeats ? n - 1 : n), repeats ? n : 0});
    return true;
  }
  return false;
}

std::optional<Fault> Settings::next_fault() {
  std::lock_guard<std::mutex> lock(mutex_);
  const long number = commands++;
  for (size_t i = 0; i < faults_.size(); ++i) {
    PendingFault& fault = faults_[i];
    if (fault.at != number) continue;
    const Fault kind = fault.kind;
    if (fault.every) {
      fault.at += fault.every;
    } else {
      faults_.erase(faults_.begin() + static_cast<long>(i));
    }
    return kind;
  }
  return std::nullopt;
}

bool Settings::present() {
  if (present_) return true;
  const int64_t back_at = back_at_ns_;
  if (back_at == 0 || monotonic_ns() < back_at) return false;
  plug();
  return true;
}

void Settings::unplug() {
  back_at_ns_ = replug_ms ? monotonic_ns() + replug_ms * int64_t{1000000} : 0;
  present_ = false;
  ++generation_;
  std::lock_guard<std::mutex> lock(driver_mutex);
  driver_changed.notify_all();
}

void Settings::plug() {
  back_at_ns_ = 0;
  present_ = true;
}

void Settings::fail(const std::string& message) {
  ++failures;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    last_message_ = message;
  }
  log("%s", message.c_str());
}

std::string Settings::last_message() {
  std::lock_guard<std::mutex> lock(mutex_);
  return last_message_;
}

void Settings::log(const char* format, ...) {
  static std::mutex& log_mutex = *new std::mutex;
  va_list arguments;
  va_start(arguments, format);
  {
    std::lock_guard<std::mutex> lock(log_mutex);
    fputs("emulated NPU: ", log_file_);
    vfprintf(log_file_, format, arguments);
    fputc('\n', log_file_);
    fflush(log_file_);
  }
  va_end(arguments);
}

void Settings::trace(long command, int64_t submitted_ns, int64_t start_ns, int64_t end_ns, double mmac,
                     uint64_t argument) {
  if (!trace_file_) return;
  const auto us = [](int64_t ns) { return static_cast<double>(ns) / 1000; };
  fprintf(trace_file_, "%ld %.1f %.1f %.1f %.3f %#llx\n", command, us(submitted_ns), us(start_ns), us(end_ns), mmac,
          static_cast<unsigned long long>(argument));
  fflush(trace_file_);
}

}  // namespace emulated_npu
