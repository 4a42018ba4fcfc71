// From a block of queries and a range of keys to logits: score, scale, softcap, bias, masks.
#pragma once
#include "job.h"
#include "scratch.h"
#include "vectors.h"

#include <algorithm>
#include <cstddef>

namespace attention {
namespace {

// Bytes of the logits of rows in hand, beside what else a core's nearest cache holds.
constexpr int64_t CACHED = 8192;

template <class T> T factor_of(const Factor& factor, int64_t b, int64_t h, int64_t i) {
  if (factor.each == nullptr) return static_cast<T>(factor.one);
  return static_cast<const T*>(
      factor.each)[b * factor.batch + h * factor.head + i * factor.query];
}

// The logits of some rows of one head, by blocks of keys. What is said of row `i` is said of the
// query `start_ + i`.
template <class T> class LogitRows {
 protected:
  using L = Lanes<T>;

  // `most` rows have buffers of their own, or fewer where rows are long.
  explicit LogitRows(const Job& job, int64_t most = 1)
      : job_(job), most_rows_(std::min(job.query_block, job.queries)) {
    stride_ = std::min(job.key_block, job.keys);
    // Rows a multiple of 4 KiB apart would all want the same few lines of the cache.
    if (stride_ * sizeof(T) % 1024 == 0 && most_rows_ > 1) stride_ += 64 / sizeof(T);
    together_ = std::clamp<int64_t>(CACHED / (stride_ * sizeof(T)), 1, most);
  }
  size_t bytes() const {
    return sizeof(T) * (most_rows_ * stride_ + L::count + 2 * together_ * padded()) + 256;
  }
  void take_from(Scratch& scratch) {
    block_ = scratch.take<T>(most_rows_ * stride_ + L::count);
    logits_ = all_logits_ = scratch.take<T>(together_ * padded());
    seen_ = all_seen_ = scratch.take<Mask<T>>(together_ * padded() / L::count);
  }
  // Elements of a row's buffer: whole vectors.
  size_t padded() const { return (stride_ / L::count + 2) * L::count; }
  // From here on that row's buffers are written.
  void use(int64_t row) {
    logits_ = all_logits_ + row * padded();
    seen_ = all_seen_ + row * (padded() / L::count);
  }

  void place(int64_t batch, int64_t head, int64_t start) {
    batch_ = batch, head_ = head, start_ = start;
    rows_ = std::min(job_.query_block, job_.queries - start);
    query_ = static_cast<const T*>(job_.query.items[batch]) + head * job_.query.head +
             start * job_.query.row;
    key_ = static_cast<const T*>(job_.key.items[batch]) +
           head / (job_.heads / job_.kv_heads) * job_.key.head;
  }
  int64_t row_of(int64_t i) const {
    return (batch_ * job_.heads + head_) * job_.queries + start_ + i;
  }

  // The range of keys that a row sees; both ends grow with the query, so that the first and the
  // last row bound all of them.
  int64_t from(int64_t i) const {
    return job_.lower == nullptr
               ? 0
               : std::clamp<int64_t>(start_ + i + job_.lower[batch_], 0, job_.keys);
  }
  int64_t to(int64_t i) const {
    int64_t end = job_.ends == nullptr ? job_.keys : job_.ends[batch_];
    if (job_.upper != nullptr)
      end = std::clamp<int64_t>(start_ + i + job_.upper[batch_] + 1, 0, end);
    return end;
  }

  bool has_dense() const { return job_.allowed.data != nullptr || job_.bias.data != nullptr; }

  // Weights are 0 beside that range.
  void clear(T* row, int64_t begin, int64_t lo, int64_t hi, int64_t end) const {
    if (lo > begin) std::memset(row, 0, (lo - begin) * sizeof(T));
    if (hi < end) std::memset(row + (hi - begin), 0, (end - hi) * sizeof(T));
  }

  void score(int64_t begin, int64_t end) {
    scores(rows_, end - begin, job_.d_k, query_, job_.query.row, key_ + begin * job_.key.row,
           job_.key.row, block_, stride_);
  }

  // Which keys the dense masks leave to a row; whether those are all of them.
  bool hide(int64_t i, int64_t lo, int64_t hi) {
    const int64_t n = hi - lo;
    bool begun = false;
    const Dense& allowed = job_.allowed;
    if (allowed.data != nullptr) {
      const uint8_t* at = static_cast<const uint8_t*>(allowed.data) + batch_ * allowed.batch +
                          head_ * allowed.head + (start_ + i) * allowed.query;
      narrow(allowed, lo, n, begun, at, [](const uint8_t* from) { return set<T>(from); });
      begun = true;
    }
    const Dense& bias = job_.bias;
    if (bias.data != nullptr)
      narrow(bias, lo, n, begun, bias_row(i),
             [](const T* from) { return load<T>(from) >= L::lowest; });
    const int64_t whole = n / L::count;
    Mask<T> all = ~Mask<T>{};
    for (int64_t v = 0; v < whole; ++v) all &= seen_[v];
    if (n % L::count != 0) all &= seen_[whole] | ~first<T>(n % L::count);
    return bits(~all) == 0;
  }
  // The keys that a tensor's row shows, `also` of those seen so far; `shown` reads a vector's.
  template <class E, class Shown>
  void narrow(const Dense& dense, int64_t lo, int64_t n, bool also, const E* row, Shown shown) {
    const int64_t vectors = (n + L::count - 1) / L::count;
    const auto put = [&](int64_t v, Mask<T> mask) { seen_[v] = also ? seen_[v] & mask : mask; };
    if (dense.key == 0) {
      E one[L::count];
      std::fill(one, one + L::count, *row);
      const Mask<T> mask = shown(one);
      for (int64_t v = 0; v < vectors; ++v) put(v, mask & first<T>(n - v * L::count));
      return;
    }
    const int64_t most = std::clamp<int64_t>(dense.length - lo, 0, n);
    int64_t v = 0;
    for (; (v + 1) * L::count <= most; ++v) put(v, shown(row + lo + v * L::count));
    for (; v < vectors; ++v) {
      const int64_t left = most - v * L::count;
      E part[L::count] = {};
      if (left > 0) std::copy(row + lo + v * L::count, row + lo + most, part);
      put(v, shown(part) & first<T>(left));
    }
  }
  const T* bias_row(int64_t i) const {
    const Dense& bias = job_.bias;
    return static_cast<const T*>(bias.data) + batch_ * bias.batch + head_ * bias.head +
           (start_ + i) * bias.query;
  }

  // From scores to logits in the row's buffer: scale, softcap, bias; 0 where some are `hidden`, and
  // past the row's end.
  void shape(int64_t i, const T* row, int64_t lo, int64_t hi, bool hidden) {
    if (job_.bias.data != nullptr) hidden ? shape<true, true>(i, row, lo, hi) : shape<true, false>(i, row, lo, hi);
    else hidden ? shape<false, true>(i, row, lo, hi) : shape<false, false>(i, row, lo, hi);
  }
  template <bool biased, bool hidden>
  void shape(int64_t i, const T* row, int64_t lo, int64_t hi) {
    const T cap = factor_of<T>(job_.softcap, batch_, head_, start_ + i);
    if (cap != 0) shaped<biased, hidden, true>(i, row, lo, hi, cap);
    else shaped<biased, hidden, false>(i, row, lo, hi, cap);
  }
  template <bool biased, bool hidden, bool capped>
  void shaped(int64_t i, const T* __restrict row, int64_t lo, int64_t hi, T cap) {
    const int64_t n = hi - lo, vectors = (n + L::count - 1) / L::count;
    const T scale = factor_of<T>(job_.scale, batch_, head_, start_ + i);
    const T shrink = capped ? 1 / cap : 0;
    const T* bias = biased ? bias_row(i) : nullptr;
    const T constant = biased && job_.bias.key == 0 && *bias >= L::lowest ? *bias : 0;
    const bool laid = biased && job_.bias.key != 0;
    const int64_t most = laid ? std::clamp<int64_t>(job_.bias.length - lo, 0, n) : 0;
    T* __restrict to = logits_;
    for (int64_t v = 0; v < vectors; ++v) {
      Vec<T> x = some(row + v * L::count, n - v * L::count) * scale;
      if constexpr (capped) x = tangent<T>(x * shrink) * cap;
      if constexpr (biased) {
        x += constant;
        if (laid) x += some(bias + lo + v * L::count, most - v * L::count);
      }
      if constexpr (hidden) x = seen_[v] ? x : Vec<T>{};
      store<T>(to + v * L::count, x);
    }
  }
  // A vector's worth, or what is left of it and zeros.
  static INLINE Vec<T> some(const T* from, int64_t left) {
    if (left >= L::count) return load<T>(from);
    Vec<T> x = {};
    if (left > 0) std::memcpy(&x, from, left * sizeof(T));
    return x;
  }

  const Job& job_;
  const int64_t most_rows_;
  T *block_, *logits_, *all_logits_;
  Mask<T> *seen_, *all_seen_;
  int64_t stride_, together_, batch_, head_, start_, rows_;
  const T *query_, *key_;
};

}  // namespace
}  // namespace attention
