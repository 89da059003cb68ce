// Products of a panel of 32 outputs with every row of a batch, for each weight format.
//
// Integer formats take activations quantized to int8 in groups of 32. Four products are summed per instruction without rounding, and
// a group's sum is scaled once: exact up to the float accumulation over groups, whose order is the same for every tile.
#pragma once
#include "formats.h"

namespace {

#if defined(__AVX512VNNI__)
constexpr int TILE_ROWS = 12;
#else
constexpr int TILE_ROWS = 4;
#endif

// The rows that enter a product. `values` serves float formats, the rest integer formats. Integers lie in tiles of TILE_ROWS rows (the
// last tile has what is left), in the order in which a tile's product reads them: [tile][group][quad][row][4], [tile][group][row].
struct Activations {
  float* values;      // [rows][k]
  int8_t* quants;     // rows * k
  float* scales;      // rows * k / 32
  float* weighted;    // rows * k / 32: scale * sum of the group's quants
  int32_t* offsets;   // rows * k / 32: minus the sum of the group's quants
  int32_t k, rows;

  struct Place {
    int64_t quants, group;
    int height;  // rows of the tile; a group's quads of four quants are so many quads apart
  };
  INLINE Place place(int row, int group) const {
    const int in_tile = row % TILE_ROWS, first = row - in_tile, height = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;
    return {(int64_t)first * k + (int64_t)group * GROUP * height + 4 * in_tile, (int64_t)first * (k / GROUP) + group * height + in_tile, height};
  }
};

// Quantize one group of 32. A NaN or infinity anywhere in the group makes its scale NaN, so that it reaches the logits.
INLINE void quantize_group(f32x16 low, f32x16 high, const Activations& a, int row, int group) {
  const float largest = largest_magnitude(low, high);  // NaN and infinity are larger than any number
  const f32x16 factor = splat(largest > 0 ? 127.0f / largest : 0.0f), magic = splat(12582912.0f);
  const i32x16 x = (i32x16)(low * factor + magic) - (i32x16)magic, y = (i32x16)(high * factor + magic) - (i32x16)magic;
  const Activations::Place place = a.place(row, group);
  alignas(32) int8_t quants[GROUP];
#if defined(__AVX512F__)
  _mm_store_si128((__m128i*)quants, _mm512_cvtsepi32_epi8((__m512i)x));
  _mm_store_si128((__m128i*)(quants + 16), _mm512_cvtsepi32_epi8((__m512i)y));
  const int32_t total = _mm512_reduce_add_epi32((__m512i)(x + y));
#else
  int32_t total = 0;
  for (int i = 0; i < 16; i++) {
    quants[i] = (int8_t)x[i];
    quants[16 + i] = (int8_t)y[i];
    total += x[i] + y[i];
  }
#endif
  for (int quad = 0; quad < GROUP / 4; quad++) store(a.quants + place.quants + quad * 4 * place.height, load<int32_t>(quants + 4 * quad));
  float scale = largest * (1.0f / 127);
  scale += scale - scale;  // infinity to NaN
  a.scales[place.group] = scale;
  a.weighted[place.group] = scale * (float)total;
  a.offsets[place.group] = -total;
}

// ---- Integer tiles: `MR` rows x 32 columns ---------------------------------------------------------------------------------

#if defined(__AVX512VNNI__)

constexpr int PREFETCH_BYTES = 4096;

// In place, with the broadcast inside the instruction: left to itself the compiler spends a move or a load on each.
INLINE void dot(__m512i& sum, __m512i weights, const int8_t* quad) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*(const int32_t*)quad));
}
INLINE void add_product(__m512& total, __m512 a, __m512 b) { asm("vfmadd231ps %2, %1, %0" : "+v"(total) : "v"(a), "v"(b)); }
INLINE void add_product(__m512& total, __m512 a, const float* b) {
  asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(total) : "v"(a), "m"(*b));
}
INLINE __m512 product(__m512 a, const float* b) {
  asm("vmulps %1%{1to16%}, %0, %0" : "+v"(a) : "m"(*b));
  return a;
}
INLINE __m512i nothing() {
  __m512i v;
  asm volatile("vpxord %0, %0, %0" : "=v"(v));
  return v;
}

// `HALVES` times 16 columns from `half` on. Few rows take both halves at once and share the broadcast activations; many rows take one,
// so that unpacked weights serve more of them.
template <int F, int MR, int HALVES>
INLINE void integer_columns(const uint8_t* panel, int groups, const Activations& a, int row, int half, float* out) {
  const int8_t* quants = a.quants + (int64_t)row * a.k;
  const float *scales = a.scales + (int64_t)row * groups, *weighted = a.weighted + (int64_t)row * groups;
  const int32_t* offsets = a.offsets + (int64_t)row * groups;
  __m512 total[MR][HALVES];
#pragma GCC unroll 12
  for (int m = 0; m < MR; m++)
    for (int h = 0; h < HALVES; h++) total[m][h] = _mm512_setzero_ps();
  const uint8_t* block = panel + header_bytes(F);
  const __m512i mask = _mm512_set1_epi8(15), flip = _mm512_set1_epi8((char)0x80);
  for (int g = 0; g < groups; g++, block += block_bytes(F), quants += GROUP * MR, scales += MR, weighted += MR, offsets += MR) {
    if (half == 0 && row == 0)  // the first rows to need these weights wait for memory; panels lie one after another
      for (int line = 0; line < block_bytes(F); line += 64) __builtin_prefetch(block + PREFETCH_BYTES + line);
    __m512i acc[MR][HALVES];
#pragma GCC unroll 12
    for (int m = 0; m < MR; m++)
      for (int h = 0; h < HALVES; h++) {
        if constexpr (F == W4_MINIMUM) acc[m][h] = nothing();
        else acc[m][h] = _mm512_slli_epi32(_mm512_set1_epi32(offsets[m]), F == W4_GROUP ? 3 : 7);
      }
    if constexpr (F == W4_GROUP || F == W4_MINIMUM) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        __m512i low[HALVES], high[HALVES];
#pragma GCC unroll 2
        for (int h = 0; h < HALVES; h++) {
          const __m512i v = _mm512_load_si512(block + j * 128 + (half + h) * 64);
          low[h] = _mm512_and_si512(v, mask);
          high[h] = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
        }
#pragma GCC unroll 12
        for (int m = 0; m < MR; m++) {
#pragma GCC unroll 2
          for (int h = 0; h < HALVES; h++) dot(acc[m][h], low[h], quants + (j * MR + m) * 4);
        }
#pragma GCC unroll 12
        for (int m = 0; m < MR; m++) {
#pragma GCC unroll 2
          for (int h = 0; h < HALVES; h++) dot(acc[m][h], high[h], quants + ((j + 4) * MR + m) * 4);
        }
      }
    } else {
#pragma GCC unroll 8
      for (int j = 0; j < 8; j++) {
        __m512i w[HALVES];
#pragma GCC unroll 2
        for (int h = 0; h < HALVES; h++) w[h] = _mm512_xor_si512(_mm512_load_si512(block + j * 128 + (half + h) * 64), flip);
#pragma GCC unroll 12
        for (int m = 0; m < MR; m++) {
#pragma GCC unroll 2
          for (int h = 0; h < HALVES; h++) dot(acc[m][h], w[h], quants + (j * MR + m) * 4);
        }
      }
    }
    constexpr int at = F == W8_GROUP ? 1024 : 512;
#pragma GCC unroll 2
    for (int h = 0; h < HALVES; h++) {
      __m512 d = _mm512_setzero_ps(), least = _mm512_setzero_ps();
      if constexpr (F != W8_CHANNEL) d = (__m512)load_half((const uint16_t*)(block + at + (half + h) * 32));
      if constexpr (F == W4_MINIMUM) least = (__m512)load_half((const uint16_t*)(block + 576 + (half + h) * 32));
#pragma GCC unroll 12
      for (int m = 0; m < MR; m++) {
        const __m512 value = _mm512_cvtepi32_ps(acc[m][h]);
        if constexpr (F == W8_CHANNEL) add_product(total[m][h], value, scales + m);
        else add_product(total[m][h], product(value, scales + m), d);
        if constexpr (F == W4_MINIMUM) add_product(total[m][h], least, weighted + m);
      }
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < MR; m++)
    for (int h = 0; h < HALVES; h++) {
      if constexpr (F == W8_CHANNEL) total[m][h] = _mm512_mul_ps(total[m][h], _mm512_loadu_ps(panel + (half + h) * 64));
      _mm512_storeu_ps(out + m * PANEL + (half + h) * 16, total[m][h]);
    }
}

template <int F, int MR>
void integer_tile(const uint8_t* panel, int groups, const Activations& a, int row, float* out) {
  if constexpr (MR <= 6) {
    integer_columns<F, MR, 2>(panel, groups, a, row, 0, out);
  } else {
    integer_columns<F, MR, 1>(panel, groups, a, row, 0, out);
    integer_columns<F, MR, 1>(panel, groups, a, row, 1, out);
  }
}

#elif defined(__AVX2__)

INLINE __m256 halves_to_floats(const uint8_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }

// Eight columns at a time. Eight products of at most 2 * 15 * 127 fit into 16 bits; 8-bit weights use |w| and the sign on the activation.
template <int F, int MR>
void integer_tile(const uint8_t* panel, int groups, const Activations& a, int row, float* out) {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  for (int part = 0; part < 4; part++) {
    __m256 total[MR];
    for (int m = 0; m < MR; m++) total[m] = _mm256_setzero_ps();
    const uint8_t* block = panel + header_bytes(F);
    for (int g = 0; g < groups; g++, block += block_bytes(F)) {
      const uint8_t* weights = block + part * 32;
      const int8_t* quants = a.quants + (int64_t)row * a.k + g * GROUP * MR;
      __m256i acc[MR];
      for (int m = 0; m < MR; m++) acc[m] = _mm256_setzero_si256();
      if constexpr (F == W4_GROUP || F == W4_MINIMUM) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
          const __m256i v = _mm256_loadu_si256((const __m256i*)(weights + j * 128));
          const __m256i low = _mm256_and_si256(v, mask), high = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
#pragma GCC unroll 4
          for (int m = 0; m < MR; m++) {
            const int8_t* q = quants + (j * MR + m) * 4;
            acc[m] = _mm256_add_epi16(acc[m], _mm256_maddubs_epi16(low, _mm256_set1_epi32(load<int32_t>(q))));
            acc[m] = _mm256_add_epi16(acc[m], _mm256_maddubs_epi16(high, _mm256_set1_epi32(load<int32_t>(q + 16 * MR))));
          }
        }
        for (int m = 0; m < MR; m++) acc[m] = _mm256_madd_epi16(acc[m], ones);
      } else {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
          const __m256i w = _mm256_loadu_si256((const __m256i*)(weights + j * 128)), magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 4
          for (int m = 0; m < MR; m++) {
            const __m256i x = _mm256_set1_epi32(load<int32_t>(quants + (j * MR + m) * 4));
            acc[m] = _mm256_add_epi32(acc[m], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w)), ones));
          }
        }
      }
      constexpr int at = F == W8_GROUP ? 1024 : 512;
      for (int m = 0; m < MR; m++) {
        const int64_t index = (int64_t)row * groups + g * MR + m;
        if constexpr (F == W4_GROUP) acc[m] = _mm256_add_epi32(acc[m], _mm256_set1_epi32(8 * a.offsets[index]));
        const __m256 value = _mm256_cvtepi32_ps(acc[m]), scale = _mm256_set1_ps(a.scales[index]);
        if constexpr (F == W8_CHANNEL) total[m] = _mm256_fmadd_ps(value, scale, total[m]);
        else total[m] = _mm256_fmadd_ps(_mm256_mul_ps(value, scale), halves_to_floats(block + at + part * 16), total[m]);
        if constexpr (F == W4_MINIMUM)
          total[m] = _mm256_fmadd_ps(_mm256_set1_ps(a.weighted[index]), halves_to_floats(block + 576 + part * 16), total[m]);
      }
    }
    for (int m = 0; m < MR; m++) {
      if constexpr (F == W8_CHANNEL) total[m] = _mm256_mul_ps(total[m], _mm256_loadu_ps((const float*)panel + part * 8));
      _mm256_storeu_ps(out + m * PANEL + part * 8, total[m]);
    }
  }
}

#else

template <int F, int MR>
void integer_tile(const uint8_t* panel, int groups, const Activations& a, int row, float* out) {
  for (int m = 0; m < MR; m++) {
    float total[PANEL] = {};
    const uint8_t* block = panel + header_bytes(F);
    for (int g = 0; g < groups; g++, block += block_bytes(F)) {
      const int8_t* quants = a.quants + (int64_t)row * a.k + g * GROUP * MR + m * 4;
      const int64_t index = (int64_t)row * groups + g * MR + m;
      int32_t acc[PANEL] = {};
      constexpr bool nibbles = F == W4_GROUP || F == W4_MINIMUM;
      for (int j = 0; j < (nibbles ? 4 : 8); j++)
        for (int c = 0; c < PANEL; c++)
          for (int i = 0; i < 4; i++) {
            const uint8_t w = block[(j * PANEL + c) * 4 + i];
            const int8_t *low = quants + j * 4 * MR + i, *high = low + 16 * MR;
            acc[c] += nibbles ? (w & 15) * *low + (w >> 4) * *high : (int8_t)w * *low;
          }
      constexpr int at = F == W8_GROUP ? 1024 : 512;
      for (int c = 0; c < PANEL; c++) {
        if (F == W4_GROUP) acc[c] += 8 * a.offsets[index];
        const float value = (float)acc[c] * a.scales[index];
        total[c] += F == W8_CHANNEL ? value : value * half_to_float(load<uint16_t>(block + at + 2 * c));
        if (F == W4_MINIMUM) total[c] += a.weighted[index] * half_to_float(load<uint16_t>(block + 576 + 2 * c));
      }
    }
    for (int c = 0; c < PANEL; c++) out[m * PANEL + c] = F == W8_CHANNEL ? total[c] * load<float>(panel + 4 * c) : total[c];
  }
}

#endif

// The best rate of 8-bit products: 16 independent accumulators, no memory.
#if defined(__AVX512VNNI__)
constexpr int PRODUCTS_PER_ROUND = 16 * 64;
inline uint32_t products(int repeats) {
  __m512i acc[16];
  for (int i = 0; i < 16; i++) acc[i] = _mm512_set1_epi32(i);
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int r = 0; r < repeats; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) acc[i] = _mm512_dpbusd_epi32(acc[i], a, b);
    asm volatile("" : "+v"(a), "+v"(b));
  }
  __m512i total = acc[0];
  for (int i = 1; i < 16; i++) total = _mm512_add_epi32(total, acc[i]);
  return (uint32_t)_mm512_reduce_add_epi32(total);
}
#elif defined(__AVX2__)
constexpr int PRODUCTS_PER_ROUND = 8 * 32;
inline uint32_t products(int repeats) {
  __m256i acc[8];
  for (int i = 0; i < 8; i++) acc[i] = _mm256_set1_epi16((short)i);
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  for (int r = 0; r < repeats; r++) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) acc[i] = _mm256_add_epi16(acc[i], _mm256_maddubs_epi16(a, b));
    asm volatile("" : "+x"(a), "+x"(b));
  }
  uint32_t total = 0;
  for (int i = 0; i < 8; i++) total += (uint32_t)_mm256_extract_epi32(acc[i], 0);
  return total;
}
#else
constexpr int PRODUCTS_PER_ROUND = 64;
inline uint32_t products(int repeats) {
  int8_t a[64], b[64];
  memset(a, 3, 64);
  memset(b, 5, 64);
  int32_t acc[16] = {};
  for (int r = 0; r < repeats; r++) {
    for (int i = 0; i < 64; i++) acc[i / 4] += a[i] * b[i];
    a[r % 64] = (int8_t)r;
  }
  uint32_t total = 0;
  for (int i = 0; i < 16; i++) total += (uint32_t)acc[i];
  return total;
}
#endif

// ---- Float tiles ---------------------------------------------------------------------------------------------------------------

constexpr int FLOAT_ROWS = TILE_ROWS < 6 ? TILE_ROWS : 6;

template <int MR>
void float_tile(const float* weights, int k, const float* x, float* out) {
  f32x16 total[MR][2];
  for (int m = 0; m < MR; m++) total[m][0] = total[m][1] = splat(0.0f);
  for (int i = 0; i < k; i++, weights += PANEL) {
    const f32x16 w0 = load<f32x16>(weights), w1 = load<f32x16>(weights + 16);
#pragma GCC unroll 6
    for (int m = 0; m < MR; m++) {
      const f32x16 v = splat(x[(int64_t)m * k + i]);
      total[m][0] = madd(v, w0, total[m][0]);
      total[m][1] = madd(v, w1, total[m][1]);
    }
  }
  for (int m = 0; m < MR; m++) {
    store(out + m * PANEL, total[m][0]);
    store(out + m * PANEL + 16, total[m][1]);
  }
}

template <int F, int MR>
INLINE void tile(const uint8_t* panel, const float* unpacked, const Activations& a, int row, float* out) {
  if constexpr (F < 0) float_tile<MR>(unpacked, a.k, a.values + (int64_t)row * a.k, out);
  else integer_tile<F, MR>(panel, a.k / GROUP, a, row, out);
}

template <int F, int MR>
INLINE void last_rows(int rows, const uint8_t* panel, const float* unpacked, const Activations& a, int row, float* out) {
  if constexpr (MR > 0) {
    if (rows == MR) return tile<F, MR>(panel, unpacked, a, row, out);
    last_rows<F, MR - 1>(rows, panel, unpacked, a, row, out);
  }
}

template <int F>
void all_rows(const uint8_t* panel, const float* unpacked, const Activations& a, float* out) {
  constexpr int most = F < 0 ? FLOAT_ROWS : TILE_ROWS;
  int row = 0;
  for (; row + most <= a.rows; row += most) tile<F, most>(panel, unpacked, a, row, out + (int64_t)row * PANEL);
  last_rows<F, most - 1>(a.rows - row, panel, unpacked, a, row, out + (int64_t)row * PANEL);
}

// out[a.rows][32] = activations x panel `index`. `scratch` holds k * 32 floats (float formats only).
void panel_product(const Matrix& w, int index, const Activations& a, float* scratch, float* out) {
  const uint8_t* panel = w.data + panel_bytes(w.format, w.k) * index;
  switch (w.format) {
    case W8_CHANNEL: return all_rows<W8_CHANNEL>(panel, nullptr, a, out);
    case W8_GROUP: return all_rows<W8_GROUP>(panel, nullptr, a, out);
    case W4_GROUP: return all_rows<W4_GROUP>(panel, nullptr, a, out);
    case W4_MINIMUM: return all_rows<W4_MINIMUM>(panel, nullptr, a, out);
  }
  const float* weights = (const float*)panel;
  if (w.format != F32) unpack_panel(w, index, scratch), weights = scratch;
  all_rows<-1>(panel, weights, a, out);
}

}  // namespace
