// How rows are divided into blocks whose sums fit the registers. Included only by the files that are compiled for one
// instruction set.
#pragma once

#include <type_traits>

namespace whisperxdna2 {
namespace {

// block(std::integral_constant<int, n>(), row) for blocks of n rows from `row` on: R, and smaller ones for the rest.
template <int R, class Block>
[[gnu::always_inline]] inline void for_row_blocks(int rows, const Block& block, int row = 0) {
  for (; row + R <= rows; row += R) block(std::integral_constant<int, R>(), row);
  if constexpr (R > 1) {
    if (row < rows) for_row_blocks<R - 1>(rows, block, row);
  }
}

}  // namespace
}  // namespace whisperxdna2
