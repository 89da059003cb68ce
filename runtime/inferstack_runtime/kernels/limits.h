// What the machine allows: the rate of 8-bit products without memory.
#pragma once
#include "simd.h"

namespace {

// The best rate of 8-bit products: 12 or 16 independent accumulators, no memory.
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
constexpr int PRODUCTS_PER_ROUND = 12 * 32;
inline uint32_t products(int repeats) {
  __m256i acc[12];
  for (int i = 0; i < 12; i++) acc[i] = _mm256_set1_epi16((short)i);
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  for (int r = 0; r < repeats; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
#if defined(__AVXVNNI__)
      acc[i] = _mm256_dpbusd_avx_epi32(acc[i], a, b);
#else
      acc[i] = _mm256_add_epi16(acc[i], _mm256_maddubs_epi16(a, b));
      asm volatile("" : "+x"(a));  // or the compiler would multiply once for all
#endif
    }
    asm volatile("" : "+x"(a), "+x"(b));
  }
  uint32_t total = 0;
  for (int i = 0; i < 12; i++) total += (uint32_t)_mm256_extract_epi32(acc[i], 0);
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

}  // namespace
