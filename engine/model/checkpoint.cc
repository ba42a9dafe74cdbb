#include "engine/model/checkpoint.h"

#include <utility>

namespace treeline {

Checkpoint::Checkpoint(std::string path, ModelConfig config,
                       std::map<std::string, TensorView> tensors)
    : path_(std::move(path)), config_(std::move(config)), tensors_(std::move(tensors)) {}

const TensorView* Checkpoint::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

int64_t Checkpoint::weight_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, view] : tensors_) bytes += view.stored_bytes();
  return bytes;
}

}  // namespace treeline
