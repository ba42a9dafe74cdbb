#include "engine/text/added_tokens.h"

#include <unordered_set>
#include <utility>

#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

// Bounds the search at each place of a text; real ones stay under 100.
constexpr size_t kMaxContentBytes = 1024;

size_t SpaceAtStart(std::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Char next = FirstUtf8Char(text.substr(length));
    if (!IsUnicodeSpace(next.code_point)) break;
    length += next.length;
  }
  return length;
}

size_t SpaceAtEnd(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    size_t previous = begin - 1;
    while (previous > 0 && (text[previous] & 0xC0) == 0x80) --previous;
    if (!IsUnicodeSpace(FirstUtf8Char(text.substr(previous)).code_point)) break;
    begin = previous;
  }
  return text.size() - begin;
}

}  // namespace

StatusOr<AddedToken> ReadAddedToken(const Json& json, const std::string& where) {
  TREELINE_RETURN_IF_ERROR(CheckObject(json, where));
  AddedToken token;
  TREELINE_ASSIGN_OR_RETURN(token.content, StringMember(json, "content", where));
  TREELINE_ASSIGN_OR_RETURN(token.special, BoolMember(json, "special", false, where));
  TREELINE_ASSIGN_OR_RETURN(token.lstrip, BoolMember(json, "lstrip", false, where));
  TREELINE_ASSIGN_OR_RETURN(token.rstrip, BoolMember(json, "rstrip", false, where));
  TREELINE_ASSIGN_OR_RETURN(token.normalized,
                            BoolMember(json, "normalized", !token.special, where));
  TREELINE_ASSIGN_OR_RETURN(const bool single_word, BoolMember(json, "single_word", false, where));
  if (single_word) return InvalidArgument("{}.single_word: not supported", where);
  return token;
}

StatusOr<AddedTokens> AddedTokens::Create(std::vector<AddedToken> tokens,
                                          const Normalizer& normalizer, const std::string& where) {
  AddedTokens result;
  std::unordered_set<int32_t> ids;
  std::unordered_set<std::string_view> contents;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const AddedToken& token = tokens[i];
    if (token.content.empty() || token.content.size() > kMaxContentBytes) {
      return InvalidArgument("{}[{}].content: {} bytes long, must be 1 to {}", where, i,
                             token.content.size(), kMaxContentBytes);
    }
    if (!ids.insert(token.id).second || !contents.insert(token.content).second) {
      return InvalidArgument("{}[{}]: the id {} or the content '{}' was given before", where, i,
                             token.id, token.content);
    }
    if (!token.normalized) {
      result.raw_.Insert(token.content, static_cast<int32_t>(i));
      continue;
    }
    TREELINE_ASSIGN_OR_RETURN(const std::string content, normalizer.Apply(token.content, true));
    if (!content.empty()) result.normalized_.Insert(content, static_cast<int32_t>(i));
  }
  result.tokens_ = std::move(tokens);
  return result;
}

StatusOr<AddedTokens> AddedTokens::FromJson(const Json& json, const Normalizer& normalizer) {
  const std::string where = "tokenizer.json: added_tokens";
  std::vector<AddedToken> tokens;
  if (!json.is_null()) TREELINE_RETURN_IF_ERROR(CheckArray(json, where));
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string token_where = fmt::format("{}[{}]", where, i);
    TREELINE_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(json[i], token_where));
    TREELINE_ASSIGN_OR_RETURN(token.id, AsTokenId(Member(json[i], "id"), token_where + ".id"));
    tokens.push_back(std::move(token));
  }
  return Create(std::move(tokens), normalizer, where);
}

Status AddedTokens::Split(std::string_view text, bool parse_special, const Normalizer& normalizer,
                          const std::function<Status(const Segment&)>& visit) const {
  for (const Segment& raw : SplitBy(raw_, text, parse_special)) {
    if (raw.token != nullptr) {
      TREELINE_RETURN_IF_ERROR(visit(raw));
      continue;
    }
    std::string normalized;
    std::string_view rest = raw.text;
    if (!normalizer.changes_nothing()) {
      TREELINE_ASSIGN_OR_RETURN(normalized, normalizer.Apply(rest, raw.at_start));
      rest = normalized;
    }
    for (Segment segment : SplitBy(normalized_, rest, parse_special)) {
      segment.at_start = segment.at_start && raw.at_start;
      TREELINE_RETURN_IF_ERROR(visit(segment));
    }
  }
  return OkStatus();
}

std::vector<AddedTokens::Segment> AddedTokens::SplitBy(const ByteTrie& trie, std::string_view text,
                                                       bool parse_special) const {
  std::vector<Segment> segments;
  size_t text_begin = 0;  // Of the text since the last token.
  size_t position = 0;
  const auto take = [&](size_t begin, size_t end, const AddedToken* token) {
    if (end > begin) segments.push_back({text.substr(begin, end - begin), token, begin == 0});
  };
  while (position < text.size()) {
    const AddedToken* token = nullptr;
    size_t length = 0;
    trie.ForEachPrefix(text.substr(position), [&](size_t prefix_length, int32_t index) {
      if (tokens_[index].special && !parse_special) return;
      token = &tokens_[index];
      length = prefix_length;
    });
    if (token == nullptr) {
      ++position;
      continue;
    }
    size_t begin = position;
    size_t end = position + length;
    if (token->lstrip) begin -= SpaceAtEnd(text.substr(text_begin, position - text_begin));
    if (token->rstrip) end += SpaceAtStart(text.substr(end));
    take(text_begin, begin, nullptr);
    take(begin, end, token);
    text_begin = position = end;
  }
  take(text_begin, text.size(), nullptr);
  return segments;
}

}  // namespace treeline
