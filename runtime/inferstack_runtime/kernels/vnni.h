// Integer tiles with AVX-512 VNNI: up to 12 rows x 16 columns, or 6 x 32.
//
// A group's sum of products starts at 1.5 * 2^23 as a float's bits, so that it ends as a float without a conversion: the product with the
// scale d subtracts 1.5 * 2^23 * d, which is exact because d is a half. Weights are unsigned here; a format's zero point is a minimum.
// This file is a part of matmul.h.

constexpr int32_t ZERO_BITS = 0x4b400000;
constexpr float ZERO = 12582912.0f;

// In place, and with one row's broadcast inside the instruction: left to itself the compiler spends a move or a load on each.
INLINE void dot(__m512i& sum, __m512i weights, __m512i quads) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(quads)); }
INLINE void dot(__m512i& sum, __m512i weights, const int8_t* quad) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*(const int32_t*)quad));
}
INLINE void add_product(__m512& total, __m512 a, const float* b) { asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(total) : "v"(a), "m"(*b)); }

// One unsigned byte per weight, in W8_GROUP's order, and the scales as floats.
struct ReadyBlock {
  uint8_t weights[1024];
  float d[PANEL], zero[PANEL], least[PANEL];
};

// What turns the sums of 16 columns into floats: sum * d + zero + least * (sum of the row's quants).
struct Scales {
  __m512 d, zero, least;
};
template <int F>
INLINE Scales scales_of(const uint8_t* block, int half) {
  if constexpr (F == READY) {
    const auto* ready = (const ReadyBlock*)block;
    return {_mm512_load_ps(ready->d + half * 16), _mm512_load_ps(ready->zero + half * 16), _mm512_load_ps(ready->least + half * 16)};
  }
  __m512 d = _mm512_set1_ps(1.0f), least;
  if constexpr (F != W8_CHANNEL) d = (__m512)load_half((const uint16_t*)(block + (F == W8_GROUP ? 1024 : 512) + half * 32));
  if constexpr (F == W4_MINIMUM) least = (__m512)load_half((const uint16_t*)(block + 576 + half * 32));
  else least = _mm512_mul_ps(d, _mm512_set1_ps(F == W4_GROUP ? -8.0f : -128.0f));
  return {d, _mm512_mul_ps(d, _mm512_set1_ps(-ZERO)), least};
}

// `HALVES` times 16 columns from `half` on. Few rows take both halves at once and share the broadcast activations; many rows take one,
// so that unpacked weights serve more of them. With KEEP what was unpacked is written to `ready`, for the tiles that follow.
// Never a part of its caller, where registers would not suffice.
template <int F, int MR, int HALVES, bool KEEP = false>
__attribute__((noinline)) void integer_columns(const uint8_t* panel, int groups, const Activations& a, int row, int half, Ahead& next,
                                               float* out, ReadyBlock* ready = nullptr) {
  const int8_t* quants = a.quants + (int64_t)row * a.k;
  const float *scales = a.scales + (int64_t)row * groups, *sums = a.sums + (int64_t)row * groups;
  const uint8_t* block = panel + (F == READY ? 0 : header_bytes(F));
  constexpr int size = F == READY ? (int)sizeof(ReadyBlock) : block_bytes(F);
  const __m512i mask = _mm512_set1_epi8(15), flip = _mm512_set1_epi8((char)0x80);
  __m512 total[MR][HALVES];
#pragma GCC unroll 12
  for (int m = 0; m < MR; m++)
    for (int h = 0; h < HALVES; h++) total[m][h] = _mm512_setzero_ps();
  for (int g = 0; g < groups; g++, block += size, quants += GROUP * MR, scales += MR, sums += MR) {
    next.fetch<F, MR, size>(block, row);
    __m512i sum[MR][HALVES];
#pragma GCC unroll 12
    for (int m = 0; m < MR; m++)
      for (int h = 0; h < HALVES; h++) sum[m][h] = _mm512_set1_epi32(ZERO_BITS);
    const auto add_quad = [&](int j, const __m512i* weights) __attribute__((always_inline)) {
      if constexpr (KEEP)
        for (int h = 0; h < HALVES; h++) _mm512_store_si512(ready[g].weights + j * 128 + (half + h) * 64, weights[h]);
#pragma GCC unroll 12
      for (int m = 0; m < MR; m++) {
        const int8_t* at = quants + m * GROUP + j * 4;
        if constexpr (HALVES == 1) {
          dot(sum[m][0], weights[0], at);
        } else {
          const __m512i quad = _mm512_set1_epi32(load<int32_t>(at));
          for (int h = 0; h < HALVES; h++) dot(sum[m][h], weights[h], quad);
        }
      }
    };
    if constexpr (F == W4_GROUP || F == W4_MINIMUM) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) {
        __m512i low[HALVES], high[HALVES];
        for (int h = 0; h < HALVES; h++) {
          const __m512i v = _mm512_load_si512(block + j * 128 + (half + h) * 64);
          low[h] = _mm512_and_si512(v, mask);
          high[h] = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
        }
        add_quad(j, low);
        add_quad(j + 4, high);
      }
    } else {
#pragma GCC unroll 8
      for (int j = 0; j < 8; j++) {
        __m512i weights[HALVES];
        for (int h = 0; h < HALVES; h++) {
          weights[h] = _mm512_load_si512(block + j * 128 + (half + h) * 64);
          if constexpr (F != READY) weights[h] = _mm512_xor_si512(weights[h], flip);
        }
        add_quad(j, weights);
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < HALVES; h++) {
      const Scales s = scales_of<F>(block, half + h);
      if constexpr (KEEP) {
        _mm512_store_ps(ready[g].d + (half + h) * 16, s.d);
        _mm512_store_ps(ready[g].zero + (half + h) * 16, s.zero);
        _mm512_store_ps(ready[g].least + (half + h) * 16, s.least);
      }
#pragma GCC unroll 12
      for (int m = 0; m < MR; m++) {
        __m512 value = _mm512_fmadd_ps(_mm512_castsi512_ps(sum[m][h]), s.d, s.zero);
        add_product(value, s.least, sums + m);
        add_product(total[m][h], value, scales + m);
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

template <int F, int MR, bool KEEP = false>
void integer_tile(const uint8_t* panel, int groups, const Activations& a, int row, Ahead& next, float* out, ReadyBlock* ready = nullptr) {
  if constexpr (MR <= ONE_PASS_ROWS) {
    integer_columns<F, MR, 2>(panel, groups, a, row, 0, next, out);
  } else {
    integer_columns<F, MR, 1, KEEP>(panel, groups, a, row, 0, next, out, ready);
    integer_columns<F, MR, 1, KEEP>(panel, groups, a, row, 1, next, out, ready);
  }
}

constexpr bool can_be_ready(int format) { return format != W8_CHANNEL; }
