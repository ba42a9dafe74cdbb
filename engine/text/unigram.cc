#include "engine/text/unigram.h"

#include <algorithm>
#include <limits>

#include "engine/text/utf8.h"

namespace treeline {
namespace {

// What an unknown character costs beside the worst piece.
constexpr float kUnknownPenalty = 10;

}  // namespace

StatusOr<Unigram> Unigram::FromModel(const SentencePieceModel& model) {
  Unigram unigram;
  unigram.byte_ids_.fill(kNone);
  unigram.min_score_ = std::numeric_limits<float>::max();
  unigram.max_score_ = std::numeric_limits<float>::lowest();
  for (size_t index = 0; index < model.pieces.size(); ++index) {
    const auto& [text, score, type] = model.pieces[index];
    const auto id = static_cast<int32_t>(index);
    unigram.scores_.push_back(score);
    unigram.user_defined_.push_back(type == TokenType::kUserDefined);
    if (type == TokenType::kNormal) {
      unigram.min_score_ = std::min(unigram.min_score_, score);
      unigram.max_score_ = std::max(unigram.max_score_, score);
    }
    if (type == TokenType::kNormal || type == TokenType::kUserDefined) {
      unigram.trie_.Insert(text, id);
    }
    if (type == TokenType::kUnknown) unigram.unknown_id_ = id;
    if (type == TokenType::kByte && model.byte_fallback) unigram.byte_ids_[ByteOfPiece(text)] = id;
  }
  if (unigram.unknown_id_ == kNone) {
    return InvalidArgument("pieces: none is of the type unknown, which unigram models need");
  }
  return unigram;
}

void Unigram::Encode(std::string_view text, Scratch* scratch, std::vector<int32_t>* ids) const {
  auto& best = *scratch;
  best.assign(text.size() + 1, {kNone, 0, 0});
  const auto offer = [&](size_t begin, size_t end, int32_t id, float score) {
    const float total = best[begin].score + score;
    if (best[end].id == kNone || total > best[end].score) {
      best[end] = {id, static_cast<uint32_t>(begin), total};
    }
  };
  for (size_t begin = 0; begin < text.size();) {
    const std::string_view rest = text.substr(begin);
    const size_t character = FirstUtf8Char(rest).length;
    bool is_known = false;
    trie_.ForEachPrefix(rest, [&](size_t length, int32_t id) {
      const float score =
          user_defined_[id] ? static_cast<float>(length) * max_score_ - 0.1f : scores_[id];
      offer(begin, begin + length, id, score);
      is_known = is_known || length == character;
    });
    if (!is_known) offer(begin, begin + character, unknown_id_, min_score_ - kUnknownPenalty);
    begin += character;
  }

  const size_t first = ids->size();
  bool after_unknown = false;  // The piece on the right, which was taken before, is unknown.
  for (size_t end = text.size(); end > 0; end = best[end].begin) {
    const auto& [id, begin, score] = best[end];
    const bool is_unknown = id == unknown_id_;
    if (!is_unknown) {
      ids->push_back(id);
    } else if (byte_ids_[0] != kNone) {
      for (size_t i = end; i-- > begin;) {
        ids->push_back(byte_ids_[static_cast<unsigned char>(text[i])]);
      }
    } else if (!after_unknown) {
      ids->push_back(id);
    }
    after_unknown = is_unknown;
  }
  std::reverse(ids->begin() + first, ids->end());
}

std::optional<int32_t> Unigram::Find(std::string_view piece) const {
  std::optional<int32_t> found;
  trie_.ForEachPrefix(piece, [&](size_t length, int32_t id) {
    if (length == piece.size()) found = id;
  });
  return found;
}

}  // namespace treeline
