// Workspaces of calls that bring none.
#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

#include "memory.h"

namespace qconv {

/// One workspace for each call that runs at the same time, kept between calls.
class WorkspacePool {
public:
    /// At least `bytes`. Allocates only when no idle one is large enough.
    Memory take(std::size_t bytes);
    void give_back(Memory memory) noexcept;

private:
    std::mutex mutex_;
    std::vector<Memory> idle_;
    std::size_t taken_ = 0;
};

/// A workspace for one call: the caller's, which is checked, or one of the pool.
class WorkspaceLease {
public:
    WorkspaceLease(WorkspacePool &pool, void *given, std::size_t given_bytes, std::size_t bytes);
    WorkspaceLease(const WorkspaceLease &) = delete;
    WorkspaceLease &operator=(const WorkspaceLease &) = delete;
    ~WorkspaceLease();

    void *data() const { return given_ != nullptr ? given_ : owned_.data(); }

private:
    WorkspacePool &pool_;
    void *given_;
    Memory owned_;
};

} // namespace qconv
