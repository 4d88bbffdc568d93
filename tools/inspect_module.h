// The module that `qconvc inspect` and estimates load: LLVM's view of compiled kernels.
#pragma once

#include "tools/inspect/inspect.h"

namespace qconv::tools {

/// Throws EnvironmentError if this build has no such module or it does not load.
inspect::InspectFunction *load_inspect_module();

} // namespace qconv::tools
