// The API keys that a server accepts, read from a file that holds their SHA-256
// digests and never the keys:
//
//   # name  sha256 of the key  [requests a minute  [tokens a minute]]
//   alice   2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b
//   batch   5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8  60  100000
//
// A limit of 0, or one left out, is none. `printf %s KEY | sha256sum` makes a digest.
#ifndef TREELINE_SERVER_API_KEYS_H_
#define TREELINE_SERVER_API_KEYS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"

namespace treeline {

struct ApiKey {
  std::string name;
  int64_t requests_per_minute = 0;
  int64_t tokens_per_minute = 0;  // Prompt and output.
};

// Thread-safe.
class ApiKeys {
 public:
  // INVALID_ARGUMENT naming file and line, or where the file holds no key.
  static StatusOr<std::unique_ptr<ApiKeys>> Read(const std::string& path);

  // Reads the file again. After an error the keys are as before.
  Status Reload();
  // Whose key this is. The time it takes tells nothing about the keys that are right.
  std::optional<ApiKey> Find(const std::string& key) const;
  size_t size() const;

 private:
  using Digest = std::array<unsigned char, 32>;
  struct Entry {
    ApiKey key;
    Digest digest;
  };

  explicit ApiKeys(std::string path) : path_(std::move(path)) {}
  static StatusOr<std::vector<Entry>> Parse(const std::string& text, const std::string& path);
  static StatusOr<Entry> ParseLine(const std::string& line);

  const std::string path_;
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;  // Protected by mutex_.
};

}  // namespace treeline

#endif  // TREELINE_SERVER_API_KEYS_H_
