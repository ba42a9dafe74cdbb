#include "server/transport.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace treeline {

Transport::~Transport() { close(fd_); }

ssize_t Transport::Read(char* data, size_t size) {
  const ssize_t received = recv(fd_, data, size, MSG_DONTWAIT);
  if (received >= 0) return received;
  return errno == EAGAIN || errno == EINTR ? kWantRead : kBroken;
}

ssize_t Transport::Write(const char* data, size_t size) {
  const ssize_t sent = send(fd_, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0) return sent;
  return errno == EAGAIN || errno == EINTR ? kWantWrite : kBroken;
}

void Transport::EndWriting() { shutdown(fd_, SHUT_WR); }

}  // namespace treeline
