// Memory that threads keep from one piece of work to the next.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>

namespace attention {
namespace {

// Buffers a thread uses again and again: fresh ones would be mapped page by page.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void reserve(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      data_ = static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      if (data_ == nullptr) { size_ = 0; throw std::bad_alloc(); }
      size_ = bytes;
    }
    used_ = 0;
  }
  template <class T> T* take(size_t count) {
    T* part = reinterpret_cast<T*>(data_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return part;
  }
  void shrink(size_t keep) {
    if (size_ > keep) { std::free(data_); data_ = nullptr; size_ = 0; }
  }

 private:
  char* data_ = nullptr;
  size_t size_ = 0, used_ = 0;
};

thread_local Scratch scratch;
constexpr size_t KEPT_BYTES = 8u << 20;

}  // namespace
}  // namespace attention
