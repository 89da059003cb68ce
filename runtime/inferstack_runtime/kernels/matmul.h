// Products of a panel of 32 outputs with every row of a batch, for each weight format.
//
// Integer formats take activations quantized to int8 in groups of 32. Four products are summed per instruction without rounding, and
// a group's sum is scaled once: exact up to the float accumulation over groups, whose order is the same for every tile.
#pragma once
#include "activations.h"

namespace {

// `tile(size, row)` for the rows from `row` to `end`, `size` a constant of at most MOST.
template <int MOST, class Tile>
INLINE void with_size(int size, const Tile& tile) {
  if constexpr (MOST > 1)
    if (size < MOST) return with_size<MOST - 1>(size, tile);
  tile(std::integral_constant<int, MOST>{});
}
template <int MOST, class Tile>
INLINE void in_tiles(int row, int end, const Tile& tile) {
  for (; row + MOST <= end; row += MOST) tile(std::integral_constant<int, MOST>{}, row);
  if (row < end) with_size<MOST>(end - row, [&](auto size) { tile(size, row); });
}

// ---- Integer tiles: rows x 32 columns ---------------------------------------------------------------------------------

// With so many rows it costs less to unpack a panel once, to blocks in the order in which a tile reads them, than once per tile. The first
// tile does so on the way (KEEP).
constexpr int READY_ROWS = TILE_ROWS > 4 ? 36 : 12;
constexpr int READY = FORMATS;  // the format of such blocks

// A tile of more rows goes over its panel twice, for half of the columns each time.
constexpr int ONE_PASS_ROWS = TILE_ROWS > 4 ? 6 : 1;

// Panels lie one after another. The first pass over one would wait for memory, so the passes over the panel before fetch it, `lines` of it
// with each group of theirs. A single pass fetches a little ahead of itself instead: one row took 13 to 15 % longer otherwise.
constexpr int PREFETCH_BYTES = 4096;
struct Ahead {
  const uint8_t *at, *end;
  int lines;
  template <int F, int MR, int BYTES>
  INLINE void fetch(const uint8_t* block, int row) {
    if (F != READY && MR <= ONE_PASS_ROWS && row == 0) {
      for (int line = 0; line < BYTES; line += 64) __builtin_prefetch(block + PREFETCH_BYTES + line);
    } else if (at < end) {
      for (int i = 0; i < lines; i++) __builtin_prefetch(at + 64 * i, 0, 2);
      at += 64 * lines;
    }
  }
};

#if defined(__AVX512VNNI__)
#include "vnni.h"
#elif defined(__AVX2__)
#include "avx2.h"
#else

template <int F, int MR>
void integer_tile(const uint8_t* panel, int groups, const Activations& a, int row, Ahead&, float* out) {
  for (int m = 0; m < MR; m++) {
    float total[PANEL] = {};
    const uint8_t* block = panel + header_bytes(F);
    for (int g = 0; g < groups; g++, block += block_bytes(F)) {
      const int64_t index = (int64_t)row * groups + g * MR + m;
      const int8_t* quants = a.quants + index * GROUP;
      int32_t acc[PANEL] = {};
      constexpr bool nibbles = F == W4_GROUP || F == W4_MINIMUM;
      for (int j = 0; j < (nibbles ? 4 : 8); j++)
        for (int c = 0; c < PANEL; c++)
          for (int i = 0; i < 4; i++) {
            const uint8_t w = block[(j * PANEL + c) * 4 + i];
            const int8_t *low = quants + j * 4 + i, *high = low + 16;
            acc[c] += nibbles ? (w & 15) * *low + (w >> 4) * *high : (int8_t)w * *low;
          }
      for (int c = 0; c < PANEL; c++) {
        const auto half_at = [&](int offset) { return half_to_float(load<uint16_t>(block + offset + 2 * c)); };
        float value = (float)acc[c];
        if (F == W8_GROUP) value *= half_at(1024);
        if (F == W4_GROUP) value = (value - 8 * a.sums[index]) * half_at(512);
        if (F == W4_MINIMUM) value = value * half_at(512) + a.sums[index] * half_at(576);
        total[c] += value * a.scales[index];
      }
    }
    for (int c = 0; c < PANEL; c++) out[m * PANEL + c] = F == W8_CHANNEL ? total[c] * load<float>(panel + 4 * c) : total[c];
  }
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

template <int F>
INLINE void integer_tiles(const uint8_t* panel, const Activations& a, Ahead next, float* out, int first = 0) {
  in_tiles<TILE_ROWS>(first, a.rows, [&](auto size, int row) {
    integer_tile<F, decltype(size)::value>(panel, a.k / GROUP, a, row, next, out + (int64_t)row * PANEL);
  });
}

template <int F>
INLINE void integer_rows(const uint8_t* panel, const Activations& a, [[maybe_unused]] float* scratch, float* out) {
  const int passes = a.rows <= ONE_PASS_ROWS ? 1 : (a.rows + TILE_ROWS - 1) / TILE_ROWS * 2;
  const uint8_t *end = panel + panel_bytes(F, a.k), *after = end + panel_bytes(F, a.k);
  Ahead next{end, after, (block_bytes(F) / 64 + passes - 1) / passes};
#if defined(__AVX2__)
  if constexpr (can_be_ready(F))
    if (a.rows >= READY_ROWS) {
      integer_tile<F, TILE_ROWS, true>(panel, a.k / GROUP, a, 0, next, out, (ReadyBlock*)scratch);
      return integer_tiles<READY>((const uint8_t*)scratch, a, next, out, TILE_ROWS);
    }
#endif
  integer_tiles<F>(panel, a, next, out);
}

// out[a.rows][32] = activations x panel `index`. `scratch` holds k * 32 floats.
void panel_product(const Matrix& w, int index, const Activations& a, float* scratch, float* out) {
  const uint8_t* panel = w.data + panel_bytes(w.format, w.k) * index;
  switch (w.format) {
    case W8_CHANNEL: return integer_rows<W8_CHANNEL>(panel, a, scratch, out);
    case W8_GROUP: return integer_rows<W8_GROUP>(panel, a, scratch, out);
    case W4_GROUP: return integer_rows<W4_GROUP>(panel, a, scratch, out);
    case W4_MINIMUM: return integer_rows<W4_MINIMUM>(panel, a, scratch, out);
  }
  const float* weights = (const float*)panel;
  if (w.format != F32) unpack_panel(w, index, scratch), weights = scratch;
  in_tiles<FLOAT_ROWS>(0, a.rows, [&](auto size, int row) {
    float_tile<decltype(size)::value>(weights, a.k, a.values + (int64_t)row * a.k, out + (int64_t)row * PANEL);
  });
}

}  // namespace
