// Memory that kernels reuse from call to call, aligned to cache lines. Grows to what was
// needed most.
#ifndef TREELINE_KERNELS_CPU_ALIGNED_BUFFER_H_
#define TREELINE_KERNELS_CPU_ALIGNED_BUFFER_H_

#include <hwy/aligned_allocator.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace treeline::cpu {

template <class T>
class AlignedBuffer {
 public:
  // At least n values, contents undefined.
  T* Resize(size_t n) {
    if (n > capacity_) {
      data_ = hwy::AllocateAligned<T>(n);
      if (data_ == nullptr) {
        std::fprintf(stderr, "out of memory: %zu bytes for activations\n", n * sizeof(T));
        std::abort();
      }
      capacity_ = n;
    }
    return data_.get();
  }

  T* data() { return data_.get(); }

 private:
  hwy::AlignedFreeUniquePtr<T[]> data_;
  size_t capacity_ = 0;
};

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_ALIGNED_BUFFER_H_
