// Integer tiles with registers of 256 bits: up to 4 rows x 16 columns, or one row x 32, by AVX2 or by AVX-VNNI.
//
// AVX2: 16-bit sums hold the eight products of at most 2 * 15 * 127 that a group's nibbles give; 8-bit weights use |w| and the sign on the
// activation. AVX-VNNI: the instruction sums to 32 bits, and an 8-bit weight plus 128 is its unsigned operand. Sums end as floats as in vnni.h.
// This file is a part of matmul.h.

constexpr int32_t ZERO_BITS = 0x4b400000;
constexpr float ZERO = 12582912.0f;
#if defined(__AVXVNNI__)
constexpr bool DOT = true;
#else
constexpr bool DOT = false;
#endif

INLINE __m256 halves_to_floats(const uint8_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }

// Where a sum stands is fixed, so that the compiler does not add its products as a tree, for which there are too few registers.
INLINE void keep(__m256i& sum) { asm("" : "+x"(sum)); }

// Unpacked weights of 16 columns, and their scales as floats. A panel lies as [2 halves][groups].
struct ReadyBlock {
  uint8_t weights[GROUP * 16];
  float d[16], least[16];
};

// What turns the sums of eight columns into floats: sum * d + least * (sum of the row's quants).
struct Scales {
  __m256 d, least;
};
template <int F>
constexpr bool has_least = DOT || F == W4_GROUP || F == W4_MINIMUM || F == READY;
template <int F>
INLINE Scales scales_of(const uint8_t* block, int part) {
  if constexpr (F == READY) {
    const auto* ready = (const ReadyBlock*)block;
    return {_mm256_load_ps(ready->d + part * 8), _mm256_load_ps(ready->least + part * 8)};
  }
  __m256 d = _mm256_set1_ps(1.0f);
  if constexpr (F != W8_CHANNEL) d = halves_to_floats(block + (F == W8_GROUP ? 1024 : 512) + part * 16);
  if constexpr (F == W4_MINIMUM) return {d, halves_to_floats(block + 576 + part * 16)};
  return {d, _mm256_mul_ps(d, _mm256_set1_ps(F == W4_GROUP ? -8.0f : -128.0f))};
}

constexpr bool can_be_ready(int format) { return format == W4_GROUP || format == W4_MINIMUM; }

// The sums of products of one group as the bits of floats, ZERO too large: MR rows x COLUMNS times 8 columns.
// With KEEP unpacked weights are written to `kept`.
template <int F, int MR, int COLUMNS, bool KEEP>
INLINE void group_sums(const uint8_t* weights, const int8_t* quants, __m256i (&sum)[MR][COLUMNS], [[maybe_unused]] ReadyBlock* kept) {
  constexpr bool nibbles = F == W4_GROUP || F == W4_MINIMUM, bytes = !nibbles && F != READY;
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1), zero = _mm256_set1_epi32(ZERO_BITS);
  const auto weight = [&](int quad, int c) __attribute__((always_inline)) {
    return _mm256_load_si256((const __m256i*)(weights + quad * (F == READY ? 64 : 128) + c * 32));
  };
  const auto add_quad = [&](int quad, const __m256i (&w)[COLUMNS]) __attribute__((always_inline)) {
    if constexpr (KEEP)
      for (int c = 0; c < COLUMNS; c++) _mm256_store_si256((__m256i*)(kept->weights + quad * 64 + c * 32), w[c]);
#pragma GCC unroll 4
    for (int m = 0; m < MR; m++) {
      const __m256i x = _mm256_set1_epi32(load<int32_t>(quants + m * GROUP + quad * 4));
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; c++) {
#if defined(__AVXVNNI__)
        sum[m][c] = _mm256_dpbusd_avx_epi32(sum[m][c], w[c], x);
#else
        if constexpr (bytes)
          sum[m][c] = _mm256_add_epi32(sum[m][c], _mm256_madd_epi16(_mm256_maddubs_epi16(w[c], _mm256_sign_epi8(x, weight(quad, c))), ones));
        else
          sum[m][c] = _mm256_add_epi16(sum[m][c], _mm256_maddubs_epi16(w[c], x));
        keep(sum[m][c]);
#endif
      }
    }
  };
#pragma GCC unroll 4
  for (int m = 0; m < MR; m++)
    for (int c = 0; c < COLUMNS; c++) sum[m][c] = DOT || bytes ? zero : _mm256_setzero_si256();
  __m256i w[COLUMNS], high[COLUMNS];
#pragma GCC unroll 8
  for (int quad = 0; quad < (nibbles ? 4 : 8); quad++) {
    for (int c = 0; c < COLUMNS; c++) {
      w[c] = weight(quad, c);
      if constexpr (nibbles) {
        high[c] = _mm256_and_si256(_mm256_srli_epi16(w[c], 4), mask);
        w[c] = _mm256_and_si256(w[c], mask);
      }
      if constexpr (bytes) w[c] = DOT ? _mm256_xor_si256(w[c], _mm256_set1_epi8((char)0x80)) : _mm256_abs_epi8(w[c]);
    }
    add_quad(quad, w);
    if constexpr (nibbles) add_quad(quad + 4, high);
  }
  if constexpr (!DOT && !bytes)
#pragma GCC unroll 4
    for (int m = 0; m < MR; m++)
      for (int c = 0; c < COLUMNS; c++) sum[m][c] = _mm256_add_epi32(_mm256_madd_epi16(sum[m][c], ones), zero);
}

// COLUMNS times 8 columns from `part` on. With KEEP what was unpacked is written to `ready`, for the tiles that follow.
template <int F, int MR, int COLUMNS, bool KEEP = false>
__attribute__((noinline)) void integer_columns(const uint8_t* panel, int groups, const Activations& a, int row, int part, Ahead& next,
                                               float* out, [[maybe_unused]] ReadyBlock* ready = nullptr) {
  const int8_t* quants = a.quants + (int64_t)row * a.k;
  const float *scales = a.scales + (int64_t)row * groups, *sums = a.sums + (int64_t)row * groups;
  const uint8_t* block = F == READY ? (const uint8_t*)((const ReadyBlock*)panel + part / 2 * groups) : panel + header_bytes(F);
  constexpr int size = F == READY ? (int)sizeof(ReadyBlock) : block_bytes(F);
  const int in_block = F == READY ? part % 2 : part;
  __m256 total[MR][COLUMNS];
#pragma GCC unroll 4
  for (int m = 0; m < MR; m++)
    for (int c = 0; c < COLUMNS; c++) total[m][c] = _mm256_setzero_ps();
  for (int g = 0; g < groups; g++, block += size, quants += GROUP * MR, scales += MR, sums += MR) {
    next.fetch<F, MR, size>(block, row);
    __m256i sum[MR][COLUMNS];
    ReadyBlock* const kept = KEEP ? ready + part / 2 * groups + g : nullptr;
    group_sums<F, MR, COLUMNS, KEEP>(block + in_block * 32, quants, sum, kept);
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; c++) {
      const Scales s = scales_of<F>(block, in_block + c);
      if constexpr (KEEP) {
        _mm256_store_ps(kept->d + c * 8, s.d);
        _mm256_store_ps(kept->least + c * 8, s.least);
      }
      const __m256 zero = _mm256_mul_ps(s.d, _mm256_set1_ps(-ZERO));
#pragma GCC unroll 4
      for (int m = 0; m < MR; m++) {
        __m256 value = _mm256_fmadd_ps(_mm256_castsi256_ps(sum[m][c]), s.d, zero);
        if constexpr (has_least<F>) value = _mm256_fmadd_ps(_mm256_set1_ps(sums[m]), s.least, value);
        total[m][c] = _mm256_fmadd_ps(value, _mm256_set1_ps(scales[m]), total[m][c]);
        if (MR * COLUMNS > 4) asm("" : "+m"(total[m][c]));  // registers are for the sums
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < MR; m++)
    for (int c = 0; c < COLUMNS; c++) {
      if constexpr (F == W8_CHANNEL) total[m][c] = _mm256_mul_ps(total[m][c], _mm256_loadu_ps((const float*)panel + (part + c) * 8));
      _mm256_storeu_ps(out + m * PANEL + (part + c) * 8, total[m][c]);
    }
}

// One row takes all columns at once and so shares its broadcast quants among them; more rows take half of them, for want of registers.
template <int F, int MR, bool KEEP = false>
void integer_tile(const uint8_t* panel, int groups, const Activations& a, int row, Ahead& next, float* out, ReadyBlock* ready = nullptr) {
  if constexpr (MR <= ONE_PASS_ROWS && F != READY) {
    integer_columns<F, MR, 4>(panel, groups, a, row, 0, next, out);
  } else {
    integer_columns<F, MR, 2, KEEP>(panel, groups, a, row, 0, next, out, ready);
    integer_columns<F, MR, 2, KEEP>(panel, groups, a, row, 2, next, out, ready);
  }
}
