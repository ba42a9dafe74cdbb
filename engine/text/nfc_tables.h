// Unicode's data for NFC; written by tools/make_nfc_tables.py. Part of nfc.
#ifndef TREELINE_ENGINE_TEXT_NFC_TABLES_H_
#define TREELINE_ENGINE_TEXT_NFC_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace treeline::nfc {

// A character and its canonical mapping, which may map on. Hangul syllables are not listed.
struct Decomposition {
  char32_t composed;
  char32_t first;
  char32_t second;  // 0: the mapping is one character.
  bool composes;    // False: composition leaves the pair as it is.
};
extern const Decomposition kDecompositions[];  // By `composed`.
extern const size_t kNumDecompositions;

// Characters with a combining class that is not 0.
struct CombiningRange {
  char32_t first;
  char32_t last;
  uint8_t combining_class;
};
extern const CombiningRange kCombiningRanges[];  // In order.
extern const size_t kNumCombiningRanges;

}  // namespace treeline::nfc

#endif  // TREELINE_ENGINE_TEXT_NFC_TABLES_H_
