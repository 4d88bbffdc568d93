// The thread count of the process, and the hooks that tie Halide's runtime to a forward call.
#pragma once

#include <functional>

#include "workspace.h"

namespace qconv {

/// 1..1024; throws otherwise.
void set_num_threads(int threads);
/// What set_num_threads set, or the size of the process's affinity mask.
int num_threads();

/// Once per process: parallel loops, scratch memory and errors of our kernels go through the CallContext that is their
/// user_context. Those of any other Halide kernel in the program go where they went before.
void install_halide_hooks();

/// body(i) for 0 <= i < count, shared out among the call's workers.
void parallel_for(CallContext &context, int count, const std::function<void(int)> &body);

} // namespace qconv
