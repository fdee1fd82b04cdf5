#include "npu/overlay_file.h"

#include <dlfcn.h>
#include <unistd.h>
#include <xrt/detail/xclbin.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "whisper/error.h"

namespace whisperxdna2::npu {
namespace {

std::string overlay_path() {
  if (const char* path = std::getenv("WHISPERXDNA2_OVERLAY")) return path;
  Dl_info here{};
  std::string folder;
  if (dladdr(reinterpret_cast<const void*>(&load_overlay), &here) && here.dli_fname) folder = here.dli_fname;
  folder.resize(folder.rfind('/') == std::string::npos ? 0 : folder.rfind('/') + 1);
  for (const overlay::Variant* v : {&overlay::kGemm8, &overlay::kGemm1}) {
    const std::string path = folder + v->name + ".xclbin";
    if (access(path.c_str(), F_OK) == 0) return path;
  }
  return folder + overlay::kGemm8.name + ".xclbin";
}

[[noreturn]] void foreign(const std::string& path, const std::string& why) {
  throw Error(ErrorCode::kUnsupported, path + " is not an overlay of this program (" + why +
                                           "): install the one that belongs to it, or unset WHISPERXDNA2_OVERLAY");
}

// Of the first section of this kind; empty if there is none inside the file.
std::string_view section_of(const xrt::xclbin& xclbin, axlf_section_kind kind) {
  const axlf* top = xclbin.get_axlf();
  const axlf_section_header* section = ::xclbin::get_axlf_section(top, kind);
  const uint64_t length = top->m_header.m_length;
  if (!section || section->m_sectionOffset > length || section->m_sectionSize > length - section->m_sectionOffset)
    return {};
  return {reinterpret_cast<const char*>(top) + section->m_sectionOffset, section->m_sectionSize};
}

int columns_of(const xrt::xclbin& xclbin, const std::string& path) {
  const std::string_view partition = section_of(xclbin, AIE_PARTITION);
  if (partition.size() < sizeof(aie_partition)) foreign(path, "it has no AIE partition");
  return reinterpret_cast<const aie_partition*>(partition.data())->info.column_width;
}

// What `xclbinutil --key-value USER:KEY:VALUE` has written, as {"key_values": [{"key": ..., "value": ...}]}.
std::string identity_of(const xrt::xclbin& xclbin) {
  const std::string_view text = section_of(xclbin, KEYVALUE_METADATA);
  const auto metadata = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (!metadata.is_object()) return {};
  for (const auto& pair : metadata.value("key_values", nlohmann::json::array())) {
    if (pair.is_object() && pair.value("key", "") == overlay::kIdentityKey) return pair.value("value", "");
  }
  return {};
}

}  // namespace

OverlayFile load_overlay() {
  OverlayFile file{overlay_path(), {}, nullptr};
  if (access(file.path.c_str(), R_OK) != 0) {
    throw Error(ErrorCode::kNotFound, "the NPU's overlay " + file.path +
                                          " is missing: install it, or name one in WHISPERXDNA2_OVERLAY");
  }
  try {
    file.xclbin = xrt::xclbin(file.path);
  } catch (const std::exception& e) {
    throw Error(ErrorCode::kInvalidFile, file.path + " is not an xclbin: " + e.what());
  }
  const auto kernels = file.xclbin.get_kernels();
  if (kernels.size() != 1 || kernels[0].get_name() != overlay::kKernelName) {
    foreign(file.path, std::string("it has not one kernel ") + overlay::kKernelName);
  }
  if (kernels[0].get_num_args() < static_cast<size_t>(overlay::kFirstBufferArgument + overlay::kBufferArguments)) {
    foreign(file.path, "its kernel takes too few buffers");
  }
  const int columns = columns_of(file.xclbin, file.path);
  for (const overlay::Variant* v : {&overlay::kGemm8, &overlay::kGemm1}) {
    if (v->columns == columns) file.variant = v;
  }
  if (!file.variant) foreign(file.path, std::to_string(columns) + " columns");
  const std::string identity = identity_of(file.xclbin), wanted = overlay::identity(*file.variant);
  if (identity != wanted) {
    foreign(file.path, (identity.empty() ? "it does not say which" : "it is \"" + identity + "\"") + ", wanted is \"" +
                           wanted + '"');
  }
  return file;
}

}  // namespace whisperxdna2::npu
