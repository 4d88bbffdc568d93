// Hashes of the sources behind a kernel: what it computes, and how our schedules compute it.
#pragma once

#include <map>
#include <string>

namespace qconv::tools {

/// By generator: its file, the headers all generators share, and layout.h.
const std::map<std::string, std::string> &generator_hashes();
/// By file of schedules/, without its ending.
const std::map<std::string, std::string> &schedule_file_hashes();

} // namespace qconv::tools
