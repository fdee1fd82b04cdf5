// The entries below /sys and /dev by which XRT finds an NPU: a small tree in a private temporary directory, and the
// mapping of paths into it.
#pragma once

#include <string>

namespace emulated_npu {

constexpr char kDeviceNode[] = "/dev/accel/accel0";

class SysfsTree {
 public:
  // Makes the tree. `left_out` names entries that shall not exist, ",name,name,".
  explicit SysfsTree(const std::string& left_out);
  void remove();

  bool covers(const char* path) const;
  std::string inside(const char* path) const { return root_ + path; }
  // The path as the process should see it, for a result of realpath().
  void strip(char* path) const;

 private:
  void write(const std::string& path, const std::string& text) const;
  std::string root_;
  std::string left_out_;
};

}  // namespace emulated_npu
