#include "whisper/backend.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

#include "whisper/error.h"

namespace whisperxdna2 {
namespace {

std::string module_path() {
  if (const char* path = std::getenv("WHISPERXDNA2_NPU_MODULE")) return path;
  Dl_info here{};
  std::string folder;
  if (dladdr(kNpuFactoryName, &here) && here.dli_fname) folder = here.dli_fname;
  folder.resize(folder.rfind('/') == std::string::npos ? 0 : folder.rfind('/') + 1);
  return folder + "libwhisperxdna2-npu.so";
}

NpuFactory* load_npu_factory() {
  const std::string path = module_path();
  if (access(path.c_str(), F_OK) != 0) {
    throw Error(ErrorCode::kNotFound, "the NPU module is not installed (" + path +
                                          "): build with the XRT headers, or use backend=cpu or backend=auto");
  }
  // Never closed: XRT does not survive being unloaded.
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!module) {
    throw Error(ErrorCode::kNotFound, std::string("the NPU module cannot be loaded (") + dlerror() +
                                          "): install XRT 2.25 or later (libxrt2 and libxrt-npu2), or use backend=cpu");
  }
  void* factory = dlsym(module, kNpuFactoryName);
  if (!factory) {
    throw Error(ErrorCode::kUnsupported, path + " is the NPU module of another version: install that of this one");
  }
  return reinterpret_cast<NpuFactory*>(factory);
}

}  // namespace

BackendChoice make_encoder(std::shared_ptr<const Model> model, Backend backend, Precision precision, int threads,
                           const std::function<void(double)>& progress, const std::atomic<bool>* cancel) {
  BackendChoice choice;
  if (backend != Backend::kCpu) {
    try {
      choice.encoder = load_npu_factory()(model, precision, threads, backend == Backend::kAuto);
      return choice;
    } catch (const Error& e) {
      if (backend == Backend::kNpu) throw;
      choice.fallback_reason = e.what();
    }
  }
  choice.encoder = make_cpu_encoder(std::move(model), precision, threads, progress, cancel);
  return choice;
}

}  // namespace whisperxdna2
