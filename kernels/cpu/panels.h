// The order in which products read their second operand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace whisperxdna2 {

// `rows` rows at `stride` bytes of `units` times four bytes (a multiple of 16), as panels [units][panel], the last one
// filled up with zeros: a row becomes a column.
void pack_panels(const void* from, ptrdiff_t stride, int rows, int units, int panel, void* to);

}  // namespace whisperxdna2
