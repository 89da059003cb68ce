// Products of a panel of 32 outputs with every row of a batch, for each weight format.
//
// Integer formats take activations quantized to int8 in groups of 32. Four products are summed per instruction without rounding, and
// a group's sum is scaled once: exact up to the float accumulation over groups, whose order is the same for every tile.
#pragma once
#include "formats.h"

namespace {

// The rows that enter a product. `values` serves float formats, the rest integer formats.
struct Activations {
  float* values;     // [rows][k]
  int8_t* quants;    // [rows][k]
  float* scales;     // [rows][k / 32]
  float* weighted;   // [rows][k / 32]  scale * sum of the group's quants
  int32_t* sums;     // [rows][k / 32]  sum of the group's quants
  int32_t k;
};

// Quantize one group of 32. A NaN or infinity anywhere in the group makes its scale NaN, so that it reaches the logits.
INLINE void quantize_group(f32x16 low, f32x16 high, int8_t* quants, float* scale, float* weighted, int32_t* group_sum) {
  const f32x16 zero = splat(0.0f);
  const f32x16 a = low < zero ? -low : low, b = high < zero ? -high : high;
  const float largest = maximum(max(a, b));
  const f32x16 poison = low * zero + high * zero;
  const f32x16 factor = splat(largest > 0 ? 127.0f / largest : 0.0f), magic = splat(12582912.0f);
  const i32x16 x = (i32x16)(low * factor + magic) - (i32x16)magic, y = (i32x16)(high * factor + magic) - (i32x16)magic;
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)quants, _mm512_cvtsepi32_epi8((__m512i)x));
  _mm_storeu_si128((__m128i*)(quants + 16), _mm512_cvtsepi32_epi8((__m512i)y));
  const int32_t total = _mm512_reduce_add_epi32(_mm512_add_epi32((__m512i)x, (__m512i)y));
#else
  int32_t total = 0;
  for (int i = 0; i < 16; i++) {
    quants[i] = (int8_t)x[i];
    quants[16 + i] = (int8_t)y[i];
    total += x[i] + y[i];
  }
#endif
  const float s = largest / 127.0f + sum(poison);
  *scale = s;
  *group_sum = total;
  *weighted = s * (float)total;
}

// ---- Integer tiles: `MR` rows x 32 columns ---------------------------------------------------------------------------------

#if defined(__AVX512VNNI__)

constexpr int TILE_ROWS = 12, PREFETCH_BYTES = 4096;

// `HALVES` times 16 columns from `half` on. Few rows take both halves at once and share the broadcast activations; many rows take one,
// so that unpacked weights serve more of them.
template <int F, int MR, int HALVES>
INLINE void integer_columns(const uint8_t* panel, int groups, const Activations& a, int row, int half, float* out) {
  const int8_t* quants = a.quants + (int64_t)row * a.k;
  const float *scales = a.scales + (int64_t)row * groups, *weighted = a.weighted + (int64_t)row * groups;
  const int32_t* sums = a.sums + (int64_t)row * groups;
  const int64_t stride = a.k;
  __m512 total[MR][HALVES];
#pragma GCC unroll 12
  for (int m = 0; m < MR; m++)
    for (int h = 0; h < HALVES; h++) total[m][h] = _mm512_setzero_ps();
  const uint8_t* block = panel + header_bytes(F);
  const __m512i mask = _mm512_set1_epi8(15), flip = _mm512_set1_epi8((char)0x80);
  for (int g = 0; g < groups; g++, block += block_bytes(F), quants += GROUP) {
    if (half == 0 && row == 0)  // the first rows to need these weights wait for memory; panels lie one after another
      for (int line = 0; line < block_bytes(F); line += 64) __builtin_prefetch(block + PREFETCH_BYTES + line);
    __m512i acc[MR][HALVES];
#pragma GCC unroll 12
    for (int m = 0; m < MR; m++)
      for (int h = 0; h < HALVES; h++) {
        if constexpr (F == W4_MINIMUM) acc[m][h] = _mm512_setzero_si512();
        else acc[m][h] = _mm512_set1_epi32(-(F == W4_GROUP ? 8 : 128) * sums[m * groups + g]);
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
          const __m512i x = _mm512_set1_epi32(load<int32_t>(quants + m * stride + j * 4));
#pragma GCC unroll 2
          for (int h = 0; h < HALVES; h++) acc[m][h] = _mm512_dpbusd_epi32(acc[m][h], low[h], x);
        }
#pragma GCC unroll 12
        for (int m = 0; m < MR; m++) {
          const __m512i x = _mm512_set1_epi32(load<int32_t>(quants + m * stride + 16 + j * 4));
#pragma GCC unroll 2
          for (int h = 0; h < HALVES; h++) acc[m][h] = _mm512_dpbusd_epi32(acc[m][h], high[h], x);
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
          const __m512i x = _mm512_set1_epi32(load<int32_t>(quants + m * stride + j * 4));
#pragma GCC unroll 2
          for (int h = 0; h < HALVES; h++) acc[m][h] = _mm512_dpbusd_epi32(acc[m][h], w[h], x);
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
        const __m512 value = _mm512_cvtepi32_ps(acc[m][h]), scale = _mm512_set1_ps(scales[m * groups + g]);
        if constexpr (F == W8_CHANNEL) total[m][h] = _mm512_fmadd_ps(value, scale, total[m][h]);
        else total[m][h] = _mm512_fmadd_ps(_mm512_mul_ps(value, scale), d, total[m][h]);
        if constexpr (F == W4_MINIMUM) total[m][h] = _mm512_fmadd_ps(_mm512_set1_ps(weighted[m * groups + g]), least, total[m][h]);
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

constexpr int TILE_ROWS = 4;

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
      const int8_t* quants = a.quants + (int64_t)row * a.k + g * GROUP;
      __m256i acc[MR];
      for (int m = 0; m < MR; m++) acc[m] = _mm256_setzero_si256();
      if constexpr (F == W4_GROUP || F == W4_MINIMUM) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
          const __m256i v = _mm256_loadu_si256((const __m256i*)(weights + j * 128));
          const __m256i low = _mm256_and_si256(v, mask), high = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
#pragma GCC unroll 4
          for (int m = 0; m < MR; m++) {
            const int8_t* q = quants + (int64_t)m * a.k + j * 4;
            acc[m] = _mm256_add_epi16(acc[m], _mm256_maddubs_epi16(low, _mm256_set1_epi32(load<int32_t>(q))));
            acc[m] = _mm256_add_epi16(acc[m], _mm256_maddubs_epi16(high, _mm256_set1_epi32(load<int32_t>(q + 16))));
          }
        }
        for (int m = 0; m < MR; m++) acc[m] = _mm256_madd_epi16(acc[m], ones);
      } else {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
          const __m256i w = _mm256_loadu_si256((const __m256i*)(weights + j * 128)), magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 4
          for (int m = 0; m < MR; m++) {
            const __m256i x = _mm256_set1_epi32(load<int32_t>(quants + (int64_t)m * a.k + j * 4));
            acc[m] = _mm256_add_epi32(acc[m], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w)), ones));
          }
        }
      }
      constexpr int at = F == W8_GROUP ? 1024 : 512;
      for (int m = 0; m < MR; m++) {
        const int64_t index = (int64_t)(row + m) * groups + g;
        if constexpr (F == W4_GROUP) acc[m] = _mm256_sub_epi32(acc[m], _mm256_set1_epi32(8 * a.sums[index]));
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

constexpr int TILE_ROWS = 4;

template <int F, int MR>
void integer_tile(const uint8_t* panel, int groups, const Activations& a, int row, float* out) {
  for (int m = 0; m < MR; m++) {
    float total[PANEL] = {};
    const uint8_t* block = panel + header_bytes(F);
    for (int g = 0; g < groups; g++, block += block_bytes(F)) {
      const int8_t* q = a.quants + (int64_t)(row + m) * a.k + g * GROUP;
      const int64_t index = (int64_t)(row + m) * groups + g;
      int32_t acc[PANEL] = {};
      constexpr bool nibbles = F == W4_GROUP || F == W4_MINIMUM;
      for (int j = 0; j < (nibbles ? 4 : 8); j++)
        for (int c = 0; c < PANEL; c++)
          for (int i = 0; i < 4; i++) {
            const uint8_t w = block[(j * PANEL + c) * 4 + i];
            acc[c] += nibbles ? (w & 15) * q[j * 4 + i] + (w >> 4) * q[16 + j * 4 + i] : (int8_t)w * q[j * 4 + i];
          }
      constexpr int at = F == W8_GROUP ? 1024 : 512;
      for (int c = 0; c < PANEL; c++) {
        if (F == W4_GROUP) acc[c] -= 8 * a.sums[index];
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
void all_rows(const uint8_t* panel, const float* unpacked, const Activations& a, int rows, float* out) {
  constexpr int most = F < 0 ? FLOAT_ROWS : TILE_ROWS;
  int row = 0;
  for (; row + most <= rows; row += most) tile<F, most>(panel, unpacked, a, row, out + (int64_t)row * PANEL);
  last_rows<F, most - 1>(rows - row, panel, unpacked, a, row, out + (int64_t)row * PANEL);
}

// out[rows][32] = activations x panel `index`. `scratch` holds k * 32 floats (float formats only).
void panel_product(const Matrix& w, int index, const Activations& a, int rows, float* scratch, float* out) {
  const uint8_t* panel = w.data + panel_bytes(w.format, w.k) * index;
  switch (w.format) {
    case W8_CHANNEL: return all_rows<W8_CHANNEL>(panel, nullptr, a, rows, out);
    case W8_GROUP: return all_rows<W8_GROUP>(panel, nullptr, a, rows, out);
    case W4_GROUP: return all_rows<W4_GROUP>(panel, nullptr, a, rows, out);
    case W4_MINIMUM: return all_rows<W4_MINIMUM>(panel, nullptr, a, rows, out);
  }
  const float* weights = (const float*)panel;
  if (w.format != F32) unpack_panel(w, index, scratch), weights = scratch;
  all_rows<-1>(panel, weights, a, rows, out);
}

}  // namespace
