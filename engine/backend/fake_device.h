// A CPU that tests take for a device with a clock of its own.
#ifndef TREELINE_ENGINE_BACKEND_FAKE_DEVICE_H_
#define TREELINE_ENGINE_BACKEND_FAKE_DEVICE_H_

#include <memory>
#include <utility>
#include <vector>

#include "engine/backend/backend_decorator.h"

namespace treeline {

class FakeDevice : public BackendDecorator {
 public:
  using BackendDecorator::BackendDecorator;

  // Its n-th interval since the last Take is n seconds long.
  std::unique_ptr<DeviceTimer> CreateTimer() override { return std::make_unique<Timer>(); }

 private:
  class Timer : public DeviceTimer {
   public:
    void Mark() override { ++marks_; }
    std::vector<double> Take() override {
      std::vector<double> seconds;
      for (int i = 1; i < marks_; ++i) seconds.push_back(i);
      marks_ = 0;
      return seconds;
    }

   private:
    int marks_ = 0;
  };
};

}  // namespace treeline

#endif  // TREELINE_ENGINE_BACKEND_FAKE_DEVICE_H_
