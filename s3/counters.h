// What was asked of the bucket, by operation, class and kind of answer; what it cost.
#pragma once

#include <array>

#include "engine/store/object_store.h"

namespace zerofs::s3 {

enum class Operation : u8 { get, head, put, remove, remove_many, list, multipart };
constexpr u32 kOperations = 7;
constexpr u32 kClasses = 3;  // of store::Class

// How a request ended.
enum class Answer : u8 {
  ok,            // 2xx
  redirect,      // 3xx
  precondition,  // 412: exists, or changed
  refused,       // other 4xx
  slow_down,     // 503, 429
  failed,        // other 5xx
  none,          // no whole answer: connect, time-out, stall, reset, truncated
  abandoned,     // of a hedged pair, the slower
};
constexpr u32 kAnswers = 8;

const char* name_of(Operation operation);
const char* name_of(store::Class klass);
const char* name_of(Answer answer);

// Upper bounds of the latency histogram in microseconds; one more cell counts what is above.
constexpr std::array<u32, 20> kLatencyBoundsUs = {
    500,   1000,  2000,   3000,   5000,   7500,   10000,   15000,   20000,   30000,
    50000, 75000, 100000, 150000, 250000, 500000, 1000000, 2500000, 5000000, 10000000};

// A copy at one moment. Every HTTP request that was sent, or tried, is in exactly one cell.
struct Counters {
  struct Cell {
    u64 requests = 0;
    u64 latency_us = 0;  // sum
    std::array<u64, kLatencyBoundsUs.size() + 1> latency{};
  };
  using Cells = std::array<std::array<std::array<Cell, kAnswers>, kClasses>, kOperations>;
  Cells cells{};
  std::array<u64, kClasses> sent_bytes{};  // bodies
  std::array<u64, kClasses> received_bytes{};
  std::array<u64, kClasses> retries{};
  std::array<u32, kClasses> in_flight{};
  std::array<u32, kClasses> waiting{};  // for a free place under the cap
  std::array<u32, kClasses> caps{};     // as they are now, after halving
  u64 hedges = 0;
  u64 hedges_won = 0;
  u64 resumes = 0;  // GETs that went on after an interruption
  u64 connections = 0;
  u64 credential_refreshes = 0;
  double dollars = 0;

  const Cell& cell(Operation operation, store::Class klass, Answer answer) const {
    return cells[static_cast<u32>(operation)][static_cast<u32>(klass)][static_cast<u32>(answer)];
  }
  u64 requests() const;
  u64 requests(Operation operation) const;
  u64 requests(Answer answer) const;
};

}  // namespace zerofs::s3
