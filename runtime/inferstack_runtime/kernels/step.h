// One forward step of a Llama-shaped decoder over a ragged batch, in one parallel region.
//
// Five phases per layer, each shared out over the team: query-key-value with rotation and cache write, attention, output projection,
// gate and up with SwiGLU, down projection. RMS normalization has no phase of its own: the product that ends a sublayer stores x * weight
// (quantized per group, which is free of scale) and each panel's sum of squares; the next product multiplies its result by 1 / rms.
// The last layer goes on after its keys and values with those rows alone that are sampled from.
#pragma once
#include "attention.h"
#include "sampler.h"
#include "threads.h"

namespace {

struct Layer {
  Matrix query, key, value, output, gate, up, down;
  const float *attention_norm, *feed_forward_norm;
  const float *query_bias, *key_bias, *value_bias;  // or null
  const float *query_norm, *key_norm;               // or null
};

struct ModelSpec {
  int32_t layers, hidden, heads, key_value_heads, head_dim, feed_forward, vocabulary, window;
  int32_t cache_type, max_positions;
  float epsilon;
  int32_t reserved;
  Matrix embedding, head;
  const float* final_norm;
  const float* rotation;  // [max_positions][2][head_dim]: cosines, and sines with the sign of the partner; pairs are neighbours
  const Layer* layer;
};

struct Segment {
  int32_t sequence;  // row of the block tables
  int32_t row, rows;
};

struct Batch {
  int32_t rows, segments, samples, table_stride;
  const int32_t *tokens, *positions;
  const Segment* segment;
  const int32_t* tables;  // [sequences][table_stride] block numbers
  uint8_t* cache;
  const SampleSpec* specs;
  SampleResult* results;
  float* logits;  // [samples][vocabulary], or null
};

enum StepStatus : int32_t { STEP_DONE = 0, STEP_INVALID = 1, STEP_NO_MEMORY = 2 };

template <class T>
struct Buffer {
  T* data = nullptr;
  size_t size = 0;
  ~Buffer() { free(data); }
  T* at_least(size_t count) {
    if (count > size) {
      free(data);
      size = 0;
      data = (T*)aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64);
      if (!data) throw std::bad_alloc();
      size = count;
    }
    return data;
  }
};

struct ActivationBuffers {
  Buffer<float> values, scales, sums;
  Buffer<int8_t> quants;
  Activations at_least(size_t rows, int k, bool floats) {
    const size_t groups = rows * (size_t)(k / GROUP);
    return {floats ? values.at_least(rows * (size_t)k) : nullptr, quants.at_least(rows * (size_t)k), scales.at_least(groups),
            sums.at_least(groups), k, (int32_t)rows};
  }
};

INLINE void put_group(const Activations& a, int row, int group, f32x16 low, f32x16 high) {
  if (a.values) {
    const int64_t at = (int64_t)row * a.k + group * GROUP;
    store(a.values + at, low);
    store(a.values + at + 16, high);
  }
  quantize_group(low, high, a, row, group);
}

// The same group of one row or of four.
template <int N>
INLINE void put_groups(const Activations& a, int row, int group, const f32x16 (&low)[N], const f32x16 (&high)[N]) {
  if constexpr (N == 4)
    if (!a.values) return quantize_groups(low, high, a, row, group);
  for (int i = 0; i < N; i++) put_group(a, row + i, group, low[i], high[i]);
}

constexpr int HEAD_ROWS = 64;

struct Scratch {
  Buffer<float> product, second, panel, unpacked, rms;  // products of a head or panel: [rows][head_dim] or [rows][32]
  Attention attention;
  Sampler sampler;
  uint64_t measured_job = ~0ull, measured_phase = 0;
};

class Model {
 public:
  Model(const ModelSpec& spec, int threads)
      : spec_(spec),
        layers_(spec.layer, spec.layer + spec.layers),
        scratch_(new Scratch[(size_t)std::max(threads, 1)]),
        team_(threads, [this](Team::Place& place) { work(place, scratch_[place.thread]); }) {}

  int64_t cache_block_bytes() const { return head_bytes(spec_.cache_type, spec_.head_dim) * spec_.key_value_heads * spec_.layers; }

  int step(const Batch& batch) {
    if (!valid(batch)) return STEP_INVALID;
    try {
      reserve(batch);
    } catch (const std::bad_alloc&) {
      return STEP_NO_MEMORY;
    }
    batch_ = &batch;
    rows_ = batch.rows;
    samples_ = batch.samples;
    attention_units_ = (int)tasks_.size();
    last_attention_units_ = (int)last_tasks_.size();
    last_rows_ = (int)last_.size();
    team_.run();
    return STEP_DONE;
  }

 private:
  const ModelSpec spec_;
  const std::vector<Layer> layers_;
  const std::unique_ptr<Scratch[]> scratch_;
  Buffer<float> x_, squares_, query_, logits_, head_rms_;
  ActivationBuffers normed_buffers_, attended_buffers_, hidden_buffers_, head_buffers_;
  Activations normed_, attended_, hidden_, head_in_;
  struct Task { int32_t segment, row, rows, head, to; };  // `to`: where its first row stands among those that go on
  typedef std::vector<int32_t> Rows;
  std::vector<Task> tasks_, last_tasks_;
  Rows all_, last_;  // rows that go on after attention, of each layer and of the last
  Rows sampled_;     // of each sample, where its row stands in `last_`
  const Batch* batch_ = nullptr;  // read inside units only, as is what else is not atomic and made for a batch
  std::atomic<int> rows_{0}, samples_{0}, attention_units_{0}, last_attention_units_{0}, last_rows_{0};
  Team team_;  // last, so that its threads end first

  bool valid(const Batch& b) const {
    if (b.rows < 1 || b.segments < 1) return false;
    for (int s = 0; s < b.segments; s++) {
      const Segment& g = b.segment[s];
      if (g.row < 0 || g.rows < 1 || g.row + g.rows > b.rows) return false;
    }
    for (int r = 0; r < b.rows; r++)
      if (b.tokens[r] < 0 || b.tokens[r] >= spec_.vocabulary || b.positions[r] < 0 || b.positions[r] >= spec_.max_positions) return false;
    for (int i = 0; i < b.samples; i++)
      if (b.specs[i].row < 0 || b.specs[i].row >= b.rows || b.specs[i].target >= spec_.vocabulary) return false;
    return true;
  }

  static bool integers(const Matrix& m) { return takes_integers(m.format); }

  void reserve(const Batch& b) {
    const auto rows = (size_t)b.rows;
    bool attention_floats = false, output_floats = false, down_floats = false;
    for (const Layer& l : layers_) {
      attention_floats |= !integers(l.query) || !integers(l.key) || !integers(l.value) || !integers(l.gate) || !integers(l.up);
      output_floats |= !integers(l.output);
      down_floats |= !integers(l.down);
    }
    attention_floats |= !integers(spec_.head);
    const int attention_width = spec_.heads * spec_.head_dim;
    x_.at_least(rows * (size_t)spec_.hidden);
    squares_.at_least(rows * (size_t)(spec_.hidden / GROUP));
    query_.at_least(rows * (size_t)attention_width);
    normed_ = normed_buffers_.at_least(rows, spec_.hidden, attention_floats);
    attended_ = attended_buffers_.at_least(rows, attention_width, output_floats);
    hidden_ = hidden_buffers_.at_least(rows, spec_.feed_forward, down_floats);
    const auto head_rows = (size_t)std::min(b.samples, HEAD_ROWS);
    head_in_ = head_buffers_.at_least(head_rows, spec_.hidden, attention_floats);
    head_rms_.at_least(head_rows);
    logits_.at_least(head_rows * (size_t)panels(spec_.vocabulary) * PANEL);
    int widest = std::max({spec_.hidden, attention_width, spec_.feed_forward});
    for (int t = 0; t < team_.size(); t++) {
      Scratch& s = scratch_[t];
      s.product.at_least(std::max(rows, head_rows) * (size_t)std::max(PANEL, spec_.head_dim));
      s.second.at_least(rows * (size_t)spec_.head_dim);
      s.panel.at_least(rows * PANEL);
      s.unpacked.at_least((size_t)widest * PANEL);
      s.rms.at_least(rows);
    }
    all_.resize(rows);
    last_.assign(rows, 0);
    for (int row = 0; row < b.rows; row++) all_[(size_t)row] = row;
    for (int i = 0; i < b.samples; i++) last_[(size_t)b.specs[i].row] = 1;
    Rows place(rows);  // of a row in `last_`
    size_t kept = 0;
    for (size_t row = 0; row < rows; row++) {
      place[row] = (int32_t)kept;
      if (last_[row]) last_[kept++] = (int32_t)row;
    }
    last_.resize(kept);
    sampled_.resize((size_t)b.samples);
    for (int i = 0; i < b.samples; i++) sampled_[(size_t)i] = place[(size_t)b.specs[i].row];
    share_attention(b, all_, tasks_);
    share_attention(b, last_, last_tasks_);
  }

  // Tasks of neighbouring rows of one sequence; the longest contexts of each first. `rows` rise.
  void share_attention(const Batch& b, const Rows& rows, std::vector<Task>& tasks) const {
    tasks.clear();
    const int repeat = spec_.heads / spec_.key_value_heads, tile = std::max(1, MAX_QUERIES / repeat);
    for (int i = 0; i < b.segments; i++) {
      const auto from = std::lower_bound(rows.begin(), rows.end(), b.segment[i].row);
      for (auto end = std::lower_bound(from, rows.end(), b.segment[i].row + b.segment[i].rows); end != from;) {
        auto first = end - 1;
        while (first != from && end - first < tile && first[-1] + 1 == *first) first--;
        for (int head = 0; head < spec_.key_value_heads; head++)
          tasks.push_back({i, *first, (int32_t)(end - first), head, (int32_t)(first - rows.begin())});
        end = first;
      }
    }
  }

  static Activations with_rows(Activations a, const Rows& rows) {
    a.rows = (int32_t)rows.size();
    return a;
  }

  // See Team: outside of units only constants and atomics.
  void work(Team::Place& place, Scratch& s) {
    const int hidden_panels = spec_.hidden / PANEL;
    if (!team_.share(place, rows_, [&](int row) { embed(*batch_, row); })) return;
    for (size_t l = 0; l < layers_.size(); l++) {
      const Layer& layer = layers_[l];
      const bool last = l + 1 == layers_.size();
      const Rows& rows = last ? last_ : all_;
      const bool goes_on = !last || last_rows_;
      const uint64_t before = place.phase;
      if (!team_.share(place, spec_.heads + spec_.key_value_heads, [&](int unit) {
            measure(place, before, batch_->rows, s);
            project(*batch_, layer, (int)l, unit, s);
          }))
        return;
      if (!team_.share(place, last ? last_attention_units_ : attention_units_, [&](int unit) {
            attention(*batch_, (int)l, last ? last_tasks_ : tasks_, (size_t)unit, with_rows(attended_, rows), s);
          }))
        return;
      if (!team_.share(place, goes_on ? hidden_panels : 0, [&](int panel) { add(rows, panel, layer.output, attended_, layer.feed_forward_norm, s); })) return;
      const uint64_t between = place.phase;
      if (!team_.share(place, goes_on ? panels(spec_.feed_forward) : 0, [&](int panel) {
            measure(place, between, (int)rows.size(), s);
            feed_forward(rows, layer, panel, s);
          }))
        return;
      const float* next = last ? spec_.final_norm : layers_[l + 1].attention_norm;
      if (!team_.share(place, goes_on ? hidden_panels : 0, [&](int panel) { add(rows, panel, layer.down, hidden_, next, s); })) return;
    }
    for (int first = 0; first < samples_; first += HEAD_ROWS) {
      const int rows = std::min(HEAD_ROWS, samples_ - first), stride = panels(spec_.vocabulary) * PANEL;
      if (!team_.share(place, rows, [&](int i) { gather(sampled_[(size_t)(first + i)], i, rows); })) return;
      if (!team_.share(place, panels(spec_.vocabulary), [&](int panel) { score(rows, stride, panel, s); })) return;
      if (!team_.share(place, rows, [&](int i) {
            const auto width = (size_t)spec_.vocabulary;
            const float* logits = logits_.data + (int64_t)i * stride;
            if (batch_->logits) memcpy(batch_->logits + (size_t)(first + i) * width, logits, sizeof(float) * width);
            s.sampler.run(logits, spec_.vocabulary, batch_->specs[first + i], batch_->results[first + i]);
          }))
        return;
    }
  }

  void score(int rows, int stride, int panel, Scratch& s) {
    panel_product(spec_.head, panel, head_in(rows), s.unpacked.data, s.product.data);
    for (int i = 0; i < rows; i++) {
      float* out = logits_.data + (int64_t)i * stride + panel * PANEL;
      const f32x16 rms = splat(head_rms_.data[i]);
      store(out, load<f32x16>(s.product.data + i * PANEL) * rms);
      store(out + 16, load<f32x16>(s.product.data + i * PANEL + 16) * rms);
      for (int c = spec_.vocabulary - panel * PANEL; c < PANEL; c++) out[c] = -INFINITY;
    }
  }

  // Store x * weight of one group of some rows for the next product, and the group's sum of squares.
  template <int N>
  INLINE void prepare(const Activations& normed, int row, int panel, f32x16 (&low)[N], f32x16 (&high)[N], const float* weight) {
    const f32x16 first = load<f32x16>(weight + panel * PANEL), second = load<f32x16>(weight + panel * PANEL + 16);
    for (int i = 0; i < N; i++) {
      squares_.data[(int64_t)(row + i) * (spec_.hidden / GROUP) + panel] = sum(madd(low[i], low[i], high[i] * high[i]));
      low[i] = low[i] * first;
      high[i] = high[i] * second;
    }
    put_groups(normed, row, panel, low, high);
  }

  INLINE float inverse_rms(int row) const {
    const int count = spec_.hidden / GROUP;
    float total = 0;
    for (int i = 0; i < count; i++) total += squares_.data[(int64_t)row * count + i];
    return 1.0f / sqrtf(total / (float)spec_.hidden + spec_.epsilon);
  }

  // 1 / rms of so many rows, once per thread and phase.
  INLINE void measure(const Team::Place& place, uint64_t phase, int rows, Scratch& s) const {
    if (s.measured_job == place.job && s.measured_phase == phase) return;
    s.measured_job = place.job;
    s.measured_phase = phase;
    for (int row = 0; row < rows; row++) s.rms.data[row] = inverse_rms(row);
  }

  void embed(const Batch& b, int row) {
    float* x = x_.data + (int64_t)row * spec_.hidden;
    unpack_row(spec_.embedding, b.tokens[row], x);
    for (int panel = 0; panel < spec_.hidden / PANEL; panel++) {
      f32x16 low[1] = {load<f32x16>(x + panel * PANEL)}, high[1] = {load<f32x16>(x + panel * PANEL + 16)};
      prepare(normed_, row, panel, low, high, layers_[0].attention_norm);
    }
  }

  // Into the second-level cache while a product is computed: what its rows will be written to lies too far apart to be foreseen.
  static INLINE void fetch(const void* from, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch((const uint8_t*)from + line, 1, 2);
  }
  static INLINE void fetch_rows(const float* from, int stride, int rows, int width) {
    for (int row = 0; row < rows && rows > 1; row++) fetch(from + (int64_t)row * stride, width * 4);
  }

  // One query head, or one key and value head, of every row: product, bias, norm, rotation; then to the query buffer or the cache.
  void project(const Batch& b, const Layer& layer, int l, int unit, Scratch& s) {
    const int dim = spec_.head_dim, queries = spec_.heads;
    if (unit < queries) {
      fetch_rows(query_.data + unit * dim, queries * dim, b.rows, dim);
      float* out = head_product(layer.query, layer.query_bias, unit, b.rows, s.product, s);
      const float factor = LOG2E / sqrtf((float)dim);
      for (int row = 0; row < b.rows; row++) {
        float* q = out + (int64_t)row * dim;
        rotate(q, layer.query_norm, b.positions[row], query_.data + ((int64_t)row * queries + unit) * dim, factor);
      }
      return;
    }
    const int head = unit - queries;
    for (int i = 0; i < b.segments; i++) {
      const Segment& g = b.segment[i];
      for (int block = b.positions[g.row] / BLOCK; block <= b.positions[g.row + g.rows - 1] / BLOCK && g.rows > 1; block++)
        fetch(cache_head(b, g.sequence, block, l, head), head_bytes(spec_.cache_type, dim));
    }
    float* keys = head_product(layer.key, layer.key_bias, head, b.rows, s.product, s);
    float* values = head_product(layer.value, layer.value_bias, head, b.rows, s.second, s);
    for (int i = 0; i < b.segments; i++)
      for (int row = b.segment[i].row; row < b.segment[i].row + b.segment[i].rows; row++) {
        const int position = b.positions[row];
        rotate(keys + (int64_t)row * dim, layer.key_norm, position, keys + (int64_t)row * dim, 1.0f);
        uint8_t* at = cache_head(b, b.segment[i].sequence, position / BLOCK, l, head);
        const float *k = keys + (int64_t)row * dim, *v = values + (int64_t)row * dim;
        if (spec_.cache_type == CACHE_BF16) Cache<CACHE_BF16>::put(at, dim, position % BLOCK, k, v);
        else if (spec_.cache_type == CACHE_INT8) Cache<CACHE_INT8>::put(at, dim, position % BLOCK, k, v);
        else Cache<CACHE_F32>::put(at, dim, position % BLOCK, k, v);
      }
  }

  // [rows][head_dim] of head `index`, normalized by rms, with bias.
  float* head_product(const Matrix& w, const float* bias, int index, int rows, Buffer<float>& buffer, Scratch& s) {
    const int dim = spec_.head_dim, parts = dim / PANEL;
    float* out = buffer.data;
    float* panel = s.panel.data;
    for (int part = 0; part < parts; part++) {
      panel_product(w, index * parts + part, normed_, s.unpacked.data, panel);
      for (int row = 0; row < rows; row++)
        for (int half = 0; half < PANEL; half += 16) {
          f32x16 v = load<f32x16>(panel + row * PANEL + half) * splat(s.rms.data[row]);
          if (bias) v += load<f32x16>(bias + index * dim + part * PANEL + half);
          store(out + (int64_t)row * dim + part * PANEL + half, v);
        }
    }
    return out;
  }

  // `head`, normalized in place where there is a norm, turned by its position and times `factor`, to `to`.
  INLINE void rotate(float* head, const float* norm, int position, float* to, float factor) const {
    const int dim = spec_.head_dim;
    const float* table = spec_.rotation + (int64_t)position * 2 * dim;
    if (norm) {
      f32x16 squares = splat(0.0f);
      for (int i = 0; i < dim; i += 16) squares = madd(load<f32x16>(head + i), load<f32x16>(head + i), squares);
      const f32x16 factor = splat(1.0f / sqrtf(sum(squares) / (float)dim + spec_.epsilon));
      for (int i = 0; i < dim; i += 16) store(head + i, load<f32x16>(head + i) * factor * load<f32x16>(norm + i));
    }
    for (int i = 0; i < dim; i += 16) {
      const f32x16 v = load<f32x16>(head + i);
      store(to + i, madd(swap_pairs(v), load<f32x16>(table + dim + i), v * load<f32x16>(table + i)) * splat(factor));
    }
  }

  uint8_t* cache_head(const Batch& b, int sequence, int block, int layer, int head) const {
    const int64_t number = b.tables[(int64_t)sequence * b.table_stride + block];
    return b.cache + ((number * spec_.layers + layer) * spec_.key_value_heads + head) * head_bytes(spec_.cache_type, spec_.head_dim);
  }

  void attention(const Batch& b, int layer, const std::vector<Task>& tasks, size_t unit, const Activations& attended, Scratch& s) {
    const Task &task = tasks[unit], &then = tasks[std::min(unit + 1, tasks.size() - 1)];
    const uint8_t* after =
        cache_head(b, b.segment[then.segment].sequence, first_block(b.positions[then.row], spec_.window), layer, then.head);
    const int dim = spec_.head_dim, repeat = spec_.heads / spec_.key_value_heads, count = task.rows * repeat;
    const float* queries[MAX_QUERIES];
    int positions[MAX_QUERIES];
    for (int i = 0; i < count; i++) {
      const int row = task.row + i / repeat;
      queries[i] = query_.data + ((int64_t)row * spec_.heads + task.head * repeat + i % repeat) * dim;
      positions[i] = b.positions[row];
    }
    const int sequence = b.segment[task.segment].sequence;
    const auto head_of = [&](int block) { return cache_head(b, sequence, block, layer, task.head); };
    if (spec_.cache_type == CACHE_BF16) attend<CACHE_BF16>(s.attention, head_of, after, dim, spec_.window, count, queries, positions);
    else if (spec_.cache_type == CACHE_INT8) attend<CACHE_INT8>(s.attention, head_of, after, dim, spec_.window, count, queries, positions);
    else attend<CACHE_F32>(s.attention, head_of, after, dim, spec_.window, count, queries, positions);
    for (int part = 0; part < repeat * (dim / GROUP); part++)
      in_fours(task.to, task.rows, [&](auto size, int first) __attribute__((always_inline)) {
        constexpr int N = decltype(size)::value;
        f32x16 low[N], high[N];
        for (int i = 0; i < N; i++) {
          const float* out = s.attention.output + (int64_t)(first - task.to + i) * repeat * dim + part * GROUP;
          low[i] = load<f32x16>(out);
          high[i] = load<f32x16>(out + 16);
        }
        put_groups(attended, first, task.head * repeat * (dim / GROUP) + part, low, high);
      });
  }

  // Add the product of `w` and `in`, which ends a sublayer, to `rows`.
  void add(const Rows& rows, int panel, const Matrix& w, const Activations& in, const float* next_norm, Scratch& s) {
    const int count = (int)rows.size();
    const auto x_of = [&](int i) { return x_.data + (int64_t)rows[(size_t)i] * spec_.hidden + panel * PANEL; };
    for (int i = 0; i < count && count > 1; i++) fetch(x_of(i), PANEL * 4);
    panel_product(w, panel, with_rows(in, rows), s.unpacked.data, s.product.data);
    const Activations normed = with_rows(normed_, rows);
    in_fours(0, count, [&](auto size, int first) __attribute__((always_inline)) {
      constexpr int N = decltype(size)::value;
      f32x16 low[N], high[N];
      for (int i = 0; i < N; i++) {
        float* x = x_of(first + i);
        const float* y = s.product.data + (first + i) * PANEL;
        low[i] = load<f32x16>(x) + load<f32x16>(y);
        high[i] = load<f32x16>(x + 16) + load<f32x16>(y + 16);
        store(x, low[i]);
        store(x + 16, high[i]);
      }
      prepare(normed, first, panel, low, high, next_norm);
    });
  }

  void feed_forward(const Rows& rows, const Layer& layer, int panel, Scratch& s) {
    const Activations normed = with_rows(normed_, rows), hidden = with_rows(hidden_, rows);
    panel_product(layer.gate, panel, normed, s.unpacked.data, s.product.data);
    panel_product(layer.up, panel, normed, s.unpacked.data, s.panel.data);
    in_fours(0, hidden.rows, [&](auto size, int first) __attribute__((always_inline)) {
      constexpr int N = decltype(size)::value;
      f32x16 out[2][N];
      for (int i = 0; i < N; i++) {
        const int row = first + i;
        const f32x16 rms = splat(s.rms.data[row]);
        for (int half = 0; half < 2; half++)
          out[half][i] = silu(load<f32x16>(s.product.data + row * PANEL + 16 * half) * rms) *
                         (load<f32x16>(s.panel.data + row * PANEL + 16 * half) * rms);
      }
      put_groups(hidden, first, panel, out[0], out[1]);
    });
  }

  // The buffers of the head's input, laid out for so many rows.
  INLINE Activations head_in(int rows) const {
    Activations in = head_in_;
    in.rows = rows;
    return in;
  }

  void gather(int row, int to, int rows) {
    const Activations in = head_in(rows), normed = with_rows(normed_, last_);
    if (normed_.values) memcpy(in.values + (int64_t)to * in.k, normed_.values + (int64_t)row * in.k, sizeof(float) * (size_t)in.k);
    for (int group = 0; group < in.k / GROUP; group++) {
      const int64_t a = normed.place(row, group), b = in.place(to, group);
      memcpy(in.quants + b * GROUP, normed_.quants + a * GROUP, GROUP);
      in.scales[b] = normed_.scales[a];
      in.sums[b] = normed_.sums[a];
    }
    head_rms_.data[to] = inverse_rms(row);
  }
};

}  // namespace
