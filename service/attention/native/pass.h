// The fused pass over units of one batch item, one key head and a block of queries, compiled once
// for each instruction set: products by BLAS, everything between them in one visit of each row.
//
// Online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867); sums without the argmax, merged
// as in statistics.py, which says why.
#include "job.h"
#include "logits.h"
#include "vectors.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace attention {
namespace {

constexpr double EMPTY = -std::numeric_limits<double>::infinity();
constexpr double LOG2_E = 0x1.71547652b82fep0;
// Vectors of a row that is short.
constexpr int64_t FEW = 16;
// Rows that are taken side by side: one waits for its sums while the next is summed. Measured at 128
// keys: 1.35, 1.21 and 1.16 x SDPA for one, eight and four.
constexpr int64_t SIDE_BY_SIDE = 4;

inline double power_of_two(int64_t exponent) {
  const int64_t bits = (1023 + exponent) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

// The keys a row has seen so far, in the order of `Column`; sums of u = exp(s - maximum) leave out
// the argmax.
struct RowSums {
  double visible = 0, maximum = EMPTY, second = EMPTY, minimum = -EMPTY, argmax = -1;
  double tail = 0, tail2 = 0, tail3 = 0, gap1 = 0, spread = 0, mean = 0, squares = 0;
  double overflowed = 0, underflowed = 0, score_mean = 0, score_squares = 0, score_max_abs = 0;
  double recount = 0;
};
static_assert(offsetof(RowSums, score_max_abs) == SCORE_MAX_ABS * sizeof(double) &&
              offsetof(RowSums, recount) == COLUMNS * sizeof(double));

// Mean and squared deviations of two samples (Chan, Golub and LeVeque 1983).
inline void pool(double count, double& mean, double& squares, double n, double m, double s) {
  const double all = count + n, apart = m - mean;
  mean += apart * (n / all);
  squares += s + apart * apart * (count * n / all);
}

// The part of a row within a block of keys.
template <class T> struct RowBlock {
  T* logits;          // the row's buffer, aligned and padded to whole vectors
  Mask<T>* seen;      // by vector, where a dense mask hides some
  T* weights;         // scores in, exponentials out
  int64_t n;          // keys from the first that any range shows
  int64_t first_key;  // index of that one
};

// Of one block of a row; `count` -1 where a number is not finite or they spread too far.
struct Moments {
  double count, mean, squares, max_abs;
};

template <class T, bool dense> class RowPass {
  using L = Lanes<T>;
  using V = Vec<T>;
  using M = Mask<T>;

 public:
  RowPass() = default;
  explicit RowPass(const RowBlock<T>& row) : row_(row), vectors_((row.n + L::count - 1) / L::count) {}

  // What a row is taken through, in this order: each step waits for the last sums of the one before
  // it, so that short rows take it side by side.

  // Its extremes and mean; false where a logit is not finite or the row spreads too far.
  bool extremes() {
    anchor_ = row_.logits[0];
    if constexpr (dense) {
      count_ = 0;
      for (int64_t i = vectors_; i-- > 0;)
        if (const uint32_t seen = bits(row_.seen[i])) {
          count_ += __builtin_popcount(seen);
          anchor_ = row_.logits[i * L::count + __builtin_ctz(seen)];
        }
      if (count_ == 0) return true;
    } else {
      count_ = row_.n;
    }
    const int64_t whole = this->whole();
    Extremes found = over_whole(whole);
    for (int64_t i = whole; i < vectors_; ++i) {
      const M seen = lanes(i);
      const V x = logits(i), high = seen ? x : all<T>(L::lowest);
      found.next = larger(found.next, smaller(high, found.top));
      found.top = larger(found.top, high);
      found.low = smaller(found.low, seen ? x : all<T>(L::largest));
      found.sum += seen ? x - anchor_ : V{};
    }
    const double whole_sum = total<T>(found.sum);
    const TopTwo<T> best = top_two<T, L::count>(found.top, found.next);
    maximum_ = best.first, second_ = best.second, minimum_ = lowest_of<T, L::count>(found.low);
    const double offset = whole_sum / count_;
    offset_ = static_cast<T>(offset);
    mean_ = anchor_ + offset;
    return usable(whole_sum) && usable(anchor_) && maximum_ < L::largest &&
           minimum_ > L::lowest && maximum_ - minimum_ < L::spread;
  }

  // Its exponentials, referred to the largest logit so far.
  template <bool full> void weigh(const RowSums& sums) {
    if (count_ == 0) {
      std::memset(row_.weights, 0, row_.n * sizeof(T));
      return;
    }
    wins_ = static_cast<double>(maximum_) > sums.maximum;
    reference_ = wins_ ? maximum_ : static_cast<T>(sums.maximum);
    at_ = wins_ ? position() : -1;
    exponentials<full>(reference_, at_);
  }

  // Adds the block to the sums; what an output so far is to be multiplied by.
  template <bool full> T add(RowSums& sums) {
    if (count_ == 0) return 1;
    const double shift = wins_ && sums.visible > 0 ? sums.maximum - maximum_ : 0;
    const double fade = shift == 0 ? 1 : std::exp(shift);
    if constexpr (full) spreads(reference_, wins_ ? second_ : maximum_, wins_);
    if (minimum_ - reference_ < -L::flush) sums.underflowed += flushed(reference_);
    if (wins_ && sums.visible > 0 && maximum_ - sums.minimum > L::flush) sums.recount = 1;
    if (wins_) row_.weights[at_] = 1;
    if (sums.visible > 0) merge<full>(sums, wins_, shift, fade);
    else begin<full>(sums);
    sums.minimum = std::min(sums.minimum, static_cast<double>(minimum_));
    sums.visible += count_;
    if (wins_) {
      sums.maximum = maximum_;
      sums.argmax = static_cast<double>(row_.first_key + at_);
    }
    return static_cast<T>(fade);
  }

  Moments moments() {
    if (!extremes()) return {-1, 0, 0, 0};
    if (count_ == 0) return {0, 0, 0, 0};
    V squares = deviations(whole());
    for (int64_t i = whole(); i < vectors_; ++i) {
      const V apart = lanes(i) ? (logits(i) - anchor_) - offset_ : V{};
      squares += apart * apart;
    }
    const double top = std::max(std::fabs(double(maximum_)), std::fabs(double(minimum_)));
    return {double(count_), mean_, total<T>(squares), top};
  }

 private:
  __attribute__((noinline)) V deviations(int64_t whole) const {
    const T* __restrict from = row_.logits;
    const V anchor = all<T>(anchor_), offset = all<T>(offset_);
    V squares = {};
    for (int64_t i = 0; i < whole * L::count; i += L::count) {
      V apart = (load<T>(from + i) - anchor) - offset;
      if constexpr (dense) apart = row_.seen[i / L::count] ? apart : V{};
      squares += apart * apart;
    }
    return squares;
  }
  V logits(int64_t i) const { return load<T>(row_.logits + i * L::count); }
  // All lanes, but for a dense mask and the last vector's end.
  M lanes(int64_t i) const {
    if constexpr (dense) return row_.seen[i];
    return first<T>(row_.n - i * L::count);
  }
  int64_t whole() const { return row_.n / L::count; }

  struct Extremes { V top, next, low, sum; };

  __attribute__((noinline)) Extremes over_whole(int64_t whole) const {
    const T* __restrict from = row_.logits;
    const V anchor = all<T>(anchor_);
    V top = all<T>(L::lowest), next = top, low = all<T>(L::largest), sum = {};
    for (int64_t i = 0; i < whole * L::count; i += L::count) {
      const V x = load<T>(from + i);
      if constexpr (dense) {
        const M seen = row_.seen[i / L::count];
        const V high = seen ? x : all<T>(L::lowest);
        next = larger(next, smaller(high, top));
        top = larger(top, high);
        low = smaller(low, seen ? x : all<T>(L::largest));
        sum += seen ? x - anchor : V{};
      } else {
        next = larger(next, smaller(x, top));
        top = larger(top, x);
        low = smaller(low, x);
        sum += x - anchor;
      }
    }
    return {top, next, low, sum};
  }

  // The first key at the maximum. Where it is, is as good as random: over a few vectors it takes
  // longer to begin again after a wrong guess than to look at all of them.
  int64_t position() const {
    int64_t i = 0;
    if (vectors_ <= FEW) {
      uint32_t holding = 0;
      for (; i < vectors_; ++i) holding |= uint32_t(at_maximum(i) != 0) << i;
      i = __builtin_ctz(holding);
    } else {
      while (at_maximum(i) == 0) ++i;
    }
    return i * L::count + __builtin_ctz(at_maximum(i));
  }
  uint32_t at_maximum(int64_t i) const {
    M equal = logits(i) == maximum_;
    if (dense || i >= whole()) equal &= lanes(i);
    return bits(equal);
  }

  struct Sums { V tail, gap1, squares; };

  // The loops are functions of their own that hold their sums by value, so that these stay in
  // registers: through memory each addition waits for the store before it.
  // `but`: with a key that is left out, at any place; it costs a comparison a vector.
  template <bool full, bool but = false>
  __attribute__((noinline)) Sums between(int64_t begin, int64_t end, T reference, Sums sums,
                                         [[maybe_unused]] int64_t at = -1) const {
    const T* __restrict from = row_.logits;
    T* __restrict to = row_.weights;
    const V referred = all<T>(reference), anchor = all<T>(anchor_), offset = all<T>(offset_);
    const V flush = all<T>(-L::flush);
    V tail = sums.tail, gap1 = sums.gap1, squares = sums.squares;
    [[maybe_unused]] M places;
    [[maybe_unused]] const auto left_out = static_cast<typename L::Int>(at);
    if constexpr (but) std::memcpy(&places, indices<T>.of, WIDTH);
    for (int64_t i = begin * L::count; i < end * L::count; i += L::count) {
      const V x = load<T>(from + i), gap = x - referred;
      M kept = gap >= flush;
      if constexpr (but) {
        kept &= places != left_out;
        places += L::count;
      }
      if constexpr (dense) kept &= row_.seen[i / L::count];
      const V u = kept ? exponential<T>(larger(gap, flush)) : V{};
      store<T>(to + i, u);
      tail += u;
      if constexpr (full) {
        gap1 += u * gap;
        V apart = (x - anchor) - offset;
        if constexpr (dense) apart = row_.seen[i / L::count] ? apart : V{};
        squares += apart * apart;
      }
    }
    return {tail, gap1, squares};
  }

  // One vector of which not all lanes are seen, or not all summed.
  template <bool full>
  __attribute__((noinline)) Sums partly(int64_t i, T reference, int64_t at, Sums sums) {
    const M seen = lanes(i);
    M summed = seen;
    if (at >= 0 && i == at / L::count) summed[at % L::count] = 0;
    const V x = logits(i), gap = x - reference;
    const M kept = (gap >= -L::flush) & summed;
    const V u = kept ? exponential<T>(larger(gap, all<T>(-L::flush))) : V{};
    put(i, u);
    sums.tail += u;
    if constexpr (full) {
      sums.gap1 += u * gap;
      const V apart = seen ? (x - anchor_) - offset_ : V{};
      sums.squares += apart * apart;
    }
    return sums;
  }

  template <bool full> void exponentials(T reference, int64_t at) {
    Sums sums = {};
    const int64_t whole = this->whole(), special = at < 0 ? vectors_ : at / L::count;
    int64_t i = 0;
    if (whole <= FEW && whole > 0) {
      sums = between<full, true>(0, whole, reference, sums, at);
      i = whole;
    } else if (special > 0 && whole > 0) {
      i = std::min(whole, special);
      sums = between<full>(0, i, reference, sums);
    }
    if (i == special && i < vectors_) sums = partly<full>(i++, reference, at, sums);
    if (i < whole) {
      sums = between<full>(i, whole, reference, sums);
      i = whole;
    }
    for (; i < vectors_; ++i) sums = partly<full>(i, reference, at, sums);
    tail_ = total<T>(sums.tail);
    if constexpr (full) {
      gap1_ = total<T>(sums.gap1);
      squares_ = total<T>(sums.squares);
    }
  }

  void put(int64_t i, V u) {
    T* to = row_.weights + i * L::count;
    const int64_t left = row_.n - i * L::count;
    if (left >= L::count) store<T>(to, u);
    else std::memcpy(to, &u, left * sizeof(T));
  }
  // The last vector, which the row only partly fills.
  V weights(int64_t i) const {
    const T* from = row_.weights + i * L::count;
    V u = {};
    std::memcpy(&u, from, (row_.n - i * L::count) * sizeof(T));
    return u;
  }

  struct Spreads { V spread, tail2, tail3; };

  __attribute__((noinline)) Spreads over_whole(int64_t whole, V referred, V mean, V up) const {
    const T* __restrict from = row_.logits;
    const T* __restrict exponentials = row_.weights;
    V spread = {}, tail2 = {}, tail3 = {};
    for (int64_t i = 0; i < whole * L::count; i += L::count) {
      const V u = load<T>(exponentials + i), apart = (load<T>(from + i) - referred) - mean;
      const V v = u * up, square = v * v;
      spread += (u * apart) * apart;
      tail2 += square;
      tail3 += square * v;
    }
    return {spread, tail2, tail3};
  }

  // u^2 and u^3 leave float32 at gaps of 44 and 29, so they are relative to about the largest
  // summed: to a power of two, which rounds nothing.
  void spreads(T reference, T largest, bool wins) {
    const double held = tail_ + (wins ? 1 : 0);
    const T mean_gap = held > 0 ? static_cast<T>(gap1_ / held) : 0;
    const bool some = count_ > (wins ? 1 : 0);
    const double power = some ? std::min(80.0, double(reference) - largest) * LOG2_E : 0;
    const int64_t raise = static_cast<int64_t>(power);
    const V referred = all<T>(reference), mean = all<T>(mean_gap);
    const V up = all<T>(static_cast<T>(power_of_two(raise)));
    Spreads sums = over_whole(row_.n / L::count, referred, mean, up);
    if (row_.n % L::count != 0) {
      const int64_t last = vectors_ - 1;
      const V u = weights(last), apart = (logits(last) - referred) - mean, v = u * up;
      sums.spread += (u * apart) * apart;
      sums.tail2 += v * v;
      sums.tail3 += (v * v) * v;
    }
    spread_ = total<T>(sums.spread) + (wins ? double(mean_gap) * mean_gap : 0);
    const double down = power_of_two(-raise);
    tail2_ = total<T>(sums.tail2) * down * down;
    tail3_ = total<T>(sums.tail3) * down * down * down;
  }

  double flushed(T reference) const {
    double count = 0;
    for (int64_t i = 0; i < vectors_; ++i) {
      count += __builtin_popcount(bits((logits(i) - reference < -L::flush) & lanes(i)));
    }
    return count;
  }

  // The first block of a row is all it has; its maximum is the argmax.
  template <bool full> void begin(RowSums& sums) const {
    sums.tail = tail_;
    if constexpr (full) {
      sums.gap1 = gap1_, sums.spread = spread_, sums.tail2 = tail2_, sums.tail3 = tail3_;
      sums.mean = mean_, sums.squares = squares_;
      sums.second = count_ > 1 ? static_cast<double>(second_) : EMPTY;
    }
  }

  // What came before fades by exp(shift) where this block has the maximum.
  template <bool full> void merge(RowSums& sums, bool wins, double shift, double f) const {
    const double own = wins ? 1 : 0;
    if constexpr (full) {
      const double seen = 1 + sums.tail, before = f * seen, here = tail_ + own;
      const double mean_before = sums.gap1 / seen + shift;
      const double mean_here = here > 0 ? gap1_ / here : 0;
      sums.gap1 = before * mean_before + gap1_;
      const double mean = sums.gap1 / (before + here);
      sums.spread = f * sums.spread + before * (mean_before - mean) * (mean_before - mean) +
                    spread_ + here * (mean_here - mean) * (mean_here - mean);
      sums.tail2 = f * f * (sums.tail2 + own) + tail2_;
      sums.tail3 = f * f * f * (sums.tail3 + own) + tail3_;
      pool(sums.visible, sums.mean, sums.squares, count_, mean_, squares_);
      const double second = count_ > 1 ? static_cast<double>(second_) : EMPTY;
      sums.second = wins ? std::max(sums.maximum, second)
                         : std::max(sums.second, static_cast<double>(maximum_));
    }
    sums.tail = f * (sums.tail + own) + tail_;
  }

  RowBlock<T> row_;
  int64_t vectors_, count_ = 0, at_;
  bool wins_;
  T maximum_, second_, minimum_, anchor_, offset_, reference_;
  double mean_, tail_, gap1_, squares_, spread_, tail2_, tail3_;
};

inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// Writes factor * from[0 … n), or a constant where `from` is null.
template <class T> void write(const Matrix& to, int64_t at, const T* from, T factor, int64_t n) {
  const auto value = [&](int64_t i) { return from == nullptr ? factor : from[i] * factor; };
  if (to.kind == FLOAT32) {
    float* out = static_cast<float*>(to.data) + at;
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(value(i));
  } else if (to.kind == FLOAT64) {
    double* out = static_cast<double*>(to.data) + at;
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<double>(value(i));
  } else if (to.kind == FLOAT16) {
    _Float16* out = static_cast<_Float16*>(to.data) + at;
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<_Float16>(value(i));
  } else {
    uint16_t* out = static_cast<uint16_t*>(to.data) + at;
    for (int64_t i = 0; i < n; ++i) out[i] = to_bfloat16(static_cast<float>(value(i)));
  }
}

template <class T> class Worker : LogitRows<T> {
  using L = Lanes<T>;
  using Rows = LogitRows<T>;
  using Rows::job_, Rows::block_, Rows::logits_, Rows::seen_, Rows::stride_, Rows::batch_,
      Rows::rows_, Rows::together_, Rows::from, Rows::to, Rows::score, Rows::hide, Rows::shape,
      Rows::row_of;

 public:
  explicit Worker(const Job& job) : Rows(job, SIDE_BY_SIDE) {
    const size_t rows = Rows::most_rows_;
    scratch.reserve(Rows::bytes() + sizeof(T) * rows * (job.d_v + 16) + rows * sizeof(RowSums) +
                    4096);
    Rows::take_from(scratch);
    output_ = scratch.take<T>(rows * job.d_v);
    sums_ = scratch.take<RowSums>(rows);
  }
  ~Worker() { scratch.shrink(KEPT_BYTES); }

  void unit(int64_t index) {
    const int64_t blocks = (job_.queries + job_.query_block - 1) / job_.query_block;
    const int64_t group = job_.heads / job_.kv_heads;
    const int64_t batch = index / (blocks * job_.kv_heads), kv = index / blocks % job_.kv_heads;
    value_ = job_.value.items == nullptr
                 ? nullptr
                 : static_cast<const T*>(job_.value.items[batch]) + kv * job_.value.head;
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
      Rows::place(batch, head, index % blocks * job_.query_block);
      if (!whole()) {
        job_.inexact[index] = 1;
        return;
      }
    }
  }

 private:
  bool whole() {
    std::fill(sums_, sums_ + rows_, RowSums{});
    weighed_ = false;
    if (job_.scores.data != nullptr) show_scores();
    // A window may end before it begins, where it lies past the last key.
    const int64_t first = from(0), last = std::max(first, to(rows_ - 1));
    for (int64_t k = first / job_.key_block * job_.key_block; k < last; k += job_.key_block) {
      const int64_t begin = std::max(k, first);
      if (!block(begin, std::min(k + job_.key_block, last))) return false;
    }
    recount(first, last);
    return finish(first, last);
  }

  // Values that are not finite reach every row, also by a weight of 0.
  bool sound(const T* output) const {
    Vec<T> zero = {};
    T rest = 0;
    const int64_t whole = job_.d_v / L::count * L::count;
    for (int64_t j = 0; j < whole; j += L::count) {
      const Vec<T> x = load<T>(output + j);
      zero += x - x;
    }
    for (int64_t j = whole; j < job_.d_v; ++j) rest += output[j] - output[j];
    return total<T>(zero) + rest == 0;
  }

  // Scores come before the masks: those of hidden keys are shown too. What is computed with is
  // scored again, so that it has the same bytes whether or not they are shown.
  void show_scores() {
    score(0, job_.keys);
    for (int64_t i = 0; i < rows_; ++i)
      write<T>(job_.scores, row_of(i) * job_.keys, block_ + i * stride_, 1, job_.keys);
  }

  bool block(int64_t begin, int64_t end) {
    score(begin, end);
    for (int64_t i = 0; i < rows_; i += together_) {
      if (!rows(i, std::min(i + together_, rows_), begin, end)) return false;
    }
    if (value_ != nullptr) {
      weigh(rows_, end - begin, job_.d_v, block_, stride_, value_ + begin * job_.value.row,
            job_.value.row, weighed_, output_, job_.d_v);
      weighed_ = true;
    }
    return true;
  }

  // Rows `i` to `last` of a block of keys, side by side.
  bool rows(int64_t i, int64_t last, int64_t begin, int64_t end) {
    RowBlock<T> taken[SIDE_BY_SIDE];
    int64_t index[SIDE_BY_SIDE], count = 0;
    bool hidden = false;
    for (; i < last; ++i) {
      T* row = block_ + i * stride_;
      const int64_t lo = std::clamp(from(i), begin, end), hi = std::clamp(to(i), lo, end);
      Rows::clear(row, begin, lo, hi, end);
      if (hi <= lo) continue;
      Rows::use(count);
      if (!logits(i, row + (lo - begin), lo, hi, hidden)) return false;
      taken[count] = {logits_, seen_, row + (lo - begin), hi - lo, lo};
      index[count++] = i;
    }
    return hidden ? together<true>(taken, index, count) : together<false>(taken, index, count);
  }
  template <bool hidden>
  bool together(const RowBlock<T>* taken, const int64_t* row, int64_t count) {
    RowPass<T, hidden> passes[SIDE_BY_SIDE];
    for (int64_t p = 0; p < count; ++p) {
      passes[p] = RowPass<T, hidden>(taken[p]);
      if (!passes[p].extremes()) return false;
    }
    if (job_.statistics) through<true>(passes, row, count);
    else through<false>(passes, row, count);
    return true;
  }
  template <bool full, class Pass> void through(Pass* passes, const int64_t* row, int64_t count) {
    for (int64_t p = 0; p < count; ++p) passes[p].template weigh<full>(sums_[row[p]]);
    for (int64_t p = 0; p < count; ++p) {
      const T factor = passes[p].template add<full>(sums_[row[p]]);
      if (factor == 1 || !weighed_) continue;
      T* out = output_ + row[p] * job_.d_v;
      for (int64_t j = 0; j < job_.d_v; ++j) out[j] *= factor;
    }
  }

  // From a row's scores to its logits; false where scores are not finite or spread too far. Notes
  // where some keys are hidden: a bias mostly hides none.
  bool logits(int64_t i, T* row, int64_t lo, int64_t hi, bool& hidden) {
    const bool some = Rows::has_dense() && !hide(i, lo, hi);
    if (job_.moments && !(some ? moments<true>(sums_[i], row, hi - lo)
                               : moments<false>(sums_[i], row, hi - lo)))
      return false;
    shape(i, row, lo, hi, some);
    if (job_.logits.data != nullptr) show(i, lo, hi, some);
    hidden |= some;
    return true;
  }

  // Mean, squared deviations and largest size of the visible scores.
  template <bool dense> bool moments(RowSums& sums, T* row, int64_t n) {
    const RowBlock<T> part{row, seen_, nullptr, n, 0};
    const Moments found = RowPass<T, dense>(part).moments();
    if (found.count == 0) return true;
    if (sums.visible > 0)
      pool(sums.visible, sums.score_mean, sums.score_squares, found.count, found.mean,
           found.squares);
    else
      sums.score_mean = found.mean, sums.score_squares = found.squares;
    sums.score_max_abs = std::max(sums.score_max_abs, found.max_abs);
    return found.count > 0;
  }

  void show(int64_t i, int64_t lo, int64_t hi, bool hidden) {
    write<T>(job_.logits, row_of(i) * job_.keys + lo, logits_, 1, hi - lo);
    if (!hidden) return;
    for (int64_t j = 0; j < hi - lo; ++j)
      if (!seen_[j / L::count][j % L::count])
        write<T>(job_.logits, row_of(i) * job_.keys + lo + j, nullptr,
                 -std::numeric_limits<T>::infinity(), 1);
  }

  // A key may have been fine against an earlier maximum: those rows are counted again.
  void recount(int64_t first, int64_t last) {
    bool some = false;
    for (int64_t i = 0; i < rows_; ++i) some |= sums_[i].recount != 0;
    if (!some) return;
    for (int64_t i = 0; i < rows_; ++i)
      if (sums_[i].recount != 0) sums_[i].underflowed = 0;
    for (int64_t k = first / job_.key_block * job_.key_block; k < last; k += job_.key_block) {
      const int64_t begin = std::max(k, first), end = std::min(k + job_.key_block, last);
      score(begin, end);
      for (int64_t i = 0; i < rows_; ++i) {
        const int64_t lo = std::clamp(from(i), begin, end), hi = std::clamp(to(i), lo, end);
        if (sums_[i].recount != 0 && hi > lo)
          again(i, block_ + i * stride_ + (lo - begin), lo, hi);
      }
    }
  }
  void again(int64_t i, const T* row, int64_t lo, int64_t hi) {
    const bool hidden = Rows::has_dense() && !hide(i, lo, hi);
    shape(i, row, lo, hi, hidden);
    const T maximum = static_cast<T>(sums_[i].maximum);
    for (int64_t j = 0; j < hi - lo; ++j)
      if (!hidden || seen_[j / L::count][j % L::count])
        sums_[i].underflowed += logits_[j] - maximum < -L::flush;
  }

  // False where a value that is not finite, or too large a sum, has reached an output.
  bool finish(int64_t first, int64_t last) {
    for (int64_t i = 0; i < rows_; ++i) {
      RowSums& sums = sums_[i];
      const double divisor =
          1 + sums.tail + (job_.null_weight != 0 ? job_.null_weight * std::exp(-sums.maximum) : 0);
      const T factor = sums.visible > 0 ? static_cast<T>(1 / divisor) : 0;
      if (job_.output.data != nullptr) {
        const T* from = weighed_ ? output_ + i * job_.d_v : nullptr;
        if (from != nullptr && !sound(from)) return false;
        write<T>(job_.output, row_of(i) * job_.d_v, from, factor, job_.d_v);
      }
      if (job_.weights.data != nullptr && last > first)
        write<T>(job_.weights, row_of(i) * job_.keys + first, block_ + i * stride_, factor,
                 last - first);
    }
    columns();
    return true;
  }

  // Column by column: written row by row, as many lines of the cache as there are columns would
  // want the same few places in it.
  void columns() const {
    const int64_t all = job_.batch * job_.heads * job_.queries;
    for (int64_t column = 0; column < COLUMNS; ++column) {
      double* to = job_.columns + column * all + row_of(0);
      for (int64_t i = 0; i < rows_; ++i) {
        const double* sums = reinterpret_cast<const double*>(sums_ + i);
        to[i] = sums[column];
      }
    }
  }

  T* output_;
  RowSums* sums_;
  const T* value_;
  bool weighed_;
};

template <class T> int64_t work(Job& job, int64_t units, int64_t most) {
  Worker<T> worker(job);
  for (int64_t done = 0; done < most; ++done) {
    if (job.stopped.load(std::memory_order_relaxed)) return 0;
    const int64_t unit = job.next.fetch_add(1, std::memory_order_relaxed);
    if (unit >= units) return 0;
    worker.unit(unit);
  }
  return job.next.load(std::memory_order_relaxed) < units;
}

}  // namespace

int64_t INSTRUCTION_SET(Job& job, int64_t units, int64_t most) {
  return job.kind == FLOAT64 ? work<double>(job, units, most) : work<float>(job, units, most);
}

}  // namespace attention
