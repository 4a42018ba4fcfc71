// Regular arrays of numbers inside JSON text (RFC 8259), read into float64 without an object for
// each number; whatever is not such an array is left for a parser of everything.
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>

namespace {

constexpr int64_t MOST_AXES = 4;

// Where an array begins and ends in the text, its extents, and where its numbers begin.
struct Found {
  int64_t start, stop, axes, shape[MOST_AXES], first, count;
};

struct Text {
  const char* at;
  const char* end;

  void blank() {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')) ++at;
  }
  bool is(char c) const { return at < end && *at == c; }
};

bool digit(const char* at, const char* end) { return at < end && *at >= '0' && *at <= '9'; }

// One number by JSON's grammar; false for anything else, and where it leaves float64.
bool number(Text& text, double& value) {
  const char* at = text.at;
  if (at < text.end && *at == '-') ++at;
  if (!digit(at, text.end)) return false;
  bool whole = true;
  if (*at == '0') ++at;
  else while (digit(at, text.end)) ++at;
  if (at < text.end && *at == '.') {
    whole = false;
    if (!digit(++at, text.end)) return false;
    while (digit(at, text.end)) ++at;
  }
  if (at < text.end && (*at == 'e' || *at == 'E')) {
    whole = false;
    ++at;
    if (at < text.end && (*at == '+' || *at == '-')) ++at;
    if (!digit(at, text.end)) return false;
    while (digit(at, text.end)) ++at;
  }
  const auto read = std::from_chars(text.at, at, value);
  if (read.ec != std::errc() || read.ptr != at || !std::isfinite(value)) return false;
  // An integer has no negative zero.
  if (whole && value == 0) value = 0;
  text.at = at;
  return true;
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

  Found& found_;
  double* numbers_;
  const int64_t room_;
};

}  // namespace

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

// Finds the arrays of at least `least` numbers, the first `most` of them; how many. What is no
// string, no such array and no text at all is skipped byte by byte: nothing is validated here.
EXPORTED int64_t json_arrays(const char* body, int64_t size, int64_t least, Found* found,
                             int64_t most, double* numbers, int64_t room) {
  Text text{body, body + size};
  int64_t arrays = 0, used = 0;
  while (text.at < text.end && arrays < most) {
    if (*text.at == '"') {
      for (++text.at; text.at < text.end && *text.at != '"'; ++text.at)
        if (*text.at == '\\') ++text.at;
      ++text.at;
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
}
