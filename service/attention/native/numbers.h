// Regular arrays of numbers inside JSON text (RFC 8259), read into float64 without an object for
// each number; whatever is not such an array is left for a parser of everything.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>

#include "decimals.h"
#include "json.h"

namespace attention {
namespace {

struct Text {
  const char* at;
  const char* end;

  void blank() {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) ++at;
  }
  bool is(char c) const { return at < end && *at == c; }
};

bool digit(const char* at, const char* end) { return at < end && *at >= '0' && *at <= '9'; }

constexpr int64_t EXACT_TEN = 22;
constexpr uint64_t EXACT_DIGITS = uint64_t{1} << 53;
// More digits may leave 64 bits.
constexpr int64_t MOST_DIGITS = 18;

// The digits that follow, appended to `digits`; how many.
int64_t append(const char*& at, const char* end, uint64_t& digits) {
  const char* begin = at;
  for (; digit(at, end); ++at) digits = 10 * digits + static_cast<uint64_t>(*at - '0');
  return at - begin;
}

// One number by JSON's grammar; false for anything else, and where it leaves float64.
//
// Digits and a power of ten that are both exact in float64 need one rounding, that of their product
// or quotient (Clinger 1990): half the time of reading the text again. The rest is read again.
bool number(Text& text, double& value) {
  const char* at = text.at;
  const bool negative = at < text.end && *at == '-';
  if (negative) ++at;
  if (!digit(at, text.end)) return false;
  bool whole = true;
  uint64_t digits = 0;
  int64_t count = 1, power = 0;
  if (*at == '0') ++at;
  else count = append(at, text.end, digits);
  if (at < text.end && *at == '.') {
    whole = false;
    const int64_t behind = append(++at, text.end, digits);
    if (behind == 0) return false;
    count += behind;
    power = -behind;
  }
  if (at < text.end && (*at == 'e' || *at == 'E')) {
    whole = false;
    ++at;
    const bool below = at < text.end && *at == '-';
    if (at < text.end && (*at == '+' || *at == '-')) ++at;
    uint64_t exponent = 0;
    const int64_t length = append(at, text.end, exponent);
    if (length == 0) return false;
    if (length > 3) count = MOST_DIGITS + 1;
    else power += below ? -static_cast<int64_t>(exponent) : static_cast<int64_t>(exponent);
  }
  if (count <= MOST_DIGITS && digits != 0 && digits <= EXACT_DIGITS && power >= -EXACT_TEN &&
      power <= EXACT_TEN) {
    const auto exact = static_cast<double>(digits);
    value = power < 0 ? exact / TENS[-power] : exact * TENS[power];
    if (negative) value = -value;
    text.at = at;
    return true;
  }
  const auto read = std::from_chars(text.at, at, value);
  if (read.ec != std::errc() || read.ptr != at || !std::isfinite(value)) return false;
  // An integer has no negative zero.
  if (whole && value == 0) value = 0;
  text.at = at;
  return true;
}

// Behind the string that begins here, or the text's end. Each byte is looked at twice, by vectors: a
// tensor in base64 is one string of megabytes.
const char* behind_string(const char* at, const char* end) {
  ++at;
  while (at < end) {
    const auto* quote = static_cast<const char*>(std::memchr(at, '"', end - at));
    if (quote == nullptr) return end;
    while (at < quote) {
      const auto* slash = static_cast<const char*>(std::memchr(at, '\\', quote - at));
      if (slash == nullptr) return quote + 1;
      at = slash + 2;
    }
    // Beyond the quote, that one is escaped.
    if (at == quote) return quote + 1;
  }
  return end;
}

class Array {
 public:
  Array(Found& found, double* numbers, int64_t room)
      : found_(found), numbers_(numbers), room_(room) {}

  // The array at the text's place; false where it is not regular, or not of numbers alone.
  bool read(Text& text) {
    found_.axes = 0;
    found_.count = 0;
    for (int64_t& extent : found_.shape) extent = -1;
    return level(text, 0) && found_.axes > 0;
  }

 private:
  bool level(Text& text, int64_t depth) {
    if (depth == MOST_AXES) return false;
    ++text.at;
    text.blank();
    int64_t length = 0;
    const bool nested = text.is('[');
    if (!nested) {
      if (found_.axes == 0) found_.axes = depth + 1;
      if (found_.axes != depth + 1) return false;
    } else if (found_.axes != 0 && found_.axes <= depth + 1) {
      return false;
    }
    while (true) {
      if (!nested) length += decimals(text);
      if (nested) {
        if (!text.is('[') || !level(text, depth + 1)) return false;
      } else if (found_.count == room_ || !number(text, numbers_[found_.count])) {
        return false;
      } else {
        ++found_.count;
      }
      ++length;
      text.blank();
      if (text.is(']')) break;
      if (!text.is(',')) return false;
      ++text.at;
      text.blank();
    }
    ++text.at;
    if (found_.shape[depth] == -1) found_.shape[depth] = length;
    return found_.shape[depth] == length;
  }

  // Decimals with a comma behind each, as many as are read quickly; how many. The last of an array
  // is left for `number`, so that whatever ends one is looked at in one place.
  int64_t decimals([[maybe_unused]] Text& text) {
    int64_t read = 0;
#if defined(__SSE4_1__)
    const char* at = text.at;
    Commas commas(text.end);
    double* next = numbers_ + found_.count;
    for (const int64_t room = room_ - found_.count; read < room; ++read) {
      const char* end = commas.behind(at);
      if (end == nullptr || text.end - at < SEEN || !decimal(at, end, next[read])) break;
      at = end + 1;
    }
    if (read > 0) {
      text.at = at;
      text.blank();
      found_.count += read;
    }
#endif
    return read;
  }

  Found& found_;
  double* numbers_;
  const int64_t room_;
};

}  // namespace

// Finds the arrays of at least `least` numbers, the first `most` of them; how many. What is no
// string, no such array and no text at all is skipped byte by byte: nothing is validated here.
int64_t ARRAYS(const char* body, int64_t size, int64_t least, Found* found, int64_t most,
               double* numbers, int64_t room) {
  Text text{body, body + size};
  int64_t arrays = 0, used = 0;
  while (text.at < text.end && arrays < most) {
    if (*text.at == '"') {
      text.at = behind_string(text.at, text.end);
    } else if (*text.at == '[') {
      Text ahead = text;
      Found& next = found[arrays];
      const bool read = Array(next, numbers + used, room - used).read(ahead);
      if (read && next.count >= least) {
        next.start = text.at - body;
        next.stop = ahead.at - body;
        next.first = used;
        used += next.count;
        ++arrays;
      }
      if (read) text = ahead;
      else ++text.at;
    } else {
      ++text.at;
    }
  }
  return arrays;
}

}  // namespace attention
