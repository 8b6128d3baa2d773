#include "tools/metrics.h"

#include <fmt/format.h>
#include <prometheus/exposer.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "tools/metrics_text.h"

namespace zerofs::tools {

namespace {

constexpr std::size_t kThreads = 2;
constexpr auto kPatience = 500ms;  // of a scrape with a busy reactor

// The scrapes' side and the reactor's side of the same thing.
class Collector final : public prometheus::Collectable {
 public:
  Collector(Reactor& reactor, const Metrics::Source& source, const s3::S3Store* s3)
      : reactor_(reactor), source_(source), s3_(s3), answered_event_(reactor) {}

  // On a thread of the exposer.
  std::vector<prometheus::MetricFamily> Collect() const override {
    {
      std::unique_lock lock(mutex_);
      const u64 wanted = ++asked_;
      if (!closing_) {
        reactor_.deliver(*new Question(*this));
        changed_.wait_for(lock, kPatience, [&] { return answered_ >= wanted || closing_; });
      } else {
        --asked_;
      }
    }
    std::vector<prometheus::MetricFamily> out;
    if (s3_ != nullptr) out = families_of(s3_->counters());
    Metrics::Numbers numbers;
    {
      const std::lock_guard lock(mutex_);
      if (answered_ == 0) return out;
      numbers = numbers_;
    }
    for (prometheus::MetricFamily& family : families_of(numbers)) {
      out.push_back(std::move(family));
    }
    return out;
  }

  // On the reactor's thread, as the rest.
  void refuse() {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  Task<> wait_answered() {
    while (has_questions()) co_await answered_event_.wait();
    co_return {};
  }

 private:
  struct Question final : Job {
    explicit Question(const Collector& collector) : collector(collector) {}
    void run() override {}
    void finish() override {
      collector.answer();
      delete this;
    }
    const Collector& collector;
  };

  void answer() const {
    const std::lock_guard lock(mutex_);
    if (!closing_) numbers_ = source_.numbers();
    ++answered_;
    changed_.notify_all();
    if (answered_event_.has_waiters()) answered_event_.wake_all();
  }
  bool has_questions() const {
    const std::lock_guard lock(mutex_);
    return answered_ != asked_;
  }

  Reactor& reactor_;
  const Metrics::Source& source_;
  const s3::S3Store* s3_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable u64 asked_ = 0;
  mutable u64 answered_ = 0;
  bool closing_ = false;
  mutable Metrics::Numbers numbers_;
  mutable Event answered_event_;
};

}  // namespace

struct Metrics::Impl {
  std::shared_ptr<Collector> collector;
  std::unique_ptr<prometheus::Exposer> exposer;
};

Metrics::Metrics(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Metrics::~Metrics() {
  INVARIANT(impl_->exposer == nullptr);
}

Result<std::unique_ptr<Metrics>> Metrics::start(const std::string& address, Reactor& reactor,
                                                const Source& source, const s3::S3Store* s3) {
  const bool only_port = address.find(':') == std::string::npos;
  const std::string where = only_port ? fmt::format("127.0.0.1:{}", address) : address;
  auto impl = std::make_unique<Impl>();
  impl->collector = std::make_shared<Collector>(reactor, source, s3);
  try {
    impl->exposer = std::make_unique<prometheus::Exposer>(where, kThreads);
    impl->exposer->RegisterCollectable(impl->collector);
  } catch (const std::exception& error) {
    spdlog::error("--metrics={}: {}", address, error.what());
    return invalid("cannot listen there for --metrics; give HOST:PORT that is free");
  }
  return std::unique_ptr<Metrics>(new Metrics(std::move(impl)));
}

u16 Metrics::port() const {
  const std::vector<int> ports = impl_->exposer->GetListeningPorts();
  return ports.empty() ? 0 : static_cast<u16>(ports.front());
}

Task<> Metrics::close() {
  impl_->collector->refuse();
  impl_->exposer.reset();  // ends its threads; their scrapes wait for nothing any more
  co_await impl_->collector->wait_answered();
  co_return {};
}

}  // namespace zerofs::tools
