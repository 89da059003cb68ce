// The rows that enter a product: quantized to int8 in groups of 32, and laid out as the tiles of a product read them.
#pragma once
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

}  // namespace
