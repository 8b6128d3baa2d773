// Goal: TLS with a private authority, proxies from the environment and virtual hosts work.
//
// Method: a TLS server of one certificate, made here; a scripted server in the place of the proxy.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "tests/s3/failing_world.h"

namespace zerofs::s3::test {

using store::Class;

namespace {

// A certificate for 127.0.0.1, signed by itself.
struct Certificate {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* x509 = X509_new();

  Certificate() {
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    X509_NAME* name = X509_get_subject_name(x509);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
    X509_set_issuer_name(x509, name);
    X509_EXTENSION* names =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
    X509_add_ext(x509, names, -1);
    X509_EXTENSION_free(names);
    X509_sign(x509, key, EVP_sha256());
  }
  ~Certificate() {
    X509_free(x509);
    EVP_PKEY_free(key);
  }
  std::string write() const {
    char path[] = "/tmp/zerofs-s3-ca-XXXXXX";
    std::FILE* file = fdopen(mkstemp(path), "w");
    PEM_write_X509(file, x509);
    std::fclose(file);
    return path;
  }
};

// Answers every request of every connection with an ETag. One connection at a time.
class TlsServer {
 public:
  explicit TlsServer(const Certificate& certificate) : context_(SSL_CTX_new(TLS_server_method())) {
    SSL_CTX_use_certificate(context_, certificate.x509);
    SSL_CTX_use_PrivateKey(context_, certificate.key);
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    INVARIANT(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    INVARIANT(listen(listener_, 8) == 0);
    socklen_t size = sizeof address;
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~TlsServer() {
    stopping_ = true;
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
    SSL_CTX_free(context_);
  }
  std::string endpoint() const { return fmt::format("https://127.0.0.1:{}", port_); }
  std::string last_request() {
    const std::scoped_lock lock(mutex_);
    return last_request_;
  }

 private:
  void serve() {
    while (!stopping_) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      SSL* tls = SSL_new(context_);
      SSL_set_fd(tls, fd);
      if (SSL_accept(tls) == 1) answer(tls);
      SSL_free(tls);
      close(fd);
    }
  }
  void answer(SSL* tls) {
    std::string request;
    char chunk[4096];
    int n;
    while ((n = SSL_read(tls, chunk, sizeof chunk)) > 0) {
      request.append(chunk, static_cast<std::size_t>(n));
      if (request.find("\r\n\r\nbody") == std::string::npos) continue;
      {
        const std::scoped_lock lock(mutex_);
        last_request_ = request;
      }
      request.clear();
      const std::string_view reply = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";
      SSL_write(tls, reply.data(), static_cast<int>(reply.size()));
    }
  }

  SSL_CTX* context_;
  int listener_;
  u16 port_;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::string last_request_;
  std::thread thread_;
};

}  // namespace

TEST_CASE("network: TLS with a private authority, payload not signed; without it, refused") {
  World world;
  const Certificate certificate;
  TlsServer server(certificate);
  const std::string ca_file = certificate.write();
  Config config = config_for(server.endpoint());
  config.deadlines.connect = 2s;
  config.ca_file = ca_file;
  {
    const auto store = world.start(config);
    REQUIRE(world.run(store->create("x", bytes_of("body"), Class::log)));
    CHECK(server.last_request().find("UNSIGNED-PAYLOAD") != std::string::npos);
    REQUIRE(world.run(store->create("y", bytes_of("body"), Class::log)));
    CHECK(store->counters().connections == 1);
  }
  config.payload = Payload::signed_;
  {
    const auto store = world.start(config);
    REQUIRE(world.run(store->create("x", bytes_of("body"), Class::log)));
    CHECK(server.last_request().find("UNSIGNED-PAYLOAD") == std::string::npos);
  }
  config.ca_file.clear();
  {
    const auto store = world.start(config);
    CHECK(code_of(world.run(store->create("x", bytes_of("body"), Class::log))) == Code::invalid);
  }
  config.ca_file = "/nonexistent.pem";
  CHECK(S3Store::start(config, world.runtime(), world.reactor()).error().code() == Code::invalid);
  unlink(ca_file.c_str());
}

TEST_CASE("network: a proxy from the environment") {
  World world;
  ScriptedServer proxy(
      [](const Seen&, Connection& connection) { connection.reply(200, "ETag: \"t\"\r\n", ""); });
  setenv("http_proxy", proxy.endpoint().c_str(), 1);
  {
    const auto store = world.start(config_for("http://storage.example:7480"));
    REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
  }
  unsetenv("http_proxy");
  REQUIRE(proxy.seen().size() == 1);
  CHECK(proxy.seen()[0].path == "http://storage.example:7480/b/p/x");
  CHECK(proxy.seen()[0].header("host") == "storage.example:7480");
}

TEST_CASE("network: the bucket in the host's name") {
  World world;
  ScriptedServer server(
      [](const Seen&, Connection& connection) { connection.reply(200, "ETag: \"t\"\r\n", ""); });
  Config config = config_for(fmt::format("http://localhost:{}", server.port()));
  config.addressing = Addressing::virtual_host;
  const auto store = world.start(config);
  REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
  CHECK(server.seen()[0].path == "/p/x");
  CHECK(server.seen()[0].header("host") == fmt::format("b.localhost:{}", server.port()));
}

TEST_CASE("network: nobody listens, nobody has that name") {
  World world;
  Config config = config_for("http://127.0.0.1:1");
  config.deadlines.operation = 100ms;
  {
    const auto store = world.start(config);
    CHECK(code_of(world.run(store->create("x", pattern(9), Class::log))) == Code::retry);
    CHECK(store->state().last_error.find("cannot connect") != std::string::npos);
  }
  config.endpoint = "http://no-such-host.invalid";
  {
    const auto store = world.start(config);
    CHECK(code_of(world.run(store->create("x", pattern(9), Class::log))) == Code::retry);
  }
}

}  // namespace zerofs::s3::test
