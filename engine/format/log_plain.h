// The parts of a log object after authentication: for log_object.cc, its tests and fuzz targets.
#pragma once

#include "engine/format/log_object.h"

namespace zerofs::format {

// Total: any bytes give a footer whose layer lies right below `footer_offset`, or an Error.
Result<LogFooter> decode_log_footer_plain(Bytes plain, u64 footer_offset);

// Whether every run of the layer points into the frames of the footer's own object.
Result<> check_log_layer(const lsm::Layer& layer, const LogFooter& footer);

}  // namespace zerofs::format
