#include "engine/model/gguf.h"

#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "engine/model/quantized_blocks.h"
#include "engine/text/utf8.h"

namespace treeline {

static_assert(std::endian::native == std::endian::little, "GGUF is read as little-endian");

enum class Gguf::Type : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr char kAlignmentKey[] = "general.alignment";
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxDimensions = 4;
// Longer than any name or key in use; keeps messages short.
constexpr uint64_t kMaxNameBytes = 256;

// ggml's tensor types: how they are named, and how they are read where they are.
struct TensorTypeId {
  uint32_t id;
  const char* name;
  TensorType type;  // kOther: not read.
};
constexpr TensorTypeId kTensorTypes[] = {
    {0, "F32", TensorType::kF32},        {1, "F16", TensorType::kF16},
    {2, "Q4_0", TensorType::kQ40},       {3, "Q4_1", TensorType::kQ41},
    {6, "Q5_0", TensorType::kQ50},       {7, "Q5_1", TensorType::kQ51},
    {8, "Q8_0", TensorType::kQ80},       {9, "Q8_1", TensorType::kOther},
    {10, "Q2_K", TensorType::kQ2K},      {11, "Q3_K", TensorType::kQ3K},
    {12, "Q4_K", TensorType::kQ4K},      {13, "Q5_K", TensorType::kQ5K},
    {14, "Q6_K", TensorType::kQ6K},      {15, "Q8_K", TensorType::kOther},
    {16, "IQ2_XXS", TensorType::kOther}, {17, "IQ2_XS", TensorType::kOther},
    {18, "IQ3_XXS", TensorType::kOther}, {19, "IQ1_S", TensorType::kOther},
    {20, "IQ4_NL", TensorType::kOther},  {21, "IQ3_S", TensorType::kOther},
    {22, "IQ2_S", TensorType::kOther},   {23, "IQ4_XS", TensorType::kOther},
    {24, "I8", TensorType::kOther},      {25, "I16", TensorType::kOther},
    {26, "I32", TensorType::kOther},     {27, "I64", TensorType::kOther},
    {28, "F64", TensorType::kF64},       {29, "IQ1_M", TensorType::kOther},
    {30, "BF16", TensorType::kBF16},     {34, "TQ1_0", TensorType::kOther},
    {35, "TQ2_0", TensorType::kOther},   {39, "MXFP4", TensorType::kOther},
    {40, "NVFP4", TensorType::kOther},
};

// Weights and bytes of the smallest piece of a tensor.
BlockShape PieceOf(TensorType type) {
  switch (type) {
    case TensorType::kF64:
      return {1, 8};
    case TensorType::kF32:
      return {1, 4};
    case TensorType::kF16:
    case TensorType::kBF16:
      return {1, 2};
    default:
      return BlockShapeOf(type);
  }
}

template <typename T>
T Load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// The next multiple of `alignment`, a power of two; nothing on overflow.
std::optional<uint64_t> AlignUp(uint64_t value, uint64_t alignment) {
  if (__builtin_add_overflow(value, alignment - 1, &value)) return std::nullopt;
  return value & ~(alignment - 1);
}

bool IsUtf8(std::string_view text) { return ValidUtf8Prefix(text) == text.size(); }

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

// Takes values off the front of the file.
class Gguf::Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  uint64_t position() const { return position_; }

  StatusOr<std::span<const std::byte>> Take(uint64_t size, const char* what) {
    if (size > bytes_.size() - position_) {
      return InvalidArgument("{}: truncated: {} at byte {} takes {} bytes, but the file has {}",
                             file_, what, position_, size, bytes_.size());
    }
    const auto taken = bytes_.subspan(position_, size);
    position_ += size;
    return taken;
  }
  template <typename T>
  StatusOr<T> Scalar(const char* what) {
    TREELINE_ASSIGN_OR_RETURN(const auto bytes, Take(sizeof(T), what));
    return Load<T>(bytes.data());
  }
  StatusOr<std::span<const std::byte>> String(const char* what) {
    TREELINE_ASSIGN_OR_RETURN(const uint64_t size, Scalar<uint64_t>(what));
    return Take(size, what);
  }
  // A key, or a tensor's name.
  StatusOr<std::string> Name(const char* what) {
    TREELINE_ASSIGN_OR_RETURN(const auto bytes, String(what));
    if (bytes.empty() || bytes.size() > kMaxNameBytes || !IsUtf8(AsText(bytes))) {
      return InvalidArgument("{}: {} before byte {} is not UTF-8 text of 1 to {} bytes", file_,
                             what, position_, kMaxNameBytes);
    }
    return std::string(AsText(bytes));
  }

 private:
  const std::span<const std::byte> bytes_;
  const std::string& file_;
  uint64_t position_ = 0;
};

struct Gguf::Parser {
  std::span<const std::byte> bytes;
  const std::string& file;
  Cursor cursor;
  Gguf result;

  Status ReadHeader(uint64_t& num_tensors, uint64_t& num_keys) {
    const auto magic = cursor.Scalar<uint32_t>("the header");
    if (!magic.ok() || *magic != kMagic) {
      return InvalidArgument(
          "{}: not a GGUF file; name a .gguf file, or the folder of a Hugging Face model", file);
    }
    TREELINE_ASSIGN_OR_RETURN(const uint32_t version, cursor.Scalar<uint32_t>("the version"));
    if (version != 2 && version != 3) {
      return Unimplemented("{}: GGUF version {}{} is not read; versions 2 and 3 are", file, version,
                           (version & 0xffff) == 0 ? " (or a big-endian file)" : "");
    }
    TREELINE_ASSIGN_OR_RETURN(num_tensors, cursor.Scalar<uint64_t>("the number of tensors"));
    TREELINE_ASSIGN_OR_RETURN(num_keys, cursor.Scalar<uint64_t>("the number of keys"));
    return OkStatus();
  }

  // `count` values of a type.
  StatusOr<std::span<const std::byte>> TakeValues(Type type, uint64_t count) {
    const uint64_t first = cursor.position();
    if (type == Type::kString) {
      // Each takes at least 8 bytes, so the file's end bounds this loop.
      for (uint64_t i = 0; i < count; ++i) {
        TREELINE_RETURN_IF_ERROR(cursor.String("a string").status());
      }
      return bytes.subspan(first, cursor.position() - first);
    }
    uint64_t size = 0;
    if (ScalarBytes(type) == 0 || __builtin_mul_overflow(count, ScalarBytes(type), &size)) {
      return InvalidArgument("values of type {}, {} of them", static_cast<uint32_t>(type), count);
    }
    return cursor.Take(size, "a value");
  }

  StatusOr<Value> ReadValue() {
    Value value;
    TREELINE_ASSIGN_OR_RETURN(const uint32_t type, cursor.Scalar<uint32_t>("a type"));
    value.type = static_cast<Type>(type);
    if (value.type == Type::kString) {
      TREELINE_ASSIGN_OR_RETURN(value.bytes, cursor.String("a string"));
      return value;
    }
    if (value.type == Type::kArray) {
      value.is_array = true;
      TREELINE_ASSIGN_OR_RETURN(const uint32_t element, cursor.Scalar<uint32_t>("a type"));
      value.type = static_cast<Type>(element);
      TREELINE_ASSIGN_OR_RETURN(value.count, cursor.Scalar<uint64_t>("an array's length"));
    }
    TREELINE_ASSIGN_OR_RETURN(value.bytes, TakeValues(value.type, value.count));
    return value;
  }

  Status ReadMetadata(uint64_t num_keys) {
    for (uint64_t i = 0; i < num_keys; ++i) {
      TREELINE_ASSIGN_OR_RETURN(std::string key, cursor.Name("a key"));
      const auto value = ReadValue();
      if (!value.ok()) return Annotate(value.status(), fmt::format("{}: key {}", file, key));
      if (!result.metadata_.emplace(key, *value).second) {
        return InvalidArgument("{}: key {} is there twice", file, key);
      }
    }
    return OkStatus();
  }

  StatusOr<uint64_t> Alignment() {
    if (!result.Has(kAlignmentKey)) return kDefaultAlignment;
    TREELINE_ASSIGN_OR_RETURN(const int64_t alignment, result.Integer(kAlignmentKey));
    if (alignment < 1 || alignment > (1 << 30) || !std::has_single_bit<uint64_t>(alignment)) {
      return InvalidArgument("{}: {} must be a power of two up to 2^30, not {}", file,
                             kAlignmentKey, alignment);
    }
    return static_cast<uint64_t>(alignment);
  }

  // One entry of the table of tensors: everything but the data, which lies `offset` bytes behind
  // the table.
  struct Entry {
    std::string name;
    TensorView view;
    uint64_t offset, size;
  };

  StatusOr<TensorType> ReadTensorType() {
    TREELINE_ASSIGN_OR_RETURN(const uint32_t id, cursor.Scalar<uint32_t>("a tensor's type"));
    const char* name = "unknown";
    for (const TensorTypeId& known : kTensorTypes) {
      if (known.id != id) continue;
      if (known.type != TensorType::kOther) return known.type;
      name = known.name;
    }
    return Unimplemented(
        "its type {} ({}) is not read; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to "
        "Q6_K are: convert the model again, or run llama-quantize --allow-requantize on it",
        id, name);
  }

  Status ReadTensor(Entry& entry) {
    TREELINE_ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Scalar<uint32_t>("dimensions"));
    if (dimensions < 1 || dimensions > kMaxDimensions) {
      return InvalidArgument("{} dimensions; a tensor has 1 to {}", dimensions, kMaxDimensions);
    }
    int64_t elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
      TREELINE_ASSIGN_OR_RETURN(const int64_t size, cursor.Scalar<int64_t>("a dimension"));
      if (size < 1 || __builtin_mul_overflow(elements, size, &elements)) {
        return InvalidArgument("dimension {} of {} is too large or below 1", i, size);
      }
      entry.view.shape.insert(entry.view.shape.begin(), size);
    }
    TREELINE_ASSIGN_OR_RETURN(entry.view.type, ReadTensorType());
    const BlockShape piece = PieceOf(entry.view.type);
    if (entry.view.shape.back() % piece.weights != 0) {
      return InvalidArgument("rows of {} are not whole blocks of {}", entry.view.shape.back(),
                             piece.weights);
    }
    if (__builtin_mul_overflow(static_cast<uint64_t>(elements / piece.weights), piece.bytes,
                               &entry.size)) {
      return InvalidArgument("its shape [{}] is too large", fmt::join(entry.view.shape, ", "));
    }
    TREELINE_ASSIGN_OR_RETURN(entry.offset, cursor.Scalar<uint64_t>("an offset"));
    return OkStatus();
  }

  Status ReadTensors(uint64_t num_tensors) {
    std::vector<Entry> entries;
    for (uint64_t i = 0; i < num_tensors; ++i) {
      Entry entry;
      TREELINE_ASSIGN_OR_RETURN(entry.name, cursor.Name("a tensor's name"));
      const Status read = ReadTensor(entry);
      if (!read.ok()) return Annotate(read, fmt::format("{}: tensor {}", file, entry.name));
      entries.push_back(std::move(entry));
    }
    TREELINE_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment());
    // Each begins at the first aligned byte behind the one before, so none overlap.
    const std::optional<uint64_t> data = AlignUp(cursor.position(), alignment);
    uint64_t next = 0;
    for (Entry& entry : entries) {
      if (entry.offset != next) {
        return InvalidArgument("{}: tensor {} is at offset {} of the data, but {} comes next", file,
                               entry.name, entry.offset, next);
      }
      if (*data > bytes.size() || next > bytes.size() - *data ||
          entry.size > bytes.size() - *data - next) {
        return InvalidArgument("{}: truncated: tensor {} ends behind the file's {} bytes", file,
                               entry.name, bytes.size());
      }
      entry.view.bytes = bytes.subspan(*data + next, entry.size);
      next = *AlignUp(next + entry.size, alignment);
      if (!result.tensors_.emplace(entry.name, std::move(entry.view)).second) {
        return InvalidArgument("{}: tensor {} is there twice", file, entry.name);
      }
    }
    return OkStatus();
  }
};

StatusOr<Gguf> Gguf::Parse(std::span<const std::byte> bytes, const std::string& file) {
  Parser parser{bytes, file, Cursor(bytes, file), Gguf()};
  parser.result.file_ = file;
  uint64_t num_tensors = 0, num_keys = 0;
  TREELINE_RETURN_IF_ERROR(parser.ReadHeader(num_tensors, num_keys));
  TREELINE_RETURN_IF_ERROR(parser.ReadMetadata(num_keys));
  TREELINE_RETURN_IF_ERROR(parser.ReadTensors(num_tensors));
  return std::move(parser.result);
}

uint64_t Gguf::ScalarBytes(Type type) {
  switch (type) {
    case Type::kUint8:
    case Type::kInt8:
    case Type::kBool:
      return 1;
    case Type::kUint16:
    case Type::kInt16:
      return 2;
    case Type::kUint32:
    case Type::kInt32:
    case Type::kFloat32:
      return 4;
    case Type::kUint64:
    case Type::kInt64:
    case Type::kFloat64:
      return 8;
    default:
      return 0;
  }
}

Status Gguf::Wrong(const std::string& key, const char* expected) const {
  return InvalidArgument("{}: key {} must be {}", file_, key, expected);
}

StatusOr<const Gguf::Value*> Gguf::Find(const std::string& key, bool is_array) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return InvalidArgument("{}: key {} is missing", file_, key);
  if (found->second.is_array != is_array) return Wrong(key, is_array ? "an array" : "no array");
  return &found->second;
}

std::optional<int64_t> Gguf::IntegerAt(Type type, const std::byte* bytes) {
  switch (type) {
    case Type::kUint8:
      return Load<uint8_t>(bytes);
    case Type::kInt8:
      return Load<int8_t>(bytes);
    case Type::kUint16:
      return Load<uint16_t>(bytes);
    case Type::kInt16:
      return Load<int16_t>(bytes);
    case Type::kUint32:
      return Load<uint32_t>(bytes);
    case Type::kInt32:
      return Load<int32_t>(bytes);
    case Type::kInt64:
      return Load<int64_t>(bytes);
    case Type::kUint64: {
      const int64_t value = Load<int64_t>(bytes);
      return value < 0 ? std::nullopt : std::optional(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> Gguf::NumberAt(Type type, const std::byte* bytes) {
  if (type == Type::kFloat32) return Load<float>(bytes);
  if (type == Type::kFloat64) return Load<double>(bytes);
  const std::optional<int64_t> integer = IntegerAt(type, bytes);
  return integer.has_value() ? std::optional<double>(*integer) : std::nullopt;
}

StatusOr<int64_t> Gguf::Integer(const std::string& key) const {
  TREELINE_ASSIGN_OR_RETURN(const Value* value, Find(key, /*is_array=*/false));
  const std::optional<int64_t> integer = IntegerAt(value->type, value->bytes.data());
  if (!integer.has_value()) return Wrong(key, "an integer below 2^63");
  return *integer;
}

StatusOr<double> Gguf::Number(const std::string& key) const {
  TREELINE_ASSIGN_OR_RETURN(const Value* value, Find(key, /*is_array=*/false));
  const std::optional<double> number = NumberAt(value->type, value->bytes.data());
  if (!number.has_value()) return Wrong(key, "a number");
  return *number;
}

StatusOr<bool> Gguf::Bool(const std::string& key) const {
  TREELINE_ASSIGN_OR_RETURN(const Value* value, Find(key, /*is_array=*/false));
  if (value->type != Type::kBool) return Wrong(key, "true or false");
  return value->bytes[0] != std::byte{0};
}

StatusOr<std::string> Gguf::String(const std::string& key) const {
  TREELINE_ASSIGN_OR_RETURN(const Value* value, Find(key, /*is_array=*/false));
  if (value->type != Type::kString || !IsUtf8(AsText(value->bytes))) {
    return Wrong(key, "UTF-8 text");
  }
  return std::string(AsText(value->bytes));
}

StatusOr<std::vector<int32_t>> Gguf::Integers(const std::string& key) const {
  TREELINE_ASSIGN_OR_RETURN(const Value* value, Find(key, /*is_array=*/true));
  const uint64_t size = ScalarBytes(value->type);
  std::vector<int32_t> integers;
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto integer = IntegerAt(value->type, value->bytes.data() + i * size);
    if (!integer.has_value() || *integer != static_cast<int32_t>(*integer)) {
      return Wrong(key, "an array of 32-bit integers");
    }
    integers.push_back(static_cast<int32_t>(*integer));
  }
  return integers;
}

StatusOr<std::vector<float>> Gguf::Numbers(const std::string& key) const {
  TREELINE_ASSIGN_OR_RETURN(const Value* value, Find(key, /*is_array=*/true));
  const uint64_t size = ScalarBytes(value->type);
  std::vector<float> numbers;
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto number = NumberAt(value->type, value->bytes.data() + i * size);
    if (!number.has_value()) return Wrong(key, "an array of numbers");
    numbers.push_back(static_cast<float>(*number));
  }
  return numbers;
}

StatusOr<std::vector<std::string>> Gguf::Strings(const std::string& key) const {
  TREELINE_ASSIGN_OR_RETURN(const Value* value, Find(key, /*is_array=*/true));
  if (value->type != Type::kString) return Wrong(key, "an array of strings");
  std::vector<std::string> strings;
  Cursor cursor(value->bytes, file_);
  for (uint64_t i = 0; i < value->count; ++i) {
    TREELINE_ASSIGN_OR_RETURN(const auto bytes, cursor.String("a string"));
    if (!IsUtf8(AsText(bytes))) return Wrong(key, "an array of UTF-8 texts");
    strings.emplace_back(AsText(bytes));
  }
  return strings;
}

}  // namespace treeline
