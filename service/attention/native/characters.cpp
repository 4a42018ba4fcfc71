// What a JSON text is made of, counted before anything of it is read.
#include <cstdint>
#include <cstring>

namespace {

typedef uint8_t Bytes __attribute__((vector_size(16)));
constexpr int64_t WIDTH = sizeof(Bytes);
// So many marks of one byte can be added before they leave it.
constexpr int64_t MOST = 255;

struct Counts {
  int64_t values, others;
};

// All bits of each byte that separates or opens a value.
Bytes separators(Bytes text) { return (Bytes)((text == ',') | (text == '[') | (text == '{')); }

// All bits of each byte above the digits, brackets among them, and of quotation marks.
Bytes letters(Bytes text) { return (Bytes)((text > '9') | (text == '"')); }

int64_t sum(Bytes marks) {
  int64_t total = 0;
  for (int64_t i = 0; i < WIDTH; ++i) total += marks[i];
  return total;
}

}  // namespace

extern "C" {

// Of a body: values but one (separators), and characters beside numbers, commas and blanks.
__attribute__((visibility("default"))) void attention_characters(const char* body, int64_t size,
                                                                 Counts* found) {
  *found = {};
  while (size >= WIDTH) {
    const int64_t blocks = size / WIDTH < MOST ? size / WIDTH : MOST;
    Bytes values{}, others{};
    for (int64_t i = 0; i < blocks; ++i) {
      Bytes text;
      std::memcpy(&text, body + WIDTH * i, WIDTH);
      values -= separators(text);
      others -= letters(text);
    }
    found->values += sum(values);
    found->others += sum(others);
    body += WIDTH * blocks;
    size -= WIDTH * blocks;
  }
  // Zeros behind the end are neither.
  Bytes rest{};
  std::memcpy(&rest, body, size);
  found->values += sum(-separators(rest));
  found->others += sum(-letters(rest));
}
}
