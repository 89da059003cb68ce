// The rows that enter a product: quantized to int8 in groups of 32, and laid out as the tiles of a product read them.
#pragma once
#include <type_traits>

#include "formats.h"

namespace {

#if defined(__AVX512VNNI__)
constexpr int TILE_ROWS = 12;
#else
constexpr int TILE_ROWS = 4;
#endif

// The rows that enter a product. `values` serves float formats, the rest integer formats. Integers lie in tiles of TILE_ROWS rows (the
// last tile has what is left), in the order in which a tile's product reads them: [tile][group][row][32], [tile][group][row].
struct Activations {
  float* values;      // [rows][k]
  int8_t* quants;     // rows * k
  float* scales;      // rows * k / 32
  float* sums;        // rows * k / 32: the sum of the group's quants
  int32_t k, rows;

  // Where the group of a row stands among all: its scale, its sum, and, times 32, its quants.
  INLINE int64_t place(int row, int group) const {
    const int in_tile = row % TILE_ROWS, first = row - in_tile, height = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;
    return (int64_t)first * (k / GROUP) + group * height + in_tile;
  }
};

// `f(count, row)` for `rows` rows from `first` on, four at a time where they stand in one tile, `count` a constant.
template <class F>
INLINE void in_fours(int first, int rows, const F& f) {
  static_assert(TILE_ROWS % 4 == 0);
  for (int row = first; row < first + rows;)
    if (row % 4 == 0 && row + 4 <= first + rows) f(std::integral_constant<int, 4>{}, row), row += 4;
    else f(std::integral_constant<int, 1>{}, row++);
}

// Quantize one group of 32. A NaN or infinity anywhere in the group makes its scale NaN, so that it reaches the logits.
INLINE void quantize_group(f32x16 low, f32x16 high, const Activations& a, int row, int group) {
  const float largest = largest_magnitude(low, high);  // NaN and infinity are larger than any number
  const f32x16 factor = splat(largest > 0 ? 127.0f / largest : 0.0f), magic = splat(12582912.0f);
  const i32x16 x = as_int(low * factor + magic) - as_int(magic), y = as_int(high * factor + magic) - as_int(magic);
  const int64_t place = a.place(row, group);
  int8_t* quants = a.quants + place * GROUP;
#if defined(__AVX512F__)
  _mm256_store_si256((__m256i*)quants, _mm256_set_m128i(_mm512_cvtsepi32_epi8((__m512i)y), _mm512_cvtsepi32_epi8((__m512i)x)));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_packs_epi32((__m256i)x.low, (__m256i)x.high), others = _mm256_packs_epi32((__m256i)y.low, (__m256i)y.high);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // a pack works within halves of the register
  _mm256_store_si256((__m256i*)quants, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(pairs, others), order));
#else
  int32_t integers[GROUP];
  store(integers, x);
  store(integers + 16, y);
  for (int i = 0; i < GROUP; i++) quants[i] = (int8_t)integers[i];
#endif
  float scale = largest * (1.0f / 127);
  scale += scale - scale;  // infinity to NaN
  a.scales[place] = scale;
  a.sums[place] = (float)sum(x + y);
}

// The same group of four rows of one tile, which share the steps that are not for 32 values. The same bits.
INLINE void quantize_groups(const f32x16 (&low)[4], const f32x16 (&high)[4], const Activations& a, int row, int group) {
#if defined(__AVX512F__)
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const auto largest_of = [&](int i) __attribute__((always_inline)) {
    return (__m512)_mm512_max_epi32(_mm512_and_si512((__m512i)low[i], magnitude), _mm512_and_si512((__m512i)high[i], magnitude));
  };
  const __m128 largest = reduce(largest_of(0), largest_of(1), largest_of(2), largest_of(3), LargerInteger());
  const __mmask8 counts = _mm_cmp_ps_mask(largest, _mm_setzero_ps(), _CMP_GT_OQ);
  alignas(16) float factor[4];
  _mm_store_ps(factor, _mm_maskz_div_ps(counts, _mm_set1_ps(127.0f), largest));
  const int64_t place = a.place(row, group);
  const f32x16 magic = splat(12582912.0f);
  __m512i x[4], y[4];
  for (int i = 0; i < 4; i++) {
    x[i] = (__m512i)(as_int(low[i] * splat(factor[i]) + magic) - as_int(magic));
    y[i] = (__m512i)(as_int(high[i] * splat(factor[i]) + magic) - as_int(magic));
  }
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);  // a pack works within 128 bits
  for (int i = 0; i < 4; i += 2) {
    const __m512i quads = _mm512_packs_epi16(_mm512_packs_epi32(x[i], y[i]), _mm512_packs_epi32(x[i + 1], y[i + 1]));
    _mm512_storeu_si512(a.quants + (place + i) * GROUP, _mm512_permutexvar_epi32(order, quads));
  }
  const __m128 scale = _mm_mul_ps(largest, _mm_set1_ps(1.0f / 127));
  _mm_storeu_ps(a.scales + place, _mm_add_ps(scale, _mm_sub_ps(scale, scale)));
  const auto total_of = [&](int i) __attribute__((always_inline)) { return (__m512)_mm512_add_epi32(x[i], y[i]); };
  _mm_storeu_ps(a.sums + place, _mm_cvtepi32_ps((__m128i)reduce(total_of(0), total_of(1), total_of(2), total_of(3), AddIntegers())));
#else
  for (int i = 0; i < 4; i++) quantize_group(low[i], high[i], a, row + i, group);
#endif
}

}  // namespace
