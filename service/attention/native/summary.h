// Figures of softmax rows and what is summed of them, head by head: the formulas of
// service/diagnostics, which say what they mean and where they come from.
#pragma once
#include "job.h"
#include "vectors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace attention {
namespace {

using D = Vec<double>;
using DMask = Mask<double>;
constexpr int DOUBLES = Lanes<double>::count;

#if defined(__AVX512F__)
INLINE D root(D x) { return _mm512_sqrt_pd(x); }
#elif defined(__AVX__)
INLINE D root(D x) { return _mm256_sqrt_pd(x); }
#elif defined(__x86_64__)
INLINE D root(D x) { return _mm_sqrt_pd(x); }
#else
INLINE D root(D x) {
  for (int i = 0; i < DOUBLES; ++i) x[i] = std::sqrt(x[i]);
  return x;
}
#endif

// ln(1 + t) for t >= 0, `inverse` 1/(1 + t): u = 1 + t = 2^e f with f near 1, ln f = 2 atanh((f - 1)/(f + 1)) by its
// series, and what rounding u lost is t - (u - 1) over u.
INLINE D log_one_plus(D t, D inverse) {
  const D u = t + 1.0, lost = (t - (u - 1.0)) * inverse;
  const DMask raw = reinterpret_cast<DMask>(u);
  // 0x3fe6a09e… are the high bits of sqrt(1/2): f is from there to sqrt(2).
  const DMask up = (raw - 0x3fe6a09e00000000ll) >> 52;
  const D f = reinterpret_cast<D>(raw - (up << 52));
  const D e = reinterpret_cast<D>(up + 0x4338000000000000ll) - 0x1.8p52;
  const D s = (f - 1.0) / (f + 1.0), square = s * s;
  D sum = D{} + 1.0 / 23;
#pragma GCC unroll 12
  for (int k = 21; k >= 3; k -= 2) sum = sum * square + 1.0 / k;
  const D series = 2.0 * s + (2.0 * s) * (square * sum);
  return e * Lanes<double>::ln2 + (series + (e * Lanes<double>::ln2_rest + lost));
}

// exp of a moderate x of either sign; 0 where it would flush.
INLINE D exponential_of(D x) {
  const D flush = D{} - Lanes<double>::flush;
  return x >= flush ? exponential<double>(smaller(larger(x, flush), D{} + 700.0)) : D{};
}

// Natural logarithms of the numbers of keys, made once.
class Logarithms {
 public:
  double of(double n) {
    const size_t whole = static_cast<size_t>(n);
    if (whole >= MOST) return std::log(n);
    if (whole >= known_.size()) {
      const size_t from = known_.size();
      known_.resize(std::min<size_t>(MOST, 2 * whole + 16));
      for (size_t i = from; i < known_.size(); ++i) known_[i] = std::log(std::max<double>(i, 1));
    }
    return known_[whole];
  }

 private:
  static constexpr size_t MOST = 1 << 16;
  std::vector<double> known_;
};
thread_local Logarithms logarithms;

struct Figures {
  D of[FIGURES];
};

// Of the keys a row sees: 1/n, 1/ln n and 1/sqrt(2 ln n), made once for rows that see as many.
struct Keys {
  D inverse, log_inverse, root_inverse;
};

INLINE Figures figures_of(const D (&c)[COLUMNS], const Keys& keys, double scale) {
  const D one = D{} + 1.0, zero = {};
  const D m = c[MAXIMUM], gap = m - c[SECOND];
  const D P = one / (one + c[TAIL]), rest = c[TAIL] * P;
  const D Q = c[TAIL2] * P * P, R = c[TAIL3] * P * P * P;
  const D log_total = log_one_plus(c[TAIL], P), entropy = log_total - c[GAP1] * P;
  const D variance = c[SQUARES] * keys.inverse;
  const D size = larger(larger(m, -m), larger(c[MINIMUM], -c[MINIMUM]));
  const D leading = P * rest;
  const D inner = leading * leading + Q * (one + 2.0 * (P * P) + Q) - 2.0 * R;
  const bool follows = scale == scale;
  const double unscale = 1 / scale;
  Figures found;
  D* f = found.of;
  f[VISIBLE_KEYS] = c[VISIBLE];
  f[ARG_MAX] = c[ARGMAX];
  f[LSE] = m + log_total;
  f[ENTROPY] = entropy;
  f[NORMALIZED_ENTROPY] = entropy * keys.log_inverse;
  f[EFFECTIVE_KEYS] = exponential_of(entropy);
  f[PARTICIPATION_RATIO] = one / (P * P + Q);
  f[MAX_WEIGHT] = P;
  f[LOGIT_GAP] = gap;
  f[LOGIT_MEAN] = c[MEAN];
  f[LOGIT_VARIANCE] = variance;
  f[LOGIT_MAX] = m;
  f[LOGIT_MIN] = c[MINIMUM];
  f[LOGIT_MAX_ABS] = size;
  f[SATURATION_INDEX] = root(variance) * keys.root_inverse;
  f[SCORE_MEAN_] = follows ? c[MEAN] * unscale : c[SCORE_MEAN];
  f[SCORE_VARIANCE] = follows ? variance * unscale * unscale : c[SCORE_SQUARES] * keys.inverse;
  f[SCORE_MAX_ABS_] = follows ? size * std::fabs(unscale) : c[SCORE_MAX_ABS];
  f[JACOBIAN_TRACE] = larger(rest * (one + P) - Q, zero);
  f[JACOBIAN_FROBENIUS] = root(larger(inner, zero));
  f[JACOBIAN_SPECTRAL_LOWER] = P * exponential_of(-gap);
  f[JACOBIAN_SPECTRAL_UPPER] = smaller(P, D{} + 0.5);
  f[LOGIT_VARIANCE_UNDER_P] = c[SPREAD] * P;
  return found;
}

INLINE DMask finite(D x) {
  return larger(x, -x) <= std::numeric_limits<double>::max();
}

// Counts the rows in each regime among those that have one.
INLINE void count(const Summary& job, const Figures& found, DMask regime, D* marks) {
  const D evenness = found.of[NORMALIZED_ENTROPY], one = D{} + 1.0;
  const DMask saturated = regime & (found.of[MAX_WEIGHT] >= job.saturated);
  const DMask neither = regime & ~saturated;
  marks[0] += saturated ? one : D{};
  marks[1] += (neither & (evenness < job.sharp)) ? one : D{};
  marks[2] += (neither & (evenness > job.diffuse)) ? one : D{};
}

// One head's rows, in their order.
void summarise_head(const Summary& job, int64_t head) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinite = std::numeric_limits<double>::infinity();
  D sum[FIGURES + MARKS] = {}, low[FIGURES], high[FIGURES];
  int64_t rows[FIGURES] = {};
  for (int k = 0; k < FIGURES; ++k) low[k] = D{} + infinite, high[k] = D{} - infinite;
  const int64_t all = job.heads * job.queries;
  const double most_needed = *std::max_element(job.least, job.least + FIGURES);
  D last = {};
  Keys keys = {};
  for (int64_t i = 0; i < job.queries; i += DOUBLES) {
    const int64_t left = std::min<int64_t>(DOUBLES, job.queries - i);
    const DMask there = first<double>(left);
    D c[COLUMNS];
    for (int k = 0; k < COLUMNS; ++k) {
      const double* from = job.columns + k * all + head * job.queries + i;
      c[k] = D{};
      if (left == DOUBLES) c[k] = load<double>(from);
      else std::memcpy(&c[k], from, left * sizeof(double));
    }
    const D n = larger(c[VISIBLE], D{} + 1.0);
    if (bits(n != last)) {
      D log_n;
      for (int l = 0; l < DOUBLES; ++l) log_n[l] = logarithms.of(n[l]);
      keys = {1.0 / n, 1.0 / log_n, 1.0 / root(2.0 * log_n)};
      last = n;
    }
    Figures found = figures_of(c, keys, job.scale);
    const DMask sound = (c[OVERFLOWED] == 0.0) & there;
    if (job.figures == nullptr && !bits(~(sound & (c[VISIBLE] >= most_needed)))) {
      D whole = {};
      for (int k = 0; k < FIGURES; ++k) whole += found.of[k];
      if (!bits(~finite(whole))) {
        // Every figure of these rows is defined.
        for (int k = 0; k < FIGURES; ++k) {
          sum[k] += found.of[k];
          low[k] = smaller(low[k], found.of[k]);
          high[k] = larger(high[k], found.of[k]);
          rows[k] += DOUBLES;
        }
        count(job, found, sound, sum + FIGURES);
        continue;
      }
    }
    found.of[ARG_MAX] = sound ? found.of[ARG_MAX] : D{} - 1.0;
    found.of[LSE] = sound ? found.of[LSE] : D{} + nan;
    for (int k = 0; k < FIGURES; ++k) {
      const double least = static_cast<double>(job.least[k]);
      DMask defined = there;
      if (least > 0) defined = sound & (c[VISIBLE] >= least);
      const DMask counted = defined & finite(found.of[k]);
      const D x = found.of[k];
      sum[k] += counted ? x : D{};
      low[k] = smaller(low[k], counted ? x : D{} + infinite);
      high[k] = larger(high[k], counted ? x : D{} - infinite);
      rows[k] += __builtin_popcount(bits(counted));
      if (job.figures != nullptr) {
        const D shown = least > 0 ? (counted ? x : D{} + nan) : x;
        double* to = job.figures + k * all + head * job.queries + i;
        if (left == DOUBLES) store<double>(to, shown);
        else std::memcpy(to, &shown, left * sizeof(double));
      }
    }
    const double least = static_cast<double>(job.least[NORMALIZED_ENTROPY]);
    const DMask regime = sound & (c[VISIBLE] >= least) & finite(found.of[NORMALIZED_ENTROPY]);
    count(job, found, regime, sum + FIGURES);
  }
  for (int k = 0; k < FIGURES + MARKS; ++k) {
    job.total[k * job.heads + head] = total<double>(sum[k]);
    job.lowest[k * job.heads + head] = k < FIGURES ? lowest_of<double, DOUBLES>(low[k]) : 0;
    job.highest[k * job.heads + head] =
        k < FIGURES ? -lowest_of<double, DOUBLES>(-high[k]) : job.queries;
    job.rows[k * job.heads + head] = k < FIGURES ? rows[k] : job.queries;
  }
}

}  // namespace

void SUMMARY(const Summary& job) {
  for (int64_t head = 0; head < job.heads; ++head) summarise_head(job, head);
}

}  // namespace attention
