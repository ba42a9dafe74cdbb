// Certificates for tests of TLS, and what a server shows of its own.
#ifndef TREELINE_SERVER_TEST_CERTIFICATE_H_
#define TREELINE_SERVER_TEST_CERTIFICATE_H_

#include <string>

namespace treeline {

// A file of this name in the tests' folder.
std::string PathOf(const std::string& name);

// Writes NAME.key and NAME.crt: a key and the certificate, signed by itself, of NAME.
void MakeCertificate(const std::string& name);

// The common name of the certificate that a server of this machine shows; empty where the handshake
// fails.
std::string NameShownAt(int port);

}  // namespace treeline

#endif  // TREELINE_SERVER_TEST_CERTIFICATE_H_
