#include "server/test_certificate.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <csignal>
#include <cstdio>
#include <memory>

namespace treeline {

namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

}  // namespace

std::string PathOf(const std::string& name) { return ::testing::TempDir() + "/" + name; }

void MakeCertificate(const std::string& name) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* subject = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate, subject);
  X509_sign(certificate, key, EVP_sha256());
  PEM_write_PrivateKey(File(std::fopen(PathOf(name + ".key").c_str(), "w")).get(), key, nullptr,
                       nullptr, 0, nullptr, nullptr);
  PEM_write_X509(File(std::fopen(PathOf(name + ".crt").c_str(), "w")).get(), certificate);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

std::string NameShownAt(int port) {
  std::signal(SIGPIPE, SIG_IGN);  // A server that ends the handshake is no reason to die.
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  BIO* bio = BIO_new_ssl_connect(context);
  BIO_set_conn_hostname(bio, ("127.0.0.1:" + std::to_string(port)).c_str());
  const bool shaken = BIO_do_handshake(bio) == 1;
  SSL* ssl = nullptr;
  BIO_get_ssl(bio, &ssl);
  char name[100] = "";
  if (X509* shown = shaken ? SSL_get1_peer_certificate(ssl) : nullptr) {
    X509_NAME_get_text_by_NID(X509_get_subject_name(shown), NID_commonName, name, sizeof(name));
    X509_free(shown);
  }
  BIO_free_all(bio);
  SSL_CTX_free(context);
  return name;
}

}  // namespace treeline
