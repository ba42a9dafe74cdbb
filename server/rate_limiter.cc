#include "server/rate_limiter.h"

#include <algorithm>
#include <cmath>

#include "server/status_codes.h"

namespace treeline {

namespace {

constexpr double kSecondsAMinute = 60;

}  // namespace

RateLimiter::Allowance& RateLimiter::Current(std::map<std::string, Allowance>* allowances,
                                             const std::string& name, int64_t per_minute) {
  const TimePoint now = clock_.Now();
  const auto full = static_cast<double>(per_minute);
  Allowance& allowance = allowances->try_emplace(name, Allowance{full, now}).first->second;
  const double earned = ToSeconds(now - allowance.since) * full / kSecondsAMinute;
  allowance.left = std::min(full, allowance.left + earned);
  allowance.since = now;
  return allowance;
}

Status RateLimiter::Take(std::map<std::string, Allowance>* allowances, const std::string& name,
                         const std::string& what, int64_t per_minute, int64_t amount) {
  if (per_minute == 0) return OkStatus();
  std::lock_guard<std::mutex> lock(mutex_);
  Allowance& allowance = Current(allowances, name, per_minute);
  if (allowance.left < 1) {
    const double seconds = (1 - allowance.left) * kSecondsAMinute / static_cast<double>(per_minute);
    return WithRetryAfter(
        WithCode(ResourceExhausted("the key '{}' may use {} {} a minute; try again in {:.0f} s",
                                   name, per_minute, what, std::ceil(seconds)),
                 "rate_limit_exceeded"),
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)));
  }
  allowance.left -= static_cast<double>(amount);
  return OkStatus();
}

Status RateLimiter::TakeRequest(const ApiKey& key) {
  return Take(&requests_, key.name, "requests", key.requests_per_minute, 1);
}

Status RateLimiter::TakeTokens(const ApiKey& key, int64_t tokens) {
  return Take(&tokens_, key.name, "tokens", key.tokens_per_minute, tokens);
}

void RateLimiter::ReturnTokens(const ApiKey& key, int64_t tokens) {
  if (key.tokens_per_minute == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  Current(&tokens_, key.name, key.tokens_per_minute).left += static_cast<double>(tokens);
}

}  // namespace treeline
