// A model family: turns a forest of tokens into logits on a backend, reading the
// sequences' states and committing what is known to be accepted.
#ifndef TREELINE_ENGINE_MODEL_MODEL_H_
#define TREELINE_ENGINE_MODEL_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/batch.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "engine/state/state_layout.h"

namespace treeline {

// A step as a model sees it.
struct ModelStep {
  const Batch& batch;
  std::vector<int32_t> positions;  // [num_tokens] absolute
  std::vector<void*> slots;        // [num_sequences] the states' memory
  std::vector<int32_t> lengths;    // [num_sequences] tokens committed before the step
};

// Rows of a sequence's draft tree, as indices into the step's batch, in order.
struct AcceptedRows {
  void* slot = nullptr;  // The state's memory,
  int32_t length = 0;    // and the tokens that it holds.
  std::vector<int32_t> rows;
};

// What a method enqueues may still run on the backend when it returns: a failure of it shows in the
// backend's next Synchronize.
class Model {
 public:
  virtual ~Model() = default;

  virtual const StateLayout& state_layout() const = 0;
  // Bytes of the weight matrices as held in memory.
  virtual size_t weight_bytes() const = 0;

  // Runs every layer over the step's rows. Trees whose acceptance is known are committed;
  // draft trees' keys and values are kept until the next Forward.
  virtual Status Forward(const ModelStep& step) = 0;
  // The logits of `rows` of the last Forward, in device memory that the next call reuses:
  // [rows.size(), vocab_size].
  virtual StatusOr<const float*> Logits(std::span<const int32_t> rows) = 0;
  // How many heads guess ahead; 0: the model has none.
  virtual int32_t num_draft_heads() const = 0;
  // Whether they read the tokens drawn where they guess.
  virtual bool draft_heads_see_drawn_token() const = 0;
  // Their logits at `rows` of the last Forward, where these tokens were drawn ([rows.size()]), as
  // Logits: [num_draft_heads(), rows.size(), vocab_size]. REQUIRES: it has heads; tokens of the
  // vocabulary, if they are read.
  virtual StatusOr<const float*> DraftLogits(std::span<const int32_t> rows,
                                             std::span<const int32_t> drawn) = 0;
  // Commits rows of draft trees of the last Forward.
  virtual Status Commit(std::span<const AcceptedRows> accepted) = 0;
};

struct ModelOptions {
  std::optional<WeightType> weight_type;  // None: as stored.
  StateType state_type = StateType::kF32;
  int32_t max_context = 0;   // Rows of a softmax layer's rings.
  std::string medusa_heads;  // Their file (engine/model/medusa_heads.h); empty: none.
  LoadProgress progress;
};

// Builds the family that the configuration's model_type names; the checkpoint may go afterwards.
StatusOr<std::unique_ptr<Model>> LoadModel(const Checkpoint& checkpoint,
                                           const ModelOptions& options, Backend& backend);

// The states' layout, without loading anything.
StateLayout LayoutFor(const ModelConfig& config, StateType state_type, int32_t max_context);

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_MODEL_H_
