#include "tests/device/sysfs.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace emulated_npu {
namespace {

namespace fs = std::filesystem;

#define EMULATED_NPU_BDF "0000:c5:00.1"
constexpr char kDriver[] = "/sys/bus/pci/drivers/amdxdna";
constexpr char kBusDevice[] = "/sys/bus/pci/devices/" EMULATED_NPU_BDF;
constexpr char kDevices[] = "/sys/devices/emulated_npu";
constexpr char kModule[] = "/sys/module/amdxdna";
constexpr char kAccel[] = "/dev/accel";
constexpr char kClass[] = "/sys/class/accel";
constexpr char kPrefix[] = "emulated-npu.";

// Trees of processes that ended without a chance to remove them.
void sweep(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename();
    if (name.rfind(kPrefix, 0) != 0) continue;
    const pid_t owner = atoi(name.c_str() + strlen(kPrefix));
    if (owner > 0 && kill(owner, 0) < 0 && errno == ESRCH) fs::remove_all(entry.path(), error);
  }
}

}  // namespace

SysfsTree::SysfsTree(const std::string& left_out) : left_out_(left_out) {
  std::error_code error;
  const fs::path temporary = fs::temp_directory_path();
  sweep(temporary);
  std::string pattern = temporary / (kPrefix + std::to_string(getpid()) + ".XXXXXX");
  if (!mkdtemp(pattern.data())) {
    perror("emulated NPU: cannot make its directory");
    _exit(2);
  }
  root_ = pattern;
  const std::string device = std::string(kDevices) + "/" EMULATED_NPU_BDF;
  const std::pair<const char*, const char*> entries[] = {
      {"vendor", "0x1022"},
      {"device", "0x17f0"},
      {"revision", "0x11"},
      {"subsystem_vendor", "0x1022"},
      {"subsystem_device", "0x17f0"},
      {"class", "0x118000"},
      {"device_type", "0"},  // queues managed by the kernel
      {"vbnv", "NPU Strix Halo"},
      {"fw_version", "1.1.2.65"},
      {"resource", "0x0000000000000000 0x0000000000000000 0x0000000000000000"},
      {"link_width", "16"},
      {"link_width_max", "16"},
      {"link_speed", "16.0 GT/s PCIe"},
      {"link_speed_max", "16.0 GT/s PCIe"},
  };
  for (const auto& [name, value] : entries) write(device + "/" + name, value);
  write(std::string(kModule) + "/version", "0.16.0,emulated");
  write(kDeviceNode, "");
  fs::create_directories(root_ + device + "/accel/accel0");
  fs::create_directories(root_ + kDriver);
  fs::create_directories(root_ + kClass);
  fs::create_directories(root_ + "/sys/bus/pci/devices");
  // Absolute links would leave the tree.
  fs::create_symlink("../../../../.." + device, root_ + kDriver + "/" EMULATED_NPU_BDF);
  fs::create_symlink("../../../.." + device, root_ + kBusDevice);
  fs::create_symlink("../../.." + device + "/accel/accel0", root_ + kClass + "/accel0");
}

void SysfsTree::write(const std::string& path, const std::string& text) const {
  const std::string name = fs::path(path).filename();
  if (left_out_.find("," + name + ",") != std::string::npos) return;
  fs::create_directories(fs::path(root_ + path).parent_path());
  std::ofstream(root_ + path) << text << "\n";
}

void SysfsTree::remove() {
  std::error_code error;
  fs::remove_all(root_, error);
}

bool SysfsTree::covers(const char* path) const {
  for (const char* prefix : {kDriver, kBusDevice, kDevices, kModule, kAccel, kClass}) {
    const size_t length = strlen(prefix);
    if (strncmp(path, prefix, length) == 0 && (path[length] == 0 || path[length] == '/')) return true;
  }
  return false;
}

void SysfsTree::strip(char* path) const {
  const size_t length = root_.size();
  if (strncmp(path, root_.c_str(), length) == 0) memmove(path, path + length, strlen(path + length) + 1);
}

}  // namespace emulated_npu
