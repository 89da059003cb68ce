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

#if defined(__AVX512F__)
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));

INLINE f32x16 splat(float x) { return (f32x16)_mm512_set1_ps(x); }
INLINE i32x16 as_int(f32x16 v) { return (i32x16)v; }
INLINE f32x16 as_float(i32x16 v) { return (f32x16)v; }
INLINE f32x16 as_float(u32x16 v) { return (f32x16)v; }
INLINE u32x16 as_bits(i32x16 v) { return (u32x16)v; }
INLINE f32x16 to_float(i32x16 v) { return (f32x16)_mm512_cvtepi32_ps((__m512i)v); }
template <class T>
INLINE T select(i32x16 mask, T a, T b) {
  return mask ? a : b;
}
#else
// Two halves of one register each: the compiler keeps a vector that is wider than a register in memory.
template <class T>
struct Wide {
  typedef T Half __attribute__((vector_size(32)));
  Half low, high;
  static INLINE Wide from(const void* p) { return {load<Half>(p), load<Half>((const uint8_t*)p + sizeof(Half))}; }
  INLINE friend void store(void* p, Wide v) {
    store(p, v.low);
    store((uint8_t*)p + sizeof(Half), v.high);
  }
  INLINE friend Wide operator+(Wide a, Wide b) { return {a.low + b.low, a.high + b.high}; }
  INLINE friend Wide operator-(Wide a, Wide b) { return {a.low - b.low, a.high - b.high}; }
  INLINE friend Wide operator*(Wide a, Wide b) { return {a.low * b.low, a.high * b.high}; }
  INLINE friend Wide operator/(Wide a, Wide b) { return {a.low / b.low, a.high / b.high}; }
  INLINE friend Wide operator&(Wide a, Wide b) { return {a.low & b.low, a.high & b.high}; }
  INLINE friend Wide operator+(Wide a, T b) { return {a.low + b, a.high + b}; }
  INLINE friend Wide operator-(Wide a, T b) { return {a.low - b, a.high - b}; }
  INLINE friend Wide operator|(Wide a, Wide b) { return {a.low | b.low, a.high | b.high}; }
  INLINE friend Wide operator|(Wide a, T b) { return {a.low | b, a.high | b}; }
  INLINE friend Wide operator&(Wide a, T b) { return {a.low & b, a.high & b}; }
  INLINE friend Wide operator<<(Wide a, int count) { return {a.low << count, a.high << count}; }
  INLINE friend Wide operator>>(Wide a, int count) { return {a.low >> count, a.high >> count}; }
  INLINE friend Wide<int32_t> operator>(Wide a, Wide b) { return {a.low > b.low, a.high > b.high}; }
  INLINE friend Wide<int32_t> operator<(Wide a, Wide b) { return {a.low < b.low, a.high < b.high}; }
  INLINE friend Wide<int32_t> operator==(Wide a, Wide b) { return {a.low == b.low, a.high == b.high}; }
  INLINE friend Wide<int32_t> operator>(Wide a, T b) { return {a.low > b, a.high > b}; }
  INLINE friend Wide<int32_t> operator<=(Wide a, T b) { return {a.low <= b, a.high <= b}; }
  INLINE Wide& operator+=(Wide b) { return *this = *this + b; }
  INLINE Wide& operator*=(Wide b) { return *this = *this * b; }
};
typedef Wide<float> f32x16;
typedef Wide<int32_t> i32x16;
typedef Wide<uint32_t> u32x16;

// Half by half: a copy of the whole is one through memory.
template <>
INLINE f32x16 load(const void* p) {
  return f32x16::from(p);
}
template <>
INLINE i32x16 load(const void* p) {
  return i32x16::from(p);
}
template <>
INLINE u32x16 load(const void* p) {
  return u32x16::from(p);
}

INLINE f32x16 splat(float x) {
  const f32x16::Half half = {x, x, x, x, x, x, x, x};
  return {half, half};
}
INLINE i32x16 as_int(f32x16 v) { return {(i32x16::Half)v.low, (i32x16::Half)v.high}; }
INLINE f32x16 as_float(i32x16 v) { return {(f32x16::Half)v.low, (f32x16::Half)v.high}; }
INLINE f32x16 as_float(u32x16 v) { return {(f32x16::Half)v.low, (f32x16::Half)v.high}; }
INLINE u32x16 as_bits(i32x16 v) { return {(u32x16::Half)v.low, (u32x16::Half)v.high}; }
INLINE f32x16 to_float(i32x16 v) { return {__builtin_convertvector(v.low, f32x16::Half), __builtin_convertvector(v.high, f32x16::Half)}; }
template <class T>
INLINE T select(i32x16 mask, T a, T b) {
  return {mask.low ? a.low : b.low, mask.high ? a.high : b.high};
}
#endif

INLINE float first_of(f32x16 v) {
#if defined(__AVX512F__)
  return v[0];
#else
  return v.low[0];
#endif
}

// 0, 1, ... 15
INLINE i32x16 lanes() {
  alignas(64) static constexpr int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load<i32x16>(numbers);
}

INLINE f32x16 madd(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return {(f32x16::Half)_mm256_fmadd_ps((__m256)a.low, (__m256)b.low, (__m256)c.low),
          (f32x16::Half)_mm256_fmadd_ps((__m256)a.high, (__m256)b.high, (__m256)c.high)};
#else
  return a * b + c;
#endif
}

// NaN if `b` is. The compiler would make a comparison and a choice of it.
#if defined(__AVX512F__)
INLINE f32x16 max(f32x16 a, f32x16 b) { return (f32x16)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE f32x16 min(f32x16 a, f32x16 b) { return (f32x16)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
INLINE f32x16 max(f32x16 a, f32x16 b) {
  return {(f32x16::Half)_mm256_max_ps((__m256)a.low, (__m256)b.low), (f32x16::Half)_mm256_max_ps((__m256)a.high, (__m256)b.high)};
}
INLINE f32x16 min(f32x16 a, f32x16 b) {
  return {(f32x16::Half)_mm256_min_ps((__m256)a.low, (__m256)b.low), (f32x16::Half)_mm256_min_ps((__m256)a.high, (__m256)b.high)};
}
#else
INLINE f32x16 max(f32x16 a, f32x16 b) { return select(a > b, a, b); }
INLINE f32x16 min(f32x16 a, f32x16 b) { return select(a < b, a, b); }
#endif

// Neighbours exchanged.
INLINE f32x16 swap_pairs(f32x16 v) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_permute_ps((__m512)v, 0xb1);
#else
  const i32x16::Half partner = {1, 0, 3, 2, 5, 4, 7, 6};
  return {__builtin_shuffle(v.low, partner), __builtin_shuffle(v.high, partner)};
#endif
}

// Reduce 16 lanes by an associative operation on vectors of any length and on numbers.
#if defined(__AVX512F__)
// Each of four vectors to a lane of the result: within 128 bits first, which for all four together takes as many steps as for one.
template <class Operation>
INLINE __m128 reduce(__m512 a, __m512 b, __m512 c, __m512 d, const Operation& both) {
  const auto halves = [&](__m512 x, __m512 y) __attribute__((always_inline)) {
    const __m512d p = _mm512_castps_pd(x), q = _mm512_castps_pd(y);
    return both(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)), _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
  };
  const __m512 ab = halves(a, b), cd = halves(c, d), four = both(_mm512_shuffle_ps(ab, cd, 0x88), _mm512_shuffle_ps(ab, cd, 0xdd));
  const __m256 two = both(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
  return both(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1));
}
struct Add {
  INLINE __m512 operator()(__m512 a, __m512 b) const { return _mm512_add_ps(a, b); }
  INLINE __m256 operator()(__m256 a, __m256 b) const { return _mm256_add_ps(a, b); }
  INLINE __m128 operator()(__m128 a, __m128 b) const { return _mm_add_ps(a, b); }
};
struct AddIntegers {
  INLINE __m512 operator()(__m512 a, __m512 b) const { return (__m512)_mm512_add_epi32((__m512i)a, (__m512i)b); }
  INLINE __m256 operator()(__m256 a, __m256 b) const { return (__m256)_mm256_add_epi32((__m256i)a, (__m256i)b); }
  INLINE __m128 operator()(__m128 a, __m128 b) const { return (__m128)_mm_add_epi32((__m128i)a, (__m128i)b); }
};
struct LargerInteger {
  INLINE __m512 operator()(__m512 a, __m512 b) const { return (__m512)_mm512_max_epi32((__m512i)a, (__m512i)b); }
  INLINE __m256 operator()(__m256 a, __m256 b) const { return (__m256)_mm256_max_epi32((__m256i)a, (__m256i)b); }
  INLINE __m128 operator()(__m128 a, __m128 b) const { return (__m128)_mm_max_epi32((__m128i)a, (__m128i)b); }
};
#else
template <class T, class Operation>
INLINE T reduce(Wide<T> v, const Operation& both) {
  typedef T Quarter __attribute__((vector_size(16)));
  typedef int32_t Indices __attribute__((vector_size(16)));
  Quarter quarters[2];
  store(quarters, both(v.low, v.high));
  Quarter rest = both(quarters[0], quarters[1]);
  rest = both(rest, __builtin_shuffle(rest, Indices{2, 3, 2, 3}));
  return both(rest, __builtin_shuffle(rest, Indices{1, 1, 1, 1}))[0];
}
#endif

INLINE float sum(f32x16 v) {
#if defined(__AVX512F__)
  return reduce((__m512)v, (__m512)v, (__m512)v, (__m512)v, Add())[0];
#else
  return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
#endif
}

INLINE int32_t sum(i32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
#endif
}

INLINE float maximum(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  return reduce(v, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
#endif
}

// The largest absolute value of both, by the order of the bits: NaN and infinity count as larger than any number.
INLINE float largest_magnitude(f32x16 a, f32x16 b) {
  const i32x16 x = as_int(a) & 0x7fffffff, y = as_int(b) & 0x7fffffff;
#if defined(__AVX512F__)
  const int32_t bits = _mm512_reduce_max_epi32(_mm512_max_epi32((__m512i)x, (__m512i)y));
#else
  const int32_t bits = reduce(i32x16{x.low > y.low ? x.low : y.low, x.high > y.high ? x.high : y.high}, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
#endif
  float m;
  memcpy(&m, &bits, 4);
  return m;
}

// 2^x; from 2^-127 down exactly 0, NaN stays NaN. Cephes-style polynomial on [-0.5, 0.5], relative error below 2e-7.
INLINE f32x16 exp2(f32x16 x) {
  const f32x16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
#if !defined(__AVX512F__)
  x = min(splat(126.0f), max(splat(-127.0f), x));
#endif
  const f32x16 shifted = x + magic, whole = shifted - magic, f = x - whole;
  f32x16 p = splat(1.535336188319500e-4f);
  p = madd(p, f, splat(1.339887440266574e-3f));
  p = madd(p, f, splat(9.618437357674640e-3f));
  p = madd(p, f, splat(5.550332471162809e-2f));
  p = madd(p, f, splat(2.402264791363012e-1f));
  p = madd(p, f, splat(6.931472028550421e-1f));
  p = madd(p, f, splat(1.0f));
#if defined(__AVX512F__)
  const __mmask16 counts = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return (f32x16)_mm512_maskz_scalef_ps(counts, (__m512)p, (__m512)whole);
#else
  return p * as_float((as_int(shifted) + 127) << 23);  // 0 from -127 down
#endif
}

constexpr float LOG2E = 1.44269504088896340736f;

INLINE f32x16 silu(f32x16 x) {
#if defined(__AVX512F__)
  // A division takes sixteen cycles. The reciprocal's estimate, refined once, is off by less than 2^-27; of more than 2^126 it would be none.
  const __m512 one = _mm512_set1_ps(1.0f), power = (__m512)min(splat(126.0f), x * splat(-LOG2E));
  const __m512 below = _mm512_add_ps(one, (__m512)exp2((f32x16)power)), estimate = _mm512_rcp14_ps(below);
  return x * (f32x16)_mm512_fmadd_ps(estimate, _mm512_fnmadd_ps(estimate, below, one), estimate);
#else
  return x / (splat(1.0f) + exp2(x * splat(-LOG2E)));
#endif
}

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

// The same for 16 floats, each in the upper half of its lane.
INLINE u32x16 to_bfloat(f32x16 v) {
  const i32x16 bits = as_int(v), rounded = bits + 0x7fff + (bits >> 16 & 1);
  return as_bits(select((bits & 0x7fffffff) > 0x7f800000, bits | 0x400000, rounded)) & 0xffff0000u;
}

INLINE f32x16 load_half(const uint16_t* p) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
  return {(f32x16::Half)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          (f32x16::Half)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
#else
  float t[16];
  for (int i = 0; i < 16; i++) t[i] = half_to_float(p[i]);
  return load<f32x16>(t);
#endif
}
// Sixteen 16-bit integers without a sign.
INLINE i32x16 load_short(const void* p) {
#if defined(__AVX512F__)
  return (i32x16)_mm512_cvtepu16_epi32(load<__m256i>(p));
#else
  typedef uint16_t Eight __attribute__((vector_size(16)));
  return {__builtin_convertvector(load<Eight>(p), i32x16::Half), __builtin_convertvector(load<Eight>((const uint8_t*)p + 16), i32x16::Half)};
#endif
}

// The upper halves of the lanes, packed: two neighbours in each number, the first one lower.
INLINE void to_pairs(u32x16 v, uint32_t pairs[8]) {
#if defined(__AVX512F__)
  store(pairs, _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)v, 16)));
#else
  uint32_t t[16];
  store(t, v);
  for (int i = 0; i < 8; i++) pairs[i] = t[2 * i] >> 16 | t[2 * i + 1];
#endif
}

INLINE f32x16 load_bfloat(const uint16_t* p) { return as_float(load_short(p) << 16); }

}  // namespace
