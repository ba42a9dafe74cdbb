#include "engine/text/sentencepiece_model.h"

#include <bit>
#include <bitset>
#include <cmath>
#include <optional>
#include <unordered_set>

#include "engine/text/tokenizer_json.h"

namespace treeline {
namespace {

// Pieces of text are words at most; the bound keeps what depends on their length cheap.
constexpr size_t kMaxPieceBytes = 512;

Status NotAModel() {
  return InvalidArgument(
      "not a SentencePiece model (a tiktoken vocabulary is not supported; save the model's "
      "tokenizer.json instead)");
}

// Reads the fields of one protocol buffer message, in the order in which they stand.
class MessageReader {
 public:
  struct Field {
    uint32_t number;
    uint64_t value;          // Of a varint, or the bits of a fixed32 or fixed64.
    std::string_view bytes;  // Of what has a length: text, a message.
  };

  explicit MessageReader(std::string_view bytes) : rest_(bytes) {}

  // The next field, or none at the end.
  StatusOr<std::optional<Field>> Next() {
    if (rest_.empty()) return std::nullopt;
    TREELINE_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    Field field{static_cast<uint32_t>(tag >> 3), 0, {}};
    switch (tag & 7) {
      case 0: {
        TREELINE_ASSIGN_OR_RETURN(field.value, Varint());
        return field;
      }
      case 1:
      case 5: {
        const size_t size = (tag & 7) == 1 ? 8 : 4;
        TREELINE_ASSIGN_OR_RETURN(const std::string_view bytes, Take(size));
        for (size_t i = size; i-- > 0;) {
          field.value = field.value << 8 | static_cast<unsigned char>(bytes[i]);
        }
        return field;
      }
      case 2: {
        TREELINE_ASSIGN_OR_RETURN(const uint64_t size, Varint());
        TREELINE_ASSIGN_OR_RETURN(field.bytes, Take(size));
        return field;
      }
      default:
        return NotAModel();
    }
  }

 private:
  StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const unsigned char byte = rest_[0];
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    return NotAModel();
  }

  StatusOr<std::string_view> Take(uint64_t size) {
    if (size > rest_.size()) return NotAModel();
    const std::string_view bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return bytes;
  }

  std::string_view rest_;
};

// Calls take(field) for each field of a message.
template <typename Take>
Status ForEachField(std::string_view message, const Take& take) {
  MessageReader reader(message);
  while (true) {
    TREELINE_ASSIGN_OR_RETURN(const auto field, reader.Next());
    if (!field) return OkStatus();
    TREELINE_RETURN_IF_ERROR(take(*field));
  }
}

StatusOr<SentencePieceModel::Piece> ParsePiece(std::string_view message) {
  SentencePieceModel::Piece piece;
  TREELINE_RETURN_IF_ERROR(ForEachField(message, [&](const MessageReader::Field& field) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3) piece.type = static_cast<TokenType>(field.value);
    return OkStatus();
  }));
  return piece;
}

Status ParseTrainerSpec(std::string_view message, SentencePieceModel* model) {
  return ForEachField(message, [&](const MessageReader::Field& field) {
    const auto id = static_cast<int32_t>(field.value);
    switch (field.number) {
      case 3:
        if (field.value != 1 && field.value != 2) {
          return InvalidArgument(
              "trainer_spec.model_type: {} is not supported (1, unigram, and "
              "2, BPE, are)",
              field.value);
        }
        model->algorithm = static_cast<SentencePieceModel::Algorithm>(field.value);
        break;
      case 24:
        if (field.value != 0) {
          return InvalidArgument("trainer_spec.treat_whitespace_as_suffix: not supported");
        }
        break;
      case 35:
        model->byte_fallback = field.value != 0;
        break;
      case 40:
        model->unknown_id = id;
        break;
      case 41:
        model->bos_id = id;
        break;
      case 42:
        model->eos_id = id;
        break;
    }
    return OkStatus();
  });
}

Status ParseNormalizerSpec(std::string_view message, SentencePieceModel* model) {
  return ForEachField(message, [&](const MessageReader::Field& field) {
    if (field.number == 2) model->character_map = field.bytes;
    if (field.number == 3) model->add_dummy_prefix = field.value != 0;
    if (field.number == 4) model->remove_extra_whitespace = field.value != 0;
    if (field.number == 5) model->escape_whitespace = field.value != 0;
    return OkStatus();
  });
}

Status CheckBytesAreComplete(const SentencePieceModel& model) {
  std::bitset<256> bytes;
  for (const auto& [text, score, type] : model.pieces) {
    if (type == TokenType::kByte) bytes.set(ByteOfPiece(text));
  }
  if (bytes.all()) return OkStatus();
  return InvalidArgument("trainer_spec.byte_fallback: set, but only {} of 256 bytes have a piece",
                         bytes.count());
}

}  // namespace

StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  SentencePieceModel model;
  TREELINE_RETURN_IF_ERROR(ForEachField(bytes, [&](const MessageReader::Field& field) -> Status {
    if (field.number == 1) {
      TREELINE_ASSIGN_OR_RETURN(SentencePieceModel::Piece piece, ParsePiece(field.bytes));
      model.pieces.push_back(std::move(piece));
    }
    if (field.number == 2) return ParseTrainerSpec(field.bytes, &model);
    if (field.number == 3) return ParseNormalizerSpec(field.bytes, &model);
    return OkStatus();
  }));
  if (model.pieces.empty()) return NotAModel();
  TREELINE_RETURN_IF_ERROR(CheckPieces(model, "pieces"));
  if (model.byte_fallback) TREELINE_RETURN_IF_ERROR(CheckBytesAreComplete(model));
  return model;
}

Status CheckPieces(const SentencePieceModel& model, const std::string& where) {
  const auto& pieces = model.pieces;
  if (pieces.size() > kMaxTokenId) {
    return InvalidArgument("{}: {} are more than the limit of {}", where, pieces.size(),
                           kMaxTokenId);
  }
  std::unordered_set<std::string_view> texts;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const auto& [text, score, type] = pieces[id];
    if (text.empty() || text.size() > kMaxPieceBytes) {
      return InvalidArgument("{}[{}]: {} bytes long, must be 1 to {}", where, id, text.size(),
                             kMaxPieceBytes);
    }
    if (!texts.insert(text).second) {
      return InvalidArgument("{}[{}]: '{}' was given before", where, id, text);
    }
    if (!std::isfinite(score)) return InvalidArgument("{}[{}]: the score is not finite", where, id);
    if (type < TokenType::kNormal || type > TokenType::kByte) {
      return InvalidArgument("{}[{}]: {} is no type of token", where, id, static_cast<int>(type));
    }
    if (type == TokenType::kByte && ByteOfPiece(text) < 0) {
      return InvalidArgument("{}[{}]: '{}' spells no byte", where, id, text);
    }
  }
  for (const int32_t id : {model.unknown_id, model.bos_id, model.eos_id}) {
    if (id < -1 || id >= static_cast<int64_t>(pieces.size())) {
      return InvalidArgument("{}: the id {} of a special token is not among the {}", where, id,
                             pieces.size());
    }
  }
  return OkStatus();
}

int ByteOfPiece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int byte = 0;
  for (const char digit : piece.substr(3, 2)) {
    const bool is_decimal = digit >= '0' && digit <= '9';
    if (!is_decimal && (digit < 'A' || digit > 'F')) return -1;
    byte = byte * 16 + (is_decimal ? digit - '0' : digit - 'A' + 10);
  }
  return byte;
}

}  // namespace treeline
