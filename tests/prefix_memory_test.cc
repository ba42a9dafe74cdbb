// Kept prefixes on a device whose memory ends before the cache's own limit.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/timed_backend.h"
#include "engine/base/clock.h"
#include "tests/engine_driver.h"

namespace treeline {
namespace {

// A device that, once told so, has room for so many more bytes.
class FullBackend : public TimedBackend {
 public:
  FullBackend(std::unique_ptr<Backend> backend, const Clock& clock)
      : TimedBackend(std::move(backend), clock) {}

  void LeaveRoomFor(size_t bytes) { *room_ = bytes; }
  size_t room() const { return *room_; }

  StatusOr<Buffer> Allocate(size_t bytes) override {
    if (bytes > *room_) return ResourceExhausted("no room for {} bytes", bytes);
    TREELINE_ASSIGN_OR_RETURN(Buffer buffer, TimedBackend::Allocate(bytes));
    *room_ -= bytes;
    return Buffer(buffer.get(), [buffer, bytes, room = room_](void*) { *room += bytes; });
  }

 private:
  const std::shared_ptr<size_t> room_ = std::make_shared<size_t>(size_t{1} << 40);
};

// Bug: nothing was kept any more once the device was full, for as long as the server ran.
TEST(PrefixMemory, OldPrefixesGoWhereTheDeviceIsFull) {
  const std::string folder = "tests/testdata/checkpoints/window_equal";
  const auto checkpoint = Checkpoint::Open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ModelEngine::Options options;
  options.matmul_kernel = "fp32";
  options.prefix_cache_memory = size_t{1} << 30;
  const FakeClock clock;
  auto owned = std::make_unique<FullBackend>(*ModelEngine::CreateBackend(options), clock);
  FullBackend& backend = *owned;
  const auto engine = ModelEngine::Load(**checkpoint, options, std::move(owned));
  ASSERT_TRUE(engine.ok()) << engine.status();

  const auto keep = [&](int32_t first) {
    const StateSlot slot = *(*engine)->AcquireSlot();
    const std::vector<int32_t> tokens = {first, 5, 6, 7};
    ScoreRows(**engine, slot, tokens, 4, {0});
    (*engine)->KeepPrefix(slot, tokens);
  };
  const auto kept = [&](int32_t first) {
    const StateSlot slot = *(*engine)->AcquireSlot();
    return (*engine)->RestorePrefix(slot, {{first, 5, 6, 7}}).length == 4;
  };
  keep(10);  // The first step takes memory of its own.
  const size_t before = backend.room();
  keep(11);
  const size_t one = before - backend.room();
  backend.LeaveRoomFor(one);
  keep(12);
  keep(13);
  EXPECT_FALSE(kept(10));
  EXPECT_TRUE(kept(11) && kept(12) && kept(13));
}

}  // namespace
}  // namespace treeline
