#include "server/write_patience.h"

#include <gtest/gtest.h>

namespace treeline {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(WritePatienceTest, WaitingUsesItUpAndKilobytesGiveSecondsBack) {
  WritePatience patience(seconds(30));
  EXPECT_EQ(patience.left(), seconds(30));
  patience.Account(0, seconds(20));
  EXPECT_EQ(patience.left(), seconds(10));
  patience.Account(5 * 1024, seconds(1));
  EXPECT_EQ(patience.left(), seconds(14));
  patience.Account(512, milliseconds(0));
  EXPECT_EQ(patience.left(), milliseconds(14'500));
}

TEST(WritePatienceTest, ItIsNeverMoreThanTheLimit) {
  WritePatience patience(seconds(30));
  patience.Account(int64_t{1} << 30, seconds(1));
  EXPECT_EQ(patience.left(), seconds(30));
}

TEST(WritePatienceTest, AClientThatTricklesRunsOutOfIt) {
  WritePatience patience(seconds(30));
  for (int i = 0; i < 32; ++i) patience.Account(16, seconds(1));  // 16 bytes a second.
  EXPECT_LT(patience.left(), seconds(0));
}

}  // namespace
}  // namespace treeline
