// Figures of softmax rows and what is summed of them, head by head: the formulas of
// service/diagnostics, which say what they mean and where they come from.
#pragma once
#include "job.h"
#include "vectors.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace attention {
namespace {

using D = Vec<double>;
using DMask = Mask<double>;
constexpr int DOUBLES = Lanes<double>::count;

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

// Vectors of rows held at a time: their figures stay in the nearest cache, and are summed column by
// column in registers (all sums at once would go through memory for every vector).
constexpr int HELD = 8;

// The figures of the rows held (NaN where they are undefined), what is counted of rows, and the
// last factors of a number of keys.
struct Held {
  D figures[FIGURES][HELD];
  D marks[REGIMES], counts[COUNTS];
  D seen;
  Keys keys;
};

// Counts the rows in each regime among those that are there and have one.
INLINE void mark(const Summary& job, const Figures& found, DMask there, D* marks) {
  const D evenness = found.of[NORMALIZED_ENTROPY], one = D{} + 1.0;
  const DMask regime = there & finite(evenness);
  const DMask saturated = regime & (found.of[MAX_WEIGHT] >= job.saturated);
  const DMask neither = regime & ~saturated;
  marks[0] += saturated ? one : D{};
  marks[1] += (neither & (evenness < job.sharp)) ? one : D{};
  marks[2] += (neither & (evenness > job.diffuse)) ? one : D{};
  marks[3] += regime ? one : D{};
}

// NaN where a row lacks keys, or is unsound.
INLINE void undefine(const Summary& job, D visible, DMask sound, Figures& found) {
  const D nan = D{} + std::numeric_limits<double>::quiet_NaN();
  found.of[ARG_MAX] = sound ? found.of[ARG_MAX] : D{} - 1.0;
  found.of[LSE] = sound ? found.of[LSE] : nan;
  for (int k = 0; k < FIGURES; ++k) {
    const double least = static_cast<double>(job.least[k]);
    if (least > 0) found.of[k] = sound & (visible >= least) ? found.of[k] : nan;
  }
}

// The figures of as many rows as a vector takes, or of the `left` that there are.
INLINE void hold(const Summary& job, double most_needed, int64_t row, int64_t left, int64_t v,
                 Held& held) {
  const DMask there = first<double>(left);
  D c[COLUMNS];
  for (int k = 0; k < COLUMNS; ++k) {
    const double* from = job.columns + k * job.heads * job.queries + row;
    c[k] = D{};
    if (left >= DOUBLES) c[k] = load<double>(from);
    else std::memcpy(&c[k], from, left * sizeof(double));
  }
  const D one = D{} + 1.0, n = larger(c[VISIBLE], one);
  if (bits(n != held.seen)) {
    const D inverse = 1.0 / n, rooted = 1.0 / root(2.0 * log_one_plus(n - 1.0, inverse));
    held.keys = {inverse, 2.0 * rooted * rooted, rooted};
    held.seen = n;
  }
  Figures found = figures_of(c, held.keys, job.scale);
  const DMask sound = c[OVERFLOWED] == 0.0;
  if (bits(there & ~(sound & (c[VISIBLE] >= most_needed))))
    undefine(job, c[VISIBLE], sound, found);
  mark(job, found, there, held.marks);
  held.counts[0] += (there & (c[VISIBLE] == 0.0)) ? one : D{};
  held.counts[1] += c[UNDERFLOWED];
  held.counts[2] += c[OVERFLOWED];
  for (int k = 0; k < FIGURES; ++k) held.figures[k][v] = found.of[k];
}

// What is summed of one figure.
struct Summed {
  D sum = {}, low = D{} + std::numeric_limits<double>::infinity(), high = -low;
  int64_t rows = 0;

  void add(const D* figures, int64_t count) {
    const int64_t whole = count / DOUBLES;
    D all = {}, least = low, most = high;
    for (int64_t v = 0; v < whole; ++v) {
      all += figures[v];
      least = smaller(least, figures[v]);
      most = larger(most, figures[v]);
    }
    if (const int64_t left = count - whole * DOUBLES) {
      const DMask there = first<double>(left);
      const D x = figures[whole];
      all += there ? x : D{};
      least = smaller(least, there ? x : least);
      most = larger(most, there ? x : most);
    }
    // A finite sum proves that every one is finite.
    if (bits(~finite(all))) return add_finite(figures, count);
    sum += all, low = least, high = most;
    rows += count;
  }

 private:
  void add_finite(const D* figures, int64_t count) {
    D all = {};
    for (int64_t v = 0; v * DOUBLES < count; ++v) {
      const D x = figures[v];
      const DMask counted = finite(x) & first<double>(count - v * DOUBLES);
      all += counted ? x : D{};
      low = smaller(low, counted ? x : low);
      high = larger(high, counted ? x : high);
      rows += __builtin_popcount(bits(counted));
    }
    sum += all;
  }
};

// Those that take a key are NaN where they are not finite.
void show(const Summary& job, const Held& held, int64_t row, int64_t count) {
  const D nan = D{} + std::numeric_limits<double>::quiet_NaN();
  const int64_t whole = count / DOUBLES;
  for (int k = 0; k < FIGURES; ++k) {
    const D* figures = held.figures[k];
    double* to = job.figures + k * job.heads * job.queries + row;
    const DMask always = DMask{} - int64_t(job.least[k] == 0);
    const auto shown = [&](D x) { return (always | finite(x)) ? x : nan; };
    for (int64_t v = 0; v < whole; ++v) store<double>(to + v * DOUBLES, shown(figures[v]));
    if (whole * DOUBLES == count) continue;
    const D last = shown(figures[whole]);
    std::memcpy(to + whole * DOUBLES, &last, (count - whole * DOUBLES) * sizeof(double));
  }
}

// One head's rows, in their order.
void summarise_head(const Summary& job, int64_t head) {
  const double most_needed = *std::max_element(job.least, job.least + FIGURES);
  Held held;
  for (D& marks : held.marks) marks = D{};
  for (D& counts : held.counts) counts = D{};
  held.seen = D{};
  Summed columns[FIGURES];
  for (int64_t i = 0; i < job.queries; i += HELD * DOUBLES) {
    const int64_t row = head * job.queries + i;
    const int64_t count = std::min<int64_t>(HELD * DOUBLES, job.queries - i);
    for (int64_t v = 0; v * DOUBLES < count; ++v)
      hold(job, most_needed, row + v * DOUBLES, count - v * DOUBLES, v, held);
    for (int k = 0; k < FIGURES; ++k) columns[k].add(held.figures[k], count);
    if (job.figures != nullptr) show(job, held, row, count);
  }
  for (int k = 0; k < FIGURES; ++k) {
    const int64_t at = k * job.heads + head;
    job.total[at] = total<double>(columns[k].sum);
    job.lowest[at] = lowest_of<double, DOUBLES>(columns[k].low);
    job.highest[at] = -lowest_of<double, DOUBLES>(-columns[k].high);
    job.rows[at] = columns[k].rows;
  }
  for (int k = 0; k < REGIMES; ++k)
    job.regimes[k * job.heads + head] = static_cast<int64_t>(total<double>(held.marks[k]));
  for (int k = 0; k < COUNTS; ++k)
    job.counts[k * job.heads + head] = static_cast<int64_t>(total<double>(held.counts[k]));
}

}  // namespace

void SUMMARY(const Summary& job) {
  for (int64_t head = 0; head < job.heads; ++head) summarise_head(job, head);
}

}  // namespace attention
