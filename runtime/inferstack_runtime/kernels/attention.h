// The paged KV cache and attention over it. A block holds 32 positions of every layer; within a layer and head keys lie transposed, so
// that one vector holds 16 positions, and values lie in pairs of positions:
//
//   keys    [head_dim / 2][32 positions][2]   values  [16 pairs][head_dim][2]    (BF16 or int8; float: the same without pairs)
//
// int8 adds a float scale per position for keys and values.
#pragma once
#include "matmul.h"

namespace {

constexpr int BLOCK = 32;
enum CacheType : int32_t { CACHE_BF16 = 0, CACHE_INT8 = 1, CACHE_F32 = 2 };

INLINE int64_t head_bytes(int type, int head_dim) {
  const int64_t values = 2 * BLOCK * head_dim;
  return type == CACHE_F32 ? values * 4 : type == CACHE_BF16 ? values * 2 : values + 2 * BLOCK * 4;
}

template <int T>
struct Cache {
  static constexpr int width = T == CACHE_F32 ? 4 : T == CACHE_BF16 ? 2 : 1;

  static uint8_t* values_of(uint8_t* head, int head_dim) { return head + (int64_t)BLOCK * head_dim * width; }
  static float* scales_of(uint8_t* head, int head_dim) { return (float*)(head + 2 * (int64_t)BLOCK * head_dim * width); }

  static void put(uint8_t* head, int head_dim, int position, const float* key, const float* value) {
    uint8_t* values = values_of(head, head_dim);
    float key_factor = 1, value_factor = 1;
    if constexpr (T == CACHE_INT8) {
      float k = 0, v = 0, poison = 0;
      for (int i = 0; i < head_dim; i++) {
        k = fabsf(key[i]) > k ? fabsf(key[i]) : k;
        v = fabsf(value[i]) > v ? fabsf(value[i]) : v;
        poison += key[i] * 0 + value[i] * 0;
      }
      scales_of(head, head_dim)[position] = k / 127 + poison;
      scales_of(head, head_dim)[BLOCK + position] = v / 127 + poison;
      key_factor = k > 0 ? 127 / k : 0;
      value_factor = v > 0 ? 127 / v : 0;
    }
    for (int i = 0; i < head_dim; i++) {
      const int at = ((i / 2) * BLOCK + position) * 2 + i % 2, to = ((position / 2) * head_dim + i) * 2 + position % 2;
      if constexpr (T == CACHE_BF16) {
        ((uint16_t*)head)[at] = float_to_bfloat(key[i]);
        ((uint16_t*)values)[to] = float_to_bfloat(value[i]);
      } else if constexpr (T == CACHE_INT8) {
        ((int8_t*)head)[at] = to_int8(key[i] * key_factor);
        ((int8_t*)values)[to] = to_int8(value[i] * value_factor);
      } else {
        ((float*)head)[i * BLOCK + position] = key[i];
        ((float*)values)[position * head_dim + i] = value[i];
      }
    }
  }

  // Sixteen pairs of neighbours: from `p` on in pairs, or, for float, from two rows `stride` apart.
  static INLINE void pairs(const uint8_t* base, int64_t row, int64_t stride, int64_t column, f32x16& even, f32x16& odd) {
    if constexpr (T == CACHE_BF16) {
      const u32x16 both = load<u32x16>(base + (row * stride + column) * 4);
      even = (f32x16)(both << 16);
      odd = (f32x16)(both & 0xffff0000u);
    } else if constexpr (T == CACHE_INT8) {
      typedef uint16_t u16x16 __attribute__((vector_size(32)));
      const i32x16 both = __builtin_convertvector(load<u16x16>(base + (row * stride + column) * 2), i32x16);
      even = __builtin_convertvector(both << 24 >> 24, f32x16);
      odd = __builtin_convertvector(both << 16 >> 24, f32x16);
    } else {
      even = load<f32x16>(base + (row * 2 * stride + column) * 4);
      odd = load<f32x16>(base + ((row * 2 + 1) * stride + column) * 4);
    }
  }
};

#if defined(__AVX512F__)
constexpr int QUERY_TILE = 6, DIM_TILE = 4;
#else
constexpr int QUERY_TILE = 3, DIM_TILE = 2;
#endif
constexpr int MAX_QUERIES = 48;

// Running state of up to MAX_QUERIES queries that share a key-value head (flash attention: Dao et al. 2022).
struct Attention {
  alignas(64) float output[MAX_QUERIES * 256];
  float peak[MAX_QUERIES], mass[MAX_QUERIES];
};

// Fetch `bytes` from `at` on into the cache, some lines per call, while the block before is worked on.
struct Prefetch {
  const uint8_t* at;
  const uint8_t* end;
  INLINE void lines(int count) {
    for (; count && at < end; count--, at += 64) __builtin_prefetch(at);
  }
};

template <int T, int N>
INLINE void attend_tile(Prefetch& next, uint8_t* head, int head_dim, int block_start, int window, int used, const float* const* queries, const int* positions,
                        float* output, float* peak, float* mass) {
  f32x16 scores[N][2];
  for (int q = 0; q < N; q++) scores[q][0] = scores[q][1] = splat(0.0f);
  for (int pair = 0; pair < head_dim / 2; pair++) {
    next.lines(2);
    f32x16 even[2], odd[2];
    Cache<T>::pairs(head, pair, BLOCK, 0, even[0], odd[0]);
    Cache<T>::pairs(head, pair, BLOCK, 16, even[1], odd[1]);
#pragma GCC unroll 6
    for (int q = 0; q < N; q++) {
      const f32x16 x = splat(queries[q][2 * pair]), y = splat(queries[q][2 * pair + 1]);
      scores[q][0] = madd(y, odd[0], madd(x, even[0], scores[q][0]));
      scores[q][1] = madd(y, odd[1], madd(x, even[1], scores[q][1]));
    }
  }
  const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const f32x16 nothing = splat(-INFINITY);
  alignas(64) float weights[N][BLOCK];
  float keep[N];
  for (int q = 0; q < N; q++) {
    const int last = positions[q] - block_start, first = window ? last - window : -1;
    for (int half = 0; half < 2; half++) {
      if constexpr (T == CACHE_INT8) scores[q][half] *= load<f32x16>(Cache<T>::scales_of(head, head_dim) + 16 * half);
      const i32x16 at = lane + 16 * half;
      scores[q][half] = (at <= last) & (at > first) ? scores[q][half] : nothing;
    }
    const float block_peak = maximum(max(scores[q][0], scores[q][1]));
    const float top = block_peak > peak[q] ? block_peak : peak[q];
    f32x16 low = exp2(scores[q][0] - splat(top)), high = exp2(scores[q][1] - splat(top));
    keep[q] = exp2(splat(peak[q] - top))[0];
    mass[q] = mass[q] * keep[q] + sum(low + high);
    peak[q] = top;
    if constexpr (T == CACHE_INT8) {
      const float* scales = Cache<T>::scales_of(head, head_dim) + BLOCK;
      const f32x16 zero = splat(0.0f);  // a masked position's scale may be stale
      low = low > zero ? low * load<f32x16>(scales) : low;
      high = high > zero ? high * load<f32x16>(scales + 16) : high;
    }
    store(weights[q], low);
    store(weights[q] + 16, high);
  }
  const uint8_t* values = Cache<T>::values_of(head, head_dim);
  for (int dim = 0; dim < head_dim; dim += 16 * DIM_TILE) {
    f32x16 out[N][DIM_TILE];
    const int parts = (head_dim - dim) / 16 < DIM_TILE ? (head_dim - dim) / 16 : DIM_TILE;
    const auto accumulate = [&](auto count) __attribute__((always_inline)) {
      constexpr int C = decltype(count)::value;
      for (int q = 0; q < N; q++)
        for (int c = 0; c < C; c++) out[q][c] = load<f32x16>(output + q * head_dim + dim + 16 * c) * splat(keep[q]);
      for (int pair = 0; pair < (used + 1) / 2; pair++) {
        next.lines(2);
        f32x16 even[C], odd[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) Cache<T>::pairs(values, pair, head_dim, dim + 16 * c, even[c], odd[c]);
#pragma GCC unroll 6
        for (int q = 0; q < N; q++) {
          const f32x16 x = splat(weights[q][2 * pair]), y = splat(weights[q][2 * pair + 1]);
#pragma GCC unroll 4
          for (int c = 0; c < C; c++) out[q][c] = madd(y, odd[c], madd(x, even[c], out[q][c]));
        }
      }
      for (int q = 0; q < N; q++)
        for (int c = 0; c < C; c++) store(output + q * head_dim + dim + 16 * c, out[q][c]);
    };
    if (parts == DIM_TILE) accumulate(std::integral_constant<int, DIM_TILE>{});
    else if (parts == 3) accumulate(std::integral_constant<int, DIM_TILE < 3 ? DIM_TILE : 3>{});
    else if (parts == 2) accumulate(std::integral_constant<int, 2>{});
    else accumulate(std::integral_constant<int, 1>{});
  }
}

// Attention of `count` queries (scaled by log2(e) / sqrt(head_dim)) of one sequence and key-value head; `head_of(block)` is the head's
// part of the sequence's block. Outputs are normalized into state.output [count][head_dim].
template <int T, class HeadOf>
void attend(Attention& state, const HeadOf& head_of, int head_dim, int window, int count, const float* const* queries, const int* positions) {
  int last = 0, first = positions[0];
  for (int q = 0; q < count; q++) {
    last = positions[q] > last ? positions[q] : last;
    first = positions[q] < first ? positions[q] : first;
    state.peak[q] = -1e30f;
    state.mass[q] = 0;
  }
  memset(state.output, 0, sizeof(float) * (size_t)(count * head_dim));
  const int start = window && first >= window ? (first - window + 1) / BLOCK : 0;
  const int64_t bytes = head_bytes(T, head_dim);
  for (int b = start; b <= last / BLOCK; b++) {
    uint8_t* head = head_of(b);
    Prefetch next{nullptr, nullptr};
    if (b < last / BLOCK) next.at = head_of(b + 1), next.end = next.at + bytes;
    const int used = last - b * BLOCK + 1 < BLOCK ? last - b * BLOCK + 1 : BLOCK;
    const auto run = [&](auto size, int q) {
      constexpr int N = decltype(size)::value;
      attend_tile<T, N>(next, head, head_dim, b * BLOCK, window, used, queries + q, positions + q, state.output + q * head_dim, state.peak + q,
                        state.mass + q);
    };
    int q = 0;
    for (; q + QUERY_TILE <= count; q += QUERY_TILE) run(std::integral_constant<int, QUERY_TILE>{}, q);
    for (; q + 3 <= count; q += 3) run(std::integral_constant<int, 3>{}, q);
    for (; q < count; q++) run(std::integral_constant<int, 1>{}, q);
  }
  for (int q = 0; q < count; q++)
    for (int i = 0; i < head_dim; i += 16) {
      float* out = state.output + q * head_dim + i;
      store(out, load<f32x16>(out) / splat(state.mass[q]));
    }
}

}  // namespace
