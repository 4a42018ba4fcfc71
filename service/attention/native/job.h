// What one pass is asked for: filled in by structures.py, which mirrors these structs field by field.
#pragma once
#include <atomic>
#include <cstdint>

namespace attention {

// One number for all rows, or one for each: strides in elements, `each` null for the former.
struct Factor {
  double one;
  const void* each;
  int64_t batch, head, query;
};

// A tensor over (batch, head, query, key) by strides in elements; absent where `data` is null.
// Keys from `length` on are hidden, unless the key stride is 0.
struct Dense {
  const void* data;
  int64_t batch, head, query, key, length;
};

// The heads of each batch item: a pointer for each, and strides in elements.
struct Operand {
  const void* const* items;
  int64_t head, row;
};

// A tensor written row by row, contiguous (batch, heads, queries, extent); see `Kind`.
struct Matrix {
  void* data;
  int64_t kind;
};

enum Kind : int64_t { FLOAT32 = 0, FLOAT64 = 1, FLOAT16 = 2, BFLOAT16 = 3 };

struct Job {
  int64_t batch, heads, kv_heads, queries, keys, d_k, d_v;
  int64_t query_block, key_block;
  int64_t kind;        // of all arithmetic: FLOAT32 or FLOAT64
  int64_t statistics;  // 0: only what output and counts need
  int64_t moments;     // 1: those of the scores too
  Operand query, key, value;
  Factor scale, softcap;  // softcap 0: none
  const int64_t* ends;    // by batch item, or null: keys below it are visible,
  const int64_t* lower;   // from query + lower on,
  const int64_t* upper;   // up to query + upper
  Dense allowed, bias;
  double null_weight;  // the divisor is sum + null_weight * exp(-maximum)
  Matrix output, weights, logits, scores;
  double* columns;  // (COLUMNS, batch, heads, queries)
  uint8_t* inexact;  // by unit: 1 where a logit or an output is not finite: it was given up
  std::atomic<int64_t> next;
  std::atomic<int64_t> stopped;
};

// In the order of the fields of `RowStatistics`.
enum Column {
  VISIBLE, MAXIMUM, SECOND, MINIMUM, ARGMAX, TAIL, TAIL2, TAIL3, GAP1, SPREAD, MEAN, SQUARES,
  OVERFLOWED, UNDERFLOWED, SCORE_MEAN, SCORE_SQUARES, SCORE_MAX_ABS, COLUMNS
};

// The order in which figures of rows are computed: structures.py names them in the same one.
enum Figure {
  VISIBLE_KEYS, ARG_MAX, LSE, ENTROPY, NORMALIZED_ENTROPY, EFFECTIVE_KEYS, PARTICIPATION_RATIO,
  MAX_WEIGHT, LOGIT_GAP, LOGIT_MEAN, LOGIT_VARIANCE, LOGIT_MAX, LOGIT_MIN, LOGIT_MAX_ABS,
  SATURATION_INDEX, SCORE_MEAN_, SCORE_VARIANCE, SCORE_MAX_ABS_, JACOBIAN_TRACE,
  JACOBIAN_FROBENIUS, JACOBIAN_SPECTRAL_LOWER, JACOBIAN_SPECTRAL_UPPER, LOGIT_VARIANCE_UNDER_P,
  FIGURES
};
// Rows that are saturated, sharp, diffuse, and that have a regime.
constexpr int REGIMES = 4;
// Rows without a key, flushed weights, overflowed logits.
constexpr int COUNTS = 3;

// What is to be summed of the figures of rows; all arrays (…, heads), `heads` those of all items.
struct Summary {
  int64_t heads, queries;
  double scale;  // scores are logits over it; NaN: they were collected
  double saturated, sharp, diffuse;
  const int64_t* least;   // visible keys that each figure takes to be defined
  const double* columns;  // (COLUMNS, heads, queries)
  double *total, *lowest, *highest;  // (FIGURES, heads), of the finite ones,
  int64_t* rows;                     // and how many these are
  int64_t* regimes;  // (REGIMES, heads)
  int64_t* counts;   // (COUNTS, heads)
  double* figures;   // (FIGURES, heads, queries), or null
};

// What is to be collected of the same logits once their rows' maxima and sums are known.
struct Revisit {
  Job* job;
  int64_t parts;                  // of each head's queries, whose sums are apart
  const double *maximum, *tail;   // (batch, heads, queries)
  const uint8_t* skipped;         // by batch item
  double gap;                     // weights further below the maximum are small
  double *share, *seen_by;        // sums (parts, batch, heads, keys), or null
  double* small;                  // how many (batch, heads, queries), or null
};

// Where a thread is: at a block of queries, of those up to `end`, of one part of a key head; these
// count over all batch items.
struct Cursor {
  int64_t head, part, block, end;
};

void use_products(void* singles, void* doubles);

// Row-major products: out (rows, keys) = left (rows, d) right (keys, d)^T, and
// out (rows, d) = or += left (rows, keys) right (keys, d).
void scores(int64_t rows, int64_t keys, int64_t d, const float* left, int64_t left_row,
            const float* right, int64_t right_row, float* out, int64_t out_row);
void scores(int64_t rows, int64_t keys, int64_t d, const double* left, int64_t left_row,
            const double* right, int64_t right_row, double* out, int64_t out_row);
void weigh(int64_t rows, int64_t keys, int64_t d, const float* left, int64_t left_row,
           const float* right, int64_t right_row, bool add, float* out, int64_t out_row);
void weigh(int64_t rows, int64_t keys, int64_t d, const double* left, int64_t left_row,
           const double* right, int64_t right_row, bool add, double* out, int64_t out_row);

}  // namespace attention
