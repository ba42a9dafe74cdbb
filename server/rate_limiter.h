// What each API key may ask for in a minute. A key starts with a minute's allowance and
// earns it anew all the time, so that short bursts pass and the average holds.
#ifndef TREELINE_SERVER_RATE_LIMITER_H_
#define TREELINE_SERVER_RATE_LIMITER_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "engine/base/clock.h"
#include "engine/base/status.h"
#include "server/api_keys.h"

namespace treeline {

// Thread-safe.
class RateLimiter {
 public:
  // `clock` outlives this.
  explicit RateLimiter(const Clock& clock) : clock_(clock) {}

  // RESOURCE_EXHAUSTED, with the time to retry after, where the key's allowance is used up.
  Status TakeRequest(const ApiKey& key);
  // Takes what a request may use at most, also where less is left: then the key waits until it
  // has earned the rest. So a request larger than a minute's allowance can run, if not often.
  Status TakeTokens(const ApiKey& key, int64_t tokens);
  // What a request took and did not use.
  void ReturnTokens(const ApiKey& key, int64_t tokens);

 private:
  struct Allowance {
    double left = 0;
    TimePoint since{};  // When `left` was right.
  };

  // The allowance as it is now. REQUIRES: per_minute > 0.
  Allowance& Current(std::map<std::string, Allowance>* allowances, const std::string& name,
                     int64_t per_minute);
  Status Take(std::map<std::string, Allowance>* allowances, const std::string& name,
              const std::string& what, int64_t per_minute, int64_t amount);

  const Clock& clock_;
  std::mutex mutex_;
  // By key; protected by mutex_. As many as there are keys.
  std::map<std::string, Allowance> requests_;
  std::map<std::string, Allowance> tokens_;
};

// The tokens that a request took from its key's allowance; what it does not use goes back.
class TokenAllowance {
 public:
  // `limiter` outlives this.
  TokenAllowance(RateLimiter& limiter, const ApiKey& key) : limiter_(limiter), key_(key) {}
  ~TokenAllowance() { limiter_.ReturnTokens(key_, taken_ - used_); }
  TokenAllowance(const TokenAllowance&) = delete;
  TokenAllowance& operator=(const TokenAllowance&) = delete;

  Status Take(int64_t tokens) {
    TREELINE_RETURN_IF_ERROR(limiter_.TakeTokens(key_, tokens));
    taken_ = tokens;
    return OkStatus();
  }
  void Use(int64_t tokens) { used_ = tokens; }

 private:
  RateLimiter& limiter_;
  const ApiKey key_;
  int64_t taken_ = 0;
  int64_t used_ = 0;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_RATE_LIMITER_H_
