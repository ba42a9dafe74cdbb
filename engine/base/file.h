// Reading files, whole or mapped.
#ifndef TREELINE_ENGINE_BASE_FILE_H_
#define TREELINE_ENGINE_BASE_FILE_H_

#include <cstddef>
#include <span>
#include <string>

#include "engine/base/status.h"

namespace treeline {

bool FileExists(const std::string& path);

// What ReadFile takes at most: many times any configuration or vocabulary.
inline constexpr size_t kMaxReadBytes = size_t{512} << 20;

// The whole file. NOT_FOUND where it does not exist, INVALID_ARGUMENT where it is larger than
// kMaxReadBytes, INTERNAL where reading fails.
StatusOr<std::string> ReadFile(const std::string& path);

// A read-only mapping of a whole file; the pages come from disk as they are touched.
// Move-only; unmapped on destruction. Safe to read from any thread.
class MappedFile {
 public:
  // NOT_FOUND, or INTERNAL where mapping fails. An empty file maps to no bytes.
  static StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_BASE_FILE_H_
