// Vectors of 16 floats for every instruction set. All arithmetic that decides a token is written with `madd`, one explicit
// rounding per call, so a row's result does not depend on the tile or the batch that it was computed in.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#define INLINE inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));

template <class T>
INLINE T load(const void* p) {
  T v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
INLINE void store(void* p, T v) {
  memcpy(p, &v, sizeof v);
}
INLINE f32x16 splat(float x) { return f32x16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

INLINE f32x16 madd(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  struct Halves { __m256 low, high; };
  Halves x, y, z;
  memcpy(&x, &a, 64);
  memcpy(&y, &b, 64);
  memcpy(&z, &c, 64);
  z.low = _mm256_fmadd_ps(x.low, y.low, z.low);
  z.high = _mm256_fmadd_ps(x.high, y.high, z.high);
  memcpy(&c, &z, 64);
  return c;
#else
  return a * b + c;
#endif
}

INLINE f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }

INLINE float sum(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float t[16];
  store(t, v);
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; i++) t[i] += t[i + width];
  return t[0];
#endif
}

INLINE float maximum(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float t[16];
  store(t, v);
  float m = t[0];
  for (int i = 1; i < 16; i++) m = t[i] > m ? t[i] : m;
  return m;
#endif
}

// The largest absolute value of both, by the order of the bits: NaN and infinity count as larger than any number.
INLINE float largest_magnitude(f32x16 a, f32x16 b) {
  const i32x16 x = (i32x16)a & 0x7fffffff, y = (i32x16)b & 0x7fffffff, both = x > y ? x : y;
#if defined(__AVX512F__)
  const int32_t bits = _mm512_reduce_max_epi32((__m512i)both);
#else
  int32_t bits = 0;
  for (int i = 0; i < 16; i++) bits = both[i] > bits ? both[i] : bits;
#endif
  float m;
  memcpy(&m, &bits, 4);
  return m;
}

// 2^x; below 2^-126 exactly 0, NaN stays NaN. Cephes-style polynomial on [-0.5, 0.5], relative error below 2e-7.
INLINE f32x16 exp2(f32x16 x) {
  const f32x16 low = splat(-126.0f), high = splat(126.0f);
  const auto underflow = x < low;
  const auto number = x == x;
  const f32x16 original = x;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const f32x16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const f32x16 shifted = x + magic;
  const f32x16 f = x - (shifted - magic);
  f32x16 p = splat(1.535336188319500e-4f);
  p = madd(p, f, splat(1.339887440266574e-3f));
  p = madd(p, f, splat(9.618437357674640e-3f));
  p = madd(p, f, splat(5.550332471162809e-2f));
  p = madd(p, f, splat(2.402264791363012e-1f));
  p = madd(p, f, splat(6.931472028550421e-1f));
  p = madd(p, f, splat(1.0f));
  const i32x16 n = (i32x16)shifted - (i32x16)magic;
  const i32x16 bits = (i32x16)p + (n << 23);
  return number ? (underflow ? splat(0.0f) : (f32x16)bits) : original;
}

constexpr float LOG2E = 1.44269504088896340736f;

INLINE f32x16 silu(f32x16 x) { return x / (splat(1.0f) + exp2(x * splat(-LOG2E))); }

INLINE float half_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
  uint32_t bits;
  if (exponent == 31) bits = sign | 0x7f800000 | mantissa << 13;
  else if (exponent) bits = sign | (exponent + 112) << 23 | mantissa << 13;
  else {
    const float value = (float)mantissa * 5.9604644775390625e-8f;  // 2^-24
    memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float f;
  memcpy(&f, &bits, 4);
  return f;
#endif
}

// Round to nearest, ties to even; overflow gives infinity.
INLINE uint16_t float_to_half(float f) {
#if defined(__F16C__)
  return (uint16_t)_cvtss_sh(f, 0);
#else
  uint32_t bits;
  memcpy(&bits, &f, 4);
  const uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x38800000) {
    float value;
    memcpy(&value, &magnitude, 4);
    return (uint16_t)(sign | (uint32_t)nearbyintf(value * 16777216.0f));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13));
#endif
}

INLINE float bfloat_to_float(uint16_t b) {
  const uint32_t bits = (uint32_t)b << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
INLINE uint16_t float_to_bfloat(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE f32x16 load_half(const uint16_t* p) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
  float t[16];
  _mm256_storeu_ps(t, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)));
  _mm256_storeu_ps(t + 8, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8))));
  return load<f32x16>(t);
#else
  float t[16];
  for (int i = 0; i < 16; i++) t[i] = half_to_float(p[i]);
  return load<f32x16>(t);
#endif
}
INLINE f32x16 load_bfloat(const uint16_t* p) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#else
  float t[16];
  for (int i = 0; i < 16; i++) t[i] = bfloat_to_float(p[i]);
  return load<f32x16>(t);
#endif
}

}  // namespace
