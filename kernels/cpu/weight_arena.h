// Memory for weights on large pages: a decoded token reads all of it, and with small
// pages the translation of addresses takes a part of the memory's bandwidth.
#ifndef TREELINE_KERNELS_CPU_WEIGHT_ARENA_H_
#define TREELINE_KERNELS_CPU_WEIGHT_ARENA_H_

#include <cstddef>
#include <memory>

namespace treeline::cpu {

// One thread at a time. What it handed out outlives it.
class WeightArena {
 public:
  // `bytes` zeros, aligned to cache lines; freed with the last piece of the chunk they lie in.
  // Throws std::bad_alloc.
  std::shared_ptr<std::byte> Allocate(size_t bytes);

 private:
  std::shared_ptr<std::byte> chunk_;
  size_t used_ = 0, size_ = 0;
};

}  // namespace treeline::cpu

#endif  // TREELINE_KERNELS_CPU_WEIGHT_ARENA_H_
