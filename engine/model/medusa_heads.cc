#include "engine/model/medusa_heads.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "engine/model/safetensors.h"
#include "engine/model/tensor.h"

namespace treeline {
namespace {

// Public files have up to 5; more are a mistake.
constexpr int32_t kMaxHeads = 16;

using Tensors = std::map<std::string, TensorView>;

StatusOr<const TensorView*> Find(const std::string& file, const Tensors& tensors,
                                 const std::string& name, const std::vector<int64_t>& shape) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return InvalidArgument("{}: tensor {} is missing", file, name);
  const TensorView& view = found->second;
  if (view.shape != shape || !HoldsWeights(view.type)) {
    return InvalidArgument("{}: tensor {}: shape [{}]; the model needs [{}] of F64, F32, F16, BF16",
                           file, name, fmt::join(view.shape, ", "), fmt::join(shape, ", "));
  }
  return &view;
}

constexpr char kPairs[] = "pairs.";
constexpr char kPairStarts[] = "pairs.starts";
constexpr char kPairSeconds[] = "pairs.seconds";
constexpr char kPairScores[] = "pairs.scores";

// Null, or a tensor of one dimension.
const TensorView* FindList(const Tensors& tensors, const char* name) {
  const auto found = tensors.find(name);
  return found == tensors.end() || found->second.shape.size() != 1 ? nullptr : &found->second;
}

StatusOr<std::vector<int32_t>> Integers(const std::string& file, const Tensors& tensors,
                                        const char* name) {
  const TensorView* view = FindList(tensors, name);
  if (view == nullptr || view->type != TensorType::kOther ||
      view->bytes.size() != size_t(view->num_elements()) * sizeof(int32_t)) {
    return InvalidArgument("{}: tensor {} is not a list of 32-bit integers", file, name);
  }
  std::vector<int32_t> values(view->num_elements());
  if (!values.empty()) std::memcpy(values.data(), view->bytes.data(), view->bytes.size());
  return values;
}

std::string WeightName(int32_t head) { return fmt::format("{}.0.linear.weight", head); }
std::string BiasName(int32_t head) { return fmt::format("{}.0.linear.bias", head); }
// Of heads that see the token drawn.
std::string OwnWeightName(int32_t head) { return fmt::format("{}.0.res_connection.weight", head); }
std::string OwnBiasName(int32_t head) { return fmt::format("{}.0.res_connection.bias", head); }
std::string OutputName(int32_t head) { return fmt::format("{}.1.weight", head); }

}  // namespace

StatusOr<std::unique_ptr<MedusaHeads>> MedusaHeads::Load(const std::string& file, int32_t hidden,
                                                         int32_t vocab,
                                                         std::optional<WeightType> weight_type,
                                                         Backend& backend) {
  TREELINE_ASSIGN_OR_RETURN(const SafetensorsFile heads_file, SafetensorsFile::Open(file));
  const Tensors& tensors = heads_file.tensors();
  int32_t size = 0;
  while (size <= kMaxHeads && tensors.contains(WeightName(size))) ++size;
  const bool has_outputs = tensors.contains(OutputName(0));
  const bool see_drawn_token = tensors.contains(OwnWeightName(0));
  const size_t expected = size_t(size) * (2 + (see_drawn_token ? 2 : 0) + (has_outputs ? 1 : 0));
  const size_t found = std::count_if(tensors.begin(), tensors.end(), [](const auto& tensor) {
    return !tensor.first.starts_with(kPairs);
  });
  if (size == 0 || size > kMaxHeads || found != expected) {
    return InvalidArgument(
        "{}: {} tensors; 1 to {} Medusa heads of one layer have 0.0.linear.weight, 0.0.linear.bias "
        "and either all or none 0.1.weight and 0.0.res_connection.weight and .bias, and so on",
        file, found, kMaxHeads);
  }

  // All heads' W, then all heads' A.
  const int64_t inputs = see_drawn_token ? 2 * hidden : hidden;
  std::vector<const TensorView*> weights;
  std::vector<float> biases;
  for (int32_t part = 0; part < (see_drawn_token ? 2 : 1); ++part) {
    for (int32_t head = 0; head < size; ++head) {
      const std::string weight_name = part == 0 ? WeightName(head) : OwnWeightName(head);
      const std::string bias_name = part == 0 ? BiasName(head) : OwnBiasName(head);
      TREELINE_ASSIGN_OR_RETURN(const TensorView* weight,
                                Find(file, tensors, weight_name, {hidden, inputs}));
      weights.push_back(weight);
      TREELINE_ASSIGN_OR_RETURN(const TensorView* bias, Find(file, tensors, bias_name, {hidden}));
      biases.resize(biases.size() + hidden);
      CopyToFloat(*bias, std::span(biases).last(hidden));
    }
  }

  // Held as the model is; four bits would save little and cost guesses.
  WeightType type = weight_type.value_or(WeightType::kBF16);
  if (type == WeightType::kInt4) type = WeightType::kInt8;
  std::unique_ptr<MedusaHeads> heads(new MedusaHeads(size, hidden, vocab, backend));
  // The columns from `first` on.
  const auto columns = [&](int64_t first) {
    return backend.CreateMatrix(type, static_cast<int32_t>(biases.size()), hidden,
                                [&, first](int32_t row, std::span<float> values) {
                                  std::vector<float> whole(inputs);
                                  CopyRowToFloat(*weights[row / hidden], row % hidden, whole);
                                  std::copy_n(whole.begin() + first, hidden, values.begin());
                                });
  };
  TREELINE_ASSIGN_OR_RETURN(heads->blocks_, columns(0));
  heads->weight_bytes_ = heads->blocks_->bytes();
  if (see_drawn_token) {
    TREELINE_ASSIGN_OR_RETURN(heads->token_blocks_, columns(hidden));
    heads->weight_bytes_ += heads->token_blocks_->bytes();
  }
  TREELINE_ASSIGN_OR_RETURN(heads->biases_.buffer, backend.Allocate(biases.size() * sizeof(float)));
  backend.CopyToDevice(heads->biases_.buffer.get(), biases.data(), biases.size() * sizeof(float));
  for (int32_t head = 0; has_outputs && head < size; ++head) {
    TREELINE_ASSIGN_OR_RETURN(const TensorView* output,
                              Find(file, tensors, OutputName(head), {vocab, hidden}));
    TREELINE_ASSIGN_OR_RETURN(
        std::unique_ptr<Matrix> matrix,
        backend.CreateMatrix(type, vocab, hidden, [&](int32_t row, std::span<float> values) {
          CopyRowToFloat(*output, row, values);
        }));
    heads->weight_bytes_ += matrix->bytes();
    heads->outputs_.push_back(std::move(matrix));
  }
  TREELINE_RETURN_IF_ERROR(backend.Synchronize());
  return heads;
}

void MedusaHeads::Run(const float* hidden, std::span<const int32_t> drawn, const Matrix& embedding,
                      const Matrix& output, float* scratch, float* logits) const {
  const auto rows = static_cast<int32_t>(drawn.size());
  const int64_t states_size = int64_t{rows} * size_ * hidden_;
  float* states = scratch;               // [size, rows, hidden]
  float* gates = scratch + states_size;  // [rows, size, hidden], or [rows, 2, size, hidden]
  backend_.MatMul({hidden, gates, rows, false}, *blocks_);
  if (see_drawn_token()) {
    float* embedded = gates + 2 * states_size;  // [rows, hidden]
    backend_.Embed(embedding, drawn, embedded);
    backend_.MatMul({embedded, gates, rows, /*accumulate=*/true}, *token_blocks_);
  }
  backend_.ResidualSilu(
      {see_drawn_token() ? nullptr : hidden, gates, biases_.data(), states, rows, size_, hidden_});
  if (outputs_.empty()) {
    backend_.MatMul({states, logits, size_ * rows, false}, output);
    return;
  }
  for (int32_t head = 0; head < size_; ++head) {
    const int64_t first_row = int64_t{head} * rows;
    backend_.MatMul({states + first_row * hidden_, logits + first_row * vocab_, rows, false},
                    *outputs_[head]);
  }
}

StatusOr<std::optional<TokenPairs>> LoadTokenPairs(const std::string& file, int32_t vocab) {
  TREELINE_ASSIGN_OR_RETURN(const SafetensorsFile heads_file, SafetensorsFile::Open(file));
  const Tensors& tensors = heads_file.tensors();
  const auto first = tensors.lower_bound(kPairs);
  if (first == tensors.end() || !first->first.starts_with(kPairs)) return std::nullopt;
  TREELINE_ASSIGN_OR_RETURN(std::vector<int32_t> starts, Integers(file, tensors, kPairStarts));
  TREELINE_ASSIGN_OR_RETURN(std::vector<int32_t> seconds, Integers(file, tensors, kPairSeconds));
  const TensorView* view = FindList(tensors, kPairScores);
  if (view == nullptr || !HoldsWeights(view->type)) {
    return InvalidArgument("{}: tensor {} is not a list of F64, F32, F16 or BF16", file,
                           kPairScores);
  }
  if (static_cast<int64_t>(starts.size()) != vocab + 1) {
    return InvalidArgument("{}: tensor {}: {} elements; the model's vocabulary needs {}", file,
                           kPairStarts, starts.size(), vocab + 1);
  }
  std::vector<float> scores(view->num_elements());
  CopyToFloat(*view, scores);
  TREELINE_ASSIGN_OR_RETURN(
      TokenPairs pairs,
      TokenPairs::Create(std::move(starts), std::move(seconds), std::move(scores), file));
  return pairs;
}

}  // namespace treeline
