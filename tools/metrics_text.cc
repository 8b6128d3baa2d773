#include "tools/metrics_text.h"

namespace zerofs::tools {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;
using Families = std::vector<MetricFamily>;

double seconds_of(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

MetricFamily& family(Families& out, const char* name, MetricType type, const char* help) {
  return out.emplace_back(MetricFamily{.name = name, .help = help, .type = type, .metric = {}});
}

void add(MetricFamily& family, double value, Labels labels = {}) {
  ClientMetric& metric = family.metric.emplace_back();
  metric.label = std::move(labels);
  (family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
}

void counter(Families& out, const char* name, double value, const char* help) {
  add(family(out, name, MetricType::Counter, help), value);
}

void gauge(Families& out, const char* name, double value, const char* help) {
  add(family(out, name, MetricType::Gauge, help), value);
}

template <class Values>
void by_class(Families& out, const char* name, MetricType type, const Values& values,
              const char* help) {
  MetricFamily& made = family(out, name, type, help);
  for (u32 i = 0; i < s3::kClasses; ++i) {
    add(made, static_cast<double>(values[i]),
        {{"class", s3::name_of(static_cast<store::Class>(i))}});
  }
}

ClientMetric::Histogram histogram_of(const s3::Counters::Cell& cell) {
  ClientMetric::Histogram out;
  out.sample_count = cell.requests;
  out.sample_sum = static_cast<double>(cell.latency_us) / 1e6;
  u64 so_far = 0;
  for (std::size_t i = 0; i < s3::kLatencyBoundsUs.size(); ++i) {
    so_far += cell.latency[i];
    out.bucket.push_back({so_far, s3::kLatencyBoundsUs[i] / 1e6});
  }
  out.bucket.push_back({cell.requests, std::numeric_limits<double>::infinity()});
  return out;
}

// Requests and their latency, by what was asked and how it ended; cells that stayed empty are left
// out.
void add_requests(Families& out, const s3::Counters& counters) {
  MetricFamily requests{.name = "zerofs_s3_requests_total",
                        .help = "HTTP requests sent, or tried",
                        .type = MetricType::Counter,
                        .metric = {}};
  MetricFamily latency{.name = "zerofs_s3_request_seconds",
                       .help = "time from the start of a request to the end of its answer",
                       .type = MetricType::Histogram,
                       .metric = {}};
  for (u32 operation = 0; operation < s3::kOperations; ++operation) {
    for (u32 klass = 0; klass < s3::kClasses; ++klass) {
      for (u32 answer = 0; answer < s3::kAnswers; ++answer) {
        const s3::Counters::Cell& cell = counters.cells[operation][klass][answer];
        if (cell.requests == 0) continue;
        const Labels labels = {{"operation", s3::name_of(static_cast<s3::Operation>(operation))},
                               {"class", s3::name_of(static_cast<store::Class>(klass))},
                               {"status", s3::name_of(static_cast<s3::Answer>(answer))}};
        add(requests, static_cast<double>(cell.requests), labels);
        ClientMetric& metric = latency.metric.emplace_back();
        metric.label = labels;
        metric.histogram = histogram_of(cell);
      }
    }
  }
  out.push_back(std::move(requests));
  out.push_back(std::move(latency));
}

}  // namespace

Families families_of(const s3::Counters& s3) {
  Families out;
  add_requests(out, s3);
  by_class(out, "zerofs_s3_sent_bytes_total", MetricType::Counter, s3.sent_bytes, "bodies sent");
  by_class(out, "zerofs_s3_received_bytes_total", MetricType::Counter, s3.received_bytes,
           "bodies received");
  by_class(out, "zerofs_s3_retries_total", MetricType::Counter, s3.retries,
           "requests that were tried again");
  by_class(out, "zerofs_s3_in_flight", MetricType::Gauge, s3.in_flight, "requests in flight");
  by_class(out, "zerofs_s3_waiting", MetricType::Gauge, s3.waiting,
           "operations that wait for a place under the cap");
  by_class(out, "zerofs_s3_in_flight_max", MetricType::Gauge, s3.caps,
           "the cap now; a busy server has it halved");
  counter(out, "zerofs_s3_hedges_total", static_cast<double>(s3.hedges), "second GETs sent early");
  counter(out, "zerofs_s3_hedges_won_total", static_cast<double>(s3.hedges_won),
          "second GETs that answered first");
  counter(out, "zerofs_s3_resumes_total", static_cast<double>(s3.resumes),
          "GETs that went on after an interruption");
  counter(out, "zerofs_s3_connections_total", static_cast<double>(s3.connections),
          "connections made");
  counter(out, "zerofs_s3_credential_refreshes_total", static_cast<double>(s3.credential_refreshes),
          "credentials fetched anew");
  counter(out, "zerofs_s3_dollars_total", s3.dollars,
          "what the requests cost by the configured prices, storage excepted");
  return out;
}

Families families_of(const Metrics::Numbers& numbers) {
  Families out;
  const DbStatus& db = numbers.db;
  const auto gauge_of = [&](const char* name, u64 value, const char* help) {
    gauge(out, name, static_cast<double>(value), help);
  };
  const auto counter_of = [&](const char* name, u64 value, const char* help) {
    counter(out, name, static_cast<double>(value), help);
  };
  gauge(out, "zerofs_uptime_seconds", numbers.uptime_seconds, "since the server started");
  gauge(out, "zerofs_store_failing_seconds", seconds_of(numbers.health.failing_for),
        "how long the store has been unreachable; 0: it is not");
  gauge_of("zerofs_store_waiting_bytes", numbers.health.waiting_bytes,
           "acknowledged to clients, not yet durable");
  gauge_of("zerofs_term", db.term.value, "this owner's term");
  gauge_of("zerofs_manifest_version", db.manifest_version, "newest manifest");
  counter_of("zerofs_log_sealed_total", db.log_sealed, "log objects sealed in this term");
  counter_of("zerofs_log_durable_total", db.log_durable, "log objects durable in this term");
  gauge_of("zerofs_memory_bytes", db.memory_bytes, "given by --memory");
  gauge_of("zerofs_dirty_bytes_max", db.dirty_bytes_max, "where writers begin to wait");
  gauge_of("zerofs_cache_pages", db.cache_pages, "4 KiB pages in the page cache");
  gauge_of("zerofs_cache_pages_max", db.cache_pages_max, "its size");
  gauge_of("zerofs_index_bytes", db.index_bytes, "index blocks and table tails in memory");
  gauge_of("zerofs_layer_bytes", db.layer_bytes, "memtable layers");
  gauge_of("zerofs_layers", db.layers, "their number");
  gauge_of("zerofs_tables", db.tables, "tables");
  gauge_of("zerofs_tables_level0", db.tables_level0, "tables that a lookup may have to ask one by one");
  gauge(out, "zerofs_flush_tokens", db.flush_tokens, "PUTs that flushes may still cost");
  counter_of("zerofs_user_written_bytes_total", db.user_bytes_written, "written by clients");
  counter_of("zerofs_store_written_bytes_total", db.store_bytes_written,
             "written to the store, everything included");
  counter_of("zerofs_store_reads_total", db.reads_from_store, "reads of data from the store");
  gauge_of("zerofs_nbd_connections", numbers.nbd.connections, "NBD connections now");
  counter_of("zerofs_nbd_accepted_total", numbers.nbd.accepted, "NBD connections ever");
  counter_of("zerofs_nbd_requests_total", numbers.nbd.requests, "NBD requests");
  return out;
}

}  // namespace zerofs::tools
