// Decimals such as -1.2345678, many at a time: where each ends is found in 64 bytes at once, and each
// is read in one register with no branch that depends on its sign or length. So the next begins
// before the last is done.
#pragma once

#include <cstdint>

#if defined(__SSE4_1__)
#include <immintrin.h>

#include <cstring>
#endif

namespace attention {
namespace {

// Powers of ten that float64 holds exactly.
constexpr double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                           1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

#if defined(__SSE4_1__)
constexpr int64_t BLOCK = 64, REGISTER = 16;
// A blank, a sign and what is looked at behind them.
constexpr int64_t SEEN = 2 + REGISTER;

inline __m128i bytes(const char* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

// A bit for each byte that is `c`.
inline uint64_t equal(__m128i text, char c) {
  return static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8(c))));
}

// Where elements of an array end: at commas.
class Commas {
 public:
  explicit Commas(const char* end) : end_(end), block_(end) {}

  // The first one at or behind `at`; null where none is in the 64 bytes from there.
  const char* behind(const char* at) {
    const uint64_t past = at - block_;
    uint64_t left = past < BLOCK ? marks_ >> past : 0;
    if (left == 0) {
      if (end_ - at < BLOCK) return nullptr;
      block_ = at;
      marks_ = 0;
      for (int64_t i = 0; i < BLOCK; i += REGISTER) marks_ |= equal(bytes(at + i), ',') << i;
      if (marks_ == 0) return nullptr;
      left = marks_;
    }
    return at + __builtin_ctzll(left);
  }

 private:
  const char* end_;
  // Nothing has been looked at yet: all text stands before it.
  const char* block_;
  uint64_t marks_ = 0;
};

// What stands from `at` to `end`, where it is a decimal of at most 15 digits that needs but one
// rounding (Clinger 1990); false for all else, zero included. SEEN bytes can be read at `at`.
inline bool decimal(const char* at, const char* end, double& value) {
  at += *at == ' ';
  const uint64_t negative = *at == '-';
  at += negative;
  const int64_t length = end - at;
  if (length < 3 || length > REGISTER) return false;
  const __m128i text = bytes(at);
  const uint64_t points = equal(text, '.');
  const int64_t point = points == 0 ? 0 : __builtin_ctzll(points);
  const bool zeros = (*at == '0') & (point > 1);
  if (zeros | (point == 0) | (point >= length - 1)) return false;

  // To the end of the register, without the point: a digit behind it moves by the length alone, one
  // before it by one more; what comes from before the first is 0.
  const __m128i place = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m128i from = _mm_add_epi8(place, _mm_set1_epi8(static_cast<char>(length - REGISTER)));
  const __m128i later = _mm_cmpgt_epi8(from, _mm_set1_epi8(static_cast<char>(point)));
  const __m128i moved = _mm_sub_epi8(_mm_sub_epi8(from, _mm_set1_epi8(1)), later);
  const __m128i digits = _mm_shuffle_epi8(_mm_xor_si128(text, _mm_set1_epi8('0')), moved);
  const __m128i nine = _mm_set1_epi8(9);
  if (_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_max_epu8(digits, nine), nine)) != 0xffff) return false;

  // Summed by twos, fours and eights.
  const __m128i twos = _mm_maddubs_epi16(digits, _mm_set1_epi16(0x010a));
  const __m128i fours = _mm_madd_epi16(twos, _mm_set1_epi32(0x00010064));
  const __m128i packed = _mm_packus_epi32(fours, fours);
  const __m128i eights = _mm_madd_epi16(packed, _mm_set1_epi32(0x00012710));
  const auto halves = static_cast<uint64_t>(_mm_cvtsi128_si64(eights));
  const uint64_t all = (halves & 0xffffffffu) * 100000000u + (halves >> 32);
  if (all == 0) return false;
  const double found = static_cast<double>(all) / TENS[length - 1 - point];
  uint64_t bits;
  std::memcpy(&bits, &found, sizeof bits);
  bits |= negative << 63;
  std::memcpy(&value, &bits, sizeof bits);
  return true;
}
#endif

}  // namespace
}  // namespace attention
