// fault_proxy PORT UPSTREAM_HOST:PORT…   (port 0: any free one; the first line says which)
#include <arpa/inet.h>
#include <fmt/format.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>

#include "tests/fault_proxy/proxy.h"

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: {} PORT UPSTREAM_IP:PORT...\n", argv[0]);
    return 2;
  }
  std::vector<sockaddr_in> upstreams;
  for (int i = 2; i < argc; ++i) {
    const std::string text = argv[i];
    const std::size_t colon = text.rfind(':');
    sockaddr_in address{.sin_family = AF_INET};
    if (colon == std::string::npos ||
        inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) != 1) {
      fmt::print(stderr, "{}: not IP:PORT\n", text);
      return 2;
    }
    address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(text.c_str() + colon + 1)));
    upstreams.push_back(address);
  }
  signal(SIGPIPE, SIG_IGN);
  fault_proxy::Proxy proxy(static_cast<std::uint16_t>(std::atoi(argv[1])), std::move(upstreams));
  fmt::print("{}\n", proxy.port());
  std::fflush(stdout);
  proxy.run();
  return 0;
}
