#include "fork.h"

#include <pthread.h>

#include <array>

#include "cpu_features.h"
#include "device.h"
#include "pool.h"
#include "registry.h"
#include "team.h"
#include "variants.h"

namespace qconv {
namespace {

const std::array all{&devices_across_fork,  &variants_across_fork,       &features_across_fork,
                     &registry_across_fork, &WorkspacePool::across_fork, &Team::across_fork};

} // namespace

bool install_fork_handlers() noexcept {
    const auto before = [] {
        for (const AcrossFork *one : all)
            one->before();
    };
    const auto in_parent = [] {
        for (const AcrossFork *one : all)
            one->in_parent();
    };
    const auto in_child = [] {
        for (const AcrossFork *one : all)
            one->in_child();
    };
    return pthread_atfork(before, in_parent, in_child) == 0;
}

} // namespace qconv
