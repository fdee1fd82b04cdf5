// Stands in for the NPU module: "encodes" on a device called "fake", or finds none where FAKE_NPU=absent. With NEEDS it
// wants a function that no library has, as a module wants XRT's where that is missing or too old.
#include <cstdlib>
#include <cstring>

#include "whisper/backend.h"
#include "whisper/error.h"

using namespace whisperxdna2;

#ifdef NEEDS
extern "C" void NEEDS();
#endif

namespace {

class FakeNpuEncoder : public Encoder {
 public:
  EncoderInfo describe() const override { return {"npu", "fake", "1.0", "int8"}; }
  void submit(int, const float*, int) override {}
  const float* wait(int, std::chrono::steady_clock::time_point) override { return nullptr; }
  void interrupt() override {}
  void resume() override {}
};

}  // namespace

extern "C" __attribute__((visibility("default"))) std::unique_ptr<Encoder> FACTORY_NAME(
    std::shared_ptr<const Model> model, Precision, int, bool) {
#ifdef NEEDS
  NEEDS();
#endif
  const char* npu = std::getenv("FAKE_NPU");
  if (!model || (npu && std::strcmp(npu, "absent") == 0)) throw Error(ErrorCode::kNotFound, "no NPU on this machine");
  return std::make_unique<FakeNpuEncoder>();
}
