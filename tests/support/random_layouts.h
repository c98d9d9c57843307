// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <random>
#include <string>

#include "reshard/layout/layout.h"

namespace reshard::test {

/// A small decoder-like model with random extents: attention, dense and expert feed-forward, embeddings.
std::shared_ptr<const layout::Canon> random_model(std::mt19937_64& random);

/// Names of the made-up formats that random_layout draws from.
const std::vector<std::string>& made_up_formats();

/// The model in one of the made-up formats at a random mesh; `format` empty: any.
layout::Layout random_layout(std::mt19937_64& random, const std::shared_ptr<const layout::Canon>& canon,
                             const std::string& format = "");

}  // namespace reshard::test
