// Reads a checkpoint's tensors into a backend. A model family asks for each tensor
// by name and shape; what is missing or has another shape is an error that says
// both. Unread() tells what nobody asked for.
#ifndef TREELINE_ENGINE_MODEL_WEIGHTS_H_
#define TREELINE_ENGINE_MODEL_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/model/checkpoint.h"

namespace treeline {

// Called as loading goes on: bytes of the checkpoint read so far, and in all.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

// fp32 values in device memory.
struct DeviceVector {
  Buffer buffer;
  const float* data() const { return static_cast<const float*>(buffer.get()); }
};

class WeightReader {
 public:
  // `weight_type`: how matrices are held; none: as the checkpoint stores them (F16 as fp32, which
  // loses nothing; quantised ones as bf16, whose rounding is small beside what they have lost).
  // All must outlive this.
  WeightReader(const Checkpoint& checkpoint, Backend& backend,
               std::optional<WeightType> weight_type, LoadProgress progress);

  // A tensor of which `rows` rows are expected.
  struct Part {
    std::string name;
    int64_t rows;
  };

  bool Has(const std::string& name) const { return checkpoint_.Find(name) != nullptr; }

  // A tensor's values on the host.
  StatusOr<std::vector<float>> Values(const std::string& name, const std::vector<int64_t>& shape);
  // Values on the device.
  StatusOr<DeviceVector> Vector(const std::string& name, const std::vector<int64_t>& shape);
  StatusOr<DeviceVector> Upload(const std::vector<float>& values);

  // Several vectors on the device, one behind the other; vector i is [rows[i]].
  StatusOr<DeviceVector> Concatenated(const std::vector<Part>& parts);

  // One matrix of the rows of several tensors, one below the other; tensor i is [rows[i], k].
  StatusOr<std::unique_ptr<Matrix>> Rows(const std::vector<Part>& parts, int64_t k);
  // The embedding or the output matrix [rows, k], which is held as int8 where others are int4:
  // four bits there cost more quality than in all layers together.
  StatusOr<std::unique_ptr<Matrix>> VocabularyRows(const Part& part, int64_t k);

  // Tensors that were never asked for, in order of name.
  std::vector<std::string> Unread() const;
  // Bytes of the matrices built so far.
  size_t matrix_bytes() const { return matrix_bytes_; }

 private:
  StatusOr<std::unique_ptr<Matrix>> BuildRows(const std::vector<Part>& parts, int64_t k,
                                              std::optional<WeightType> type);
  StatusOr<const TensorView*> FindWithShape(const std::string& name,
                                            const std::vector<int64_t>& shape);

  const Checkpoint& checkpoint_;
  Backend& backend_;
  const std::optional<WeightType> weight_type_;
  const LoadProgress progress_;
  const int64_t bytes_total_;
  int64_t bytes_done_ = 0;
  size_t matrix_bytes_ = 0;
  std::set<std::string> read_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_WEIGHTS_H_
