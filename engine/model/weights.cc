#include "engine/model/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace treeline {
namespace {

bool IsFloating(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16 ||
         type == TensorType::kF64;
}

// The smallest type that holds every part without loss.
WeightType NaturalType(const std::vector<const TensorView*>& parts) {
  const bool all_bf16 = std::all_of(parts.begin(), parts.end(), [](const TensorView* part) {
    return part->type == TensorType::kBF16;
  });
  return all_bf16 ? WeightType::kBF16 : WeightType::kF32;
}

// Row `row` of a [rows, k] tensor.
TensorView RowOf(const TensorView& view, int64_t row, int64_t k) {
  const size_t row_bytes = view.bytes.size() / view.shape[0];
  return {view.type, {k}, view.bytes.subspan(row * row_bytes, row_bytes)};
}

}  // namespace

WeightReader::WeightReader(const SafetensorsFolder& tensors, Backend& backend,
                           std::optional<WeightType> weight_type, LoadProgress progress)
    : tensors_(tensors),
      backend_(backend),
      weight_type_(weight_type),
      progress_(std::move(progress)) {
  for (const auto& [name, view] : tensors.tensors()) bytes_total_ += view.bytes.size();
}

StatusOr<const TensorView*> WeightReader::FindWithShape(const std::string& name,
                                                        const std::vector<int64_t>& shape) {
  const TensorView* view = tensors_.Find(name);
  if (view == nullptr) {
    return InvalidArgument("the checkpoint has no tensor {}, which config.json implies", name);
  }
  if (!IsFloating(view->type)) {
    return InvalidArgument("tensor {}: its type is not one of F64, F32, F16, BF16", name);
  }
  if (view->shape != shape) {
    return InvalidArgument("tensor {}: shape [{}], but config.json implies [{}]", name,
                           fmt::join(view->shape, ", "), fmt::join(shape, ", "));
  }
  if (read_.insert(name).second) {
    bytes_done_ += view->bytes.size();
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

StatusOr<std::unique_ptr<Matrix>> WeightReader::Rows(const std::vector<Part>& parts, int64_t k) {
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
    CopyToFloat(RowOf(*views[part], row_in_part, k), values);
  };
  TREELINE_ASSIGN_OR_RETURN(
      std::unique_ptr<Matrix> matrix,
      backend_.CreateMatrix(weight_type_.value_or(NaturalType(views)), static_cast<int32_t>(rows),
                            static_cast<int32_t>(k), read_row));
  matrix_bytes_ += matrix->bytes();
  return matrix;
}

std::vector<std::string> WeightReader::Unread() const {
  std::vector<std::string> names;
  for (const auto& [name, view] : tensors_.tensors()) {
    if (!read_.contains(name)) names.push_back(name);
  }
  return names;
}

}  // namespace treeline
