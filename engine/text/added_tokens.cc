#include "engine/text/added_tokens.h"

#include <unordered_set>
#include <utility>

#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

// Bounds the search at each place of a text; real ones stay under 100.
constexpr size_t kMaxContentBytes = 1024;

StatusOr<AddedToken> ParseToken(const Json& json, const std::string& where) {
  TREELINE_RETURN_IF_ERROR(CheckObject(json, where));
  AddedToken token;
  TREELINE_ASSIGN_OR_RETURN(token.id, AsTokenId(Member(json, "id"), where + ".id"));
  TREELINE_ASSIGN_OR_RETURN(token.content, StringMember(json, "content", where));
  TREELINE_ASSIGN_OR_RETURN(token.special, BoolMember(json, "special", false, where));
  TREELINE_ASSIGN_OR_RETURN(token.lstrip, BoolMember(json, "lstrip", false, where));
  TREELINE_ASSIGN_OR_RETURN(token.rstrip, BoolMember(json, "rstrip", false, where));
  TREELINE_ASSIGN_OR_RETURN(token.normalized,
                            BoolMember(json, "normalized", !token.special, where));
  TREELINE_ASSIGN_OR_RETURN(const bool single_word, BoolMember(json, "single_word", false, where));
  if (single_word) return InvalidArgument("{}.single_word: not supported", where);
  if (token.content.empty() || token.content.size() > kMaxContentBytes) {
    return InvalidArgument("{}.content: {} bytes long, must be 1 to {}", where,
                           token.content.size(), kMaxContentBytes);
  }
  return token;
}

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

StatusOr<AddedTokens> AddedTokens::FromJson(const Json& json) {
  AddedTokens result;
  if (json.is_null()) return result;
  const std::string array = "tokenizer.json: added_tokens";
  TREELINE_RETURN_IF_ERROR(CheckArray(json, array));
  std::unordered_set<int32_t> ids;
  std::unordered_set<std::string> contents;
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string where = fmt::format("{}[{}]", array, i);
    TREELINE_ASSIGN_OR_RETURN(AddedToken token, ParseToken(json[i], where));
    if (!ids.insert(token.id).second || !contents.insert(token.content).second) {
      return InvalidArgument("{}: the id {} or the content '{}' was given before", where, token.id,
                             token.content);
    }
    Trie& trie = token.normalized ? result.normalized_ : result.raw_;
    trie.Insert(token.content, static_cast<int32_t>(i));
    result.tokens_.push_back(std::move(token));
  }
  return result;
}

std::vector<AddedTokens::Segment> AddedTokens::Split(std::string_view text,
                                                     bool parse_special) const {
  std::vector<Segment> raw;
  SplitBy(raw_, text, parse_special, &raw);
  std::vector<Segment> segments;
  for (const Segment& segment : raw) {
    if (segment.token != nullptr) {
      segments.push_back(segment);
    } else {
      SplitBy(normalized_, segment.text, parse_special, &segments);
    }
  }
  return segments;
}

void AddedTokens::SplitBy(const Trie& trie, std::string_view text, bool parse_special,
                          std::vector<Segment>* segments) const {
  size_t text_begin = 0;  // Of the text since the last token.
  size_t position = 0;
  const auto take_text = [&](size_t end) {
    if (end > text_begin) segments->push_back({text.substr(text_begin, end - text_begin), nullptr});
  };
  while (position < text.size()) {
    const AddedToken* token = trie.Longest(text.substr(position), parse_special, tokens_);
    if (token == nullptr) {
      ++position;
      continue;
    }
    size_t begin = position;
    size_t end = position + token->content.size();
    if (token->lstrip) begin -= SpaceAtEnd(text.substr(text_begin, position - text_begin));
    if (token->rstrip) end += SpaceAtStart(text.substr(end));
    take_text(begin);
    segments->push_back({text.substr(begin, end - begin), token});
    text_begin = position = end;
  }
  take_text(text.size());
}

void AddedTokens::Trie::Insert(std::string_view key, int32_t value) {
  first_bytes_.set(static_cast<unsigned char>(key[0]));
  uint64_t node = 0;
  for (const char byte : key) {
    const uint64_t edge = node << 8 | static_cast<unsigned char>(byte);
    const auto [it, is_new] = children_.try_emplace(edge, values_.size());
    if (is_new) values_.push_back(kNoValue);
    node = it->second;
  }
  values_[node] = value;
}

const AddedToken* AddedTokens::Trie::Longest(std::string_view text, bool parse_special,
                                             const std::vector<AddedToken>& tokens) const {
  if (!first_bytes_.test(static_cast<unsigned char>(text[0]))) return nullptr;
  const AddedToken* longest = nullptr;
  uint64_t node = 0;
  for (const char byte : text) {
    const auto it = children_.find(node << 8 | static_cast<unsigned char>(byte));
    if (it == children_.end()) break;
    node = it->second;
    if (values_[node] == kNoValue) continue;
    const AddedToken& token = tokens[values_[node]];
    if (parse_special || !token.special) longest = &token;
  }
  return longest;
}

}  // namespace treeline
