// Reading a GGUF file (versions 2 and 3, little-endian): typed metadata by key, and tensors as
// views into the file. Knows the format, not what a model's keys and tensors mean.
#ifndef TREELINE_ENGINE_MODEL_GGUF_H_
#define TREELINE_ENGINE_MODEL_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/model/tensor.h"

namespace treeline {

// Views into a file's bytes, which must outlive it. Immutable; safe from any thread.
class Gguf {
 public:
  // Checks the file whole: every length lies inside it, types are known, keys and names are
  // unique, and tensors follow each other as GGUF lays them out. Allocates in proportion to what
  // the file holds, never to what it claims. INVALID_ARGUMENT or (for versions and tensor types
  // that are not read) UNIMPLEMENTED, naming `file` and the key or tensor.
  static StatusOr<Gguf> Parse(std::span<const std::byte> bytes, const std::string& file);

  // The name that messages give the file.
  const std::string& file() const { return file_; }
  bool Has(const std::string& key) const { return metadata_.contains(key); }

  // A key's value. INVALID_ARGUMENT naming file and key where it is missing, of another type, or
  // does not fit; integers are of any width, numbers of any width or integers, strings UTF-8.
  StatusOr<int64_t> Integer(const std::string& key) const;
  StatusOr<double> Number(const std::string& key) const;
  StatusOr<bool> Bool(const std::string& key) const;
  StatusOr<std::string> String(const std::string& key) const;
  StatusOr<std::vector<int32_t>> Integers(const std::string& key) const;
  StatusOr<std::vector<float>> Numbers(const std::string& key) const;
  StatusOr<std::vector<std::string>> Strings(const std::string& key) const;

  // By the file's own names. Shapes are row-major (GGUF stores them reversed).
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  // GGUF's ids of value types.
  enum class Type : uint32_t;
  // A scalar's own bytes; a string's; an array's elements, each string behind its length.
  struct Value {
    Type type;
    uint64_t count = 1;  // Elements of an array.
    bool is_array = false;
    std::span<const std::byte> bytes;
  };
  class Cursor;
  struct Parser;

  // The bytes of one number or truth value; 0 for other types.
  static uint64_t ScalarBytes(Type type);
  // One value of any width; nothing for other types, or an integer above int64.
  static std::optional<int64_t> IntegerAt(Type type, const std::byte* bytes);
  static std::optional<double> NumberAt(Type type, const std::byte* bytes);

  // The value of a key, of one kind: scalar or array.
  StatusOr<const Value*> Find(const std::string& key, bool is_array) const;
  Status Wrong(const std::string& key, const char* expected) const;

  std::string file_;
  std::map<std::string, Value> metadata_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_GGUF_H_
