// SPDX-License-Identifier: Apache-2.0
#include "reshard/cli/cli.h"

int main(int argc, char** argv) { return reshard::cli::run(argc, argv); }
