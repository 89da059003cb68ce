// Weights as GGUF files hold them: blocks of 32, or, for the K types, blocks of 256 in eight groups of 32.
// Definitions: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
#pragma once
#include "simd.h"

namespace {

constexpr int GROUP = 32, SUPER = 256;

// GGUF's tensor type numbers.
enum Source : int32_t {
  GGUF_F32 = 0, GGUF_F16 = 1, GGUF_Q4_0 = 2, GGUF_Q4_1 = 3, GGUF_Q5_0 = 6, GGUF_Q5_1 = 7, GGUF_Q8_0 = 8,
  GGUF_Q2_K = 10, GGUF_Q3_K = 11, GGUF_Q4_K = 12, GGUF_Q5_K = 13, GGUF_Q6_K = 14, GGUF_BF16 = 30
};

INLINE bool is_super(int source) { return source >= GGUF_Q2_K && source <= GGUF_Q6_K; }

INLINE int source_block_bytes(int source) {
  switch (source) {
    case GGUF_F32: return 128;
    case GGUF_F16: case GGUF_BF16: return 64;
    case GGUF_Q4_0: return 18;
    case GGUF_Q4_1: return 20;
    case GGUF_Q5_0: return 22;
    case GGUF_Q5_1: return 24;
    case GGUF_Q8_0: return 34;
    case GGUF_Q2_K: return 84;
    case GGUF_Q3_K: return 110;
    case GGUF_Q4_K: return 144;
    case GGUF_Q5_K: return 176;
    case GGUF_Q6_K: return 210;
    default: return 0;
  }
}
INLINE int source_block_weights(int source) { return is_super(source) ? SUPER : GROUP; }
INLINE int64_t source_bytes(int source, int64_t weights) { return weights / source_block_weights(source) * source_block_bytes(source); }

// The block that holds group `group` of the weights from `start` on.
INLINE const uint8_t* source_block_of(int source, const uint8_t* start, int64_t group) {
  return start + group * GROUP / source_block_weights(source) * source_block_bytes(source);
}

struct ScaleMinimum { float scale, minimum; };

// Q4_K and Q5_K begin with two halves and eight pairs of 6-bit numbers in 12 bytes.
INLINE ScaleMinimum scale_minimum(const uint8_t* p, int group) {
  const uint8_t* packed = p + 4;
  int scale, minimum;
  if (group < 4) {
    scale = packed[group] & 63;
    minimum = packed[group + 4] & 63;
  } else {
    scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4);
    minimum = (packed[group + 4] >> 4) | (packed[group] >> 6 << 4);
  }
  return {half_to_float(load<uint16_t>(p)) * (float)scale, half_to_float(load<uint16_t>(p + 2)) * (float)minimum};
}
INLINE int nibble_of(const uint8_t* codes, int group, int i) { return codes[group / 2 * GROUP + i] >> (group % 2 * 4) & 15; }
INLINE int q4_k_code(const uint8_t* p, int group, int i) { return nibble_of(p + 16, group, i); }

// Weight i of group `group` of a block of 256. Groups four apart share bytes; scales are for 16 weights, but for 32 in Q4_K and Q5_K.
INLINE float super_weight(int source, const uint8_t* p, int group, int i) {
  const int half = group / 4, part = group % 4, at = half * 8 + part * 2 + i / 16;
  switch (source) {
    case GGUF_Q2_K: {
      const int code = p[16 + half * GROUP + i] >> 2 * part & 3;
      return half_to_float(load<uint16_t>(p + 80)) * (float)(p[at] & 15) * (float)code - half_to_float(load<uint16_t>(p + 82)) * (float)(p[at] >> 4);
    }
    case GGUF_Q3_K: {
      const uint8_t* scales = p + 96;
      const int low = at < 8 ? scales[at] & 15 : scales[at - 8] >> 4, high = scales[8 + at % 4] >> at / 4 * 2 & 3;
      const int code = (p[32 + half * GROUP + i] >> 2 * part & 3) - (p[i] >> group & 1 ? 0 : 4);
      return half_to_float(load<uint16_t>(p + 108)) * (float)((low | high << 4) - 32) * (float)code;
    }
    case GGUF_Q4_K: {
      const ScaleMinimum sub = scale_minimum(p, group);
      return sub.scale * (float)q4_k_code(p, group, i) - sub.minimum;
    }
    case GGUF_Q5_K: {
      const ScaleMinimum sub = scale_minimum(p, group);
      return sub.scale * (float)(nibble_of(p + 48, group, i) | (p[16 + i] >> group & 1) << 4) - sub.minimum;
    }
    default: {  // Q6_K
      const int low = p[half * 64 + part % 2 * GROUP + i] >> part / 2 * 4 & 15, high = p[128 + half * GROUP + i] >> 2 * part & 3;
      return half_to_float(load<uint16_t>(p + 208)) * (float)(int8_t)p[192 + at] * (float)((low | high << 4) - 32);
    }
  }
}

// The 32 weights of group `group` from `start` on.
void unpack_source(int source, const uint8_t* start, int64_t group, float* out) {
  const uint8_t* p = source_block_of(source, start, group);
  if (is_super(source)) {
    for (int i = 0; i < GROUP; i++) out[i] = super_weight(source, p, (int)(group % (SUPER / GROUP)), i);
    return;
  }
  const auto half_at = [&](int offset) { return half_to_float(load<uint16_t>(p + offset)); };
  for (int i = 0; i < GROUP; i++) {
    const auto nibble = [&](int offset) { return i < 16 ? p[offset + i] & 15 : p[offset + i - 16] >> 4; };
    const auto fifth = [&](int offset) { return (int)(load<uint32_t>(p + offset) >> i & 1) << 4; };
    switch (source) {
      case GGUF_F32: out[i] = load<float>(p + 4 * i); break;
      case GGUF_F16: out[i] = half_at(2 * i); break;
      case GGUF_BF16: out[i] = bfloat_to_float(load<uint16_t>(p + 2 * i)); break;
      case GGUF_Q4_0: out[i] = (float)(nibble(2) - 8) * half_at(0); break;
      case GGUF_Q4_1: out[i] = (float)nibble(4) * half_at(0) + half_at(2); break;
      case GGUF_Q5_0: out[i] = (float)((nibble(6) | fifth(2)) - 16) * half_at(0); break;
      case GGUF_Q5_1: out[i] = (float)(nibble(8) | fifth(4)) * half_at(0) + half_at(2); break;
      case GGUF_Q8_0: out[i] = (float)(int8_t)p[2 + i] * half_at(0); break;
    }
  }
}

}  // namespace
