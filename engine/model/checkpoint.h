// A model as its author published it: configuration, named tensors, tokenizer and chat template,
// from a Hugging Face folder or a GGUF file, with or without an adapter (adapter.h). Immutable;
// safe from any thread. Weights stay in the mapped files; loading a model copies what it needs.
#ifndef TREELINE_ENGINE_MODEL_CHECKPOINT_H_
#define TREELINE_ENGINE_MODEL_CHECKPOINT_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/model/model_config.h"
#include "engine/model/tensor.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace treeline {

class Checkpoint {
 public:
  // `path`: a model's folder, a GGUF file, or an adapter's folder that names its base. NOT_FOUND
  // naming what is missing; errors of ModelConfig, SafetensorsFolder, Gguf and ApplyAdapter name
  // the file at fault.
  static StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);

  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;
  virtual ~Checkpoint() = default;

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  // Where to look for files that go with the model, the first first: an adapter's folder before its
  // base's; none for a GGUF file, which has all in itself.
  virtual std::vector<std::string> folders() const { return {}; }

  // By Hugging Face's names, whatever the file calls them; views live as long as this.
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  // Null where there is no tensor of this name.
  const TensorView* Find(const std::string& name) const;
  // What the file calls a tensor, for messages.
  virtual std::string NameInFile(const std::string& name) const { return name; }
  // Of all tensors, updates included.
  int64_t weight_bytes() const;

  // NOT_FOUND where there is none; INVALID_ARGUMENT naming the file and the part for what is
  // malformed or not supported.
  virtual StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const = 0;
  virtual StatusOr<ChatTemplate> LoadChatTemplate() const = 0;

 protected:
  Checkpoint(std::string path, ModelConfig config, std::map<std::string, TensorView> tensors);

 private:
  const std::string path_;
  const ModelConfig config_;
  const std::map<std::string, TensorView> tensors_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_CHECKPOINT_H_
