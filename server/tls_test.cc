#include "server/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <filesystem>
#include <fstream>

#include "server/http_server.h"
#include "server/test_certificate.h"

namespace treeline {
namespace {

using ::testing::HasSubstr;

constexpr auto kOverwrite = std::filesystem::copy_options::overwrite_existing;

class TlsTest : public ::testing::Test {
 protected:
  TlsTest() {
    MakeCertificate("first");
    tls_ = TlsContext::Create(PathOf("first.crt"), PathOf("first.key")).value();
    HttpServer::Options options;
    options.tls = tls_.get();
    options.limits.header_timeout = std::chrono::milliseconds(200);
    server_ = std::make_unique<HttpServer>(options);
    server_->Route("POST", "/echo", HttpServer::RouteKind::kApi,
                   [](HttpExchange& e) { e.ReplyText(e.request().body, "text/plain"); });
    server_->Route("GET", "/parts", HttpServer::RouteKind::kApi, [](HttpExchange& e) {
      e.ReplyStream("text/event-stream", [](const HttpExchange::Writer& write) {
        for (int i = 0; i < 1000; ++i) write(std::string(1000, 'x'));
      });
    });
    EXPECT_EQ(server_->Start(), OkStatus());
  }

  std::unique_ptr<httplib::SSLClient> Client() {
    auto client = std::make_unique<httplib::SSLClient>("127.0.0.1", server_->port());
    client->enable_server_certificate_verification(false);
    client->set_keep_alive(true);
    return client;
  }

  std::unique_ptr<TlsContext> tls_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(TlsTest, RequestsBodiesAndStreamsPass) {
  const auto client = Client();
  const std::string body(300'000, 'b');  // Many records.
  for (int i = 0; i < 3; ++i) {          // On one connection.
    const auto echoed = client->Post("/echo", body, "text/plain");
    ASSERT_TRUE(echoed);
    EXPECT_EQ(echoed->body, body);
  }
  const auto streamed = client->Get("/parts");
  ASSERT_TRUE(streamed);
  EXPECT_EQ(streamed->body, std::string(1'000'000, 'x'));
}

TEST_F(TlsTest, PlainOrSilentClientsAreDroppedAndHurtNobody) {
  httplib::Client plain("127.0.0.1", server_->port());
  EXPECT_FALSE(plain.Get("/parts"));
  EXPECT_TRUE(Client()->Get("/parts"));
}

TEST_F(TlsTest, ReloadTakesTheNewCertificateOrKeepsTheOld) {
  EXPECT_EQ(NameShownAt(server_->port()), "first");
  MakeCertificate("second");
  std::filesystem::copy_file(PathOf("second.crt"), PathOf("first.crt"), kOverwrite);
  EXPECT_EQ(tls_->Reload().code(), StatusCode::kInvalidArgument);  // The key is another's.
  EXPECT_EQ(NameShownAt(server_->port()), "first");
  std::filesystem::copy_file(PathOf("second.key"), PathOf("first.key"), kOverwrite);
  EXPECT_EQ(tls_->Reload(), OkStatus());
  EXPECT_EQ(NameShownAt(server_->port()), "second");
}

TEST_F(TlsTest, BadFilesAreNamed) {
  MakeCertificate("second");
  std::ofstream(PathOf("nonsense")) << "nonsense";
  const auto error = [](const std::string& certificate, const std::string& key) {
    return TlsContext::Create(PathOf(certificate), PathOf(key)).status();
  };
  EXPECT_EQ(error("none", "first.key").code(), StatusCode::kNotFound);
  EXPECT_THAT(Message(error("nonsense", "first.key")), HasSubstr("nonsense: not a certificate"));
  EXPECT_THAT(Message(error("first.crt", "nonsense")), HasSubstr("nonsense: not the cert"));
  EXPECT_THAT(Message(error("first.crt", "second.key")), HasSubstr("second.key: not the cert"));
}

}  // namespace
}  // namespace treeline
