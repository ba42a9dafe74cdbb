#include "engine/text/nfc.h"

#include <gtest/gtest.h>

#include <string>

#include "engine/base/json.h"

namespace treeline {
namespace {

// Each is what Python's unicodedata.normalize makes of it.
TEST(Nfc, EqualsThePublishedForm) {
  const auto cases = ParseJsonFile("tests/testdata/tokenizers/nfc.json");
  ASSERT_TRUE(cases.ok()) << cases.status();
  ASSERT_GT(cases->size(), 500);
  for (const Json& c : *cases) {
    EXPECT_EQ(Nfc(c[0].get<std::string>()), c[1].get<std::string>()) << c[0];
  }
}

TEST(Nfc, LeavesNormalTextAsItIs) {
  for (const char* text : {"", "abc", "é", "日本語", "한글", "🦙"}) EXPECT_EQ(Nfc(text), text);
}

// Sorting each mark into its place one by one would take hours.
TEST(Nfc, LongRunsOfMarksStayCheap) {
  std::string text = "a";
  std::string above;
  std::string below;
  for (int i = 0; i < 1 << 19; ++i) {
    text += "\u0301\u0316";
    if (i > 0) above += "\u0301";
    below += "\u0316";
  }
  EXPECT_EQ(Nfc(text), "á" + below + above);
}

}  // namespace
}  // namespace treeline
