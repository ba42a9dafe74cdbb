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
Status CheckSupported(const Json& model, Bpe::Alphabet alphabet) {
  const Json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0) {
    return InvalidArgument("{}.dropout: merges at random are not supported; set it to null",
                           kModel);
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& value = Member(model, name);
    if (!value.is_null() && value != "") {
      return InvalidArgument("{}.{}: not supported", kModel, name);
    }
  }
  TREELINE_ASSIGN_OR_RETURN(const bool byte_fallback,
                            BoolMember(model, "byte_fallback", false, kModel));
  if (byte_fallback && alphabet == Bpe::Alphabet::kBytes) {
    return InvalidArgument("{}.byte_fallback: not supported with a ByteLevel decoder", kModel);
  }
  return OkStatus();
}

// A token that holds the beginning of a word, "▁", behind something else.
bool ReachesIntoNextWord(std::string_view token) {
  size_t mark = token.find(kSpaceMark);
  size_t end = 0;  // Of the run of marks at the token's beginning.
  while (mark != token.npos && mark == end) {
    end = mark + kSpaceMark.size();
    mark = token.find(kSpaceMark, end);
  }
  return mark != token.npos;
}

}  // namespace

StatusOr<Bpe> Bpe::FromJson(const Json& model, const std::unordered_set<int32_t>& special_ids,
                            Alphabet alphabet) {
  TREELINE_RETURN_IF_ERROR(CheckObject(model, kModel));
  TREELINE_RETURN_IF_ERROR(CheckSupported(model, alphabet));
  Bpe bpe(alphabet);
  Spellings spellings;
  TREELINE_ASSIGN_OR_RETURN(bpe.ignore_merges_, BoolMember(model, "ignore_merges", false, kModel));
  TREELINE_ASSIGN_OR_RETURN(bpe.fuse_unknown_, BoolMember(model, "fuse_unk", false, kModel));
  TREELINE_ASSIGN_OR_RETURN(const bool byte_fallback,
                            BoolMember(model, "byte_fallback", false, kModel));
  TREELINE_RETURN_IF_ERROR(bpe.LoadVocab(Member(model, "vocab"), special_ids, &spellings));
  TREELINE_RETURN_IF_ERROR(bpe.LoadMerges(Member(model, "merges"), special_ids, spellings));
  TREELINE_RETURN_IF_ERROR(bpe.LoadUnknown(model, spellings));
  if (alphabet == Alphabet::kCharacters && !byte_fallback) bpe.byte_ids_.fill(kNone);
  bpe.Finish();
  return bpe;
}

StatusOr<Bpe> Bpe::FromLists(const std::vector<std::string>& tokens,
                             const std::vector<std::string>& merges,
                             const std::unordered_set<int32_t>& special_ids, bool ignore_merges) {
  Bpe bpe(Alphabet::kBytes);
  bpe.ignore_merges_ = ignore_merges;
  Spellings spellings;
  if (tokens.size() > kMaxTokenId) {
    return InvalidArgument("tokenizer.ggml.tokens: {} are more than the limit of {}", tokens.size(),
                           kMaxTokenId);
  }
  for (size_t id = 0; id < tokens.size(); ++id) {
    TREELINE_RETURN_IF_ERROR(bpe.AddToken(tokens[id], static_cast<int32_t>(id), special_ids,
                                          fmt::format("tokenizer.ggml.tokens[{}]", id)));
    spellings.emplace(tokens[id], id);
  }
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string where = fmt::format("tokenizer.ggml.merges[{}]", rank);
    TREELINE_ASSIGN_OR_RETURN(const Pair pair, Pair::FromText(merges[rank], where));
    TREELINE_RETURN_IF_ERROR(
        bpe.AddMerge(pair, static_cast<uint32_t>(rank), spellings, special_ids, where));
  }
  bpe.Finish();
  return bpe;
}

Bpe Bpe::FromPieces(const SentencePieceModel& model) {
  Bpe bpe(Alphabet::kCharacters);
  bpe.fuse_unknown_ = true;
  std::vector<float> scores;
  for (size_t index = 0; index < model.pieces.size(); ++index) {
    const auto& [text, score, type] = model.pieces[index];
    const auto id = static_cast<int32_t>(index);
    bpe.token_bytes_.push_back(text);
    if (type == TokenType::kNormal || type == TokenType::kUserDefined) {
      bpe.ids_.emplace(text, id);
      scores.push_back(score);
    } else if (type == TokenType::kByte) {
      bpe.token_bytes_.back() = static_cast<char>(ByteOfPiece(text));
      if (model.byte_fallback) bpe.byte_ids_[ByteOfPiece(text)] = id;
    } else if (type == TokenType::kUnknown) {
      bpe.unknown_id_ = id;
    }
  }
  std::sort(scores.begin(), scores.end(), std::greater<>());
  for (const auto& [text, id] : bpe.ids_) {
    const auto score =
        std::lower_bound(scores.begin(), scores.end(), model.pieces[id].score, std::greater<>());
    const auto rank = static_cast<uint32_t>(score - scores.begin());
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = bpe.Find(std::string_view(text).substr(0, cut));
      const auto right = bpe.Find(std::string_view(text).substr(cut));
      if (left && right) bpe.merges_[Pack(*left, *right)] = {rank, id};
    }
  }
  bpe.Finish();
  return bpe;
}

Status Bpe::AddToken(std::string_view spelling, int32_t id,
                     const std::unordered_set<int32_t>& special_ids, const std::string& where) {
  if (id >= token_bytes_.size()) token_bytes_.resize(id + 1);
  if (alphabet_ == Alphabet::kCharacters) {
    token_bytes_[id] = spelling;
    if (const int byte = ByteOfPiece(spelling); byte >= 0 && !special_ids.contains(id)) {
      token_bytes_[id] = static_cast<char>(byte);
      byte_ids_[byte] = id;
    } else if (!special_ids.contains(id)) {
      ids_.emplace(spelling, id);
    }
    return OkStatus();
  }
  const std::optional<std::string> bytes = SpelledBytes(spelling);
  // A spelling that stands for no bytes is out of the merges' reach and means itself.
  token_bytes_[id] = bytes.value_or(std::string(spelling));
  if (!bytes) return OkStatus();
  if (!special_ids.contains(id)) {
    ids_.emplace(*bytes, id);
    if (bytes->size() == 1) byte_ids_[static_cast<unsigned char>((*bytes)[0])] = id;
  } else if (bytes->size() == 1) {
    return InvalidArgument("{}: the special token '{}' is a byte of ordinary text", where,
                           spelling);
  }
  return OkStatus();
}

StatusOr<Bpe::Pair> Bpe::Pair::FromText(std::string_view text, const std::string& where) {
  const size_t space = text.find(' ');
  if (space == text.npos || text.find(' ', space + 1) != text.npos) {
    return InvalidArgument(R"({}: expected "a b" or ["a", "b"])", where);
  }
  return Pair{text.substr(0, space), text.substr(space + 1)};
}

StatusOr<Bpe::Pair> Bpe::Pair::FromJson(const Json& merge, const std::string& where) {
  if (merge.is_string()) return FromText(merge.get_ref<const std::string&>(), where);
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return Pair{merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  return InvalidArgument(R"({}: expected "a b" or ["a", "b"])", where);
}

Status Bpe::AddMerge(const Pair& pair, uint32_t rank, const Spellings& spellings,
                     const std::unordered_set<int32_t>& special_ids, const std::string& where) {
  const std::string joined = std::string(pair.left).append(pair.right);
  int32_t ids[3];
  int i = 0;
  for (std::string_view token : {pair.left, pair.right, std::string_view(joined)}) {
    const auto it = spellings.find(token);
    if (it == spellings.end()) {
      return InvalidArgument("{}: '{}' is not in the vocabulary", where, token);
    }
    ids[i++] = it->second;
  }
  if (special_ids.contains(ids[2])) {
    return InvalidArgument("{}: makes the special token '{}' out of ordinary text", where, joined);
  }
  merges_[Pack(ids[0], ids[1])] = {rank, ids[2]};
  return OkStatus();
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
    if (id >= in_use.size()) in_use.resize(id + 1);
    if (in_use[id]) return InvalidArgument("{}: two tokens have the id {}", where, id);
    in_use[id] = true;
    spellings->emplace(spelling, id);
    TREELINE_RETURN_IF_ERROR(AddToken(spelling, id, special_ids, where));
  }
  return OkStatus();
}

Status Bpe::LoadMerges(const Json& merges, const std::unordered_set<int32_t>& special_ids,
                       const Spellings& spellings) {
  TREELINE_RETURN_IF_ERROR(CheckArray(merges, fmt::format("{}.merges", kModel)));
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string where = fmt::format("{}.merges[{}]", kModel, rank);
    TREELINE_ASSIGN_OR_RETURN(const Pair pair, Pair::FromJson(merges[rank], where));
    TREELINE_RETURN_IF_ERROR(
        AddMerge(pair, static_cast<uint32_t>(rank), spellings, special_ids, where));
  }
  return OkStatus();
}

Status Bpe::LoadUnknown(const Json& model, const Spellings& spellings) {
  if (Member(model, "unk_token").is_null()) return OkStatus();
  TREELINE_ASSIGN_OR_RETURN(const std::string token, StringMember(model, "unk_token", kModel));
  const auto it = spellings.find(token);
  if (it == spellings.end()) {
    return InvalidArgument("{}.unk_token: '{}' is not in the vocabulary", kModel, token);
  }
  unknown_id_ = it->second;
  return OkStatus();
}

void Bpe::Finish() {
  if (alphabet_ == Alphabet::kBytes) return;
  cut_at_marks_ = ids_.contains(kSpaceMark);
  for (const auto& [pair, merge] : merges_) {
    if (ReachesIntoNextWord(token_bytes_[merge.result])) cut_at_marks_ = false;
  }
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
  // Many short words cost less than one long piece.
  while (cut_at_marks_ && !piece.empty()) {
    size_t end = 0;
    while (piece.substr(end).starts_with(kSpaceMark)) end += kSpaceMark.size();
    end = std::min(piece.find(kSpaceMark, end), piece.size());
    EncodeWord(piece.substr(0, end), scratch, ids);
    piece.remove_prefix(end);
  }
  EncodeWord(piece, scratch, ids);
}

void Bpe::EncodeWord(std::string_view word, Scratch* scratch, std::vector<int32_t>* ids) const {
  auto& symbols = scratch->symbols;
  symbols.clear();
  while (!word.empty()) {
    const size_t length = alphabet_ == Alphabet::kBytes ? 1 : FirstUtf8Char(word).length;
    AppendSymbols(word.substr(0, length), scratch);
    word.remove_prefix(length);
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;

  auto& candidates = scratch->candidates;
  candidates.clear();
  for (int32_t i = 0; i < symbols.size(); ++i) Propose(i, scratch);
  while (!candidates.empty()) {
    std::pop_heap(candidates.begin(), candidates.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(candidates.back() >> 32);
    const auto left = static_cast<int32_t>(candidates.back() & 0xFFFFFFFF);
    candidates.pop_back();
    // An earlier merge may have taken either side since this one was proposed.
    if (symbols[left].id != kNone && symbols[left].rank == rank) Apply(left, scratch);
  }
  for (int32_t i = 0; i != kNone; i = symbols[i].next) ids->push_back(symbols[i].id);
}

void Bpe::AppendSymbols(std::string_view character, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  const auto append = [&](int32_t id) {
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1, kNoRank, kNone});
  };
  const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  if (alphabet_ == Alphabet::kCharacters) {
    if (const std::optional<int32_t> id = Find(character)) return append(*id);
  }
  if (std::none_of(character.begin(), character.end(),
                   [&](char byte) { return byte_id(byte) == kNone; })) {
    for (const char byte : character) append(byte_id(byte));
  } else if (unknown_id_ != kNone &&
             !(fuse_unknown_ && !symbols.empty() && symbols.back().id == unknown_id_)) {
    append(unknown_id_);
  }
}

void Bpe::Propose(int32_t left, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  symbols[left].rank = kNoRank;
  const int32_t right = symbols[left].next;
  if (right == kNone) return;
  const auto it = merges_.find(Pack(symbols[left].id, symbols[right].id));
  if (it == merges_.end()) return;
  symbols[left].rank = it->second.rank;
  symbols[left].merged = it->second.result;
  scratch->candidates.push_back(Pack(it->second.rank, left));
  std::push_heap(scratch->candidates.begin(), scratch->candidates.end(), std::greater<>());
}

void Bpe::Apply(int32_t left, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  const int32_t right = symbols[left].next;
  const int32_t after = symbols[right].next;
  symbols[left].id = symbols[left].merged;
  symbols[left].next = after;
  symbols[right].id = kNone;
  if (after != kNone) symbols[after].previous = left;
  Propose(left, scratch);
  if (symbols[left].previous != kNone) Propose(symbols[left].previous, scratch);
}

}  // namespace treeline
