#include "npu/overlay_file.h"

#include <dlfcn.h>
#include <unistd.h>
#include <xrt/detail/xclbin.h>

#include <cstdlib>

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

int columns_of(const xrt::xclbin& xclbin, const std::string& path) {
  const axlf* top = xclbin.get_axlf();
  const axlf_section_header* section = ::xclbin::get_axlf_section(top, AIE_PARTITION);
  if (!section || section->m_sectionSize < sizeof(aie_partition) || section->m_sectionOffset > top->m_header.m_length ||
      section->m_sectionSize > top->m_header.m_length - section->m_sectionOffset) {
    foreign(path, "it has no AIE partition");
  }
  const char* bytes = reinterpret_cast<const char*>(top) + section->m_sectionOffset;
  return reinterpret_cast<const aie_partition*>(bytes)->info.column_width;
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
  return file;
}

}  // namespace whisperxdna2::npu
