// A plain TCP client for tests of the HTTP server: sends the bytes it is told, also
// wrong ones. Reads give up after a minute, so that a hanging server fails the test.
#ifndef TREELINE_SERVER_TEST_CLIENT_H_
#define TREELINE_SERVER_TEST_CLIENT_H_

#include <map>
#include <string>

namespace treeline {

class TestClient {
 public:
  struct Response {
    int status = 0;                              // 0: the connection ended before a whole response.
    std::map<std::string, std::string> headers;  // Names in lower case.
    std::string body;                            // Chunks joined.
  };

  explicit TestClient(int port);
  // Whether anybody listens there.
  static bool CanConnect(int port);
  ~TestClient();

  // False where the server no longer takes bytes.
  bool Send(const std::string& bytes);
  // "GET path" or "POST path" with the body and its length.
  void Get(const std::string& path, const std::string& more_headers = "");
  void Post(const std::string& path, const std::string& body, const std::string& more_headers = "");
  // The next response.
  Response Read();
  // Waits until `text` has come; false where the connection ends before.
  bool ReadUntil(const std::string& text);
  // True once the server has closed.
  bool ReadToEnd();
  void Close();

 private:
  bool Fill();
  std::string Line();
  std::string Bytes(size_t count);

  int fd_;
  std::string buffer_;
};

}  // namespace treeline

#endif  // TREELINE_SERVER_TEST_CLIENT_H_
