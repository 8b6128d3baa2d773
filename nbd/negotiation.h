// Option haggling of the fixed newstyle handshake, as a machine that is fed bytes and appends its
// answers. It ends with an export chosen or with the connection to be closed.
#pragma once

#include <optional>
#include <vector>

#include "nbd/wire.h"

namespace zerofs::nbd {

// ---- parsing: pure and total

struct InfoRequest {
  std::string_view name;
  std::vector<u16> infos;
};
Result<InfoRequest> parse_info_request(Bytes payload);

struct MetaRequest {
  std::string_view name;
  std::vector<std::string_view> queries;
};
Result<MetaRequest> parse_meta_request(Bytes payload);

// ---- haggling

// What a client may be told of an export.
struct ExportView {
  std::string name;
  std::string description;
  u64 size = 0;
  bool read_only = false;
};

// Where the exports come from. `find("")` is the default export.
class ExportDirectory {
 public:
  virtual ~ExportDirectory() = default;
  virtual std::optional<ExportView> find(std::string_view name) = 0;
  virtual std::vector<ExportView> list() = 0;
};

class Negotiation {
 public:
  explicit Negotiation(ExportDirectory& exports);

  enum class State : u8 { more, transmission, close };

  // What the server says first.
  void greet(std::vector<std::byte>& out);
  // Consumes complete messages from the front of `input`; the rest is to be offered again with
  // more behind it. `used` is how much was consumed.
  State feed(Bytes input, std::size_t& used, std::vector<std::byte>& out);

  // Once in transmission.
  const std::string& export_name() const { return export_name_; }
  bool structured() const { return structured_; }
  bool has_context() const { return context_selected_; }

  // The most input that feed() ever needs at once.
  static constexpr std::size_t kInputBytesMax = sizeof(OptionHeader) + kOptionParseBytesMax;

 private:
  State option(u32 option, Bytes payload, std::vector<std::byte>& out);
  State choose(u32 option, Bytes payload, std::vector<std::byte>& out);
  State export_name(Bytes payload, std::vector<std::byte>& out);
  void list(Bytes payload, std::vector<std::byte>& out);
  void meta_context(u32 option, Bytes payload, std::vector<std::byte>& out);
  void reply(u32 option, u32 type, Bytes payload, std::vector<std::byte>& out);
  void refuse(u32 option, u32 type, std::string_view why, std::vector<std::byte>& out);
  u16 transmission_flags(const ExportView& view) const;

  ExportDirectory& exports_;
  bool flags_read_ = false;
  bool fixed_newstyle_ = false;
  bool no_zeroes_ = false;
  bool structured_ = false;
  bool context_selected_ = false;
  std::string context_export_;  // that the selection is bound to
  std::string export_name_;
  u32 options_left_;
  bool listed_ = false;
  u64 drain_bytes_ = 0;  // of an option too long to parse
  u32 drain_option_ = 0;
};

}  // namespace zerofs::nbd
