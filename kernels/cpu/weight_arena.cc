#include "kernels/cpu/weight_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace treeline::cpu {
namespace {

constexpr size_t kChunk = size_t{64} << 20, kLargePage = size_t{2} << 20, kCacheLine = 64;

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Zeroed pages of the system, which are only taken when they are written to.
std::shared_ptr<std::byte> Map(size_t bytes) {
  // One large page more, so that the first whole one can be found.
  const size_t mapped = bytes + kLargePage;
  void* base =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  const std::shared_ptr<void> owner(base, [mapped](void* memory) { munmap(memory, mapped); });
  const size_t address = reinterpret_cast<size_t>(base);
  std::byte* begin = static_cast<std::byte*>(base) + (RoundUp(address, kLargePage) - address);
  madvise(begin, bytes, MADV_HUGEPAGE);  // Where refused, small pages do.
  return {owner, begin};
}

}  // namespace

std::shared_ptr<std::byte> WeightArena::Allocate(size_t bytes) {
  bytes = RoundUp(bytes, kCacheLine);
  if (chunk_ == nullptr || bytes > size_ - used_) {
    const size_t size = RoundUp(std::max(bytes, kChunk), kLargePage);
    chunk_ = Map(size);
    size_ = size;
    used_ = 0;
  }
  std::byte* begin = chunk_.get() + used_;
  used_ += bytes;
  return {chunk_, begin};
}

}  // namespace treeline::cpu
