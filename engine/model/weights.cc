#include "engine/model/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace treeline {
namespace {

// The smallest type that holds every part as well as the checkpoint does.
WeightType NaturalType(const std::vector<const TensorView*>& parts) {
  const bool all_bf16 = std::all_of(parts.begin(), parts.end(), [](const TensorView* part) {
    return part->type == TensorType::kBF16 || part->type == TensorType::kI8Rows ||
           IsQuantized(part->type);
  });
  return all_bf16 ? WeightType::kBF16 : WeightType::kF32;
}

}  // namespace

WeightReader::WeightReader(const Checkpoint& checkpoint, Backend& backend,
                           std::optional<WeightType> weight_type, LoadProgress progress)
    : checkpoint_(checkpoint),
      backend_(backend),
      weight_type_(weight_type),
      progress_(std::move(progress)),
      bytes_total_(checkpoint.weight_bytes()) {}

StatusOr<const TensorView*> WeightReader::FindWithShape(const std::string& name,
                                                        const std::vector<int64_t>& shape) {
  const TensorView* view = checkpoint_.Find(name);
  const std::string shown = checkpoint_.NameInFile(name);
  if (view == nullptr) {
    return InvalidArgument("the checkpoint has no tensor {}, which its configuration implies",
                           shown);
  }
  if (!HoldsWeights(view->type)) {
    return InvalidArgument("tensor {}: its type is not one of F64, F32, F16, BF16", shown);
  }
  if (view->shape != shape) {
    return InvalidArgument("tensor {}: shape [{}], but the configuration implies [{}]", shown,
                           fmt::join(view->shape, ", "), fmt::join(shape, ", "));
  }
  if (read_.insert(name).second) {
    bytes_done_ += view->stored_bytes();
    if (progress_) progress_(bytes_done_, bytes_total_);
  }
  return view;
}

StatusOr<std::vector<float>> WeightReader::Values(const std::string& name,
                                                  const std::vector<int64_t>& shape) {
  TREELINE_ASSIGN_OR_RETURN(const TensorView* view, FindWithShape(name, shape));
  std::vector<float> values(view->num_elements());
  CopyToFloat(*view, values);
  return values;
}

StatusOr<DeviceVector> WeightReader::Vector(const std::string& name,
                                            const std::vector<int64_t>& shape) {
  TREELINE_ASSIGN_OR_RETURN(std::vector<float> values, Values(name, shape));
  return Upload(values);
}

StatusOr<DeviceVector> WeightReader::Upload(const std::vector<float>& values) {
  DeviceVector vector;
  TREELINE_ASSIGN_OR_RETURN(vector.buffer, backend_.Allocate(values.size() * sizeof(float)));
  backend_.CopyToDevice(vector.buffer.get(), values.data(), values.size() * sizeof(float));
  return vector;
}

StatusOr<DeviceVector> WeightReader::Concatenated(const std::vector<Part>& parts) {
  std::vector<float> all;
  for (const Part& part : parts) {
    TREELINE_ASSIGN_OR_RETURN(const std::vector<float> values, Values(part.name, {part.rows}));
    all.insert(all.end(), values.begin(), values.end());
  }
  return Upload(all);
}

StatusOr<std::unique_ptr<Matrix>> WeightReader::Rows(const std::vector<Part>& parts, int64_t k) {
  return BuildRows(parts, k, weight_type_);
}

StatusOr<std::unique_ptr<Matrix>> WeightReader::VocabularyRows(const Part& part, int64_t k) {
  return BuildRows({part}, k, weight_type_ == WeightType::kInt4 ? WeightType::kInt8 : weight_type_);
}

StatusOr<std::unique_ptr<Matrix>> WeightReader::BuildRows(const std::vector<Part>& parts, int64_t k,
                                                          std::optional<WeightType> type) {
  std::vector<const TensorView*> views;
  int64_t rows = 0;
  for (const Part& part : parts) {
    TREELINE_ASSIGN_OR_RETURN(const TensorView* view, FindWithShape(part.name, {part.rows, k}));
    views.push_back(view);
    rows += part.rows;
  }
  const auto read_row = [&](int32_t row, std::span<float> values) {
    size_t part = 0;
    int64_t row_in_part = row;
    while (row_in_part >= parts[part].rows) row_in_part -= parts[part++].rows;
    CopyRowToFloat(*views[part], row_in_part, values);
  };
  TREELINE_ASSIGN_OR_RETURN(
      std::unique_ptr<Matrix> matrix,
      backend_.CreateMatrix(type.value_or(NaturalType(views)), static_cast<int32_t>(rows),
                            static_cast<int32_t>(k), read_row));
  matrix_bytes_ += matrix->bytes();
  return matrix;
}

std::vector<std::string> WeightReader::Unread() const {
  std::vector<std::string> names;
  for (const auto& [name, view] : checkpoint_.tensors()) {
    if (!read_.contains(name)) names.push_back(name);
  }
  return names;
}

}  // namespace treeline
