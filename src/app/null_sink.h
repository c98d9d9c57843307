// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "reshard/exec/executor.h"

namespace reshard::app {

/// Takes everything and keeps nothing.
class NullSink : public exec::Sink {
 public:
  Status consume(const plan::Round&, std::size_t, std::span<const std::byte>, std::span<const std::uint64_t>) override {
    return {};
  }
  Status finish() override { return {}; }
};

}  // namespace reshard::app
