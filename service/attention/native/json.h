// What is found in JSON text.
#pragma once

#include <cstdint>

namespace attention {

constexpr int64_t MOST_AXES = 4;

// Where an array begins and ends in the text, its extents, and where its numbers begin.
struct Found {
  int64_t start, stop, axes, shape[MOST_AXES], first, count;
};

}  // namespace attention
