// TLS for the server's sockets (OpenSSL; TLS 1.2 and later). The certificate can be
// renewed while connections live.
#ifndef TREELINE_SERVER_TLS_H_
#define TREELINE_SERVER_TLS_H_

#include <memory>
#include <mutex>
#include <string>

#include "engine/base/status.h"
#include "server/transport.h"

namespace treeline {

// Thread-safe.
class TlsContext {
 public:
  // PEM files: the certificate with the chain below it, and its private key. INVALID_ARGUMENT
  // naming the file that cannot be used; NOT_FOUND where it is not there.
  static StatusOr<std::unique_ptr<TlsContext>> Create(const std::string& certificate_file,
                                                      const std::string& key_file);
  virtual ~TlsContext() = default;

  // Reads the files again, for connections that come from now on. After an error, the old
  // certificate stays.
  virtual Status Reload() = 0;
  // The server's side of TLS on an accepted socket, which it takes. The handshake is part of the
  // first Read. Null where memory is short; the socket is closed then.
  virtual std::unique_ptr<Transport> Accept(int fd) const = 0;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_TLS_H_
