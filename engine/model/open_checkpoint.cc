// Checkpoint::Open: the one place that knows every kind of checkpoint.
#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/model/adapter.h"
#include "engine/model/checkpoint.h"
#include "engine/model/gguf_checkpoint.h"
#include "engine/model/safetensors.h"

namespace treeline {
namespace {

class FolderCheckpoint : public Checkpoint {
 public:
  FolderCheckpoint(std::string path, ModelConfig config, SafetensorsFolder weights)
      : Checkpoint(std::move(path), std::move(config), weights.tensors()),
        weights_(std::move(weights)) {}

  std::vector<std::string> folders() const override { return {path()}; }
  StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    return Tokenizer::Load(path());
  }
  StatusOr<ChatTemplate> LoadChatTemplate() const override { return ChatTemplate::Load(path()); }

 private:
  const SafetensorsFolder weights_;  // Owns the files that the tensors lie in.
};

StatusOr<std::unique_ptr<Checkpoint>> OpenModel(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) return OpenGgufCheckpoint(path);
  TREELINE_ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::Load(path));
  TREELINE_ASSIGN_OR_RETURN(SafetensorsFolder weights, SafetensorsFolder::Open(path));
  return std::make_unique<FolderCheckpoint>(path, std::move(config), std::move(weights));
}

}  // namespace

StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  if (!IsAdapterFolder(path)) return OpenModel(path);
  TREELINE_ASSIGN_OR_RETURN(const std::string base_path, FindBaseModel(path));
  TREELINE_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> base, OpenModel(base_path));
  return ApplyAdapter(std::move(base), path);
}

}  // namespace treeline
