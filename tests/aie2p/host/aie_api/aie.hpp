// A stand-in for the part of Xilinx/aie_api that the core programs (kernels/aie2p/) use, for the host: the same names,
// and the results that an AIE2P core gives. What is written here was read in that library's headers for architecture 21
// (include/aie_api/aie.hpp, detail/aie2p/), nothing was copied. It is stricter than silicon: what hardware does without
// a word (a truncated address, an ignored shift) ends the program with a sentence.
//
// Rounding and saturation are registers, as in a core: `floor` and `none` until a program sets them. One core per
// thread.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>

struct acc32 {};
struct acc64 {};
struct accauto {};  // for int8 products: 32 bits

namespace aie {

enum class rounding_mode {
  floor,
  ceil,
  positive_inf,
  negative_inf,
  symmetric_inf,
  symmetric_zero,
  conv_even,
  conv_odd
};
enum class saturation_mode { none, saturate, symmetric };

constexpr unsigned vector_decl_align = 64;

namespace host {

struct Registers {
  rounding_mode rounding = rounding_mode::floor;
  saturation_mode saturation = saturation_mode::none;
  bool wrapped = false;  // an accumulator passed 32 bits; no register of hardware, which says nothing
};
inline thread_local Registers registers;

[[noreturn]] inline void stop(const char* what) {
  fprintf(stderr, "core program: %s\n", what);
  abort();
}
inline void require(bool holds, const char* what) {
  if (!holds) stop(what);
}
// 16 bytes for vectors of 128 bits, 32 for 256, else 64: detail/ld_st.hpp.
template <typename T, unsigned Lanes>
void require_aligned(const void* address) {
  constexpr unsigned bytes = sizeof(T) * Lanes;
  static_assert(bytes >= 16 && (bytes & (bytes - 1)) == 0, "no register has this size");
  constexpr unsigned alignment = bytes >= 64 ? 64 : bytes;
  require(reinterpret_cast<uintptr_t>(address) % alignment == 0, "a vector access at a misaligned address");
}

// value / 2^shift as an integer, rounded as the register says.
inline int64_t rounded(int64_t value, int shift) {
  require(shift >= 0 && shift < 63, "a shift out of range");
  if (shift == 0) return value;
  const int64_t floor = value >> shift;
  const int64_t rest = value - floor * (int64_t{1} << shift);
  const int64_t half = int64_t{1} << (shift - 1);
  const bool tie = rest == half;
  switch (registers.rounding) {
    case rounding_mode::floor:
      return floor;
    case rounding_mode::ceil:
      return floor + (rest != 0);
    case rounding_mode::positive_inf:
      return floor + (rest >= half);
    case rounding_mode::negative_inf:
      return floor + (rest > half);
    case rounding_mode::symmetric_inf:
      return floor + (tie ? value > 0 : rest > half);
    case rounding_mode::symmetric_zero:
      return floor + (tie ? value < 0 : rest > half);
    case rounding_mode::conv_even:
      return floor + (tie ? floor & 1 : rest > half);
    case rounding_mode::conv_odd:
      return floor + (tie ? !(floor & 1) : rest > half);
  }
  stop("no such rounding mode");
}
// The same for conv_even and shifts to 30, quick.
inline int32_t rounded_to_even(int32_t value, int shift) {
  const int32_t floor = value >> shift;
  const auto rest = static_cast<uint32_t>(value) - (static_cast<uint32_t>(floor) << shift);
  const auto twice_rest = static_cast<int32_t>(rest << 1);
  const int32_t unit = static_cast<int32_t>(uint32_t{1} << shift);
  return floor + ((twice_rest > unit) | ((twice_rest == unit) & floor & 1));
}
template <typename T, typename Value>
T saturated(Value value) {
  constexpr Value high = std::numeric_limits<T>::max();
  Value low = std::numeric_limits<T>::min();
  if (registers.saturation == saturation_mode::none) return static_cast<T>(value);
  if (registers.saturation == saturation_mode::symmetric && std::is_signed_v<T>) low = static_cast<Value>(-high);
  return static_cast<T>(value < low ? low : value > high ? high : value);
}

// sums += terms modulo 2^32, as accumulators of 32 bits do. Written so that the compiler makes vectors of it.
template <unsigned Lanes>
void add_to(int32_t (&sums)[Lanes], const int32_t (&terms)[Lanes]) {
  uint32_t wrapped = 0;  // in the sign bit
  for (unsigned i = 0; i < Lanes; ++i) {
    const auto a = static_cast<uint32_t>(sums[i]), b = static_cast<uint32_t>(terms[i]), sum = a + b;
    wrapped |= (sum ^ a) & (sum ^ b);
    sums[i] = static_cast<int32_t>(sum);
  }
  if (wrapped >> 31) registers.wrapped = true;
}

}  // namespace host

inline void set_rounding(rounding_mode mode) { host::registers.rounding = mode; }
inline void set_saturation(saturation_mode mode) { host::registers.saturation = mode; }

template <typename T, unsigned Lanes>
struct vector {
  using value_type = T;
  T lane[Lanes];

  static constexpr unsigned size() { return Lanes; }

  template <unsigned Out>
  vector<T, Out> grow_replicate() const {
    static_assert(Out % Lanes == 0);
    vector<T, Out> out;
    for (unsigned i = 0; i < Out; ++i) out.lane[i] = lane[i % Lanes];
    return out;
  }
  template <unsigned Out>
  vector<T, Out> extract(unsigned part) const {
    host::require(part < Lanes / Out, "a part that a vector does not have");
    vector<T, Out> out;
    memcpy(out.lane, lane + part * Out, sizeof out.lane);
    return out;
  }
  template <unsigned In>
  vector& insert(unsigned part, const vector<T, In>& in) {
    host::require(part < Lanes / In, "a part that a vector does not have");
    memcpy(lane + part * In, in.lane, sizeof in.lane);
    return *this;
  }
};

template <unsigned Lanes, typename T>
vector<T, Lanes> load_v(const T* from) {
  host::require_aligned<T, Lanes>(from);
  vector<T, Lanes> v;
  memcpy(v.lane, from, sizeof v.lane);
  return v;
}
template <typename T, unsigned Lanes>
T* store_v(T* to, const vector<T, Lanes>& v) {
  host::require_aligned<T, Lanes>(to);
  memcpy(to, v.lane, sizeof v.lane);
  return to;
}

template <typename T, unsigned Lanes>
vector<T, Lanes> broadcast(T value) {
  vector<T, Lanes> v;
  for (T& lane : v.lane) lane = value;
  return v;
}
template <typename T, unsigned Lanes>
vector<T, Lanes> zeros() {
  return broadcast<T, Lanes>(0);
}

namespace host {
template <typename T, unsigned Lanes, typename F>
vector<T, Lanes> each(const vector<T, Lanes>& a, const vector<T, Lanes>& b, F f) {
  vector<T, Lanes> out;
  for (unsigned i = 0; i < Lanes; ++i) out.lane[i] = static_cast<T>(f(a.lane[i], b.lane[i]));
  return out;
}
template <typename V, typename F>
V each(const V& a, typename V::value_type b, F f) {
  return each(a, broadcast<typename V::value_type, V::size()>(b), f);
}
}  // namespace host

template <typename T, unsigned Lanes>
vector<T, Lanes> max(const vector<T, Lanes>& v, T bound) {
  return host::each(v, bound, [](T a, T b) { return a > b ? a : b; });
}
template <typename T, unsigned Lanes>
vector<T, Lanes> min(const vector<T, Lanes>& v, T bound) {
  return host::each(v, bound, [](T a, T b) { return a < b ? a : b; });
}
// The most negative number has no magnitude and stays what it is.
template <typename T, unsigned Lanes>
vector<T, Lanes> abs(const vector<T, Lanes>& v) {
  return host::each(v, T{0}, [](T a, T) { return a < 0 ? -a : a; });
}
template <typename T, unsigned Lanes>
vector<T, Lanes> sub(const vector<T, Lanes>& a, const vector<T, Lanes>& b) {
  return host::each(a, b, [](T x, T y) { return x - y; });
}
template <typename T, unsigned Lanes>
vector<T, Lanes> bit_and(T mask, const vector<T, Lanes>& v) {
  return host::each(v, mask, [](T a, T b) { return a & b; });
}

// acc32: 32 bits, acc64: 64.
template <typename Tag, unsigned Lanes>
struct accum {
  using element = std::conditional_t<std::is_same_v<Tag, acc64>, int64_t, int32_t>;
  element lane[Lanes];

  accum() = default;
  template <typename T>
  explicit accum(const vector<T, Lanes>& v, int shift = 0) {
    // detail/aie2p/accum.hpp, get_ups()
    host::require(sizeof(T) < sizeof(element) || shift == 0,
                  "an up-shift of lanes as wide as the accumulator's, which is ignored");
    for (unsigned i = 0; i < Lanes; ++i) {
      lane[i] = static_cast<element>(static_cast<std::make_unsigned_t<element>>(v.lane[i]) << shift);
    }
  }

  template <typename T>
  vector<T, Lanes> to_vector(int shift = 0) const {
    vector<T, Lanes> out;
    if constexpr (sizeof(T) == sizeof(element)) {
      // detail/aie2p/accum.hpp, get_srs(): the bits as they are
      host::require(shift == 0, "a down-shift to lanes as wide as the accumulator's, which is ignored");
      for (unsigned i = 0; i < Lanes; ++i) out.lane[i] = static_cast<T>(lane[i]);
    } else {
      if (sizeof(element) == 4 && shift <= 30 && host::registers.rounding == rounding_mode::conv_even) {
        for (unsigned i = 0; i < Lanes; ++i) out.lane[i] = host::saturated<T>(host::rounded_to_even(lane[i], shift));
      } else {
        for (unsigned i = 0; i < Lanes; ++i) out.lane[i] = host::saturated<T>(host::rounded(lane[i], shift));
      }
    }
    return out;
  }
};

template <typename T, unsigned Lanes>
accum<acc32, Lanes> add(accum<acc32, Lanes> sum, const vector<T, Lanes>& v) {
  static_assert(std::is_same_v<T, int32_t>);
  host::add_to(sum.lane, v.lane);
  return sum;
}
template <unsigned Lanes>
accum<acc32, Lanes> add(accum<acc32, Lanes> a, const accum<acc32, Lanes>& b) {
  host::add_to(a.lane, b.lane);
  return a;
}

// 16 x 16 bits, 64 lanes at a time into 32 bits (detail/aie2p/mul_acc32.hpp). One product always fits.
template <typename Tag, unsigned Lanes>
accum<Tag, Lanes> mul(const vector<int16_t, Lanes>& a, const vector<int16_t, Lanes>& b) {
  static_assert(std::is_same_v<Tag, acc32> && Lanes == 64);
  accum<Tag, Lanes> out;
  for (unsigned i = 0; i < Lanes; ++i) out.lane[i] = int32_t{a.lane[i]} * b.lane[i];
  return out;
}
template <typename Tag, unsigned Lanes>
accum<Tag, Lanes> mul(const vector<int16_t, Lanes>& a, int16_t b) {
  return mul<Tag>(a, broadcast<int16_t, Lanes>(b));
}
template <unsigned Lanes>
accum<acc32, Lanes> mac(const accum<acc32, Lanes>& sum, const vector<int16_t, Lanes>& a, int16_t b) {
  return add(sum, mul<acc32>(a, b));
}
template <unsigned Lanes>
accum<acc32, Lanes> msc(const accum<acc32, Lanes>& sum, const vector<int16_t, Lanes>& a, int16_t b) {
  accum<acc32, Lanes> product = mul<acc32>(a, b);
  for (int32_t& lane : product.lane) lane = -lane;  // a product of 16 bits has an opposite
  return add(sum, product);
}

template <unsigned M, unsigned K, unsigned N, typename A, typename B, typename Tag>
class mmul;

// C (8 x 8 int32) += A (8 x 8, rows of k) * B (8 x 8, k in rows).
template <>
class mmul<8, 8, 8, int8_t, int8_t, accauto> {
 public:
  static constexpr unsigned size_A = 64, size_B = 64, size_C = 64;

  explicit mmul(const vector<int32_t, size_C>& v) : sum_(v) {}

  void mac(const vector<int8_t, size_A>& a, const vector<int8_t, size_B>& b) {
    // GCC's vectors: its vectorizer makes scalar code of plain loops, which would be five times slower.
    typedef int8_t Bytes __attribute__((vector_size(8)));
    typedef uint32_t Row __attribute__((vector_size(32)));
    Row weight[8], wrapped = {};  // `wrapped` in the sign bits
    for (int k = 0; k < 8; ++k) {
      Bytes bytes;
      memcpy(&bytes, b.lane + k * 8, sizeof bytes);
      weight[k] = __builtin_convertvector(bytes, Row);
    }
    for (int row = 0; row < 8; ++row) {
      Row product = {}, before;  // a product is at most 8 * 128 * 128
      for (int k = 0; k < 8; ++k) product += weight[k] * static_cast<uint32_t>(a.lane[row * 8 + k]);
      memcpy(&before, sum_.lane + row * 8, sizeof before);
      const Row after = before + product;
      wrapped |= (after ^ before) & (after ^ product);
      memcpy(sum_.lane + row * 8, &after, sizeof after);
    }
    for (int column = 0; column < 8; ++column) host::registers.wrapped |= wrapped[column] >> 31 != 0;
  }
  template <typename T>
  vector<T, size_C> to_vector(int shift = 0) const {
    return sum_.template to_vector<T>(shift);
  }

 private:
  accum<acc32, size_C> sum_;
};

// Four copies of a table, for four lookups a cycle: two arrays, each with its 256-bit pieces twice in a row.
template <unsigned Copies, typename Offset, typename Slope = Offset>
struct lut {
  static_assert(Copies == 4);
  lut(unsigned size, const void* ab, const void* cd) : elements(size), ab(ab), cd(cd) {
    host::require_aligned<int8_t, vector_decl_align>(ab);
    host::require_aligned<int8_t, vector_decl_align>(cd);
    host::require(ab != cd, "a lookup whose table is in one bank only");
    constexpr unsigned piece = 32;
    const unsigned bytes = size * (sizeof(Offset) + sizeof(Slope));
    for (unsigned at = 0; at < bytes; at += piece) {
      const auto* const first = static_cast<const uint8_t*>(ab) + 2 * at;
      host::require(memcmp(first, first + piece, piece) == 0, "a table that does not repeat every 256 bits");
    }
    host::require(memcmp(ab, cd, 2 * bytes) == 0, "a lookup whose tables differ");
  }
  unsigned elements;
  const void *ab, *cd;
};

template <typename T, typename Lut>
class linear_approx;

// slope * (input mod 2^step) + (offset << shift), with the pair at input >> step, at most the last. The remainder's
// bits are cleared before the shift that makes the index (detail/aie2/linear_approx.hpp), so rounding does not matter.
template <>
class linear_approx<int16_t, lut<4, int16_t, int16_t>> {
 public:
  linear_approx(const lut<4, int16_t, int16_t>& table, unsigned step_bits, int bias = 0, int shift_offset = 0)
      : table_(table), step_bits_(static_cast<int>(step_bits)), bias_(bias), shift_offset_(shift_offset) {
    host::require(step_bits >= 3, "a lookup with fewer step bits than it has");
  }
  accum<acc64, 16> compute(const vector<int16_t, 16>& input) const {
    accum<acc64, 16> out;
    for (unsigned i = 0; i < 16; ++i) {
      const int part = input.lane[i] & ((1 << step_bits_) - 1);
      int index = (input.lane[i] >> step_bits_) + bias_;
      // The index is made unsigned with saturation.
      if (index < 0 && registers_saturate()) index = 0;
      host::require(index >= 0, "a lookup at a negative index");
      const auto last = static_cast<int>(table_.elements) - 1;
      if (index > last) index = last;
      int16_t pair[2];
      memcpy(pair, static_cast<const uint8_t*>(table_.ab) + (index / 8 * 16 + index % 8) * sizeof pair, sizeof pair);
      out.lane[i] = int64_t{pair[0]} * part + int64_t{pair[1]} * (int64_t{1} << shift_offset_);
    }
    return out;
  }

 private:
  static bool registers_saturate() { return host::registers.saturation != saturation_mode::none; }

  lut<4, int16_t, int16_t> table_;
  int step_bits_, bias_, shift_offset_;
};

}  // namespace aie
