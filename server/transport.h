// The bytes of a client's socket: as they are, or within TLS (server/tls.h). Never
// blocks. Owns the socket. Belongs to one thread at a time.
#ifndef TREELINE_SERVER_TRANSPORT_H_
#define TREELINE_SERVER_TRANSPORT_H_

#include <sys/types.h>

#include <cstddef>

namespace treeline {

class Transport {
 public:
  // What Read and Write return in place of a count.
  static constexpr ssize_t kWantRead = -1;   // Again, once the socket is readable,
  static constexpr ssize_t kWantWrite = -2;  // or writable.
  static constexpr ssize_t kBroken = -3;

  // Takes the socket, which must not block.
  explicit Transport(int fd) : fd_(fd) {}
  virtual ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  int fd() const { return fd_; }
  // At least one byte; 0: the client will send no more.
  virtual ssize_t Read(char* data, size_t size);
  virtual ssize_t Write(const char* data, size_t size);
  // Tells the client that nothing more will come.
  virtual void EndWriting();

 private:
  const int fd_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_TRANSPORT_H_
