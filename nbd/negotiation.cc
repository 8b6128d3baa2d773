#include "nbd/negotiation.h"

#include <algorithm>

namespace zerofs::nbd {

namespace {

// A client that goes on and on: this many, and as many again for each export once it has seen the
// list.
constexpr u32 kOptionsMax = 32;
constexpr std::string_view kAllocationContext = "base:allocation";

void append(std::vector<std::byte>& out, Bytes bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// A length-prefixed string, and whether it was all there.
bool take_text(Bytes& payload, std::string_view& text) {
  if (payload.size() < 4) return false;
  const u32 length = struct_from<Be<u32>>(payload);
  payload = payload.subspan(4);
  if (length > payload.size()) return false;
  text = text_of(payload.first(length));
  payload = payload.subspan(length);
  return true;
}

Result<> check_name(std::string_view name) {
  if (name.size() > kNameBytesMax) return invalid("the export's name is too long");
  if (name.find('\0') != std::string_view::npos) return invalid("the export's name holds a NUL");
  return {};
}

}  // namespace

Result<InfoRequest> parse_info_request(Bytes payload) {
  InfoRequest request;
  if (!take_text(payload, request.name)) return invalid("info: cut short");
  TRY_VOID(check_name(request.name));
  if (payload.size() < 2) return invalid("info: cut short");
  const u16 count = struct_from<Be<u16>>(payload);
  payload = payload.subspan(2);
  if (payload.size() != u64{count} * 2) return invalid("info: wrong length");
  for (u16 i = 0; i < count; ++i) {
    request.infos.push_back(struct_from<Be<u16>>(payload.subspan(u64{i} * 2)));
  }
  return request;
}

Result<MetaRequest> parse_meta_request(Bytes payload) {
  MetaRequest request;
  if (!take_text(payload, request.name)) return invalid("meta context: cut short");
  TRY_VOID(check_name(request.name));
  if (payload.size() < 4) return invalid("meta context: cut short");
  const u32 count = struct_from<Be<u32>>(payload);
  payload = payload.subspan(4);
  if (count > payload.size() / 4) return invalid("meta context: too many queries");
  for (u32 i = 0; i < count; ++i) {
    std::string_view query;
    if (!take_text(payload, query)) return invalid("meta context: cut short");
    if (query.size() > kNameBytesMax) return invalid("meta context: the query is too long");
    request.queries.push_back(query);
  }
  if (!payload.empty()) return invalid("meta context: wrong length");
  return request;
}

Negotiation::Negotiation(ExportDirectory& exports)
    : exports_(exports), options_left_(kOptionsMax) {}

void Negotiation::greet(std::vector<std::byte>& out) {
  Greeting greeting;
  greeting.flags = kFlagFixedNewstyle | kFlagNoZeroes;
  append(out, struct_bytes(greeting));
}

void Negotiation::reply(u32 option, u32 type, Bytes payload, std::vector<std::byte>& out) {
  OptionReply header;
  header.option = option;
  header.type = type;
  header.length = static_cast<u32>(payload.size());
  append(out, struct_bytes(header));
  append(out, payload);
}

void Negotiation::refuse(u32 option, u32 type, std::string_view why, std::vector<std::byte>& out) {
  reply(option, type, bytes_of(why), out);
}

Negotiation::State Negotiation::feed(Bytes input, std::size_t& used, std::vector<std::byte>& out) {
  used = 0;
  for (;;) {
    const Bytes rest = input.subspan(used);
    if (!flags_read_) {
      if (rest.size() < 4) return State::more;
      const u32 flags = struct_from<Be<u32>>(rest);
      used += 4;
      flags_read_ = true;
      if ((flags & ~u32{kFlagFixedNewstyle | kFlagNoZeroes}) != 0) return State::close;
      fixed_newstyle_ = (flags & kFlagFixedNewstyle) != 0;
      no_zeroes_ = (flags & kFlagNoZeroes) != 0;
      continue;
    }
    if (drain_bytes_ != 0) {
      const u64 count = std::min<u64>(drain_bytes_, rest.size());
      used += count;
      drain_bytes_ -= count;
      if (drain_bytes_ != 0) return State::more;
      refuse(drain_option_, kRepErrTooBig, "the option is too long", out);
      continue;
    }
    if (rest.size() < sizeof(OptionHeader)) return State::more;
    const auto header = struct_from<OptionHeader>(rest);
    if (header.magic != kOptionMagic) return State::close;
    if (header.length > kOptionParseBytesMax) {
      if (header.length > kOptionDrainBytesMax || options_left_-- == 0) return State::close;
      if (header.option == static_cast<u32>(Option::export_name)) return State::close;
      used += sizeof header;
      drain_bytes_ = header.length;
      drain_option_ = header.option;
      continue;
    }
    if (rest.size() < sizeof header + header.length) return State::more;
    used += sizeof header + header.length;
    if (options_left_-- == 0) return State::close;
    const State state = option(header.option, rest.subspan(sizeof header, header.length), out);
    if (state != State::more) return state;
  }
}

Negotiation::State Negotiation::option(u32 option, Bytes payload, std::vector<std::byte>& out) {
  // A client that does not know fixed newstyle could not read a refusal.
  if (!fixed_newstyle_ && option != static_cast<u32>(Option::export_name)) return State::close;
  switch (static_cast<Option>(option)) {
    case Option::export_name: return export_name(payload, out);
    case Option::abort: reply(option, kRepAck, {}, out); return State::close;
    case Option::list: list(payload, out); return State::more;
    case Option::info:
    case Option::go: return choose(option, payload, out);
    case Option::structured_reply:
      if (!payload.empty() || structured_) {
        refuse(option, kRepErrInvalid, "structured replies: payload, or asked twice", out);
      } else {
        structured_ = true;
        reply(option, kRepAck, {}, out);
      }
      return State::more;
    case Option::list_meta_context:
    case Option::set_meta_context: meta_context(option, payload, out); return State::more;
    case Option::starttls:
    case Option::peek_export:
    case Option::extended_headers: break;
  }
  refuse(option, kRepErrUnsup, "this option is not supported", out);
  return State::more;
}

u16 Negotiation::transmission_flags(const ExportView& view) const {
  u16 flags = kHasFlags | kSendFlush | kSendFua | kSendTrim | kSendWriteZeroes | kCanMultiConn |
              kSendCache | kSendFastZero;
  if (view.read_only) flags |= kReadOnly;
  if (structured_) flags |= kSendDf;
  return flags;
}

Negotiation::State Negotiation::export_name(Bytes payload, std::vector<std::byte>& out) {
  const std::optional<ExportView> view = exports_.find(text_of(payload));
  if (!view) return State::close;  // this option has no way to say no
  export_name_ = view->name;
  if (context_export_ != view->name) context_selected_ = false;
  const Be<u64> size = view->size;
  const Be<u16> flags = transmission_flags(*view);
  append(out, {size.raw, sizeof size.raw});
  append(out, {flags.raw, sizeof flags.raw});
  if (!no_zeroes_) out.resize(out.size() + 124);
  return State::transmission;
}

void Negotiation::list(Bytes payload, std::vector<std::byte>& out) {
  const u32 option = static_cast<u32>(Option::list);
  if (!payload.empty()) {
    refuse(option, kRepErrInvalid, "list takes no payload", out);
    return;
  }
  const std::vector<ExportView> views = exports_.list();
  if (!listed_) options_left_ += kOptionsMax * static_cast<u32>(views.size());
  listed_ = true;
  for (const ExportView& view : views) {
    std::vector<std::byte> entry;
    const Be<u32> length = static_cast<u32>(view.name.size());
    append(entry, {length.raw, sizeof length.raw});
    append(entry, bytes_of(view.name));
    append(entry, bytes_of(view.description));
    reply(option, kRepServer, entry, out);
  }
  reply(option, kRepAck, {}, out);
}

Negotiation::State Negotiation::choose(u32 option, Bytes payload, std::vector<std::byte>& out) {
  const Result<InfoRequest> request = parse_info_request(payload);
  if (!request) {
    refuse(option, kRepErrInvalid, request.error().text(), out);
    return State::more;
  }
  const std::optional<ExportView> view = exports_.find(request->name);
  if (!view) {
    refuse(option, kRepErrUnknown, "there is no such export", out);
    return State::more;
  }
  const auto send_info = [&](Info kind, auto... fields) {
    std::vector<std::byte> info;
    const Be<u16> type = static_cast<u16>(kind);
    append(info, {type.raw, sizeof type.raw});
    (append(info, fields), ...);
    reply(option, kRepInfo, info, out);
  };
  const Be<u64> size = view->size;
  const Be<u16> flags = transmission_flags(*view);
  send_info(Info::export_, Bytes(size.raw, 8), Bytes(flags.raw, 2));
  // The default export has another name, which the client should hear in any case.
  bool name_sent = false;
  const auto send_name = [&] {
    if (!name_sent) send_info(Info::name, bytes_of(view->name));
    name_sent = true;
  };
  if (request->name != view->name) send_name();
  for (const u16 info : request->infos) {
    switch (static_cast<Info>(info)) {
      case Info::name: send_name(); break;
      case Info::description: send_info(Info::description, bytes_of(view->description)); break;
      case Info::block_size: {
        const Be<u32> minimum = 1;
        const Be<u32> preferred = kPageBytes;
        const Be<u32> maximum = kPayloadBytesMax;
        send_info(Info::block_size, Bytes(minimum.raw, 4), Bytes(preferred.raw, 4),
                  Bytes(maximum.raw, 4));
        break;
      }
      default: break;  // unknown information is left out
    }
  }
  reply(option, kRepAck, {}, out);
  if (option != static_cast<u32>(Option::go)) return State::more;
  export_name_ = view->name;
  if (context_export_ != view->name) context_selected_ = false;
  return State::transmission;
}

void Negotiation::meta_context(u32 option, Bytes payload, std::vector<std::byte>& out) {
  const bool setting = option == static_cast<u32>(Option::set_meta_context);
  if (setting) context_selected_ = false;  // replaced even when this fails
  if (!structured_) {
    refuse(option, kRepErrInvalid, "meta contexts need structured replies", out);
    return;
  }
  const Result<MetaRequest> request = parse_meta_request(payload);
  if (!request) {
    refuse(option, kRepErrInvalid, request.error().text(), out);
    return;
  }
  const std::optional<ExportView> view = exports_.find(request->name);
  if (!view) {
    refuse(option, kRepErrUnknown, "there is no such export", out);
    return;
  }
  const bool wanted = std::ranges::any_of(request->queries, [&](std::string_view query) {
    return query == kAllocationContext || (!setting && query == "base:");
  });
  if (wanted || (!setting && request->queries.empty())) {
    std::vector<std::byte> context;
    const Be<u32> id = kAllocationId;
    append(context, {id.raw, sizeof id.raw});
    append(context, bytes_of(kAllocationContext));
    reply(option, kRepMetaContext, context, out);
    if (setting) {
      context_selected_ = true;
      context_export_ = view->name;
    }
  }
  reply(option, kRepAck, {}, out);
}

}  // namespace zerofs::nbd
