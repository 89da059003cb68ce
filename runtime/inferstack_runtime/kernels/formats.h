// Packed weight matrices. A matrix of `n` outputs and `k` inputs lies in panels of 32 outputs; a panel is a header and one block per
// group of 32 inputs, so a product reads memory strictly forward. The layout is the same for every instruction set.
//
//   format      block of 32 x 32 weights
//   F32         float    [32 k][32 n]
//   F16, BF16   uint16   [32 k][32 n]
//   W8_CHANNEL  int8     [8 quads][2 halves][16 n][4 k]; header: float scale[32]
//   W8_GROUP    int8     as above, then half scale[32]                                       (Q8_0, Q5_0, lossless)
//   W4_GROUP    nibbles  [4 quads][2 halves][16 n][4 k], low: k, high: k + 16; half scale[32]  w = (q - 8) scale     (Q4_0, lossless)
//   W4_MINIMUM  as above, then half scale[32], half minimum[32]                              w = q scale + minimum  (Q4_1, lossless)
//   NF4         nibbles  [32 k][16], low: n, high: n + 16; float scale[32]                   w = table[q] scale
#pragma once
#include "simd.h"
#include "sources.h"

namespace {

enum Format : int32_t { F32 = 0, F16 = 1, BF16 = 2, W8_CHANNEL = 3, W8_GROUP = 4, W4_GROUP = 5, W4_MINIMUM = 6, NF4 = 7, FORMATS = 8 };

constexpr int PANEL = 32;

struct Matrix {
  const uint8_t* data;
  int32_t format, n, k;
  int32_t reserved;
};

INLINE constexpr int block_bytes(int format) {
  constexpr int bytes[FORMATS] = {4096, 2048, 2048, 1024, 1088, 576, 640, 640};
  return bytes[format];
}
INLINE constexpr int header_bytes(int format) { return format == W8_CHANNEL ? 128 : 0; }
INLINE int64_t panel_bytes(int format, int k) { return header_bytes(format) + (int64_t)(k / GROUP) * block_bytes(format); }
INLINE constexpr bool takes_integers(int format) { return format >= W8_CHANNEL && format <= W4_MINIMUM; }
INLINE int panels(int n) { return (n + PANEL - 1) / PANEL; }

// The quantiles of a normal distribution (Dettmers et al. 2023, QLoRA, appendix E).
constexpr float NF4_TABLE[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f,
    0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

INLINE int byte_of(int column, int k) { return ((k / 4) * 2 + column / 16) * 64 + (column % 16) * 4 + k % 4; }

// Weight (column, k) of a block, as float.
INLINE float weight_of(int format, const uint8_t* panel, const uint8_t* block, int column, int k) {
  const auto half_at = [&](int offset) { return half_to_float(load<uint16_t>(block + offset + 2 * column)); };
  switch (format) {
    case F32: return load<float>(block + 4 * (k * PANEL + column));
    case F16: return half_to_float(load<uint16_t>(block + 2 * (k * PANEL + column)));
    case BF16: return bfloat_to_float(load<uint16_t>(block + 2 * (k * PANEL + column)));
    case W8_CHANNEL: return (float)(int8_t)block[byte_of(column, k)] * load<float>(panel + 4 * column);
    case W8_GROUP: return (float)(int8_t)block[byte_of(column, k)] * half_at(1024);
    case NF4: {
      const uint8_t pair = block[k * 16 + column % 16];
      return NF4_TABLE[column < 16 ? pair & 15 : pair >> 4] * load<float>(block + 512 + 4 * column);
    }
    default: {
      const uint8_t pair = block[byte_of(column, k % 16)];
      const float q = (float)(k < 16 ? pair & 15 : pair >> 4);
      return format == W4_GROUP ? (q - 8.0f) * half_at(512) : q * half_at(512) + half_at(576);
    }
  }
}

// Row `row` of a packed matrix as `k` floats.
void unpack_row(const Matrix& w, int row, float* out) {
  const uint8_t* panel = w.data + panel_bytes(w.format, w.k) * (row / PANEL);
  const int column = row % PANEL;
  for (int g = 0; g < w.k / GROUP; g++) {
    const uint8_t* block = panel + header_bytes(w.format) + (int64_t)g * block_bytes(w.format);
    for (int k = 0; k < GROUP; k++) out[g * GROUP + k] = weight_of(w.format, panel, block, column, k);
  }
}

// A panel as float [k][32].
void unpack_panel(const Matrix& w, int index, float* out) {
  const uint8_t* panel = w.data + panel_bytes(w.format, w.k) * index;
  for (int g = 0; g < w.k / GROUP; g++, out += GROUP * PANEL) {
    const uint8_t* block = panel + header_bytes(w.format) + (int64_t)g * block_bytes(w.format);
    if (w.format == F32) memcpy(out, block, 4096);
    else if (w.format == F16)
      for (int i = 0; i < 1024; i += 16) store(out + i, load_half((const uint16_t*)block + i));
    else if (w.format == BF16)
      for (int i = 0; i < 1024; i += 16) store(out + i, load_bfloat((const uint16_t*)block + i));
    else if (w.format == NF4) {
      const f32x16 scale_low = load<f32x16>(block + 512), scale_high = load<f32x16>(block + 576);
      for (int k = 0; k < GROUP; k++) {
        float values[PANEL];
        for (int c = 0; c < 16; c++) {
          values[c] = NF4_TABLE[block[k * 16 + c] & 15];
          values[c + 16] = NF4_TABLE[block[k * 16 + c] >> 4];
        }
        store(out + k * PANEL, load<f32x16>(values) * scale_low);
        store(out + k * PANEL + 16, load<f32x16>(values + 16) * scale_high);
      }
    } else
      for (int k = 0; k < GROUP; k++)
        for (int c = 0; c < PANEL; c++) out[k * PANEL + c] = weight_of(w.format, panel, block, c, k);
  }
}

// ---- Packing -------------------------------------------------------------------------------------------------------------

// The nearest 4-bit code with a minimum: scale and minimum over the group's range, then one least-squares refit of both.
void quantize_minimum(const float* w, uint8_t* q, uint16_t* scale, uint16_t* minimum) {
  float low = w[0], high = w[0];
  for (int i = 1; i < GROUP; i++) {
    low = w[i] < low ? w[i] : low;
    high = w[i] > high ? w[i] : high;
  }
  float d = (high - low) / 15, m = low, best = INFINITY;
  for (int round = 0; round < 3; round++) {
    const float dr = half_to_float(float_to_half(d)), mr = half_to_float(float_to_half(m));
    uint8_t codes[GROUP];
    float error = 0, sq = 0, sqq = 0, sw = 0, sqw = 0;
    for (int i = 0; i < GROUP; i++) {
      float code = dr != 0 ? nearbyintf((w[i] - mr) / dr) : 0;
      code = code < 0 ? 0 : code > 15 ? 15 : code;
      codes[i] = (uint8_t)code;
      const float rest = w[i] - (code * dr + mr);
      error += rest * rest;
      sq += code, sqq += code * code, sw += w[i], sqw += code * w[i];
    }
    if (error < best) {
      best = error;
      memcpy(q, codes, GROUP);
      *scale = float_to_half(d);
      *minimum = float_to_half(m);
    }
    const float determinant = GROUP * sqq - sq * sq;
    if (determinant <= 0) return;
    d = (GROUP * sqw - sq * sw) / determinant;
    m = (sw - d * sq) / GROUP;
  }
}

INLINE uint8_t nearest_nf4(float x) {
  int best = 0;
  for (int i = 1; i < 16; i++)
    if (fabsf(x - NF4_TABLE[i]) < fabsf(x - NF4_TABLE[best])) best = i;
  return (uint8_t)best;
}

INLINE int8_t to_int8(float x) {
  x = nearbyintf(x);
  return (int8_t)(x < -127 ? -127 : x > 127 ? 127 : x);
}

INLINE bool is_finite(float x) { return x - x == 0; }

// Pack one panel: rows [index * 32, +32) of `src` (row-major, `source` blocks) into `out`. Rows past `n` are zero.
// False where a weight or a scale is not finite, in the source or as packed.
bool pack_panel(int format, int n, int k, int source, const uint8_t* src, int index, uint8_t* out) {
  const int groups = k / GROUP;
  const int64_t row_bytes = source_bytes(source, k);
  memset(out, 0, (size_t)panel_bytes(format, k));
  for (int column = 0; column < PANEL && index * PANEL + column < n; column++) {
    const uint8_t* row = src + (int64_t)(index * PANEL + column) * row_bytes;
    float channel = 0;
    if (format == W8_CHANNEL) {
      for (int g = 0; g < groups; g++) {
        float w[GROUP];
        unpack_source(source, row, g, w);
        for (float x : w) channel = fabsf(x) > channel ? fabsf(x) : channel;
      }
      channel /= 127;
      store(out + 4 * column, channel);
    }
    for (int g = 0; g < groups; g++) {
      const uint8_t* from = source_block_of(source, row, g);
      uint8_t* block = out + header_bytes(format) + (int64_t)g * block_bytes(format);
      const auto put_nibble = [&](int i, int code) { block[byte_of(column, i % 16)] |= (uint8_t)(code << (i < 16 ? 0 : 4)); };
      if (format == W8_GROUP && source == GGUF_Q8_0) {
        for (int i = 0; i < GROUP; i++) block[byte_of(column, i)] = from[2 + i];
        memcpy(block + 1024 + 2 * column, from, 2);
        continue;
      }
      if ((format == W4_GROUP && source == GGUF_Q4_0) || (format == W4_MINIMUM && source == GGUF_Q4_1)) {
        const int at = source == GGUF_Q4_0 ? 2 : 4;
        for (int i = 0; i < GROUP; i++) put_nibble(i, i < 16 ? from[at + i] & 15 : from[at + i - 16] >> 4);
        memcpy(block + 512 + 2 * column, from, 2);
        if (format == W4_MINIMUM) memcpy(block + 576 + 2 * column, from + 2, 2);
        continue;
      }
      if (format == W4_MINIMUM && source == GGUF_Q4_K) {  // the same codes; scale and minimum rounded to half
        const ScaleMinimum sub = scale_minimum(from, g % 8);
        for (int i = 0; i < GROUP; i++) put_nibble(i, q4_k_code(from, g % 8, i));
        store(block + 512 + 2 * column, float_to_half(sub.scale));
        store(block + 576 + 2 * column, float_to_half(-sub.minimum));
        continue;
      }
      float w[GROUP], largest = 0, extreme = 0;
      unpack_source(source, row, g, w);
      for (float x : w) {
        if (!is_finite(x)) return false;
        if (fabsf(x) > largest) largest = fabsf(x), extreme = x;
      }
      switch (format) {
        case F32:
          for (int i = 0; i < GROUP; i++) store(block + 4 * (i * PANEL + column), w[i]);
          break;
        case F16:
          for (int i = 0; i < GROUP; i++) store(block + 2 * (i * PANEL + column), float_to_half(w[i]));
          break;
        case BF16:
          for (int i = 0; i < GROUP; i++) store(block + 2 * (i * PANEL + column), float_to_bfloat(w[i]));
          break;
        case W8_CHANNEL:
          for (int i = 0; i < GROUP; i++) block[byte_of(column, i)] = (uint8_t)to_int8(channel != 0 ? w[i] / channel : 0);
          break;
        case W8_GROUP: {
          const uint16_t scale = source == GGUF_Q5_0 ? load<uint16_t>(from) : float_to_half(largest / 127);  // 5-bit codes stay what they are
          const float d = half_to_float(scale);
          for (int i = 0; i < GROUP; i++) block[byte_of(column, i)] = (uint8_t)to_int8(d != 0 ? w[i] / d : 0);
          store(block + 1024 + 2 * column, scale);
          break;
        }
        case W4_GROUP: {
          const uint16_t scale = float_to_half(extreme / -8);
          const float d = half_to_float(scale);
          for (int i = 0; i < GROUP; i++) {
            float code = d != 0 ? nearbyintf(w[i] / d) + 8 : 8;
            put_nibble(i, code < 0 ? 0 : code > 15 ? 15 : (int)code);
          }
          store(block + 512 + 2 * column, scale);
          break;
        }
        case W4_MINIMUM: {
          uint8_t codes[GROUP];
          uint16_t scale = 0, minimum = 0;
          quantize_minimum(w, codes, &scale, &minimum);
          for (int i = 0; i < GROUP; i++) put_nibble(i, codes[i]);
          store(block + 512 + 2 * column, scale);
          store(block + 576 + 2 * column, minimum);
          break;
        }
        case NF4:
          for (int i = 0; i < GROUP; i++)
            block[i * 16 + column % 16] |= (uint8_t)(nearest_nf4(largest != 0 ? w[i] / largest : 0) << (column < 16 ? 0 : 4));
          store(block + 512 + 4 * column, largest);
          break;
      }
    }
    const int own = format <= BF16 ? GROUP : 1;  // weights of a group that do not share a scale
    for (int g = 0; g < groups; g++)
      for (int i = 0; i < own; i++)
        if (!is_finite(weight_of(format, out, out + header_bytes(format) + (int64_t)g * block_bytes(format), column, i))) return false;
  }
  return true;
}

}  // namespace
