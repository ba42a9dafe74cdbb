#include "server/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <filesystem>
#include <utility>

namespace treeline {

namespace {

struct FreeContext {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};
using SslContext = std::unique_ptr<SSL_CTX, FreeContext>;
using Ssl = std::unique_ptr<SSL, FreeSsl>;

// The reason of OpenSSL's latest error on this thread, all of which are forgotten.
std::string LastError() {
  const unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(error);
  return reason != nullptr ? reason : "unknown reason";
}

int Clamp(size_t size) { return static_cast<int>(std::min<size_t>(size, INT_MAX)); }

class TlsTransport final : public Transport {
 public:
  TlsTransport(int fd, Ssl ssl) : Transport(fd), ssl_(std::move(ssl)) {}

  ssize_t Read(char* data, size_t size) override {
    ERR_clear_error();
    return Result(SSL_read(ssl_.get(), data, Clamp(size)));
  }

  ssize_t Write(const char* data, size_t size) override {
    ERR_clear_error();
    return Result(SSL_write(ssl_.get(), data, Clamp(size)));
  }

  void EndWriting() override {
    if (!failed_) SSL_shutdown(ssl_.get());
    Transport::EndWriting();
  }

 private:
  ssize_t Result(int result) {
    if (result > 0) return result;
    switch (SSL_get_error(ssl_.get(), result)) {
      case SSL_ERROR_WANT_READ:
        return kWantRead;
      case SSL_ERROR_WANT_WRITE:
        return kWantWrite;
      case SSL_ERROR_ZERO_RETURN:
        return 0;
      default:
        failed_ = true;  // OpenSSL forbids SSL_shutdown from here on.
        return kBroken;
    }
  }

  const Ssl ssl_;
  bool failed_ = false;
};

StatusOr<SslContext> LoadContext(const std::string& certificate_file, const std::string& key_file) {
  for (const std::string& file : {certificate_file, key_file}) {
    std::error_code error;
    if (!std::filesystem::exists(file, error)) return NotFound("{}: there is no such file", file);
  }
  SslContext context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr) return Internal("cannot set up TLS: {}", LastError());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  // A write that takes a part of the data returns, and may be resumed from another address.
  // Idle connections give their buffers back.
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
  if (SSL_CTX_use_certificate_chain_file(context.get(), certificate_file.c_str()) != 1) {
    return InvalidArgument("{}: not a certificate in PEM format: {}", certificate_file,
                           LastError());
  }
  // A passphrase would be asked for at the terminal.
  SSL_CTX_set_default_passwd_cb(context.get(), [](char*, int, int, void*) { return 0; });
  if (SSL_CTX_use_PrivateKey_file(context.get(), key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
    return InvalidArgument(
        "{}: not the certificate's private key, in PEM format and without a "
        "passphrase: {}",
        key_file, LastError());
  }
  return context;
}

class FileTlsContext final : public TlsContext {
 public:
  FileTlsContext(std::string certificate_file, std::string key_file, SslContext context)
      : certificate_file_(std::move(certificate_file)),
        key_file_(std::move(key_file)),
        context_(std::move(context)) {}

  Status Reload() override {
    TREELINE_ASSIGN_OR_RETURN(SslContext context, LoadContext(certificate_file_, key_file_));
    std::lock_guard<std::mutex> lock(mutex_);
    context_ = std::move(context);
    return OkStatus();
  }

  std::unique_ptr<Transport> Accept(int fd) const override {
    Ssl ssl;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ssl.reset(SSL_new(context_.get()));  // Keeps the context alive.
    }
    if (ssl == nullptr || SSL_set_fd(ssl.get(), fd) != 1) {
      close(fd);
      return nullptr;
    }
    SSL_set_accept_state(ssl.get());
    return std::make_unique<TlsTransport>(fd, std::move(ssl));
  }

 private:
  const std::string certificate_file_;
  const std::string key_file_;
  mutable std::mutex mutex_;
  SslContext context_;  // Protected by mutex_.
};

}  // namespace

StatusOr<std::unique_ptr<TlsContext>> TlsContext::Create(const std::string& certificate_file,
                                                         const std::string& key_file) {
  TREELINE_ASSIGN_OR_RETURN(SslContext context, LoadContext(certificate_file, key_file));
  return std::make_unique<FileTlsContext>(certificate_file, key_file, std::move(context));
}

}  // namespace treeline
