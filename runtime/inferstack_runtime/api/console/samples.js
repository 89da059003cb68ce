// A window of looks at the counters, and what they mean over it. No page, no network: figures in, figures out.

export const WINDOW_SECONDS = 60;
const KEPT_SECONDS = 300;

// Looks at one slot, oldest first: {time, metrics}.
export class Samples {
  constructor() { this.looks = []; }

  add(time, metrics) {
    const last = this.looks[this.looks.length - 1];
    const counters = ["requests", "generated_tokens", "prompt_tokens"];
    if (last && counters.some((name) => metrics[name] < last.metrics[name])) this.looks = []; // the process began anew
    this.looks.push({ time, metrics });
    this.looks = this.looks.filter((look) => look.time > time - KEPT_SECONDS);
  }

  // The oldest look within `seconds` of the newest, and the newest; null before there are two.
  window(seconds = WINDOW_SECONDS) {
    const newest = this.looks[this.looks.length - 1];
    const oldest = this.looks.find((look) => newest && look.time >= newest.time - seconds);
    return oldest && oldest !== newest ? [oldest, newest] : null;
  }

  // Growth of a counter per second; null when it cannot be told.
  rate(name, seconds) {
    const ends = this.window(seconds);
    return ends ? (ends[1].metrics[name] - ends[0].metrics[name]) / (ends[1].time - ends[0].time) : null;
  }

  // Quantile `q` of a histogram over the window, by linear interpolation within its bucket as Prometheus does; null without observations.
  quantile(name, q, seconds) {
    const ends = this.window(seconds);
    if (!ends) return null;
    const before = new Map(ends[0].metrics[name].map(([bound, count]) => [bound, count]));
    return quantile(ends[1].metrics[name].map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]), q);
  }

  // Rate of a counter between neighbouring looks, for a small chart.
  series(name) {
    return this.looks.slice(1).map((look, index) => {
      const before = this.looks[index];
      return (look.metrics[name] - before.metrics[name]) / Math.max(0.001, look.time - before.time);
    });
  }
}

// Quantile of cumulative buckets [[bound | null, count], …] with null for no bound.
export function quantile(buckets, q) {
  const total = buckets.length ? buckets[buckets.length - 1][1] : 0;
  if (total <= 0) return null;
  const rank = q * total;
  let below = 0, lower = 0;
  for (const [bound, count] of buckets) {
    if (count >= rank) {
      if (bound === null) return lower;
      return lower + (bound - lower) * ((rank - below) / Math.max(count - below, Number.MIN_VALUE));
    }
    below = count;
    lower = bound;
  }
  return lower;
}

// What the page says about one streamed answer from the moments (milliseconds) its request left and its pieces came.
export function timing(sent, moments) {
  if (!moments.length) return { gaps: [], first: null, median: null, p95: null, perSecond: null };
  const gaps = moments.map((moment, index) => moment - (index ? moments[index - 1] : sent));
  const later = gaps.slice(1).sort((a, b) => a - b);
  const rank = (q) => (later.length ? later[Math.max(0, Math.ceil(later.length * q) - 1)] : null);
  const seconds = (moments[moments.length - 1] - moments[0]) / 1000;
  return { gaps, first: gaps[0], median: rank(0.5), p95: rank(0.95), perSecond: seconds > 0 ? (moments.length - 1) / seconds : null };
}

// $ per million generated tokens at `hourly` $ and `perSecond` tokens; null when nothing is generated.
export function dollarsPerMillion(hourly, perSecond) {
  return perSecond > 0 ? (hourly / 3600 / perSecond) * 1e6 : null;
}
