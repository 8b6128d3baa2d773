// The commands. Each returns the exit code and has printed what there is to say.
#pragma once

#include "tools/control.h"
#include "tools/host.h"

namespace zerofs::tools {

Exit run_serve(const Options& options);
Exit run_init(const Options& options);
Exit run_change_password(const Options& options);
Exit run_status(const Options& options);
Exit run_store_check(const Options& options);
Exit run_volume(const Options& options);

// One volume command on an open database, as the server and the offline path execute it. Sessions
// of a volume that is deleted are closed by `close_sessions` first.
struct SessionCloser {
  virtual ~SessionCloser() = default;
  virtual Task<> close_sessions(nbd::Volume& volume) = 0;
};
Task<Json> execute_volume_command(nbd::VolumeSet& volumes, SessionCloser& sessions,
                                  ControlRequest request);

std::string control_path(const Options& options);

}  // namespace zerofs::tools
