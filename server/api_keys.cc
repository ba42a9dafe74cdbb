#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <utility>

#include "engine/base/file.h"

namespace treeline {

namespace {

// The value of a hexadecimal digit; -1 for anything else.
int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

template <size_t size>
bool ParseHex(const std::string& text, std::array<unsigned char, size>* bytes) {
  if (text.size() != 2 * size) return false;
  for (size_t i = 0; i < size; ++i) {
    const int high = HexDigit(text[2 * i]);
    const int low = HexDigit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    (*bytes)[i] = static_cast<unsigned char>(16 * high + low);
  }
  return true;
}

StatusOr<int64_t> ParseLimit(const std::string& text) {
  int64_t limit = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), limit);
  if (error != std::errc() || end != text.data() + text.size() || limit < 0) {
    return InvalidArgument("'{}' is not a limit; write a whole number, 0 for none", text);
  }
  return limit;
}

}  // namespace

StatusOr<ApiKeys::Entry> ApiKeys::ParseLine(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  Entry entry;
  // What stands here may be a key that someone wrote in plain: it is not repeated.
  if (words.size() < 2 || words.size() > 4 || !ParseHex(words[1], &entry.digest)) {
    return InvalidArgument(
        "not NAME SHA256 [REQUESTS_A_MINUTE [TOKENS_A_MINUTE]]; `printf %s KEY | sha256sum` gives "
        "the digest of a key");
  }
  entry.key.name = words[0];
  if (words.size() > 2) {
    TREELINE_ASSIGN_OR_RETURN(entry.key.requests_per_minute, ParseLimit(words[2]));
  }
  if (words.size() > 3) {
    TREELINE_ASSIGN_OR_RETURN(entry.key.tokens_per_minute, ParseLimit(words[3]));
  }
  return entry;
}

StatusOr<std::vector<ApiKeys::Entry>> ApiKeys::Parse(const std::string& text,
                                                     const std::string& path) {
  std::vector<Entry> entries;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string::npos || line[begin] == '#') continue;
    StatusOr<Entry> entry = ParseLine(line);
    if (!entry.ok()) return Annotate(entry.status(), fmt::format("{}:{}", path, number));
    for (const Entry& other : entries) {
      if (other.key.name != entry->key.name && other.digest != entry->digest) continue;
      return InvalidArgument("{}:{}: the name or the key stands in the file twice", path, number);
    }
    entries.push_back(*std::move(entry));
  }
  if (entries.empty()) return InvalidArgument("{}: no API key in it", path);
  return entries;
}

StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::Read(const std::string& path) {
  std::unique_ptr<ApiKeys> keys(new ApiKeys(path));
  TREELINE_RETURN_IF_ERROR(keys->Reload());
  return keys;
}

Status ApiKeys::Reload() {
  TREELINE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path_));
  TREELINE_ASSIGN_OR_RETURN(std::vector<Entry> entries, Parse(text, path_));
  std::lock_guard<std::mutex> lock(mutex_);
  entries_ = std::move(entries);
  return OkStatus();
}

std::optional<ApiKey> ApiKeys::Find(const std::string& key) const {
  Digest digest{};
  if (EVP_Digest(key.data(), key.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1) {
    return std::nullopt;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  std::optional<size_t> found;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (CRYPTO_memcmp(entries_[i].digest.data(), digest.data(), digest.size()) == 0) found = i;
  }
  if (!found) return std::nullopt;
  return entries_[*found].key;
}

size_t ApiKeys::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return entries_.size();
}

}  // namespace treeline
