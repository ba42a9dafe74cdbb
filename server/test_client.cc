#include "server/test_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

namespace treeline {

namespace {

bool Connect(int fd, int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
}

}  // namespace

bool TestClient::CanConnect(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const bool connected = Connect(fd, port);
  close(fd);
  return connected;
}

TestClient::TestClient(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
  EXPECT_TRUE(Connect(fd_, port));
  const timeval timeout{60, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
}

TestClient::~TestClient() { Close(); }

void TestClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

bool TestClient::Send(const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t n = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<size_t>(n);
  }
  return true;
}

void TestClient::Get(const std::string& path, const std::string& more_headers) {
  Send("GET " + path + " HTTP/1.1\r\nHost: test\r\n" + more_headers + "\r\n");
}

void TestClient::Post(const std::string& path, const std::string& body,
                      const std::string& more_headers) {
  Send("POST " + path + " HTTP/1.1\r\nHost: test\r\nContent-Length: " +
       std::to_string(body.size()) + "\r\n" + more_headers + "\r\n" + body);
}

bool TestClient::Fill() {
  char bytes[4096];
  const ssize_t n = recv(fd_, bytes, sizeof(bytes), 0);
  if (n > 0) buffer_.append(bytes, static_cast<size_t>(n));
  return n > 0;
}

bool TestClient::ReadUntil(const std::string& text) {
  while (buffer_.find(text) == std::string::npos) {
    if (!Fill()) return false;
  }
  return true;
}

bool TestClient::ReadToEnd() {
  char bytes[4096];
  ssize_t n;
  while ((n = recv(fd_, bytes, sizeof(bytes), 0)) > 0) {
  }
  return n == 0 || errno == ECONNRESET;
}

std::string TestClient::Line() {
  if (!ReadUntil("\r\n")) return "";
  const size_t end = buffer_.find("\r\n");
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

std::string TestClient::Bytes(size_t count) {
  while (buffer_.size() < count && Fill()) {
  }
  std::string bytes = buffer_.substr(0, count);
  buffer_.erase(0, bytes.size());
  return bytes;
}

TestClient::Response TestClient::Read() {
  Response response;
  const std::string status_line = Line();
  if (status_line.size() < 12) return response;
  for (std::string line = Line(); !line.empty(); line = Line()) {
    const size_t colon = line.find(": ");
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    response.headers[name] = line.substr(colon + 2);
  }
  if (response.headers.count("content-length") > 0) {
    response.body = Bytes(std::stoul(response.headers["content-length"]));
  } else {
    for (;;) {
      const std::string size = Line();
      if (size.empty()) return response;
      response.body += Bytes(std::stoul(size, nullptr, 16));
      Line();
      if (size == "0") break;
    }
  }
  response.status = std::stoi(status_line.substr(9, 3));
  return response;
}

}  // namespace treeline
