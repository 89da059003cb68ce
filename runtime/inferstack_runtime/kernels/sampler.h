// Choice of the next token from a row of logits. The draw depends on the row, its settings, the seed and the position only.
#pragma once
#include <algorithm>
#include <vector>

#include "simd.h"

namespace {

constexpr int MAX_ALTERNATIVES = 20;

struct SampleSpec {
  int32_t row;         // of the batch
  int32_t target;      // >= 0: only report this token's log-probability
  int32_t top_k;       // 0: no bound
  int32_t alternatives;  // reported beside the token; -1: no log-probabilities at all
  float temperature, top_p, min_p;
  float presence, frequency, repetition;
  uint64_t seed, position;
  const int32_t* history;  // prompt, then answer
  const int32_t* bias_tokens;
  const float* bias_values;
  const uint32_t* mask;  // bit i of word i / 32: token i is allowed; null: all are
  int32_t prompt, length, biases;
  int32_t reserved;
};

enum SampleStatus : int32_t { SAMPLED = 0, NOT_A_NUMBER = 1, NOTHING_ALLOWED = 2 };

struct SampleResult {
  int32_t token, status;
  float logprob;
  int32_t alternatives;
  int32_t tokens[MAX_ALTERNATIVES];
  float logprobs[MAX_ALTERNATIVES];
};

// SplitMix64's finalizer (Steele et al. 2014), used as a counter-based generator: uniform in [0, 1).
INLINE double uniform(uint64_t seed, uint64_t position) {
  const auto mix = [](uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  return (double)(mix(mix(seed) ^ mix(~position)) >> 11) * 0x1p-53;
}

struct Candidate {
  float weight;
  int32_t token;
  bool operator<(const Candidate& other) const { return weight != other.weight ? weight > other.weight : token < other.token; }
};

struct Sampler {
  std::vector<float> logits;
  std::vector<Candidate> candidates;
  std::vector<uint8_t> seen;

  // `vocabulary` is padded to a multiple of 16 by the caller's row (padding is -inf).
  void run(const float* row, int vocabulary, const SampleSpec& spec, SampleResult& result) {
    result.status = SAMPLED;
    result.alternatives = 0;
    result.logprob = 0;
    result.token = -1;
    const int padded = (vocabulary + 15) / 16 * 16;
    f32x16 peak = splat(-INFINITY), poison = splat(0.0f);
    for (int i = 0; i < padded; i += 16) {
      const f32x16 v = load<f32x16>(row + i);
      peak = max(peak, v);
      poison = select(v == v, poison, splat(1.0f));
    }
    const float top = maximum(peak);
    if (sum(poison) != 0 || top == INFINITY || top == -INFINITY) {
      result.status = NOT_A_NUMBER;
      return;
    }
    if (spec.target >= 0) result.token = spec.target;
    else result.status = choose(row, vocabulary, padded, top, spec, &result.token);
    if (spec.alternatives < 0 || result.status != SAMPLED) return;
    f32x16 total = splat(0.0f);
    for (int i = 0; i < padded; i += 16) total += exp2((load<f32x16>(row + i) - splat(top)) * splat(LOG2E));
    const float normalizer = top + logf(sum(total));
    result.logprob = row[result.token] - normalizer;
    alternatives(row, vocabulary, normalizer, std::min<int>({spec.alternatives, MAX_ALTERNATIVES, vocabulary}), result);
  }

 private:
  void alternatives(const float* row, int vocabulary, float normalizer, int count, SampleResult& result) {
    Candidate best[MAX_ALTERNATIVES + 1];
    int held = 0;
    for (int i = 0; i < vocabulary && count; i++) {
      if (held == count && !(row[i] > best[held - 1].weight)) continue;
      int at = held < count ? held++ : held - 1;
      for (; at && best[at - 1].weight < row[i]; at--) best[at] = best[at - 1];
      best[at] = {row[i], i};
    }
    result.alternatives = held;
    for (int i = 0; i < held; i++) {
      result.tokens[i] = best[i].token;
      result.logprobs[i] = best[i].weight - normalizer;
    }
  }

  int choose(const float* row, int vocabulary, int padded, float top, const SampleSpec& spec, int32_t* token) {
    const bool penalties = spec.presence != 0 || spec.frequency != 0 || spec.repetition != 1;
    if (penalties || spec.biases || spec.mask) {
      logits.assign(row, row + padded);
      if (penalties) penalize(vocabulary, spec);
      for (int i = 0; i < spec.biases; i++) logits[(size_t)spec.bias_tokens[i]] += spec.bias_values[i];
      if (spec.mask)
        for (int i = 0; i < vocabulary; i++)
          if (!(spec.mask[i / 32] >> (i % 32) & 1)) logits[(size_t)i] = -INFINITY;
      row = logits.data();
      top = -INFINITY;
      for (int i = 0; i < vocabulary; i++) top = row[i] > top ? row[i] : top;
      if (top == -INFINITY) return NOTHING_ALLOWED;
      if (top == INFINITY) return NOT_A_NUMBER;
    }
    const float scale = LOG2E / spec.temperature;
    if (spec.temperature <= 0 || scale - scale != 0) {  // so near to 0 that only the likeliest token has a chance
      int i = 0;
      const f32x16 wanted = splat(top);
      for (; i < padded; i += 16) {
        if (sum(load<f32x16>(row + i) == wanted)) break;
      }
      while (row[i] != top) i++;
      *token = i;
      return SAMPLED;
    }
    const f32x16 factor = splat(scale), shift = splat(top);
    const double u = uniform(spec.seed, spec.position);
    double total = 0;
    if (spec.top_k <= 0 && spec.top_p >= 1 && spec.min_p <= 0) {
      for (int i = 0; i < padded; i += 16) total += (double)sum(exp2((load<f32x16>(row + i) - shift) * factor));
      const double goal = u * total;
      double passed = 0;
      for (int i = 0; i < padded; i += 16) {
        const f32x16 scaled = exp2((load<f32x16>(row + i) - shift) * factor);
        const double block = (double)sum(scaled);
        float weights[16];
        store(weights, scaled);
        if (passed + block > goal)
          for (int j = 0; j < 16; j++) {
            if (weights[j] <= 0) continue;
            *token = i + j;
            passed += (double)weights[j];
            if (passed > goal) return SAMPLED;
          }
        else {
          passed += block;
          if (block > 0)
            for (int j = 0; j < 16; j++)
              if (weights[j] > 0) *token = i + j;
        }
      }
      return SAMPLED;
    }
    gather(row, padded, shift, factor, spec, &total);
    size_t kept = candidates.size();
    if (spec.top_k > 0 && (size_t)spec.top_k < kept) kept = (size_t)spec.top_k;
    if (spec.top_k > 0) {
      total = 0;
      for (size_t i = 0; i < kept; i++) total += (double)candidates[i].weight;
    }
    double mass = 0;
    size_t count = 0;
    while (count < kept && (count == 0 || (mass < (double)spec.top_p * total && candidates[count].weight >= spec.min_p)))
      mass += (double)candidates[count++].weight;
    const double goal = u * mass;
    mass = 0;
    for (size_t i = 0; i < count; i++) {
      *token = candidates[i].token;
      mass += (double)candidates[i].weight;
      if (mass > goal) break;
    }
    return SAMPLED;
  }

  // Candidates in falling order, enough of them for top-k, top-p and min-p to be exact; `total` is the weight of the whole vocabulary.
  void gather(const float* row, int padded, f32x16 shift, f32x16 factor, const SampleSpec& spec, double* total) {
    const float cuts[] = {1e-3f, 1e-6f, 0.0f};
    for (const float cut : cuts) {
      candidates.clear();
      *total = 0;
      double held = 0;
      const float least = spec.top_k > 0 ? cut : std::max(cut, std::min(spec.min_p, 1.0f));  // top-p is of all that top-k leaves
      for (int i = 0; i < padded; i += 16) {
        const f32x16 scaled = exp2((load<f32x16>(row + i) - shift) * factor);
        *total += (double)sum(scaled);
        if (maximum(scaled) < least) continue;
        float weights[16];
        store(weights, scaled);
        for (int j = 0; j < 16; j++)
          if (weights[j] >= least && weights[j] > 0) {
            candidates.push_back({weights[j], i + j});
            held += (double)weights[j];
          }
      }
      const bool enough = cut == 0 || (spec.top_k > 0 && candidates.size() >= (size_t)spec.top_k) ||
                          (spec.top_k <= 0 && (held >= (double)spec.top_p * *total || spec.min_p >= cut));
      if (enough) break;
    }
    std::sort(candidates.begin(), candidates.end());
  }

  void penalize(int vocabulary, const SampleSpec& spec) {
    seen.assign((size_t)vocabulary, 0);
    for (int i = 0; i < spec.length; i++) {
      const auto token = (size_t)spec.history[i];
      const bool answer = i >= spec.prompt;
      if (!seen[token] && spec.repetition != 1) logits[token] *= logits[token] > 0 ? 1 / spec.repetition : spec.repetition;
      if (answer) {
        logits[token] -= spec.frequency;
        if (!(seen[token] & 2)) logits[token] -= spec.presence;
      }
      seen[token] |= answer ? 3 : 1;
    }
  }
};

}  // namespace
