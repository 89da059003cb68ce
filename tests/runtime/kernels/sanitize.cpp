// Runs every format, cache type, batch shape and sampler setting on small random matrices; built with AddressSanitizer and
// UndefinedBehaviorSanitizer. Every buffer has exactly the size that the interface asks for, so reading or writing past one is an error.
#include "library.cpp"

#include <cstdio>
#include <memory>
#include <random>

static std::mt19937 random_bits(5);

static float normal() { return std::normal_distribution<float>()(random_bits); }

struct Bytes {
  uint8_t* data;
  explicit Bytes(size_t size) : data((uint8_t*)aligned_alloc(64, (size + 63) / 64 * 64)) { memset(data, 0, size); }
};

static Matrix packed(int format, int n, int k) {
  std::vector<float> values((size_t)n * (size_t)k);
  for (float& value : values) value = normal() / 4;
  Bytes out((size_t)inferstack_packed_bytes(format, n, k));
  if (inferstack_pack(format, n, k, GGUF_F32, (const uint8_t*)values.data(), 0, panels(n), out.data)) abort();
  return {out.data, format, n, k, 0};
}

static const float* vector_of(int n, float base) {
  float* values = (float*)Bytes((size_t)n * 4).data;
  for (int i = 0; i < n; i++) values[i] = base + normal() / 8;
  return values;
}

static void sources() {
  for (int source : {GGUF_F32, GGUF_F16, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q5_0, GGUF_Q5_1, GGUF_Q8_0, GGUF_BF16, GGUF_Q2_K,
                     GGUF_Q3_K, GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K})
    for (int format = 0; format < FORMATS; format++) {
      const int n = 40, k = is_super(source) ? 256 : 64;
      std::vector<uint8_t> blocks((size_t)source_bytes(source, n * k));
      for (uint8_t& byte : blocks) byte = (uint8_t)(random_bits() & 0x3f);
      Bytes out((size_t)inferstack_packed_bytes(format, n, k));
      if (inferstack_pack(format, n, k, source, blocks.data(), 0, panels(n), out.data)) abort();
      std::vector<float> row((size_t)k), x((size_t)(13 * k), 1.0f), y((size_t)(13 * n));
      for (int i = 0; i < n; i++) inferstack_unpack(format, n, k, out.data, i, row.data());
      for (int rows : {1, 5, 13}) inferstack_product(format, n, k, out.data, x.data(), rows, y.data());
      free(out.data);
    }
}

static void steps(int format, int cache_type, int threads, int head_dim, int window) {
  const int hidden = 64, heads = 6, groups = 2, inner = 96, vocabulary = 75, positions = 96, layers = 2;
  std::vector<Layer> layer((size_t)layers);
  for (Layer& l : layer) {
    l = {packed(format, heads * head_dim, hidden), packed(format, groups * head_dim, hidden), packed(format, groups * head_dim, hidden),
         packed(format, hidden, heads * head_dim), packed(format, inner, hidden), packed(format, inner, hidden), packed(format, hidden, inner),
         vector_of(hidden, 1), vector_of(hidden, 1), vector_of(heads * head_dim, 0), vector_of(groups * head_dim, 0),
         vector_of(groups * head_dim, 0), vector_of(head_dim, 1), vector_of(head_dim, 1)};
  }
  std::vector<float> rotation((size_t)(positions * 2 * head_dim), 0.5f);
  ModelSpec spec{layers, hidden, heads, groups, head_dim, inner, vocabulary, window, cache_type, positions, 1e-5f, 0,
                 packed(W8_GROUP, vocabulary, hidden), packed(format, vocabulary, hidden), vector_of(hidden, 1), rotation.data(), layer.data()};
  void* model = inferstack_model_new(&spec, threads);
  const int64_t block = inferstack_cache_block_bytes(model);
  Bytes cache((size_t)(block * 6));
  const int32_t tables[] = {3, 0, 5, 1, 4, 2};  // two sequences of three blocks
  std::vector<int32_t> history{1, 2, 3, 3, 3};
  std::vector<int32_t> bias_tokens{4, 74};
  std::vector<float> bias_values{1.5f, -2.0f};
  std::vector<uint32_t> mask{0xffffffffu, 0xfffffff0u, 0x7u};
  int first[2] = {0, 0};
  for (const auto& shape : {std::pair<int, int>{50, 1}, {1, 40}, {1, 1}, {7, 13}, {30, 0}}) {
    std::vector<int32_t> tokens, at;
    std::vector<Segment> segments;
    for (int s = 0; s < 2; s++) {
      const int rows = s ? shape.second : shape.first;
      if (!rows) continue;
      segments.push_back({s, (int32_t)tokens.size(), rows});
      for (int i = 0; i < rows; i++) {
        tokens.push_back((int32_t)(random_bits() % (unsigned)vocabulary));
        at.push_back(first[s]++);
      }
    }
    const int rows = (int)tokens.size();
    std::vector<SampleSpec> specs((size_t)rows);
    for (int i = 0; i < rows; i++) {
      SampleSpec& one = specs[(size_t)i];
      one = {i, i % 5 == 4 ? 7 : -1, i % 3 ? 0 : 5, i % 4 - 1, i % 2 ? 0.8f : 0.0f, i % 7 ? 1.0f : 0.7f, i % 6 ? 0.0f : 0.05f, 0.5f, 0.25f, 1.1f,
             9, (uint64_t)i, history.data(), bias_tokens.data(), bias_values.data(), i % 2 ? mask.data() : nullptr, 2, 5, i % 3 == 1 ? 2 : 0, 0};
    }
    std::vector<SampleResult> results((size_t)rows);
    std::vector<float> logits((size_t)(rows * vocabulary));
    const Batch batch{rows, (int32_t)segments.size(), rows, 3, tokens.data(), at.data(), segments.data(), tables, cache.data, specs.data(),
                      results.data(), logits.data()};
    if (inferstack_step(model, &batch)) abort();
    for (const SampleResult& result : results)
      if (result.status || result.token < 0 || result.token >= vocabulary) abort();
  }
  const int32_t outside = vocabulary, zero = 0;
  const Segment one{0, 0, 1};
  const Batch wrong{1, 1, 0, 3, &outside, &zero, &one, tables, cache.data, nullptr, nullptr, nullptr};
  if (inferstack_step(model, &wrong) != STEP_INVALID) abort();
  inferstack_model_free(model);
}

int main() {
  sources();
  for (int format = 0; format < FORMATS; format++)
    for (int cache_type = 0; cache_type < 3; cache_type++) steps(format, cache_type, 1 + (format + cache_type) % 3, 32 << (format % 2), 0);
  steps(W4_MINIMUM, CACHE_BF16, 2, 96, 20);
  puts("clean");
}
