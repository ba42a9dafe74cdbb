#include "engine/text/nfc.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/text/nfc_tables.h"
#include "engine/text/utf8.h"

namespace treeline {
namespace {

// Nothing below the first combining mark changes by itself, and nothing but a mark changes it.
constexpr char32_t kFirstMark = 0x300;
constexpr unsigned char kFirstMarkLead = 0xCC;  // Characters below it have no byte as large.

// Hangul syllables are a product of leading consonants, vowels and trailing consonants.
constexpr char32_t kLeadBase = 0x1100, kVowelBase = 0x1161, kTrailBase = 0x11A7;
constexpr char32_t kSyllableBase = 0xAC00;
constexpr char32_t kNumLeads = 19, kNumVowels = 21, kNumTrails = 28;
constexpr char32_t kNumSyllables = kNumLeads * kNumVowels * kNumTrails;

struct Character {
  char32_t code_point;
  uint8_t combining_class;
};

uint8_t CombiningClass(char32_t c) {
  const auto* end = nfc::kCombiningRanges + nfc::kNumCombiningRanges;
  const auto* range =
      std::lower_bound(nfc::kCombiningRanges, end, c,
                       [](const nfc::CombiningRange& r, char32_t value) { return r.last < value; });
  return range != end && range->first <= c ? range->combining_class : 0;
}

void Decompose(char32_t c, std::vector<Character>* out) {
  if (const char32_t syllable = c - kSyllableBase; syllable < kNumSyllables) {
    const char32_t trail = syllable % kNumTrails;
    out->push_back({kLeadBase + syllable / (kNumVowels * kNumTrails), 0});
    out->push_back({kVowelBase + syllable / kNumTrails % kNumVowels, 0});
    if (trail != 0) out->push_back({kTrailBase + trail, 0});
    return;
  }
  const auto* end = nfc::kDecompositions + nfc::kNumDecompositions;
  const auto* found = std::lower_bound(
      nfc::kDecompositions, end, c,
      [](const nfc::Decomposition& d, char32_t value) { return d.composed < value; });
  if (found == end || found->composed != c) {
    out->push_back({c, CombiningClass(c)});
    return;
  }
  Decompose(found->first, out);
  if (found->second != 0) Decompose(found->second, out);
}

// The one character that stands for two; 0 where there is none.
char32_t Compose(char32_t first, char32_t second) {
  if (first - kLeadBase < kNumLeads && second - kVowelBase < kNumVowels) {
    return kSyllableBase + ((first - kLeadBase) * kNumVowels + (second - kVowelBase)) * kNumTrails;
  }
  const char32_t syllable = first - kSyllableBase;
  if (syllable < kNumSyllables && syllable % kNumTrails == 0 && second > kTrailBase &&
      second < kTrailBase + kNumTrails) {
    return first + (second - kTrailBase);
  }
  static const auto& compositions = *[] {
    auto* map = new std::unordered_map<uint64_t, char32_t>();
    for (size_t i = 0; i < nfc::kNumDecompositions; ++i) {
      const nfc::Decomposition& d = nfc::kDecompositions[i];
      if (d.composes) map->emplace(uint64_t{d.first} << 32 | d.second, d.composed);
    }
    return map;
  }();
  const auto it = compositions.find(uint64_t{first} << 32 | second);
  return it == compositions.end() ? 0 : it->second;
}

// Marks that may trade places are put into the order of their class.
void Reorder(std::vector<Character>* text) {
  auto begin = text->begin();
  while (begin != text->end()) {
    if (begin->combining_class == 0) {
      ++begin;
      continue;
    }
    const auto end =
        std::find_if(begin, text->end(), [](const Character& c) { return c.combining_class == 0; });
    std::stable_sort(begin, end, [](const Character& a, const Character& b) {
      return a.combining_class < b.combining_class;
    });
    begin = end;
  }
}

// Joins each character with the last starter before it, unless one that stays stands between
// them and blocks it.
void ComposeAll(std::vector<Character>* text) {
  size_t size = 0;
  size_t starter = SIZE_MAX;
  for (const Character c : *text) {
    if (starter != SIZE_MAX) {
      const bool adjacent = starter + 1 == size;
      const bool blocked = !adjacent && (*text)[size - 1].combining_class >= c.combining_class;
      const char32_t composed = blocked ? 0 : Compose((*text)[starter].code_point, c.code_point);
      if (composed != 0) {
        (*text)[starter].code_point = composed;
        continue;
      }
    }
    if (c.combining_class == 0) starter = size;
    (*text)[size++] = c;
  }
  text->resize(size);
}

}  // namespace

std::string Nfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(),
                  [](unsigned char byte) { return byte < kFirstMarkLead; })) {
    return std::string(text);
  }
  std::string result;
  std::vector<Character> run;  // Decomposed characters since the last that cannot change.
  const auto finish_run = [&] {
    Reorder(&run);
    ComposeAll(&run);
    for (const Character& c : run) AppendUtf8(c.code_point, &result);
    run.clear();
  };
  while (!text.empty()) {
    const Utf8Char next = FirstUtf8Char(text);
    text.remove_prefix(next.length);
    // What stands before a character below kFirstMark never combines with it.
    if (next.code_point < kFirstMark) finish_run();
    Decompose(next.code_point, &run);
  }
  finish_run();
  return result;
}

}  // namespace treeline
