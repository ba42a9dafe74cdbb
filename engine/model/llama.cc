#include "engine/model/llama.h"

#include "engine/model/attention_weights.h"
#include "engine/model/medusa_heads.h"

namespace treeline {
namespace {

// y = x W^T + bias; without a bias where it is null.
struct Linear {
  std::unique_ptr<Matrix> weight;
  DeviceVector bias;
};

struct LlamaLayer {
  DeviceVector input_norm, post_attention_norm;  // [hidden]
  Linear qkv;                                    // [(heads + 2 kv_heads) * head_dim, hidden]
  Linear o;                                      // [hidden, heads * head_dim]
  Linear gate, up;                               // [intermediate, hidden]
  Linear down;                                   // [hidden, intermediate]
  AttentionWeights attention;
};

// Device memory that grows to the largest step seen.
class Activations {
 public:
  explicit Activations(Backend& backend) : backend_(backend) {}
  StatusOr<float*> Floats(size_t n) {
    if (n > capacity_) {
      TREELINE_ASSIGN_OR_RETURN(buffer_, backend_.Allocate(n * sizeof(float)));
      capacity_ = n;
    }
    return static_cast<float*>(buffer_.get());
  }

 private:
  Backend& backend_;
  Buffer buffer_;
  size_t capacity_ = 0;
};

class Llama : public Model {
 public:
  Llama(const ModelConfig& config, const ModelOptions& options, Backend& backend)
      : config_(config),
        backend_(backend),
        state_type_(options.state_type),
        hidden_(backend),
        normed_(backend),
        qkv_(backend),
        attention_(backend),
        activated_(backend),
        positions_(backend),
        rope_angles_(backend),
        kv_(backend),
        logits_(backend),
        head_states_(backend) {}

  Status Load(const Checkpoint& checkpoint, const ModelOptions& options);

  const StateLayout& state_layout() const override { return layout_; }
  size_t weight_bytes() const override { return weight_bytes_; }

  Status Forward(const ModelStep& step) override;
  StatusOr<const float*> Logits(std::span<const int32_t> rows) override;
  int32_t num_draft_heads() const override { return medusa_heads_ ? medusa_heads_->size() : 0; }
  bool draft_heads_see_drawn_token() const override {
    return medusa_heads_ && medusa_heads_->see_drawn_token();
  }
  StatusOr<const float*> DraftLogits(std::span<const int32_t> rows,
                                     std::span<const int32_t> drawn) override;
  Status Commit(std::span<const AcceptedRows> accepted) override;

 private:
  // Where a step's intermediate results live. Row counts are the step's.
  struct Workspace {
    float* hidden;             // [rows, hidden_size] the residual stream
    float* qkv;                // [rows, q_size + 2 kv_size]
    float* kv;                 // [rows, 2 kv_size] the layer's keys and values for attention
    float* attention;          // [rows, q_size]
    float* activated;          // [rows, intermediate_size]
    const float* rope_angles;  // [rows, head_dim]
  };

  int32_t q_size() const { return config_.num_heads * config_.head_dim; }
  int32_t kv_size() const { return config_.num_kv_heads * config_.head_dim; }
  int32_t qkv_size() const { return q_size() + 2 * kv_size(); }

  StatusOr<LlamaLayer> LoadLayer(int32_t index, int32_t max_context, WeightReader& reader);
  StatusOr<Workspace> Prepare(const ModelStep& step);
  void AttentionBlock(const LlamaLayer& layer, const Workspace& work,
                      std::vector<AttentionTree>& trees, int32_t rows);
  void MlpBlock(const LlamaLayer& layer, const Workspace& work, int32_t rows);
  Normalization NormBy(const DeviceVector& weight) const {
    return {weight.data(), config_.rms_norm_eps};
  }
  // The final norm of `rows` of the last Forward: [rows.size(), hidden_size].
  StatusOr<const float*> LastHidden(std::span<const int32_t> rows);
  const Matrix& output() const { return lm_head_ ? *lm_head_ : *embedding_; }
  void Multiply(const MatMulParams& params, const Linear& linear);

  const ModelConfig config_;
  Backend& backend_;
  const StateType state_type_;
  StateLayout layout_;
  size_t weight_bytes_ = 0;

  std::unique_ptr<Matrix> embedding_;  // [vocab, hidden]
  std::unique_ptr<Matrix> lm_head_;    // [vocab, hidden]; null: the embedding
  DeviceVector final_norm_;            // [hidden]
  DeviceVector inverse_frequencies_;   // [head_dim / 2]
  float rope_scale_ = 1.0f;
  std::vector<LlamaLayer> layers_;
  std::unique_ptr<MedusaHeads> medusa_heads_;  // Or null.

  Activations hidden_, normed_, qkv_, attention_, activated_, positions_, rope_angles_;
  // Keys and values of the last step's rows: [rows, 2 kv_size] of the last layer, or of every layer
  // where the step had draft trees, for Commit.
  Activations kv_;
  int32_t draft_rows_ = 0;  // Rows of the last step; 0 where it had no draft tree.
  Activations logits_, head_states_;
};

// -- Loading.

using Part = WeightReader::Part;

// The layer's products are stacked: `parts` names their tensors without ".weight" and ".bias".
StatusOr<Linear> LoadLinear(const std::vector<Part>& parts, int64_t k, bool has_bias,
                            WeightReader& reader) {
  const auto named = [&](const char* suffix) {
    std::vector<Part> tensors = parts;
    for (Part& part : tensors) part.name += suffix;
    return tensors;
  };
  Linear linear;
  TREELINE_ASSIGN_OR_RETURN(linear.weight, reader.Rows(named(".weight"), k));
  if (has_bias) {
    TREELINE_ASSIGN_OR_RETURN(linear.bias, reader.Concatenated(named(".bias")));
  }
  return linear;
}

// A checkpoint read as another kind than it is would answer nonsense.
Status CheckUnread(const Checkpoint& checkpoint, const WeightReader& reader) {
  for (const std::string& name : reader.Unread()) {
    const std::string shown = checkpoint.NameInFile(name);
    if (name.ends_with(".bias")) {
      return Unimplemented(
          "the checkpoint has tensor {}, which its configuration does not speak of (attention_bias "
          "and mlp_bias of a llama, the query, key and value of a qwen2 have biases)",
          shown);
    }
    for (const char* parameter :
         {"dwconv", "global_factor", "feature_map", "linear_factor", "decay"}) {
      if (name.find(std::string("self_attn.") + parameter) != std::string::npos) {
        return InvalidArgument(
            "the checkpoint has tensor {}, but config.json's linear_attention does not use it; "
            "add or complete the linear_attention block",
            shown);
      }
    }
  }
  return OkStatus();
}

StatusOr<LlamaLayer> Llama::LoadLayer(int32_t index, int32_t max_context, WeightReader& reader) {
  const int64_t hidden = config_.hidden_size, intermediate = config_.intermediate_size;
  const std::string prefix = fmt::format("model.layers.{}.", index);
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  LlamaLayer layer;
  TREELINE_ASSIGN_OR_RETURN(layer.input_norm,
                            reader.Vector(prefix + "input_layernorm.weight", {hidden}));
  TREELINE_ASSIGN_OR_RETURN(layer.post_attention_norm,
                            reader.Vector(prefix + "post_attention_layernorm.weight", {hidden}));
  TREELINE_ASSIGN_OR_RETURN(layer.qkv, LoadLinear({{attention + "q_proj", q_size()},
                                                   {attention + "k_proj", kv_size()},
                                                   {attention + "v_proj", kv_size()}},
                                                  hidden, config_.qkv_bias, reader));
  TREELINE_ASSIGN_OR_RETURN(
      layer.o, LoadLinear({{attention + "o_proj", hidden}}, q_size(), config_.o_bias, reader));
  TREELINE_ASSIGN_OR_RETURN(layer.gate, LoadLinear({{mlp + "gate_proj", intermediate}}, hidden,
                                                   config_.mlp_bias, reader));
  TREELINE_ASSIGN_OR_RETURN(
      layer.up, LoadLinear({{mlp + "up_proj", intermediate}}, hidden, config_.mlp_bias, reader));
  TREELINE_ASSIGN_OR_RETURN(layer.down, LoadLinear({{mlp + "down_proj", hidden}}, intermediate,
                                                   config_.mlp_bias, reader));
  TREELINE_ASSIGN_OR_RETURN(layer.attention, ReadAttentionWeights(config_, index, state_type_,
                                                                  max_context, attention, reader));
  return layer;
}

Status Llama::Load(const Checkpoint& checkpoint, const ModelOptions& options) {
  WeightReader reader(checkpoint, backend_, options.weight_type, options.progress);
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  std::vector<AttentionLayer> shapes;
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    TREELINE_ASSIGN_OR_RETURN(LlamaLayer layer, LoadLayer(i, options.max_context, reader));
    shapes.push_back(layer.attention.layer);
    layers_.push_back(std::move(layer));
  }
  TREELINE_ASSIGN_OR_RETURN(embedding_,
                            reader.VocabularyRows({"model.embed_tokens.weight", vocab}, hidden));
  TREELINE_ASSIGN_OR_RETURN(final_norm_, reader.Vector("model.norm.weight", {hidden}));
  if (!config_.tie_word_embeddings) {
    TREELINE_ASSIGN_OR_RETURN(lm_head_, reader.VocabularyRows({"lm_head.weight", vocab}, hidden));
  }
  TREELINE_RETURN_IF_ERROR(CheckUnread(checkpoint, reader));

  const RopeFrequencies rope =
      ComputeRopeFrequencies(config_.rope, config_.head_dim, options.max_context);
  TREELINE_ASSIGN_OR_RETURN(inverse_frequencies_, reader.Upload(rope.inverse));
  rope_scale_ = rope.scale;
  layout_ = StateLayout(shapes);
  weight_bytes_ = reader.matrix_bytes();
  if (!options.medusa_heads.empty()) {
    TREELINE_ASSIGN_OR_RETURN(medusa_heads_,
                              MedusaHeads::Load(options.medusa_heads, config_.hidden_size,
                                                config_.vocab_size, options.weight_type, backend_));
    weight_bytes_ += medusa_heads_->weight_bytes();
  }
  return backend_.Synchronize();
}

// -- Running.

StatusOr<Llama::Workspace> Llama::Prepare(const ModelStep& step) {
  const size_t rows = step.batch.num_tokens();
  Workspace work;
  TREELINE_ASSIGN_OR_RETURN(work.hidden, hidden_.Floats(rows * config_.hidden_size));
  TREELINE_ASSIGN_OR_RETURN(work.qkv, qkv_.Floats(rows * qkv_size()));
  TREELINE_ASSIGN_OR_RETURN(work.attention, attention_.Floats(rows * q_size()));
  TREELINE_ASSIGN_OR_RETURN(work.activated, activated_.Floats(rows * config_.intermediate_size));
  static_assert(sizeof(int32_t) == sizeof(float));
  TREELINE_ASSIGN_OR_RETURN(float* positions, positions_.Floats(rows));
  backend_.CopyToDevice(positions, step.positions.data(), rows * sizeof(int32_t));
  TREELINE_ASSIGN_OR_RETURN(float* angles, rope_angles_.Floats(rows * config_.head_dim));
  RopeAnglesParams rope;
  rope.positions = reinterpret_cast<const int32_t*>(positions);
  rope.inverse_frequencies = inverse_frequencies_.data();
  rope.angles = angles;
  rope.rows = static_cast<int32_t>(rows);
  rope.head_dim = config_.head_dim;
  rope.scale = rope_scale_;
  backend_.RopeAngles(rope);
  work.rope_angles = angles;
  return work;
}

Status Llama::Forward(const ModelStep& step) {
  const Batch& batch = step.batch;
  const int32_t rows = batch.num_tokens();
  TREELINE_ASSIGN_OR_RETURN(Workspace work, Prepare(step));

  std::vector<AttentionTree> trees(batch.num_sequences());
  bool has_drafts = false;
  for (int32_t i = 0; i < batch.num_sequences(); ++i) {
    trees[i].length = step.lengths[i];
    trees[i].first_row = batch.tree_offsets[i];
    trees[i].num_rows = batch.tree_offsets[i + 1] - batch.tree_offsets[i];
    trees[i].parents = batch.parents.data() + batch.tree_offsets[i];
    trees[i].commit = batch.acceptance[i] == Acceptance::kKnown;
    has_drafts |= !trees[i].commit;
  }
  draft_rows_ = has_drafts ? rows : 0;
  const size_t layer_kv = size_t(rows) * 2 * kv_size();
  TREELINE_ASSIGN_OR_RETURN(work.kv, kv_.Floats(layer_kv * (has_drafts ? config_.num_layers : 1)));

  backend_.Embed(*embedding_, batch.token_ids, work.hidden);
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    for (int32_t t = 0; t < batch.num_sequences(); ++t) {
      trees[t].state = layout_.At(step.slots[t], i);
    }
    AttentionBlock(layers_[i], work, trees, rows);
    if (has_drafts) work.kv += layer_kv;
    MlpBlock(layers_[i], work, rows);
  }
  return backend_.FailureSoFar();
}

void Llama::AttentionBlock(const LlamaLayer& layer, const Workspace& work,
                           std::vector<AttentionTree>& trees, int32_t rows) {
  Multiply({work.hidden, work.qkv, rows, false, NormBy(layer.input_norm)}, layer.qkv);

  RopeQkvParams rope;
  rope.qkv = work.qkv;
  rope.kv = work.kv;
  rope.angles = work.rope_angles;
  rope.rows = rows;
  rope.heads = config_.num_heads;
  rope.kv_heads = config_.num_kv_heads;
  rope.head_dim = config_.head_dim;
  rope.state_type = state_type_;
  backend_.RopeQkv(rope);

  AttentionParams attention;
  attention.layer = &layer.attention.layer;
  attention.q = work.qkv;
  attention.k = work.kv;
  attention.v = work.kv + kv_size();
  attention.out = work.attention;
  attention.q_stride = qkv_size();
  attention.kv_stride = 2 * kv_size();
  attention.trees = trees.data();
  attention.num_trees = static_cast<int32_t>(trees.size());
  backend_.Attention(attention);

  Multiply({work.attention, work.hidden, rows, true}, layer.o);
}

void Llama::MlpBlock(const LlamaLayer& layer, const Workspace& work, int32_t rows) {
  backend_.GatedMatMul({work.hidden, work.activated, rows, layer.gate.bias.data(),
                        layer.up.bias.data(), NormBy(layer.post_attention_norm)},
                       *layer.gate.weight, *layer.up.weight);
  Multiply({work.activated, work.hidden, rows, true}, layer.down);
}

void Llama::Multiply(const MatMulParams& params, const Linear& linear) {
  backend_.MatMul(params, *linear.weight);
  if (linear.bias.data() == nullptr) return;
  backend_.AddBias({params.y, linear.bias.data(), params.rows, linear.weight->n()});
}

StatusOr<const float*> Llama::LastHidden(std::span<const int32_t> rows) {
  const int32_t count = static_cast<int32_t>(rows.size()), hidden = config_.hidden_size;
  // The rows side by side.
  TREELINE_ASSIGN_OR_RETURN(float* normed, normed_.Floats(size_t(count) * hidden));
  TREELINE_ASSIGN_OR_RETURN(const float* x, hidden_.Floats(0));
  // Rows that follow one another, as those of a decode or a tree do, at once.
  for (int32_t i = 0, end; i < count; i = end) {
    for (end = i + 1; end < count && rows[end] == rows[end - 1] + 1;) ++end;
    backend_.RmsNorm({x + int64_t{rows[i]} * hidden, final_norm_.data(),
                      normed + int64_t{i} * hidden, end - i, hidden, config_.rms_norm_eps});
  }
  return normed;
}

StatusOr<const float*> Llama::Logits(std::span<const int32_t> rows) {
  TREELINE_ASSIGN_OR_RETURN(const float* hidden, LastHidden(rows));
  TREELINE_ASSIGN_OR_RETURN(float* logits, logits_.Floats(rows.size() * config_.vocab_size));
  backend_.MatMul({hidden, logits, static_cast<int32_t>(rows.size()), false}, output());
  // A device begins now, whatever is asked of it next.
  TREELINE_RETURN_IF_ERROR(backend_.FailureSoFar());
  return logits;
}

StatusOr<const float*> Llama::DraftLogits(std::span<const int32_t> rows,
                                          std::span<const int32_t> drawn) {
  const int32_t count = static_cast<int32_t>(rows.size());
  TREELINE_ASSIGN_OR_RETURN(const float* hidden, LastHidden(rows));
  TREELINE_ASSIGN_OR_RETURN(float* scratch,
                            head_states_.Floats(medusa_heads_->ScratchFloats(count)));
  TREELINE_ASSIGN_OR_RETURN(
      float* logits, logits_.Floats(size_t(medusa_heads_->size()) * count * config_.vocab_size));
  medusa_heads_->Run(hidden, drawn, *embedding_, output(), scratch, logits);
  return logits;
}

Status Llama::Commit(std::span<const AcceptedRows> accepted) {
  TREELINE_ASSIGN_OR_RETURN(const float* draft_kv, kv_.Floats(0));
  std::vector<CommitTree> trees(config_.num_layers * accepted.size());
  std::vector<CommitParams> layers(config_.num_layers);
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    const std::span<CommitTree> of_layer = std::span(trees).subspan(i * accepted.size());
    for (size_t t = 0; t < accepted.size(); ++t) {
      of_layer[t].state = layout_.At(accepted[t].slot, i);
      of_layer[t].length = accepted[t].length;
      of_layer[t].rows = accepted[t].rows.data();
      of_layer[t].num_rows = static_cast<int32_t>(accepted[t].rows.size());
    }
    CommitParams& params = layers[i];
    params.layer = &layers_[i].attention.layer;
    params.k = draft_kv + int64_t{i} * draft_rows_ * 2 * kv_size();
    params.v = params.k + kv_size();
    params.kv_stride = 2 * kv_size();
    params.trees = of_layer.data();
    params.num_trees = static_cast<int32_t>(accepted.size());
  }
  backend_.Commit(layers);
  // Nothing waits for it here; what runs later fails if it does.
  return backend_.FailureSoFar();
}

}  // namespace

StatusOr<std::unique_ptr<Model>> LoadLlama(const Checkpoint& checkpoint,
                                           const ModelOptions& options, Backend& backend) {
  auto model = std::make_unique<Llama>(checkpoint.config(), options, backend);
  TREELINE_RETURN_IF_ERROR(model->Load(checkpoint, options));
  return model;
}

}  // namespace treeline
