#include "engine/model/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "engine/base/json.h"

namespace treeline {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr char kMetadata[] = "__metadata__";
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // The format's own limit.

struct Dtype {
  const char* name;
  TensorType type;
  uint64_t bytes;  // Of one element.
};
constexpr Dtype kDtypes[] = {
    {"F64", TensorType::kF64, 8},       {"F32", TensorType::kF32, 4},
    {"F16", TensorType::kF16, 2},       {"BF16", TensorType::kBF16, 2},
    {"I8", TensorType::kI8, 1},         {"U8", TensorType::kOther, 1},
    {"BOOL", TensorType::kOther, 1},    {"F8_E4M3", TensorType::kOther, 1},
    {"F8_E5M2", TensorType::kOther, 1}, {"F8_E8M0", TensorType::kOther, 1},
    {"I16", TensorType::kOther, 2},     {"U16", TensorType::kOther, 2},
    {"I32", TensorType::kOther, 4},     {"U32", TensorType::kOther, 4},
    {"I64", TensorType::kOther, 8},     {"U64", TensorType::kOther, 8},
    {"C64", TensorType::kOther, 8},
};

const Dtype* FindDtype(const Json& name) {
  const auto* found = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                   [&](const Dtype& dtype) { return name == dtype.name; });
  return found == std::end(kDtypes) ? nullptr : found;
}

// A list of integers of 0 to 2^63 - 1, or nothing.
std::optional<std::vector<int64_t>> ReadIntegers(const Json& json) {
  if (!json.is_array()) return std::nullopt;
  std::vector<int64_t> integers;
  integers.reserve(json.size());
  for (const Json& element : json) {
    // Smaller ones than 0 parse as signed, larger ones than 2^64 - 1 as floating numbers.
    if (!element.is_number_unsigned()) return std::nullopt;
    const uint64_t value = element.get<uint64_t>();
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    integers.push_back(static_cast<int64_t>(value));
  }
  return integers;
}

// Bytes of a tensor, or nothing where a product on the way exceeds int64.
std::optional<int64_t> ByteSize(const std::vector<int64_t>& shape, const Dtype& dtype) {
  int64_t size = static_cast<int64_t>(dtype.bytes);
  for (const int64_t dimension : shape) {
    if (__builtin_mul_overflow(size, dimension, &size)) return std::nullopt;
  }
  return size;
}

// The JSON text of a header, within its file.
StatusOr<std::string_view> HeaderText(std::span<const std::byte> bytes, const std::string& file) {
  uint64_t length = 0;
  if (bytes.size() < sizeof(length)) {
    return InvalidArgument("{}: not a safetensors file: {} bytes, too short for a header", file,
                           bytes.size());
  }
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return InvalidArgument("{}: not a safetensors file: a header of {} bytes; the limit is {}",
                           file, length, kMaxHeaderBytes);
  }
  if (length > bytes.size() - sizeof(length)) {
    return InvalidArgument("{}: truncated: the header has {} bytes, the whole file {}", file,
                           length, bytes.size());
  }
  return std::string_view(reinterpret_cast<const char*>(bytes.data()) + sizeof(length), length);
}

// Json keeps the last of equal names without a word; so a second pass, which builds nothing,
// looks at the names alone. REQUIRES: text is an object that ParseJson accepts.
Status CheckUniqueNames(std::string_view text, const std::string& file) {
  std::set<std::string> names;
  std::optional<std::string> duplicate;
  const auto note_name = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1 &&
        !names.insert(parsed.get_ref<const std::string&>()).second) {
      duplicate = parsed.get_ref<const std::string&>();
    }
    return false;
  };
  const Json nothing = Json::parse(text.begin(), text.end(), note_name);
  if (duplicate.has_value()) {
    return InvalidArgument("{}: tensor \"{}\" is there twice", file, *duplicate);
  }
  return OkStatus();
}

Status CheckMetadata(const Json& metadata, const std::string& file) {
  const auto is_string = [](const Json& value) { return value.is_string(); };
  if (!metadata.is_object() || !std::all_of(metadata.begin(), metadata.end(), is_string)) {
    return InvalidArgument("{}: {} must be an object of strings", file, kMetadata);
  }
  return OkStatus();
}

StatusOr<TensorView> ReadTensor(const Json& entry, std::span<const std::byte> data) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets")) {
    return InvalidArgument("needs dtype, shape and data_offsets");
  }
  const Dtype* dtype = FindDtype(entry["dtype"]);
  if (dtype == nullptr) return InvalidArgument("unknown dtype");
  const auto shape = ReadIntegers(entry["shape"]);
  if (!shape.has_value()) return InvalidArgument("shape must be a list of integers >= 0");
  const auto offsets = ReadIntegers(entry["data_offsets"]);
  if (!offsets.has_value() || offsets->size() != 2) {
    return InvalidArgument("data_offsets must be two integers >= 0");
  }
  const int64_t begin = (*offsets)[0];
  const int64_t end = (*offsets)[1];
  if (begin > end || static_cast<uint64_t>(end) > data.size()) {
    return InvalidArgument("data_offsets [{}, {}] lie outside the file's {} bytes of data", begin,
                           end, data.size());
  }
  const auto size = ByteSize(*shape, *dtype);
  if (!size.has_value() || *size != end - begin) {
    return InvalidArgument("data_offsets [{}, {}] do not fit {} [{}]", begin, end, dtype->name,
                           fmt::join(*shape, ", "));
  }
  return TensorView{dtype->type, *shape, data.subspan(begin, end - begin)};
}

// The tensors must tile the data: what two tensors share, or none owns, is a damaged file.
Status CheckTiling(const std::map<std::string, TensorView>& tensors,
                   std::span<const std::byte> data, const std::string& file) {
  std::vector<const std::pair<const std::string, TensorView>*> order;
  order.reserve(tensors.size());
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    const auto &x = a->second.bytes, &y = b->second.bytes;
    return std::pair(x.data(), x.size()) < std::pair(y.data(), y.size());
  });
  const std::byte* covered = data.data();
  for (const auto* tensor : order) {
    const std::span<const std::byte> bytes = tensor->second.bytes;
    if (bytes.data() < covered) {
      return InvalidArgument("{}: tensor \"{}\" overlaps another", file, tensor->first);
    }
    if (bytes.data() > covered) {
      return InvalidArgument("{}: {} bytes before tensor \"{}\" belong to no tensor", file,
                             bytes.data() - covered, tensor->first);
    }
    covered += bytes.size();
  }
  const auto rest = data.data() + data.size() - covered;
  if (rest > 0) {
    return InvalidArgument("{}: the last {} bytes belong to no tensor", file, rest);
  }
  return OkStatus();
}

// A shard lies beside its index; anything that could lead elsewhere is refused.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name.find("..") == std::string::npos &&
         name.find_first_of(std::string("/\0", 2)) == std::string::npos;
}

// Tensor name -> shard, as the index says.
StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(const Json index, ParseJsonFile(path));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return InvalidArgument("{}: needs an object weight_map", path);
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return InvalidArgument("{}: weight_map: \"{}\" must name a file beside the index", path,
                             name);
    }
    weight_map[name] = shard.get<std::string>();
  }
  if (weight_map.empty()) return InvalidArgument("{}: weight_map is empty", path);
  return weight_map;
}

struct OpenedFile {
  MappedFile file;
  std::map<std::string, TensorView> tensors;  // Views into `file`.
};

StatusOr<OpenedFile> OpenFile(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  TREELINE_ASSIGN_OR_RETURN(auto tensors, ParseSafetensors(file.bytes(), path));
  return OpenedFile{std::move(file), std::move(tensors)};
}

// Every tensor of a shard must be one that the index puts there.
Status CheckShard(const std::map<std::string, TensorView>& tensors, const std::string& shard,
                  const std::map<std::string, std::string>& weight_map, const std::string& path) {
  for (const auto& [name, view] : tensors) {
    const auto entry = weight_map.find(name);
    if (entry == weight_map.end()) {
      return InvalidArgument("{}: tensor \"{}\" is not in {}", path, name, kIndexFile);
    }
    if (entry->second != shard) {
      return InvalidArgument("{}: tensor \"{}\" is here, but {} puts it into {}", path, name,
                             kIndexFile, entry->second);
    }
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::map<std::string, TensorView>> ParseSafetensors(std::span<const std::byte> bytes,
                                                             const std::string& file) {
  TREELINE_ASSIGN_OR_RETURN(const std::string_view text, HeaderText(bytes, file));
  TREELINE_ASSIGN_OR_RETURN(const Json header, ParseJson(text, file + ": header"));
  if (!header.is_object()) return InvalidArgument("{}: the header must be an object", file);
  TREELINE_RETURN_IF_ERROR(CheckUniqueNames(text, file));

  const std::span<const std::byte> data = bytes.subspan(sizeof(uint64_t) + text.size());
  std::map<std::string, TensorView> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadata) {
      TREELINE_RETURN_IF_ERROR(CheckMetadata(entry, file));
      continue;
    }
    auto tensor = ReadTensor(entry, data);
    if (!tensor.ok()) {
      return Annotate(tensor.status(), fmt::format("{}: tensor \"{}\"", file, name));
    }
    tensors.emplace(name, *std::move(tensor));
  }
  TREELINE_RETURN_IF_ERROR(CheckTiling(tensors, data, file));
  return tensors;
}

Status JoinRowScales(const std::string& file, std::map<std::string, TensorView>* tensors) {
  for (auto& [name, view] : *tensors) {
    if (view.type != TensorType::kI8 || view.shape.empty()) continue;
    const auto scales = tensors->find(name + ".scale");
    if (scales == tensors->end()) continue;
    if (scales->second.type != TensorType::kF32 ||
        scales->second.shape != std::vector<int64_t>{view.shape[0]}) {
      return InvalidArgument("{}: tensor \"{}\": {} rows of int8 need as many F32 values", file,
                             scales->first, view.shape[0]);
    }
    std::vector<float> values(view.shape[0]);
    CopyToFloat(scales->second, values);
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
      return InvalidArgument("{}: tensor \"{}\": a value is not finite", file, scales->first);
    }
    view.type = TensorType::kI8Rows;
    view.row_scales = scales->second.bytes;
    tensors->erase(scales);
  }
  return OkStatus();
}

SafetensorsFile::SafetensorsFile(MappedFile file, std::map<std::string, TensorView> tensors)
    : file_(std::move(file)), tensors_(std::move(tensors)) {}

StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  TREELINE_ASSIGN_OR_RETURN(OpenedFile opened, OpenFile(path));
  TREELINE_RETURN_IF_ERROR(JoinRowScales(path, &opened.tensors));
  return SafetensorsFile(std::move(opened.file), std::move(opened.tensors));
}

StatusOr<SafetensorsFolder> SafetensorsFolder::Open(const std::string& model_dir) {
  const std::string single_path = model_dir + "/" + kSingleFile;
  const std::string index_path = model_dir + "/" + kIndexFile;
  SafetensorsFolder folder;
  if (FileExists(single_path)) {
    TREELINE_ASSIGN_OR_RETURN(OpenedFile opened, OpenFile(single_path));
    folder.files_.push_back(std::move(opened.file));
    folder.tensors_ = std::move(opened.tensors);
    return folder;
  }
  if (!FileExists(index_path)) {
    return NotFound("{}: no {} and no {}; only safetensors weights are read", model_dir,
                    kSingleFile, kIndexFile);
  }
  TREELINE_RETURN_IF_ERROR(folder.AddShards(model_dir, index_path));
  return folder;
}

Status SafetensorsFolder::AddShards(const std::string& model_dir, const std::string& index_path) {
  TREELINE_ASSIGN_OR_RETURN(const auto weight_map, ReadIndex(index_path));
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);
  for (const std::string& shard : shards) {
    const std::string path = model_dir + "/" + shard;
    TREELINE_ASSIGN_OR_RETURN(OpenedFile opened, OpenFile(path));
    TREELINE_RETURN_IF_ERROR(CheckShard(opened.tensors, shard, weight_map, path));
    files_.push_back(std::move(opened.file));
    tensors_.merge(opened.tensors);
  }
  for (const auto& [name, shard] : weight_map) {
    if (Find(name) == nullptr) {
      return InvalidArgument("{}: tensor \"{}\" is not in {}, where the index puts it", index_path,
                             name, shard);
    }
  }
  return OkStatus();
}

const TensorView* SafetensorsFolder::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace treeline
