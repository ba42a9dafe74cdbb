// Properties of characters, written by tools/make_jinja_unicode_tables.py. Each table is
// sorted and its ranges do not overlap.
#ifndef TREELINE_ENGINE_TEXT_JINJA_UNICODE_TABLES_H_
#define TREELINE_ENGINE_TEXT_JINJA_UNICODE_TABLES_H_

#include <array>
#include <cstdint>

namespace treeline::jinja {

struct CodeRange {
  char32_t first;
  char32_t last;
};

// Every stride-th character from first to last maps to itself plus delta.
struct CaseRange {
  char32_t first;
  char32_t last;
  uint32_t stride;
  int32_t delta;
};

extern const std::array<CodeRange, 701> kUnprintable;
extern const std::array<CaseRange, 194> kToUpper;
extern const std::array<CaseRange, 181> kToLower;

}  // namespace treeline::jinja

#endif  // TREELINE_ENGINE_TEXT_JINJA_UNICODE_TABLES_H_
