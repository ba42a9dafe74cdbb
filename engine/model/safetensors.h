// Reading safetensors files: one file, or a folder's shards through
// model.safetensors.index.json. Files are mapped; tensors are views into them, valid while the
// SafetensorsFile or SafetensorsFolder lives, moved or not.
#ifndef TREELINE_ENGINE_MODEL_SAFETENSORS_H_
#define TREELINE_ENGINE_MODEL_SAFETENSORS_H_

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/file.h"
#include "engine/base/status.h"
#include "engine/model/tensor.h"

namespace treeline {

// Parses the header of one file's bytes and checks it whole: header length within the file
// and at most 100 MB, known types, sizes that match shape and type, no duplicate names, and
// tensors that cover the data without overlap or hole. INVALID_ARGUMENT naming `file` and the
// tensor.
StatusOr<std::map<std::string, TensorView>> ParseSafetensors(std::span<const std::byte> bytes,
                                                             const std::string& file);

// Makes one tensor of each pair "NAME", int8 [rows, ...], and "NAME.scale", F32 [rows]: NAME in
// int8 rows. That is how Treeline's own files hold int8. INVALID_ARGUMENT naming `file` and the
// tensor for scales of another type or shape, and for values that are not finite.
Status JoinRowScales(const std::string& file, std::map<std::string, TensorView>* tensors);

// The tensors of one file, row scales joined. Immutable, move-only; safe from any thread.
class SafetensorsFile {
 public:
  // NOT_FOUND, or INVALID_ARGUMENT for a malformed file.
  static StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  SafetensorsFile(MappedFile file, std::map<std::string, TensorView> tensors);

  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
};

// All tensors of a model folder. Immutable, move-only; safe from any thread.
class SafetensorsFolder {
 public:
  // model.safetensors, or else every shard that model.safetensors.index.json lists. NOT_FOUND
  // naming the missing file; INVALID_ARGUMENT for a malformed one, or where the index and the
  // shards disagree about a tensor.
  static StatusOr<SafetensorsFolder> Open(const std::string& model_dir);

  // Null where there is no tensor of this name.
  const TensorView* Find(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  Status AddShards(const std::string& model_dir, const std::string& index_path);

  std::vector<MappedFile> files_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_MODEL_SAFETENSORS_H_
