// Writes GGUF files for tests, sound ones and others, byte by byte as the format's specification
// says.
#ifndef TREELINE_ENGINE_MODEL_GGUF_TEST_FILE_H_
#define TREELINE_ENGINE_MODEL_GGUF_TEST_FILE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace treeline {

class GgufTestFile {
 public:
  // Ids of value types.
  enum Type : uint32_t {
    kUint8 = 0,
    kUint32 = 4,
    kInt32 = 5,
    kFloat32 = 6,
    kBool = 7,
    kString = 8,
    kArray = 9,
    kUint64 = 10,
    kInt64 = 11,
  };

  template <typename T>
  static std::string Raw(T value) {
    std::string bytes(sizeof(value), '\0');
    std::memcpy(bytes.data(), &value, sizeof(value));
    return bytes;
  }
  static std::string Text(const std::string& text) { return Raw<uint64_t>(text.size()) + text; }

  GgufTestFile& Add(const std::string& key, uint32_t type, const std::string& value) {
    ++num_keys_;
    metadata_ += Text(key) + Raw(type) + value;
    return *this;
  }
  GgufTestFile& Add(const std::string& key, uint32_t value) {
    return Add(key, kUint32, Raw(value));
  }
  GgufTestFile& Add(const std::string& key, float value) { return Add(key, kFloat32, Raw(value)); }
  GgufTestFile& Add(const std::string& key, const std::string& value) {
    return Add(key, kString, Text(value));
  }
  GgufTestFile& Add(const std::string& key, const char* value) {
    return Add(key, std::string(value));
  }
  GgufTestFile& Add(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = Raw<uint32_t>(kString) + Raw<uint64_t>(values.size());
    for (const std::string& value : values) bytes += Text(value);
    return Add(key, kArray, bytes);
  }

  // An entry of the table of tensors as it stands, and its data. `shape` in the file's order.
  GgufTestFile& AddTensor(const std::string& name, const std::vector<uint64_t>& shape,
                          uint32_t type, uint64_t offset, const std::string& data) {
    ++num_tensors_;
    table_ += Text(name) + Raw<uint32_t>(shape.size());
    for (const uint64_t size : shape) table_ += Raw(size);
    table_ += Raw(type) + Raw(offset);
    if (!data.empty()) data_.resize(offset);
    data_ += data;
    return *this;
  }
  // A float32 tensor behind those before it, zeros where there are no values; `shape` row-major.
  GgufTestFile& AddTensor(const std::string& name, std::vector<uint64_t> shape,
                          std::vector<float> values = {}) {
    uint64_t elements = 1;
    for (const uint64_t size : shape) elements *= size;
    values.resize(elements);
    std::reverse(shape.begin(), shape.end());
    return AddTensor(name, shape, 0, (data_.size() + 31) / 32 * 32,
                     std::string(reinterpret_cast<const char*>(values.data()), 4 * elements));
  }

  std::string Build(uint32_t version = 3, size_t alignment = 32) const {
    std::string file =
        "GGUF" + Raw(version) + Raw(num_tensors_) + Raw(num_keys_) + metadata_ + table_;
    if (!data_.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

 private:
  uint64_t num_keys_ = 0, num_tensors_ = 0;
  std::string metadata_, table_, data_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_GGUF_TEST_FILE_H_
