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
    if constexpr (T == CACHE_BF16) {
      for (int i = 0; i < head_dim; i += 16) {
        uint32_t pairs[8];
        to_pairs(to_bfloat(load<f32x16>(key + i)), pairs);
        for (int pair = 0; pair < 8; pair++) store(head + (((i / 2 + pair) * BLOCK) + position) * 4, pairs[pair]);
        // The place of the next position is cleared: it is read with weight 0, and what was there before may not be a number.
        uint8_t* to = values + ((position / 2) * head_dim + i) * 4;
        const u32x16 rounded = to_bfloat(load<f32x16>(value + i));
        store(to, position % 2 ? (load<u32x16>(to) & 0xffffu) | rounded : rounded >> 16);
      }
      return;
    }
    for (int i = 0; i < head_dim; i++) {
      const int at = ((i / 2) * BLOCK + position) * 2 + i % 2, to = ((position / 2) * head_dim + i) * 2 + position % 2;
      if constexpr (T == CACHE_INT8) {
        ((int8_t*)head)[at] = to_int8(key[i] * key_factor);
        ((int8_t*)values)[to] = to_int8(value[i] * value_factor);
      } else {
        ((float*)head)[i * BLOCK + position] = key[i];
        ((float*)values)[position * head_dim + i] = value[i];
        if (position % 2 == 0) ((float*)values)[(position + 1) * head_dim + i] = 0;
      }
    }
  }

  // Sixteen pairs of neighbours: from `p` on in pairs, or, for float, from two rows `stride` apart.
  static INLINE void pairs(const uint8_t* base, int64_t row, int64_t stride, int64_t column, f32x16& even, f32x16& odd) {
    if constexpr (T == CACHE_BF16) {
      const u32x16 both = load<u32x16>(base + (row * stride + column) * 4);
      even = as_float(both << 16);
      odd = as_float(both & 0xffff0000u);
    } else if constexpr (T == CACHE_INT8) {
      const i32x16 both = load_short(base + (row * stride + column) * 2);
      even = to_float(both << 24 >> 24);
      odd = to_float(both << 16 >> 24);
    } else {
      even = load<f32x16>(base + (row * 2 * stride + column) * 4);
      odd = load<f32x16>(base + ((row * 2 + 1) * stride + column) * 4);
    }
  }
};

// A tile is so many queries; scores are computed for so many times 16 positions at a time, outputs for so many times 16 dimensions. Few
// queries take more at once: sums that wait for each other would leave the multipliers idle.
#if defined(__AVX512F__)
constexpr int QUERY_TILE = 12;
constexpr int score_parts(int) { return 2; }
constexpr int output_parts(int queries) { return queries <= 4 ? 4 : 2; }
#else
constexpr int QUERY_TILE = 6;
constexpr int score_parts(int queries) { return queries == 1 ? 2 : 1; }
constexpr int output_parts(int queries) { return queries == 1 ? 4 : 1; }
#endif
constexpr int MAX_QUERIES = 48, MAX_HEAD_DIM = 256;

// Running state of up to MAX_QUERIES queries that share a key-value head (flash attention: Dao et al. 2022).
struct Attention {
  alignas(64) float output[MAX_QUERIES * MAX_HEAD_DIM];
  alignas(64) float queries[MAX_QUERIES * MAX_HEAD_DIM];  // of each tile [head_dim / 2][queries][2], as its scores read them
  alignas(64) float mass[MAX_QUERIES][16], peak[MAX_QUERIES + 16];
};

// Fetch `bytes` from `at` on into the cache, some lines per call, while the block before is worked on.
struct Prefetch {
  const uint8_t* at;
  const uint8_t* end;
  INLINE void lines(int count) {
    for (; count && at < end; count--, at += 64) __builtin_prefetch(at);
  }
};

// `f(0)` ... `f(N - 1)`, unrolled.
template <int N, class F>
INLINE void repeat(const F& f) {
#pragma GCC unroll 12
  for (int i = 0; i < N; i++) f(i);
}

// One block of 32 positions and N queries, `first_query` the state's first of them.
template <int T, int N>
INLINE void attend_tile(Prefetch& next, uint8_t* head, int head_dim, int block_start, int window, const int* positions, Attention& state, int first_query) {
  const int seen = positions[N - 1] - block_start + 1, used = seen < BLOCK ? seen : BLOCK;  // positions do not fall
  const float* queries = state.queries + first_query * head_dim;
  float* output = state.output + first_query * head_dim;
  float* peak = state.peak + first_query;
  alignas(64) float weights[N][BLOCK], top[16] = {};
  constexpr int PARTS = score_parts(N), MORE = output_parts(N);
  for (int half = 0; half < 2; half += PARTS) {
    f32x16 scores[N][PARTS];
    repeat<N>([&](int q) __attribute__((always_inline)) { repeat<PARTS>([&](int p) __attribute__((always_inline)) { scores[q][p] = splat(0.0f); }); });
    const float* pair_of = queries;
    for (int pair = 0; pair < head_dim / 2; pair++, pair_of += 2 * N) {
      next.lines(PARTS);
      f32x16 even[PARTS], odd[PARTS];
      repeat<PARTS>([&](int p) __attribute__((always_inline)) { Cache<T>::pairs(head, pair, BLOCK, 16 * (half + p), even[p], odd[p]); });
      repeat<N>([&](int q) __attribute__((always_inline)) {
        const f32x16 x = splat(pair_of[2 * q]);
        repeat<PARTS>([&](int p) __attribute__((always_inline)) { scores[q][p] = madd(x, even[p], scores[q][p]); });
      });
      repeat<N>([&](int q) __attribute__((always_inline)) {
        const f32x16 y = splat(pair_of[2 * q + 1]);
        repeat<PARTS>([&](int p) __attribute__((always_inline)) { scores[q][p] = madd(y, odd[p], scores[q][p]); });
      });
    }
    repeat<N>([&](int q) __attribute__((always_inline)) {
      repeat<PARTS>([&](int p) __attribute__((always_inline)) { store(weights[q] + 16 * (half + p), scores[q][p]); });
    });
  }
  for (int q = 0; q < N; q++) {
    const int last = positions[q] - block_start, first = window ? last - window : -1;
    f32x16 scores[2];
    for (int half = 0; half < 2; half++) {
      scores[half] = load<f32x16>(weights[q] + 16 * half);
      if constexpr (T == CACHE_INT8) scores[half] *= load<f32x16>(Cache<T>::scales_of(head, head_dim) + 16 * half);
      if (last < BLOCK - 1 || first >= 0) {
        const i32x16 at = lanes() + 16 * half;
        scores[half] = select((at <= last) & (at > first), scores[half], splat(-INFINITY));
      }
      store(weights[q] + 16 * half, scores[half]);
    }
    const float block_peak = maximum(max(scores[0], scores[1]));
    top[q] = block_peak > peak[q] ? block_peak : peak[q];
  }
  alignas(64) float keep[16];
  if constexpr (N > 4) {
    store(keep, exp2(load<f32x16>(peak) - load<f32x16>(top)));
  } else {  // a vector of what was just written number by number would wait for all of them
    for (int q = 0; q < N; q++) keep[q] = first_of(exp2(splat(peak[q] - top[q])));
  }
  for (int q = 0; q < N; q++) {
    peak[q] = top[q];
    f32x16 low = exp2(load<f32x16>(weights[q]) - splat(top[q])), high = exp2(load<f32x16>(weights[q] + 16) - splat(top[q]));
    float* mass = state.mass[first_query + q];
    store(mass, madd(load<f32x16>(mass), splat(keep[q]), low + high));
    if constexpr (T == CACHE_INT8) {
      const float* scales = Cache<T>::scales_of(head, head_dim) + BLOCK;
      const f32x16 zero = splat(0.0f);  // a masked position's scale may be stale
      low = select(low > zero, low * load<f32x16>(scales), low);
      high = select(high > zero, high * load<f32x16>(scales + 16), high);
    }
    store(weights[q], low);
    store(weights[q] + 16, high);
  }
  const uint8_t* values = Cache<T>::values_of(head, head_dim);
  int dim = 0;
  const auto accumulate = [&](auto parts) __attribute__((always_inline)) {
    constexpr int P = decltype(parts)::value;
    for (; dim + 16 * P <= head_dim; dim += 16 * P) {
      f32x16 out[N][P];
      const auto at = [&](int q, int p) __attribute__((always_inline)) { return output + q * head_dim + dim + 16 * p; };
      repeat<N>([&](int q) __attribute__((always_inline)) {
        const f32x16 factor = splat(keep[q]);
        repeat<P>([&](int p) __attribute__((always_inline)) { out[q][p] = load<f32x16>(at(q, p)) * factor; });
      });
      for (int pair = 0; pair < (used + 1) / 2; pair++) {
        next.lines(2);
        f32x16 even[P], odd[P];
        repeat<P>([&](int p) __attribute__((always_inline)) { Cache<T>::pairs(values, pair, head_dim, dim + 16 * p, even[p], odd[p]); });
        repeat<N>([&](int q) __attribute__((always_inline)) {
          const f32x16 x = splat(weights[q][2 * pair]);
          repeat<P>([&](int p) __attribute__((always_inline)) { out[q][p] = madd(x, even[p], out[q][p]); });
        });
        repeat<N>([&](int q) __attribute__((always_inline)) {
          const f32x16 y = splat(weights[q][2 * pair + 1]);
          repeat<P>([&](int p) __attribute__((always_inline)) { out[q][p] = madd(y, odd[p], out[q][p]); });
        });
      }
      repeat<N>([&](int q) __attribute__((always_inline)) {
        repeat<P>([&](int p) __attribute__((always_inline)) { store(at(q, p), out[q][p]); });
      });
    }
  };
  accumulate(std::integral_constant<int, MORE>{});
  constexpr int LEAST = output_parts(QUERY_TILE);
  if constexpr (MORE > LEAST) accumulate(std::integral_constant<int, LEAST>{});
}

// `f(size, first)` for tiles that together hold `count` queries, `size` a constant.
template <class F>
INLINE void in_query_tiles(int count, const F& f) {
  int q = 0;
  const auto run = [&](auto size) __attribute__((always_inline)) {
    for (; q + size() <= count; q += size()) f(size, q);
  };
  run(std::integral_constant<int, QUERY_TILE>{});
  if constexpr (QUERY_TILE > 6) run(std::integral_constant<int, 6>{});
  run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, 3>{});
  run(std::integral_constant<int, 1>{});
}

// The first block that a query at `position` sees.
INLINE int first_block(int position, int window) { return window && position >= window ? (position - window + 1) / BLOCK : 0; }

// Attention of `count` queries (scaled by log2(e) / sqrt(head_dim)) of one sequence and key-value head; `head_of(block)` is the head's
// part of the sequence's block, `after` what is attended to next. Positions do not fall from one query to the next. Outputs are normalized
// into state.output [count][head_dim].
template <int T, class HeadOf>
void attend(Attention& state, const HeadOf& head_of, const uint8_t* after, int head_dim, int window, int count, const float* const* queries,
            const int* positions) {
  const int last = positions[count - 1];
  for (int q = 0; q < count; q++) {
    state.peak[q] = -1e30f;
    store(state.mass[q], splat(0.0f));
  }
  in_query_tiles(count, [&](auto size, int q) {
    constexpr int N = decltype(size)::value;
    float* to = state.queries + q * head_dim;
    for (int pair = 0; pair < head_dim / 2; pair++)
      for (int i = 0; i < N; i++, to += 2) store(to, load<int64_t>(queries[q + i] + 2 * pair));
  });
  memset(state.output, 0, sizeof(float) * (size_t)(count * head_dim));
  const int64_t bytes = head_bytes(T, head_dim);
  for (int b = first_block(positions[0], window); b <= last / BLOCK; b++) {
    uint8_t* head = head_of(b);
    const uint8_t* following = b < last / BLOCK ? head_of(b + 1) : after;
    Prefetch next{following, following + bytes};
    in_query_tiles(count, [&](auto size, int q) {
      constexpr int N = decltype(size)::value;
      if (positions[q + N - 1] >= b * BLOCK) attend_tile<T, N>(next, head, head_dim, b * BLOCK, window, positions + q, state, q);
    });
  }
  for (int q = 0; q < count; q++) {
    const f32x16 factor = splat(1.0f / sum(load<f32x16>(state.mass[q])));
    for (int i = 0; i < head_dim; i += 16) {
      float* out = state.output + q * head_dim + i;
      store(out, load<f32x16>(out) * factor);
    }
  }
}

}  // namespace
