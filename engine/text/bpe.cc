#include "engine/text/bpe.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

constexpr char kModel[] = "tokenizer.json: model";

uint64_t Pack(uint32_t high, uint32_t low) { return uint64_t{high} << 32 | low; }

// Vocabularies spell bytes as printable characters: those that are printable in Latin-1 as
// themselves, the others, in order, as U+0100 and up. This is the way back.
const std::unordered_map<char32_t, char>& ByteOfCharacter() {
  static const auto& bytes = *[] {
    auto* map = new std::unordered_map<char32_t, char>();
    char32_t next_substitute = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      (*map)[printable ? byte : next_substitute++] = static_cast<char>(byte);
    }
    return map;
  }();
  return bytes;
}

// The bytes that a token's spelling stands for; none where it has a character that spells no byte.
std::optional<std::string> SpelledBytes(std::string_view spelling) {
  std::string bytes;
  while (!spelling.empty()) {
    const Utf8Char next = FirstUtf8Char(spelling);
    if (next.state != Utf8Char::State::kValid) return std::nullopt;
    const auto it = ByteOfCharacter().find(next.code_point);
    if (it == ByteOfCharacter().end()) return std::nullopt;
    bytes += it->second;
    spelling.remove_prefix(next.length);
  }
  return bytes;
}

// Fields that change the algorithm in ways not implemented here.
Status CheckSupported(const Json& model) {
  const Json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0) {
    return InvalidArgument("{}.dropout: merges at random are not supported; set it to null",
                           kModel);
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& value = Member(model, name);
    if (!value.is_null() && value != "")
      return InvalidArgument("{}.{}: not supported", kModel, name);
  }
  for (const char* name : {"byte_fallback", "fuse_unk"}) {
    TREELINE_ASSIGN_OR_RETURN(const bool value, BoolMember(model, name, false, kModel));
    if (value) return InvalidArgument("{}.{}: not supported", kModel, name);
  }
  return OkStatus();
}

// The two sides of a merge, written "a b" or ["a", "b"].
StatusOr<std::pair<std::string_view, std::string_view>> MergeSides(const Json& merge,
                                                                   const std::string& where) {
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return std::pair(text.substr(0, space), text.substr(space + 1));
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
             merge[1].is_string()) {
    return std::pair<std::string_view, std::string_view>(merge[0].get_ref<const std::string&>(),
                                                         merge[1].get_ref<const std::string&>());
  }
  return InvalidArgument(R"({}: expected "a b" or ["a", "b"])", where);
}

}  // namespace

StatusOr<Bpe> Bpe::FromJson(const Json& model, const std::unordered_set<int32_t>& special_ids) {
  TREELINE_RETURN_IF_ERROR(CheckObject(model, kModel));
  TREELINE_RETURN_IF_ERROR(CheckSupported(model));
  Bpe bpe;
  Spellings spellings;
  TREELINE_ASSIGN_OR_RETURN(bpe.ignore_merges_, BoolMember(model, "ignore_merges", false, kModel));
  TREELINE_RETURN_IF_ERROR(bpe.LoadVocab(Member(model, "vocab"), special_ids, &spellings));
  TREELINE_RETURN_IF_ERROR(bpe.LoadMerges(Member(model, "merges"), special_ids, spellings));
  TREELINE_RETURN_IF_ERROR(bpe.LoadBytes(model, spellings));
  return bpe;
}

Status Bpe::LoadVocab(const Json& vocab, const std::unordered_set<int32_t>& special_ids,
                      Spellings* spellings) {
  const std::string where = fmt::format("{}.vocab", kModel);
  TREELINE_RETURN_IF_ERROR(CheckObject(vocab, where));
  if (vocab.empty()) return InvalidArgument("{}: no tokens", where);
  std::vector<bool> in_use;
  for (const auto& [spelling, value] : vocab.items()) {
    TREELINE_ASSIGN_OR_RETURN(const int32_t id,
                              AsTokenId(value, fmt::format("{}['{}']", where, spelling)));
    if (id >= in_use.size()) {
      in_use.resize(id + 1);
      token_bytes_.resize(id + 1);
    }
    if (in_use[id]) return InvalidArgument("{}: two tokens have the id {}", where, id);
    in_use[id] = true;
    spellings->emplace(spelling, id);

    const std::optional<std::string> bytes = SpelledBytes(spelling);
    // A spelling that stands for no bytes is out of the merges' reach and means itself.
    token_bytes_[id] = bytes.value_or(spelling);
    if (!bytes) continue;
    if (!special_ids.contains(id)) {
      ids_.emplace(*bytes, id);
    } else if (bytes->size() == 1) {
      return InvalidArgument("{}: the special token '{}' is a byte of ordinary text", where,
                             spelling);
    }
  }
  return OkStatus();
}

Status Bpe::LoadMerges(const Json& merges, const std::unordered_set<int32_t>& special_ids,
                       const Spellings& spellings) {
  TREELINE_RETURN_IF_ERROR(CheckArray(merges, fmt::format("{}.merges", kModel)));
  merges_.reserve(merges.size());
  ranks_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string where = fmt::format("{}.merges[{}]", kModel, rank);
    TREELINE_ASSIGN_OR_RETURN(const auto sides, MergeSides(merges[rank], where));
    const std::string joined = std::string(sides.first).append(sides.second);
    int32_t ids[3];
    int i = 0;
    for (std::string_view token : {sides.first, sides.second, std::string_view(joined)}) {
      const auto it = spellings.find(token);
      if (it == spellings.end()) {
        return InvalidArgument("{}: '{}' is not in the vocabulary", where, token);
      }
      ids[i++] = it->second;
    }
    if (special_ids.contains(ids[2])) {
      return InvalidArgument("{}: makes the special token '{}' out of ordinary text", where,
                             joined);
    }
    merges_.push_back({ids[0], ids[1], ids[2]});
    ranks_[Pack(ids[0], ids[1])] = rank;
  }
  return OkStatus();
}

Status Bpe::LoadBytes(const Json& model, const Spellings& spellings) {
  int32_t unknown = kNone;
  if (!Member(model, "unk_token").is_null()) {
    TREELINE_ASSIGN_OR_RETURN(const std::string token, StringMember(model, "unk_token", kModel));
    const auto it = spellings.find(token);
    if (it == spellings.end()) {
      return InvalidArgument("{}.unk_token: '{}' is not in the vocabulary", kModel, token);
    }
    unknown = it->second;
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    byte_ids_[byte] = Find(std::string_view(&character, 1)).value_or(unknown);
  }
  return OkStatus();
}

std::optional<int32_t> Bpe::Find(std::string_view bytes) const {
  const auto it = ids_.find(bytes);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

void Bpe::Encode(std::string_view piece, Scratch* scratch, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const std::optional<int32_t> id = Find(piece)) {
      ids->push_back(*id);
      return;
    }
  }
  auto& symbols = scratch->symbols;
  symbols.clear();
  for (const char byte : piece) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id == kNone) continue;
    const int32_t index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;

  auto& candidates = scratch->candidates;
  candidates.clear();
  for (int32_t i = 0; i < symbols.size(); ++i) Propose(i, scratch);
  while (!candidates.empty()) {
    std::pop_heap(candidates.begin(), candidates.end(), std::greater<>());
    const Merge& merge = merges_[candidates.back() >> 32];
    const int32_t left = static_cast<int32_t>(candidates.back() & 0xFFFFFFFF);
    candidates.pop_back();
    // An earlier merge may have taken either side since this one was proposed.
    const int32_t right = symbols[left].next;
    if (symbols[left].id != merge.left || right == kNone || symbols[right].id != merge.right) {
      continue;
    }
    Apply(merge, left, scratch);
  }
  for (int32_t i = 0; i != kNone; i = symbols[i].next) ids->push_back(symbols[i].id);
}

void Bpe::Propose(int32_t left, Scratch* scratch) const {
  const auto& symbols = scratch->symbols;
  const int32_t right = symbols[left].next;
  if (right == kNone) return;
  const auto it = ranks_.find(Pack(symbols[left].id, symbols[right].id));
  if (it == ranks_.end()) return;
  scratch->candidates.push_back(Pack(it->second, left));
  std::push_heap(scratch->candidates.begin(), scratch->candidates.end(), std::greater<>());
}

void Bpe::Apply(const Merge& merge, int32_t left, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  const int32_t right = symbols[left].next;
  const int32_t after = symbols[right].next;
  symbols[left].id = merge.result;
  symbols[left].next = after;
  symbols[right].id = kNone;
  if (after != kNone) symbols[after].previous = left;
  Propose(left, scratch);
  if (symbols[left].previous != kNone) Propose(symbols[left].previous, scratch);
}

}  // namespace treeline
