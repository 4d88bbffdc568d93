// What the processor at hand calls itself.
#pragma once

#include <string>

namespace qconv::tools {

/// "AMD EPYC 9R14 96-Core Processor", on ARM the implementer and part numbers; "unknown" where the system does not say.
std::string cpu_model();

} // namespace qconv::tools
