// The second look at the rows, once their maxima and sums are known: what each key gets of them,
// by how many it is seen, and how many weights of a row are small.
//
// Sums over the rows of a head are in one order: by fixed parts of its queries, each on one thread.
#include "job.h"
#include "logits.h"
#include "vectors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace attention {
namespace {

template <class T> class RowWeights {
  using L = Lanes<T>;
  using V = Vec<T>;
  using M = Mask<T>;

 public:
  // `small`: below this gap to the maximum.
  RowWeights(T maximum, T factor, T small)
      : maximum_(all<T>(maximum)), factor_(all<T>(factor)), small_(all<T>(small)) {}

  // From n logits to weights; how many of them are small.
  template <bool dense>
  __attribute__((noinline)) int64_t of(const T* __restrict logits, const M* __restrict seen,
                                       T* __restrict weights, int64_t n) const {
    const V maximum = maximum_, factor = factor_, small = small_, flush = all<T>(-L::flush);
    const int64_t whole = n / L::count;
    M few = {};
    for (int64_t v = 0; v < whole; ++v) {
      // Never above: a row of huge logits may have its maximum from a pass that rounds otherwise.
      const V gap = smaller(load<T>(logits + v * L::count) - maximum, V{});
      M kept = gap >= flush, below = gap < small;
      if constexpr (dense) kept &= seen[v], below &= seen[v];
      few += below;
      const V u = kept ? exponential<T>(larger(gap, flush)) : V{};
      store<T>(weights + v * L::count, u * factor);
    }
    if (const int64_t left = n - whole * L::count; left > 0) {
      const V gap = smaller(load<T>(logits + whole * L::count) - maximum, V{});
      const M lanes = dense ? seen[whole] : first<T>(left);
      few += (gap < small) & lanes;
      const V u = (gap >= flush) & lanes ? exponential<T>(larger(gap, flush)) : V{};
      const V weight = u * factor;
      std::memcpy(weights + whole * L::count, &weight, left * sizeof(T));
    }
    int64_t count = 0;
    for (int lane = 0; lane < L::count; ++lane) count -= few[lane];
    return count;
  }

 private:
  const V maximum_, factor_, small_;
};

// Adds rows a stride apart to sums in double: four at a time in their own precision, since a sum in
// double costs more than their weights do.
template <class T>
void add_rows(const T* rows, int64_t count, int64_t stride, int64_t n, double* __restrict sums) {
  for (; count >= 4; count -= 4, rows += 4 * stride) {
    const T *__restrict a = rows, *__restrict b = a + stride;
    const T *__restrict c = b + stride, *__restrict d = c + stride;
    for (int64_t j = 0; j < n; ++j) sums[j] += double((a[j] + b[j]) + (c[j] + d[j]));
  }
  for (; count > 0; --count, rows += stride)
    for (int64_t j = 0; j < n; ++j) sums[j] += double(rows[j]);
}

template <class T> class Again : LogitRows<T> {
  using L = Lanes<T>;
  using Rows = LogitRows<T>;
  using Lane = typename L::Int;
  using Rows::job_, Rows::block_, Rows::logits_, Rows::seen_, Rows::stride_, Rows::batch_,
      Rows::rows_, Rows::from, Rows::to, Rows::row_of;

 public:
  Again(const Job& job, const Revisit& asked) : Rows(job), asked_(asked) {
    const size_t keys = job.keys + L::count;
    scratch.reserve(Rows::bytes() + keys * (sizeof(Lane) + sizeof(int64_t)) + 4096);
    Rows::take_from(scratch);
    by_key_ = scratch.take<Lane>(keys);
    edges_ = scratch.take<int64_t>(keys);
  }
  ~Again() { scratch.shrink(KEPT_BYTES); }

  // Adds the rows of one block of queries, of all heads that share the key head, to their part.
  void add(int64_t batch, int64_t kv, int64_t part, int64_t start) {
    const int64_t group = job_.heads / job_.kv_heads;
    for (int64_t head = kv * group; head < (kv + 1) * group; ++head) one(batch, head, part, start);
  }

 private:
  static constexpr int64_t TOGETHER = 4;

  void one(int64_t batch, int64_t head, int64_t part, int64_t start) {
    Rows::place(batch, head, start);
    const int64_t first = from(0), last = to(rows_ - 1);
    if (last <= first) return;
    sums_ = ((part * job_.batch + batch) * job_.heads + head) * job_.keys;
    std::fill(by_key_ + first, by_key_ + last + L::count, Lane(0));
    std::fill(edges_ + first, edges_ + last + 1, 0);
    for (int64_t k = first / job_.key_block * job_.key_block; k < last; k += job_.key_block)
      block(std::max(k, first), std::min(k + job_.key_block, last));
    if (asked_.seen_by != nullptr) count(first, last);
  }

  // A few rows at a time, so that their weights are added while they are in the nearest cache.
  void block(int64_t begin, int64_t end) {
    Rows::score(begin, end);
    for (int64_t i = 0; i < rows_; i += TOGETHER) {
      const int64_t count = std::min(TOGETHER, rows_ - i);
      T* rows = block_ + i * stride_;
      for (int64_t r = 0; r < count; ++r) weigh(i + r, rows + r * stride_, begin, end);
      if (asked_.share != nullptr)
        add_rows(rows, count, stride_, end - begin, asked_.share + sums_ + begin);
    }
  }

  void weigh(int64_t i, T* row, int64_t begin, int64_t end) {
    const int64_t lo = std::clamp(from(i), begin, end), hi = std::clamp(to(i), lo, end);
    Rows::clear(row, begin, lo, hi, end);
    if (hi <= lo) return;
    const bool hidden = Rows::has_dense() && !Rows::hide(i, lo, hi);
    Rows::shape(i, row + (lo - begin), lo, hi, hidden);
    const double maximum = asked_.maximum[row_of(i)];
    const double divisor = 1 + asked_.tail[row_of(i)] +
                           (job_.null_weight != 0 ? job_.null_weight * std::exp(-maximum) : 0);
    const RowWeights<T> weights(static_cast<T>(maximum), static_cast<T>(1 / divisor),
                                static_cast<T>(asked_.gap));
    T* to = row + (lo - begin);
    const int64_t small = hidden ? weights.template of<true>(logits_, seen_, to, hi - lo)
                                 : weights.template of<false>(logits_, seen_, to, hi - lo);
    if (asked_.small != nullptr) asked_.small[row_of(i)] += small;
    if (asked_.seen_by != nullptr) see(lo, hi, hidden);
  }

  // A range is told by its ends; what a dense mask leaves of it is counted key by key.
  void see(int64_t lo, int64_t hi, bool hidden) {
    if (!hidden) {
      ++edges_[lo];
      --edges_[hi];
      return;
    }
    for (int64_t j = lo; j < hi; j += L::count) {
      Mask<T> seen;
      std::memcpy(&seen, by_key_ + j, sizeof seen);
      seen -= seen_[(j - lo) / L::count];
      std::memcpy(by_key_ + j, &seen, sizeof seen);
    }
  }
  void count(int64_t first, int64_t last) const {
    int64_t open = 0;
    for (int64_t j = first; j < last; ++j) {
      open += edges_[j];
      asked_.seen_by[sums_ + j] += static_cast<double>(open + by_key_[j]);
    }
  }

  const Revisit& asked_;
  Lane* by_key_;
  int64_t* edges_;
  int64_t sums_;
};

// A thread takes one part of a key head's queries after another, and goes on with it where its last
// call left off.
template <class T> int64_t look_again(Revisit& asked, Cursor& at, int64_t most) {
  Job& job = *asked.job;
  const int64_t blocks = (job.queries + job.query_block - 1) / job.query_block;
  const int64_t a_part = (blocks + asked.parts - 1) / asked.parts;
  const int64_t units = job.batch * job.kv_heads * asked.parts;
  Again<T> again(job, asked);
  for (int64_t done = 0; done < most; ++done) {
    if (job.stopped.load(std::memory_order_relaxed)) return 0;
    while (at.block >= at.end) {
      const int64_t unit = job.next.fetch_add(1, std::memory_order_relaxed);
      if (unit >= units) return 0;
      at.head = unit / asked.parts, at.part = unit % asked.parts;
      at.block = at.part * a_part, at.end = std::min(blocks, at.block + a_part);
      if (asked.skipped[at.head / job.kv_heads]) at.end = at.block;
    }
    again.add(at.head / job.kv_heads, at.head % job.kv_heads, at.part,
              at.block++ * job.query_block);
  }
  return at.block < at.end || job.next.load(std::memory_order_relaxed) < units;
}

}  // namespace

int64_t INSTRUCTION_SET(Revisit& asked, Cursor& at, int64_t most) {
  return asked.job->kind == FLOAT64 ? look_again<double>(asked, at, most)
                                    : look_again<float>(asked, at, most);
}

}  // namespace attention
