// The metrics' names and meanings: from our numbers to Prometheus' families.
#pragma once

#include <prometheus/metric_family.h>

#include "tools/metrics.h"

namespace zerofs::tools {

std::vector<prometheus::MetricFamily> families_of(const Metrics::Numbers& numbers);
std::vector<prometheus::MetricFamily> families_of(const s3::Counters& counters);

}  // namespace zerofs::tools
