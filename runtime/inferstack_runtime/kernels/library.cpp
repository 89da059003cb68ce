// The C interface of the kernels. Built once per instruction set; `kernels/__init__.py` loads the best one that this CPU runs.
#include "limits.h"
#include "step.h"

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

#define ABI_VERSION 4

EXPORT int32_t inferstack_abi_version() { return ABI_VERSION; }

// The variants that this CPU runs, a bit each: 1 any, 2 AVX2 with FMA and F16C, 4 the same with AVX-VNNI, 8 AVX-512 with VNNI.
EXPORT int32_t inferstack_cpu_variants() {
  int32_t variants = 1;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2) variants |= 2;
  if (avx2 && __builtin_cpu_supports("avxvnni")) variants |= 4;
  if (avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    variants |= 8;
#endif
  return variants;
}

// Sizes of the structures that cross the interface, so that a mismatch is found at load and not by a crash.
EXPORT void inferstack_sizes(int32_t out[6]) {
  out[0] = sizeof(Matrix);
  out[1] = sizeof(Layer);
  out[2] = sizeof(ModelSpec);
  out[3] = sizeof(Batch);
  out[4] = sizeof(SampleSpec);
  out[5] = sizeof(SampleResult);
}

EXPORT int64_t inferstack_packed_bytes(int32_t format, int32_t n, int32_t k) { return panels(n) * panel_bytes(format, k); }

// Pack panels [first, last) of a matrix; 0, or 1 for a source or shape that cannot be packed, 2 for values that are not finite.
EXPORT int32_t inferstack_pack(int32_t format, int32_t n, int32_t k, int32_t source, const uint8_t* from, int32_t first, int32_t last,
                               uint8_t* to) {
  if (format < 0 || format >= FORMATS || k % GROUP || !source_block_bytes(source)) return 1;
  for (int32_t i = first; i < last; i++)
    if (!pack_panel(format, n, k, source, from, i, to + panel_bytes(format, k) * i)) return 2;
  return 0;
}

EXPORT void inferstack_unpack(int32_t format, int32_t n, int32_t k, const uint8_t* data, int32_t row, float* out) {
  unpack_row({data, format, n, k, 0}, row, out);
}

// So many groups of 32 weights of a GGUF tensor as floats.
EXPORT int32_t inferstack_unpack_source(int32_t source, const uint8_t* from, int64_t groups, float* out) {
  if (!source_block_bytes(source) || groups * GROUP % source_block_weights(source)) return 1;
  for (int64_t i = 0; i < groups; i++) unpack_source(source, from, i, out + i * GROUP);
  return 0;
}

// out[rows][n] = x[rows][k] times the transposed matrix, on one thread.
EXPORT int32_t inferstack_product(int32_t format, int32_t n, int32_t k, const uint8_t* data, const float* x, int32_t rows, float* out) {
  const Matrix w{data, format, n, k, 0};
  ActivationBuffers buffers;
  Buffer<float> unpacked, panel;
  try {
    Activations a = buffers.at_least((size_t)rows, k, true);
    for (int row = 0; row < rows; row++)
      for (int g = 0; g < k / GROUP; g++)
        put_group(a, row, g, load<f32x16>(x + (int64_t)row * k + g * GROUP), load<f32x16>(x + (int64_t)row * k + g * GROUP + 16));
    unpacked.at_least((size_t)k * PANEL);
    panel.at_least((size_t)rows * PANEL);
    for (int p = 0; p < panels(n); p++) {
      panel_product(w, p, a, unpacked.data, panel.data);
      const int width = std::min(PANEL, n - p * PANEL);
      for (int row = 0; row < rows; row++)
        memcpy(out + (int64_t)row * n + p * PANEL, panel.data + row * PANEL, sizeof(float) * (size_t)width);
    }
  } catch (const std::bad_alloc&) {
    return STEP_NO_MEMORY;
  }
  return 0;
}

// The sampler alone, on logits padded with -inf to a multiple of 16.
EXPORT void inferstack_sample(const float* logits, int32_t vocabulary, const SampleSpec* spec, SampleResult* result) {
  Sampler().run(logits, vocabulary, *spec, *result);
}

// What the machine allows, for comparison with what a step achieves: best of `rounds`, all threads together.
// out[0] bytes per second read from a buffer of `bytes`; out[1] multiply-adds per second of 8-bit products held in registers.
EXPORT int32_t inferstack_limits(int32_t threads, int64_t bytes, int32_t rounds, double out[2]) {
  try {
    Buffer<uint8_t> buffer;
    buffer.at_least((size_t)bytes);
    memset(buffer.data, 1, (size_t)bytes);
    std::atomic<uint32_t> sink{0};
    const int pieces = 64, repeats = 20000;
    const int64_t piece = bytes / pieces / 256 * 256;
    const auto seconds = [&](Team& team) {
      double best = INFINITY;
      for (int round = 0; round < rounds; round++) {
        const auto start = std::chrono::steady_clock::now();
        team.run();
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      }
      return best;
    };
    std::atomic<Team*> self{nullptr};
    const auto read = [&](int index) {
      u32x16 total[4] = {};
      const uint8_t* from = buffer.data + index * piece;
      for (int64_t i = 0; i < piece; i += 256)
        for (int j = 0; j < 4; j++) total[j] += load<u32x16>(from + i + 64 * j);
      uint32_t all[16];
      store(all, total[0] + total[1] + total[2] + total[3]);
      for (const uint32_t part : all) sink += part;
    };
    {
      Team team(threads, [&](Team::Place& place) { self.load()->share(place, pieces, read); });
      self = &team;
      out[0] = (double)(piece * pieces) / seconds(team);
    }
    {
      Team team(threads, [&](Team::Place& place) { self.load()->share(place, pieces, [&](int) { sink += products(repeats); }); });
      self = &team;
      out[1] = (double)repeats * PRODUCTS_PER_ROUND * pieces / seconds(team);
    }
  } catch (const std::exception&) {
    return STEP_NO_MEMORY;
  }
  return 0;
}

struct Handle {
  Model model;
  Handle(const ModelSpec& spec, int threads) : model(spec, threads) {}
};

EXPORT void* inferstack_model_new(const ModelSpec* spec, int32_t threads) {
  try {
    return new Handle(*spec, threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}
EXPORT void inferstack_model_free(void* handle) { delete (Handle*)handle; }
EXPORT int64_t inferstack_cache_block_bytes(void* handle) { return ((Handle*)handle)->model.cache_block_bytes(); }
EXPORT int32_t inferstack_step(void* handle, const Batch* batch) { return ((Handle*)handle)->model.step(*batch); }
