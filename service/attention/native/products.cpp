// Matrix products by the BLAS that torch brings, whose addresses are given when the library loads.
#include "job.h"

namespace attention {
namespace {

// The reference interface of BLAS (Dongarra et al. 1990), with 32-bit integers.
template <class T>
using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const T*,
                      const T*, const int*, const T*, const int*, const T*, T*, const int*);
Gemm<float> sgemm;
Gemm<double> dgemm;

void gemm(const char* a, const char* b, int m, int n, int k, const float* left, int left_row,
          const float* right, int right_row, float beta, float* out, int out_row) {
  const float one = 1;
  sgemm(a, b, &m, &n, &k, &one, left, &left_row, right, &right_row, &beta, out, &out_row);
}
void gemm(const char* a, const char* b, int m, int n, int k, const double* left, int left_row,
          const double* right, int right_row, double beta, double* out, int out_row) {
  const double one = 1;
  dgemm(a, b, &m, &n, &k, &one, left, &left_row, right, &right_row, &beta, out, &out_row);
}

}  // namespace

void use_products(void* singles, void* doubles) {
  sgemm = reinterpret_cast<Gemm<float>>(singles);
  dgemm = reinterpret_cast<Gemm<double>>(doubles);
}

// BLAS counts by columns: the transposed product of the transposed factors, in their order.
#define PRODUCTS(T)                                                                               \
  void scores(int64_t rows, int64_t keys, int64_t d, const T* left, int64_t left_row,             \
              const T* right, int64_t right_row, T* out, int64_t out_row) {                       \
    gemm("T", "N", keys, rows, d, right, right_row, left, left_row, T(0), out, out_row);          \
  }                                                                                               \
  void weigh(int64_t rows, int64_t keys, int64_t d, const T* left, int64_t left_row,              \
             const T* right, int64_t right_row, bool add, T* out, int64_t out_row) {              \
    gemm("N", "N", d, rows, keys, right, right_row, left, left_row, T(add), out, out_row);        \
  }
PRODUCTS(float)
PRODUCTS(double)

}  // namespace attention
