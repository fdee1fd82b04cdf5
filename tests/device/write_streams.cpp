// Writes the instruction files from which make_elfs makes ELFs: write_streams PLAIN FULL
#include <cstdio>

#include "tests/device/stream_writer.h"

namespace {

bool write_file(const char* path, const std::vector<uint32_t>& words) {
  FILE* const file = fopen(path, "wb");
  if (!file) return false;
  const bool written = fwrite(words.data(), sizeof(uint32_t), words.size(), file) == words.size();
  return fclose(file) == 0 && written;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace emulated_npu;
  if (argc != 3) return 2;
  constexpr uint32_t kValues = 1024;
  StreamWriter full;
  full.load_pdi(1);
  elementwise_stream(kValues, full);
  return write_file(argv[1], elementwise_stream(kValues).words()) && write_file(argv[2], full.words()) ? 0 : 1;
}
