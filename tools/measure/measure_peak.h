// The peak of this core for a path, where one is known.
#pragma once

#include <string>

#include "qconv/qconv.h"

namespace qconv::tools {

/// MACs per second of the loop that bounds `path`, measured now for half a millisecond; 0 for targets without loops.
double peak_of_target(qconv_path path, const std::string &target);

} // namespace qconv::tools
