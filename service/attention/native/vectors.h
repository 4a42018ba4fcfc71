// Vectors as wide as the instruction set this file is compiled for, and exp, ln, tanh and square
// roots over them.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH = 64;
#elif defined(__AVX__)
constexpr int WIDTH = 32;
#else
constexpr int WIDTH = 16;
#endif

template <class T> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(WIDTH)));
  typedef int32_t I __attribute__((vector_size(WIDTH)));
  using Int = int32_t;
  static constexpr int count = WIDTH / 4, mantissa = 23, degree = 7;
  static constexpr float magic = 0x1.8p23f, log2e = 0x1.715476p0f;
  // ln 2 in two parts: products of the first with small integers are exact.
  static constexpr float ln2 = 0x1.63p-1f, ln2_rest = -0x1.bd0106p-13f;
  // -ln(smallest normal): weights this far below the maximum flush.
  static constexpr float flush = 87.33654475f, lowest = -FLT_MAX, largest = FLT_MAX;
  static constexpr float spread = 1e15f;
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(WIDTH)));
  typedef int64_t I __attribute__((vector_size(WIDTH)));
  using Int = int64_t;
  static constexpr int count = WIDTH / 8, mantissa = 52, degree = 13;
  static constexpr double magic = 0x1.8p52, log2e = 0x1.71547652b82fep0;
  static constexpr double ln2 = 0x1.62e42feep-1, ln2_rest = 0x1.a39ef35793c76p-33;
  static constexpr double flush = 708.3964185322641, lowest = -DBL_MAX, largest = DBL_MAX;
  static constexpr double spread = 1e150;
};

template <class T> using Vec = typename Lanes<T>::V;
template <class T> using Mask = typename Lanes<T>::I;

template <class T> inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, WIDTH);
  return v;
}
template <class T> inline void store(T* to, Vec<T> v) { std::memcpy(to, &v, WIDTH); }
template <class T> inline Vec<T> all(T x) { return x - Vec<T>{}; }

// The compiler makes a comparison and a choice of `a > b ? a : b`; where one instruction does it,
// that is named. `bits` has a bit for each lane.
#if defined(__AVX512F__)
INLINE Vec<float> larger(Vec<float> a, Vec<float> b) { return _mm512_max_ps(a, b); }
INLINE Vec<float> smaller(Vec<float> a, Vec<float> b) { return _mm512_min_ps(a, b); }
INLINE Vec<double> larger(Vec<double> a, Vec<double> b) { return _mm512_max_pd(a, b); }
INLINE Vec<double> smaller(Vec<double> a, Vec<double> b) { return _mm512_min_pd(a, b); }
INLINE uint32_t bits(Mask<float> m) { return _mm512_movepi32_mask((__m512i)m); }
INLINE uint32_t bits(Mask<double> m) { return _mm512_movepi64_mask((__m512i)m); }
#elif defined(__AVX__)
INLINE Vec<float> larger(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a, b); }
INLINE Vec<float> smaller(Vec<float> a, Vec<float> b) { return _mm256_min_ps(a, b); }
INLINE Vec<double> larger(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a, b); }
INLINE Vec<double> smaller(Vec<double> a, Vec<double> b) { return _mm256_min_pd(a, b); }
INLINE uint32_t bits(Mask<float> m) { return _mm256_movemask_ps((__m256)m); }
INLINE uint32_t bits(Mask<double> m) { return _mm256_movemask_pd((__m256d)m); }
#elif defined(__x86_64__)
INLINE Vec<float> larger(Vec<float> a, Vec<float> b) { return _mm_max_ps(a, b); }
INLINE Vec<float> smaller(Vec<float> a, Vec<float> b) { return _mm_min_ps(a, b); }
INLINE Vec<double> larger(Vec<double> a, Vec<double> b) { return _mm_max_pd(a, b); }
INLINE Vec<double> smaller(Vec<double> a, Vec<double> b) { return _mm_min_pd(a, b); }
INLINE uint32_t bits(Mask<float> m) { return _mm_movemask_ps((__m128)m); }
INLINE uint32_t bits(Mask<double> m) { return _mm_movemask_pd((__m128d)m); }
#else
template <class V> INLINE V larger(V a, V b) { return a > b ? a : b; }
template <class V> INLINE V smaller(V a, V b) { return a < b ? a : b; }
template <class M> INLINE uint32_t bits(M m) {
  uint32_t found = 0;
  for (unsigned l = 0; l < sizeof(M) / sizeof(m[0]); ++l) found |= uint32_t(m[l] != 0) << l;
  return found;
}
#endif

// The lanes whose byte is not 0; the compiler would convert them one by one.
template <class T> INLINE Mask<T> set(const uint8_t* bytes) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Mask<T>)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)bytes)) != 0;
  else
    return (Mask<T>)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i*)bytes)) != 0;
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (Mask<T>)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes)) != 0;
  else
    return (Mask<T>)_mm256_cvtepu8_epi64(_mm_loadu_si32(bytes)) != 0;
#else
  Mask<T> lanes = {};
  for (int i = 0; i < Lanes<T>::count; ++i) lanes[i] = bytes[i] ? -1 : 0;
  return lanes;
#endif
}

template <class T> struct Indices {
  typename Lanes<T>::Int of[Lanes<T>::count];
  constexpr Indices() : of{} {
    for (int i = 0; i < Lanes<T>::count; ++i) of[i] = i;
  }
};
template <class T> constexpr Indices<T> indices{};
// The lanes below n.
template <class T> INLINE Mask<T> first(int64_t n) {
  Mask<T> lane;
  std::memcpy(&lane, indices<T>.of, WIDTH);
  return lane < static_cast<typename Lanes<T>::Int>(n);
}

// exp of x <= 0 that does not flush: 2^n by the exponent's bits, and the Taylor sum of the rest,
// |r| <= ln(2)/2, whose first missing term is 5e-9 (float) and 4e-18 (double) of the whole.
template <class T> struct Factorials {
  T of[Lanes<T>::degree + 1];
  constexpr Factorials() : of{1} {
    for (int k = 1; k <= Lanes<T>::degree; ++k) of[k] = of[k - 1] * k;
  }
};
template <class T> INLINE Vec<T> exponential(Vec<T> x) {
  using L = Lanes<T>;
  const Vec<T> shifted = x * L::log2e + L::magic;
  const Vec<T> n = shifted - L::magic;
  const Vec<T> r = (x - n * L::ln2) - n * L::ln2_rest;
  constexpr Factorials<T> factorials;
  Vec<T> sum = all<T>(1 / factorials.of[L::degree]);
#pragma GCC unroll 16
  for (int k = L::degree - 1; k >= 0; --k) sum = sum * r + 1 / factorials.of[k];
  const Mask<T> bits = reinterpret_cast<Mask<T>>(shifted) << L::mantissa;
  return reinterpret_cast<Vec<T>>(reinterpret_cast<Mask<T>>(sum) + bits);
}

// exp of a moderate x of either sign; 0 where it would flush.
INLINE Vec<double> exponential_of(Vec<double> x) {
  const Vec<double> flush = all<double>(-Lanes<double>::flush);
  const Vec<double> within = smaller(larger(x, flush), all<double>(700));
  return x >= flush ? exponential<double>(within) : Vec<double>{};
}

// ln(1 + t) for t >= 0, `inverse` 1/(1 + t): u = 1 + t = 2^e f with f from sqrt(1/2) to sqrt(2),
// ln f = 2 atanh((f - 1)/(f + 1)) by its series, whose first missing term is 2e-20 of the whole,
// and what rounding u lost is t - (u - 1) over u.
INLINE Vec<double> log_one_plus(Vec<double> t, Vec<double> inverse) {
  using V = Vec<double>;
  using M = Mask<double>;
  const V u = t + 1.0, lost = (t - (u - 1.0)) * inverse;
  const M raw = reinterpret_cast<M>(u);
  // 0x3fe6a09e… are the high bits of sqrt(1/2).
  const M up = (raw - 0x3fe6a09e00000000ll) >> 52;
  const V f = reinterpret_cast<V>(raw - (up << 52));
  const V e = reinterpret_cast<V>(up + 0x4338000000000000ll) - 0x1.8p52;
  const V s = (f - 1.0) / (f + 1.0), square = s * s;
  V sum = all<double>(1.0 / 23);
#pragma GCC unroll 12
  for (int k = 21; k >= 3; k -= 2) sum = sum * square + 1.0 / k;
  const V series = 2.0 * s + (2.0 * s) * (square * sum);
  return e * Lanes<double>::ln2 + (series + (e * Lanes<double>::ln2_rest + lost));
}

#if defined(__AVX512F__)
INLINE Vec<double> root(Vec<double> x) { return _mm512_sqrt_pd(x); }
#elif defined(__AVX__)
INLINE Vec<double> root(Vec<double> x) { return _mm256_sqrt_pd(x); }
#elif defined(__x86_64__)
INLINE Vec<double> root(Vec<double> x) { return _mm_sqrt_pd(x); }
#else
INLINE Vec<double> root(Vec<double> x) {
  for (int i = 0; i < Lanes<double>::count; ++i) x[i] = std::sqrt(x[i]);
  return x;
}
#endif

// tanh y = -e/(2 + e) with e = exp(-2|y|) - 1, which keeps its digits near 0: with 2^n taken out,
// e = 2^n p + (2^n - 1), and p is the Taylor sum without its first term. NaN stays NaN.
template <class T> INLINE Vec<T> tangent(Vec<T> y) {
  using L = Lanes<T>;
  const Vec<T> size = larger(y, -y);
  const Vec<T> x = larger(size * T(-2), all<T>(-60));
  const Vec<T> shifted = x * L::log2e + L::magic;
  const Vec<T> n = shifted - L::magic;
  const Vec<T> r = (x - n * L::ln2) - n * L::ln2_rest;
  constexpr Factorials<T> factorials;
  Vec<T> sum = all<T>(1 / factorials.of[L::degree]);
#pragma GCC unroll 16
  for (int k = L::degree - 1; k >= 2; --k) sum = sum * r + 1 / factorials.of[k];
  const Vec<T> p = r + (r * r) * sum;
  const Mask<T> exponent = reinterpret_cast<Mask<T>>(shifted) << L::mantissa;
  const Vec<T> power =
      reinterpret_cast<Vec<T>>(reinterpret_cast<Mask<T>>(all<T>(1)) + exponent);
  const Vec<T> e = power * p + (power - T(1));
  const Vec<T> result = e / (e + T(2));
  // NaN compares with nothing, and the larger of it and a number may be the number.
  return y < T(0) ? result : y >= T(0) ? -result : y;
}

// The lanes of a vector brought together by halves.
template <class T, int n> struct Half {
  typedef T V __attribute__((vector_size(n * sizeof(T))));
  static INLINE V low(const void* whole) {
    V v;
    std::memcpy(&v, whole, sizeof v);
    return v;
  }
  static INLINE V high(const void* whole) { return low(static_cast<const char*>(whole) + sizeof(V)); }
};
template <class T, int n, class V> INLINE T sum_of(V v) {
  if constexpr (n == 2) {
    return v[0] + v[1];
  } else {
    using H = Half<T, n / 2>;
    return sum_of<T, n / 2>(H::low(&v) + H::high(&v));
  }
}
template <class T> INLINE T total(Vec<T> v) { return sum_of<T, Lanes<T>::count>(v); }

template <class T> struct TopTwo { T first, second; };
template <class T, int n, class V> INLINE TopTwo<T> top_two(V top, V next) {
  if constexpr (n == 1) {
    return {top[0], next[0]};
  } else {
    using H = typename Half<T, n / 2>::V;
    const H a = Half<T, n / 2>::low(&top), b = Half<T, n / 2>::high(&top);
    const H c = Half<T, n / 2>::low(&next), d = Half<T, n / 2>::high(&next);
    const H less = a < b ? a : b, then = c > d ? c : d;
    return top_two<T, n / 2, H>(a > b ? a : b, less > then ? less : then);
  }
}
template <class T, int n, class V> INLINE T lowest_of(V v) {
  if constexpr (n == 1) {
    return v[0];
  } else {
    using H = typename Half<T, n / 2>::V;
    const H a = Half<T, n / 2>::low(&v), b = Half<T, n / 2>::high(&v);
    return lowest_of<T, n / 2, H>(a < b ? a : b);
  }
}

// Neither NaN nor infinite.
inline bool usable(float x) { return std::fabs(x) <= FLT_MAX; }
inline bool usable(double x) { return std::fabs(x) <= DBL_MAX; }

}  // namespace
